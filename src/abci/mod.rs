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
//! | OfferSnapshot | goes on only when [`Snapshots::offered`] lets it; else it waits for a while, or is rejected here |
//! | ApplySnapshotChunk | its bytes are checked against the manifest, and wrong ones replaced; the answer to the last chunk goes on only when the application names the application hash that was trusted |
//! | Query of `/snapshots` and `/sync_status` | answered with JSON |
//! | OfferSnapshot of state content | rejected, where an application is behind: none understands it |
//! | Info, InitChain, FinalizeBlock (EndBlock before 0.38), Commit | pass; chain id, height and application hash are read as they go by |
//! | the answer to Commit | waits for [`Commits`] where there is one, at its heights, for a bounded time |
//!
//! An application that has nothing yet may be kept from running until a snapshot was
//! restored into its storage: see [`StandIn`].
//!
//! # The laws
//!
//! - **Nothing of ours ends a connection.** A connection ends when CometBFT or the
//!   application ends its side; the other side follows. What this room asks of
//!   [`Snapshots`] runs apart, for a bounded time and on a bounded number of threads,
//!   and has a harmless answer if it panics, hangs or fails: an empty list, a missing
//!   chunk, REJECT, RETRY.
//! - **The order of answers is the order of requests**, those answered here
//!   included.
//! - **A held call dies with its socket**: what CometBFT asked before it died does
//!   not reach the application after, also when it was not there yet.
//! - **Nobody waits for what is here.** Before more is waited for, whole frames that
//!   were collected leave.
//! - Memory: a frame that only passes is never held whole. What is held for each
//!   connection is one snapshot call with what is put in place of its chunk, and two
//!   answers of ours, one being made and one on its way: a few times
//!   [`MAX_HELD_BYTES`], however many calls are under way.
//! - What a peer of CometBFT can cause is logged at `debug`, or seldom, and counted
//!   ([`Served`]).
//!
//! Rules of CometBFT that are obeyed here: facts/cometbft-state-sync.md.

mod address;
mod answers;
mod client;
mod commit;
mod error;
mod frame;
mod judge;
mod memory;
mod message;
mod relay;
mod requests;
mod restore;
mod server;
mod session;
mod stand_in;
#[cfg(test)]
mod testing;
mod walk;
mod work;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use address::Address;
pub use client::{AppInfo, AppSource, app_info};
pub use commit::{CommitHold, Commits, LastHold};
pub use error::AbciError;
pub use memory::Chain;
pub use message::{STUB_BYTES, stub};
pub use server::{Adapter, AdapterSettings, Learnt};
pub use stand_in::{RESTORE_FAILED, StandIn};

use crate::snapshot::{ChunkId, Manifest, Offer};

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
    fn offered(&self, chain: &Chain, offered: &Offered) -> Verdict;

    /// The application version that the chain has at a height, where that can be
    /// found out.
    fn app_version(&self, chain: &Chain, height: u64) -> Option<u64>;

    /// The body of the query `/snapshots`: JSON.
    fn snapshots(&self, chain: &Chain) -> Vec<u8>;

    /// The body of the query `/sync_status`: JSON.
    fn sync_status(&self, chain: &Chain, standing: &Standing) -> Vec<u8>;
}

/// An offer of CometBFT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offered {
    /// The snapshot.
    pub offer: Offer,
    /// The application hash that CometBFT's light client trusts at its height.
    pub app_hash: Bytes,
    /// Whether [`Verdict::Wait`] is an answer.
    pub may_wait: bool,
    /// Since CometBFT offered its first one in this state sync.
    pub since_first: Duration,
}

/// What becomes of an offered snapshot.
pub enum Verdict {
    /// The application is asked, and its chunks are checked against these.
    Checked(Arc<dyn Verified>),
    /// The application is asked, and gets its chunks as they come.
    Unchecked,
    /// It is here soon, for this reason: CometBFT waits, and the question is asked
    /// again. When that takes too long it is rejected.
    Wait(String),
    /// CometBFT is told to look for another one, for this reason. It does not offer
    /// this one again while its process lives.
    Reject(String),
}

/// A verified snapshot, for reading.
pub trait Verified: Send + Sync {
    /// The digest of a chunk.
    fn id(&self, chunk: u32) -> Option<ChunkId>;

    /// The bytes of a chunk, checked.
    fn chunk(&self, chunk: u32) -> std::io::Result<Bytes>;

    /// What is known of the snapshot besides: who stands in for an application restores
    /// by it.
    fn manifest(&self) -> Option<Arc<Manifest>> {
        None
    }
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

/// What is going on under an adapter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// The restore under way.
    pub restoring: Option<Restoring>,
    /// What was done so far.
    pub served: Served,
}

/// What an adapter did since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Served {
    /// Lists given to peers.
    pub lists: u64,
    /// Chunks given to peers.
    pub chunks: u64,
    /// Chunks that peers asked for and that were not here.
    pub missing_chunks: u64,
    /// Questions that nobody worked on because too much work hung.
    pub refused: u64,
    /// Restores after which the application did not tell its state: CometBFT alone
    /// checked them.
    pub unconfirmed_restores: u64,
}

/// How long things may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Times {
    /// A list, a chunk, a query. A peer waits 10 s, and there are others to ask.
    pub serve: Duration,
    /// A decision about an offer, each time that it is asked for.
    pub decide: Duration,
    /// An offer that waits is asked about again after so long.
    pub ask_again: Duration,
    /// An offer waits for at most so long. CometBFT has no limit of its own, but with
    /// nodes that prune, the blocks after the snapshot vanish meanwhile.
    pub hold: Duration,
    /// A chunk of ours is checked and read from a disk.
    pub read: Duration,
    /// Before a chunk of ours that could not be read is tried again; after the last of
    /// these the snapshot is given up.
    pub unreadable: [Duration; 3],
    /// The application's Info after a restore.
    pub info: Duration,
    /// A step of a restore by a [`StandIn`]: a chunk, or the last one, after which a whole
    /// state has to be on the disk and the application has to start.
    pub restore: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            serve: Duration::from_secs(8),
            decide: Duration::from_secs(10),
            ask_again: Duration::from_secs(1),
            hold: Duration::from_secs(180),
            read: Duration::from_secs(60),
            unreadable: [1, 5, 25].map(Duration::from_secs),
            info: Duration::from_secs(30),
            restore: Duration::from_secs(3600),
        }
    }
}
