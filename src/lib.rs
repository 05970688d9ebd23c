//! Peer-to-peer snapshot distribution for CometBFT chains.
//!
//! # The rooms
//!
//! | room | kind | what it is for |
//! |---|---|---|
//! | [`snapshot`] | pure | what a snapshot is: names, manifest, pieces, bitmap, the traits Source and Target |
//! | [`sync`] | pure | how one is gathered: scheduler, peers, score, limits; the order of uploads |
//! | [`wire`] | pure | what peers say: the protocol's specification, messages, limits |
//! | [`state`] | pure | state that the service understands: records in chunks, deltas, selection |
//! | [`store`] | disk | everything of ours on disk: archives, downloads in progress, catalogue, pins, leases |
//! | [`net`] | network | libp2p: DHT, catalogue exchange, piece streams |
//! | [`comet`] | network | CometBFT from outside: RPC and the peer protocol |
//! | [`abci`] | network | the ABCI adapter between CometBFT and the application |
//! | [`sdk`] | application | the snapshot folder of a Cosmos SDK node as a source |
//! | [`xian`] | application | the storage of a Xian node: read, copied while it runs, made anew |
//! | [`api`] | network | control socket, read-only HTTP status and metrics |
//! | [`node`] | hall | the only place where rooms meet: start, stop, the three paths |
//! | [`cli`] | door | one file for each verb |
//! | [`config`], [`telemetry`] | | settings; logs and metrics |
//!
//! `tests/architecture.rs` holds which room may use which.
//!
//! # The three paths
//!
//! **Publish**: a source's chunks are hashed and spooled, named by a manifest,
//! written into an archive, read back, entered in the catalogue, announced.
//!
//! **Fetch**: a manifest is found and checked, its pieces are asked of many
//! peers at once, verified, written, synced; the archive is sealed and
//! announced. A chunk is served from the moment it is verified.
//!
//! **Feed**: a complete snapshot whose application hash the chain's light client
//! confirms is offered to a joining CometBFT node by a peer of its own.

#![warn(missing_docs)]

pub mod abci;
pub mod api;
pub mod cli;
pub mod comet;
pub mod config;
pub mod net;
pub mod node;
pub mod sdk;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod wire;
pub mod xian;
