//! What a client tells its owner.

use std::io;

use bytes::Bytes;

use crate::snapshot::{Bitmap, ManifestId};
use crate::wire::{Holding, Refusal, RequestId, WireError};

/// What happened on a piece stream. Events of a request that was cancelled may
/// still come when they were queued before; ids are never used twice on a
/// stream, so they are recognised and dropped by their id.
#[derive(Debug)]
pub enum PieceEvent {
    /// The answer to an open: what the peer has of the snapshot. The bits are
    /// not checked against the snapshot's length; who has its manifest does.
    Holdings {
        /// The snapshot.
        manifest: ManifestId,
        /// Of it.
        holding: Holding,
    },
    /// The peer has these pieces now. Numbers may be out of range.
    Have {
        /// The snapshot, which was opened on this stream.
        manifest: ManifestId,
        /// Piece numbers.
        pieces: Vec<u32>,
    },
    /// The answer to a probe: one bit for each chunk, in the order of asking.
    Holds {
        /// The probe.
        id: RequestId,
        /// Which of them the peer has.
        chunks: Bitmap,
    },
    /// The first byte of this piece is on its way.
    Started {
        /// The request.
        id: RequestId,
    },
    /// Bytes of this piece that are here, in all. Comes at most every
    /// [`super::PROGRESS_INTERVAL`].
    Progress {
        /// The request.
        id: RequestId,
        /// Of the piece, so far.
        bytes: u32,
    },
    /// The whole piece is here, of the length that was asked for. Its bytes are
    /// not verified. Dropping the last clone gives its room back to the budget.
    Received {
        /// The request.
        id: RequestId,
        /// The piece.
        bytes: Bytes,
    },
    /// The piece is not given. No fault of the peer.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
    /// The started piece ended before its end. No fault of the peer.
    Aborted {
        /// The request.
        id: RequestId,
    },
    /// The last event: the stream is gone, and all open requests with it.
    Closed(Closed),
}

/// How a stream ended.
#[derive(Debug, thiserror::Error)]
pub enum Closed {
    /// We closed it.
    #[error("closed by this node")]
    Here,
    /// The peer ended it between two messages.
    #[error("closed by the peer")]
    ByPeer,
    /// The connection was lost.
    #[error("connection lost")]
    Lost(#[source] io::Error),
    /// The peer did not take what we wrote.
    #[error("the peer has not read for {} seconds", super::STALL_TIMEOUT.as_secs())]
    Stalled,
    /// The peer broke the protocol.
    #[error("the peer broke the piece protocol")]
    Fault(#[source] Fault),
}

impl From<Fault> for Closed {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Closed {
    /// Whether the peer is to blame.
    pub fn blame(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            Self::Here | Self::ByPeer | Self::Lost(_) | Self::Stalled => None,
        }
    }
}

/// A rule of the protocol that a peer broke.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Fault {
    /// A frame or message that is none.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Data while no piece is under way.
    #[error("{0} bytes of data while no piece was started")]
    DataWithoutStart(u32),
    /// More data than the piece has.
    #[error("request {}: more than the {size} bytes of the piece", id.0)]
    TooMuchData {
        /// The piece's request.
        id: RequestId,
        /// Bytes of the piece.
        size: u32,
    },
    /// A piece of another length than it has.
    #[error("request {}: a piece of {found} bytes, it has {expected}", id.0)]
    Size {
        /// Its request.
        id: RequestId,
        /// By the manifest.
        expected: u32,
        /// Announced.
        found: u32,
    },
    /// A piece started while another is under way.
    #[error("request {} started before request {} ended", next.0, current.0)]
    Overlap {
        /// Under way.
        current: RequestId,
        /// Started.
        next: RequestId,
    },
    /// An answer to what was never asked.
    #[error("an answer to request {}, which is not open", .0.0)]
    UnknownRequest(RequestId),
    /// Bits of a probe's answer that do not fit the question.
    #[error("an answer to probe {} of another length", .0.0)]
    ProbeAnswer(RequestId),
    /// News of a snapshot that was not opened.
    #[error("news of snapshot {0}, which was not opened")]
    UnknownSnapshot(ManifestId),
    /// An acknowledgement of bytes that were never sent, or one that goes back.
    #[error("{acknowledged} bytes acknowledged of {sent} sent")]
    Acknowledged {
        /// By the peer.
        acknowledged: u64,
        /// By us.
        sent: u64,
    },
    /// Holdings that cannot be of this snapshot.
    #[error("holdings of snapshot {manifest}: {problem}")]
    Holdings {
        /// The snapshot.
        manifest: ManifestId,
        /// What is wrong with them.
        problem: String,
    },
    /// An id that is open already.
    #[error("request {} is open already", .0.0)]
    RepeatedRequest(RequestId),
}
