//! The swarm: how this node finds others, is found, and exchanges messages.
//!
//! # Model
//!
//! One task (`actor`) owns the libp2p [`Swarm`](libp2p::Swarm) and everything
//! that must change together with it: the address book, the announcer, bans,
//! redials. [`Net`] is a cheap handle: it sends commands over a bounded channel
//! and reads a [view](PeerInfo) that only the actor writes. What moves many
//! bytes never passes through the actor: catalogue, manifest and piece streams
//! run in tasks of their own over [`streams`].
//!
//! The loop of the actor is *select, then apply*: it awaits one action (a
//! command, a swarm event, a tick) and applies it without awaiting anything.
//! What decides is pure and takes the time as an argument: which keys to
//! publish when (`announce`), which addresses to believe (`scope`), which records
//! to keep (`records`), whom to dial again (`redial`), whom to remember (`book`).
//!
//! # Laws
//!
//! * **Bounded.** Every queue, table and message has a named limit; a limit of a
//!   message is checked before anything of its size is allocated.
//! * **Addresses are believed only as far as their teller can know them.** A
//!   private address counts only when it came over a private or loopback
//!   connection, a loopback address only over loopback; and we tell them only
//!   there. See [`scope`].
//! * **Own records are never displaced by foreign ones**, and one peer's flood
//!   displaces only that peer's records. See [`records`].
//! * **A refusal is no fault; breaking the protocol is.** [`NetError::blame`]
//!   tells which.
//! * **Networks do not mix.** The network name is part of the Kademlia protocol
//!   name and of what identify says; a peer of another network is disconnected
//!   and not remembered. A pre-shared key keeps others out altogether (then only
//!   TCP is used: QUIC has no place for it).
//!
//! # Who is a DHT server
//!
//! A DHT client answers nobody, so a network of clients is empty. With
//! [`DhtMode::Auto`] a node serves when it has an external address (configured,
//! or confirmed by two peers and an inbound connection from outside), when it
//! listens on a public address, or when it listens on loopback or a private
//! range and no connected peer is outside of those: a test network or a LAN.
//! `reach` decides; [`DhtMode::Server`] and [`DhtMode::Client`] overrule it.

mod actor;
mod announce;
mod bans;
mod behaviour;
mod book;
mod book_file;
mod clock;
mod commands;
mod connections;
mod dht;
mod door;
mod error;
mod exchange;
mod finds;
mod handle;
mod identity;
mod keys;
mod library;
mod listen;
pub mod pieces;
mod reach;
pub mod records;
mod redial;
mod resolve;
pub mod scope;
mod serve;
mod settings;
pub mod socket;
pub mod streams;
pub mod tls;
mod transport;
mod view;

pub use announce::{AnnouncePolicy, AnnounceStats, Announcement, Pacing};
pub use error::NetError;
pub use exchange::{CatalogueAnswer, Providers};
pub use handle::Net;
pub use identity::{Identity, IdentityError};
pub use keys::Key;
pub use library::Library;
pub use settings::{
    DhtMode, NetLimits, NetSettings, NetworkName, PreSharedKey, parse_address, parse_peer_address,
};
pub use view::{Direction, NetEvent, NetStats, PeerInfo, Reachability, RememberedPeer};

pub use libp2p::{Multiaddr, PeerId};
