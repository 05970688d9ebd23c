//! The ABCI adapter: a small process between an unmodified CometBFT and an
//! unmodified application.
//!
//! # The model
//!
//! CometBFT opens four connections to what it takes for its application, and dies
//! with any of them. For each the adapter opens one to the application, and moves
//! **frames** (a length and a protobuf message) between the two as raw bytes, in
//! order, without waiting for an answer before the next request goes on: an
//! application may answer at Flush only. So the adapter works for versions of
//! ABCI that it has never heard of.
//!
//! A few calls are more than bytes to it:
//!
//! | call | what happens |
//! |---|---|
//! | ListSnapshots, LoadSnapshotChunk | answered from [`Snapshots`]; the application is not called |
//! | OfferSnapshot | goes on only when [`Snapshots::offered`] lets it; else it is rejected here |
//! | ApplySnapshotChunk | its bytes are checked against the manifest, and wrong ones replaced; the answer to the last chunk goes on only when the application names the application hash that was trusted |
//! | Query of `/snapshots` and `/sync_status` | answered with JSON |
//! | Info, InitChain, FinalizeBlock (EndBlock before 0.38), Commit | pass; chain id, height and application hash are read as they go by |
//!
//! # The laws
//!
//! - **Nothing of ours ends a connection.** A connection ends when CometBFT or the
//!   application ends its side; the other side follows. What this room asks of
//!   [`Snapshots`] runs apart, for a bounded time, and has a harmless answer if it
//!   panics, hangs or fails: an empty list, a missing chunk, REJECT, RETRY.
//! - **The order of answers is the order of requests**, those answered here
//!   included.
//! - **A held call dies with its socket**: what CometBFT asked before it died does
//!   not reach the application after.
//! - Memory: a frame that only passes is never held whole. What is held is one
//!   snapshot call for each connection ([`MAX_HELD_BYTES`]).
//!
//! Rules of CometBFT that are obeyed here: facts/cometbft-state-sync.md.

mod address;
mod client;
mod error;
mod frame;
mod memory;
mod message;
mod relay;
mod server;
mod session;
mod walk;

use std::sync::Arc;

use bytes::Bytes;

pub use address::Address;
pub use client::{AppInfo, AppSource};
pub use error::AbciError;
pub use memory::Chain;
pub use message::{STUB_BYTES, stub};
pub use server::{Adapter, AdapterSettings, Learnt};

use crate::snapshot::{ChunkId, Offer};

/// The largest call that is held to be looked at: an ApplySnapshotChunk has a
/// chunk of at most 16 MB. A larger frame passes as it is.
pub const MAX_HELD_BYTES: u64 = 17_000_000;

/// CometBFT tells a peer of ten snapshots at most.
pub const MAX_LISTED: usize = 10;

/// What the adapter asks about snapshots. The calls block, on threads of their
/// own; each may take seconds, fail or panic without harm to the chain.
pub trait Snapshots: Send + Sync + 'static {
    /// Complete snapshots that may be offered to peers of this chain, newest
    /// first. The chain must be two blocks further than each.
    fn list(&self, chain: &Chain) -> Vec<Offer>;

    /// A chunk of one that was listed.
    fn chunk(&self, chain: &Chain, height: u64, format: u32, chunk: u32) -> Option<Bytes>;

    /// What to do about a snapshot that CometBFT offers the application.
    /// `app_hash` is the one that its light client trusts.
    fn offered(&self, chain: &Chain, offer: &Offer, app_hash: &Bytes) -> Verdict;

    /// The application version that the chain has at a height, where that can be
    /// found out.
    fn app_version(&self, chain: &Chain, height: u64) -> Option<u64>;

    /// The body of the query `/snapshots`: JSON.
    fn snapshots(&self, chain: &Chain) -> Vec<u8>;

    /// The body of the query `/sync_status`: JSON.
    fn sync_status(&self, chain: &Chain, restoring: Option<&Restoring>) -> Vec<u8>;
}

/// What becomes of an offered snapshot.
pub enum Verdict {
    /// The application is asked, and its chunks are checked against these.
    Checked(Arc<dyn Verified>),
    /// The application is asked, and gets its chunks as they come.
    Unchecked,
    /// CometBFT is told to look for another one, for this reason.
    Reject(String),
}

/// A verified snapshot, for reading.
pub trait Verified: Send + Sync {
    /// The digest of a chunk.
    fn id(&self, chunk: u32) -> Option<ChunkId>;

    /// The bytes of a chunk, checked.
    fn chunk(&self, chunk: u32) -> std::io::Result<Bytes>;
}

/// A restore under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restoring {
    /// What CometBFT offered and the application accepted.
    pub offer: Offer,
    /// Whether each chunk is checked here.
    pub checked: bool,
    /// Chunks that the application has accepted, from the first on.
    pub applied: u32,
    /// Chunks whose bytes were wrong or stubs, and were replaced.
    pub replaced: u32,
}
