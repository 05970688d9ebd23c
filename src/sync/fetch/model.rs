//! What a [`Fetch`](super::Fetch) is told, says and shows: plain data.

use std::time::Duration;

use super::super::{Offence, PeerKey};
use crate::snapshot::{PieceIndex, UniqueIndex};

/// When a piece is told to others and may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HaveWhen {
    /// When its whole chunk was checked: what is served is then right under
    /// every manifest that names the chunk. Chunks that were begun are finished
    /// before others are begun.
    #[default]
    ChunkChecked,
    /// When the piece itself was verified.
    PieceVerified,
}

/// Limits that the caller chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchLimits {
    /// Pieces whose bytes are in memory: started, or received and not verified.
    /// At this number only peers that hold none of them, and of whom nothing is
    /// asked, are asked for one more. What is under way already still comes:
    /// the hard bound is the transport's, which reads a piece only when it has a
    /// place for it.
    pub buffered_pieces: u32,
    /// Peers at once. One more takes the place of one that only stalls, or is
    /// sent away.
    pub peers: u32,
    /// Chunks being read back and hashed at once.
    pub checks: u32,
    /// When pieces are told to others.
    pub have_when: HaveWhen,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            // 48 MiB of buffers: with the rest of a joiner within 128 MiB.
            buffered_pieces: 48,
            // Twenty to forty neighbours give all that a swarm can give
            // (facts/swarm-policy.md).
            peers: 64,
            // Four that are hashed side by side, and the next four.
            checks: 8,
            have_when: HaveWhen::default(),
        }
    }
}

/// What to do, from [`Fetch::poll`](super::Fetch::poll).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchAction {
    /// Ask `peer` for `piece`.
    Request {
        /// Whom.
        peer: PeerKey,
        /// For what.
        piece: PieceIndex,
    },
    /// Take the request back. Nothing more is expected of it.
    Cancel {
        /// Whom it was asked of.
        peer: PeerKey,
        /// What was asked.
        piece: PieceIndex,
    },
    /// Tell all neighbours, complete ones too, that these pieces are here.
    Have {
        /// At most [`MAX_HAVE_BATCH`](super::MAX_HAVE_BATCH).
        pieces: Vec<PieceIndex>,
    },
    /// All pieces of the chunk are written: read it back, hash it, and say
    /// [`Fetch::handle_chunk_checked`](super::Fetch::handle_chunk_checked).
    CheckChunk(UniqueIndex),
    /// The peer did wrong. It is gone for this download already.
    Ban {
        /// Who.
        peer: PeerKey,
        /// What it did.
        offence: Offence,
    },
    /// The manifest turned out false: what `peer` was banned for here was not
    /// its fault.
    Lift {
        /// Who.
        peer: PeerKey,
    },
    /// There is no place for this peer; the connection may stay for other
    /// purposes. It counts as left.
    Disconnect {
        /// Who.
        peer: PeerKey,
    },
    /// The manifest lies: a chunk whose pieces all fit is not the chunk that is
    /// named. The last action.
    Condemned,
    /// Every piece is here and every chunk was checked. The last action.
    Finished,
}

/// Where a piece stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PieceState {
    /// Not here and asked of nobody.
    Missing,
    /// Asked of these peers, at most [`MAX_COPIES`](super::MAX_COPIES).
    Asked(Vec<PeerKey>),
    /// All its bytes came at least once and are being verified.
    Received,
    /// Verified and written.
    Have,
}

/// How a download stands.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FetchStats {
    /// Pieces of the snapshot.
    pub pieces: u32,
    /// Pieces verified and written, those found at the start included.
    pub have: u32,
    /// Pieces asked of somebody.
    pub asked: u32,
    /// Pieces being verified.
    pub verifying: u32,
    /// Missing pieces that no connected peer claims to have.
    pub nowhere: u32,
    /// Chunks whose whole digest was checked.
    pub checked_chunks: u32,
    /// Piece bytes received, duplicates and wrong ones included.
    pub received_bytes: u64,
    /// Of them: wrong, twice, or of requests that were taken back.
    pub wasted_bytes: u64,
    /// Pieces whose bytes are in memory (see [`FetchLimits::buffered_pieces`]).
    pub buffered_pieces: u32,
    /// Peers connected now, and up to 1,024 that were.
    pub peers: Vec<PeerStats>,
}

/// What one peer did.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStats {
    /// Who.
    pub peer: PeerKey,
    /// Takes part now.
    pub connected: bool,
    /// Banned in this download.
    pub banned: bool,
    /// Bytes of its that were verified and kept.
    pub bytes: u64,
    /// Bytes of its that were wrong, twice, or of requests that were taken back.
    pub wasted_bytes: u64,
    /// Bytes per second while something is asked of it; 0 when unknown.
    pub rate: f64,
    /// Round trip.
    pub rtt: Duration,
    /// Requests that may be open at it.
    pub window: u32,
    /// Requests open at it.
    pub outstanding: u32,
    /// Requests it refused.
    pub refusals: u32,
    /// Times it stopped delivering.
    pub stalls: u32,
}
