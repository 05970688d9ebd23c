//! What [`Uploads`](super::Uploads) is told, says and shows: plain data.

use super::MAX_SLOTS;
use crate::snapshot::ChunkId;
use crate::wire::RequestId;

/// A connection on which pieces are asked of us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnKey(pub u64);

/// Limits of the server; may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadLimits {
    /// Pieces under way at once; 0 serves nobody. Above [`MAX_SLOTS`] counts as
    /// that many.
    pub slots: u32,
    /// Bytes per second that the operator allows. Only the number of slots
    /// follows from it here: the pace is kept by the transport.
    pub bytes_per_second: Option<u64>,
}

impl Default for UploadLimits {
    fn default() -> Self {
        Self {
            slots: MAX_SLOTS,
            bytes_per_second: None,
        }
    }
}

/// What the server is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadAction {
    /// Send this piece: [`handle_finished`](super::Uploads::handle_finished) or
    /// [`handle_failed`](super::Uploads::handle_failed) follows.
    Start {
        /// To whom.
        conn: ConnKey,
        /// Which request.
        request: RequestId,
        /// The chunk.
        chunk: ChunkId,
        /// Which of its pieces.
        piece: u32,
    },
    /// Send nothing more of this piece than is written, and say that it was
    /// aborted. Nothing is to be told back; the next one may start at once.
    Abort {
        /// To whom.
        conn: ConnKey,
        /// Which request.
        request: RequestId,
    },
}

/// What the server does and did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct UploadStats {
    /// Connections that may ask.
    pub connections: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Pieces under way.
    pub active: u32,
    /// Pieces that may be under way.
    pub slots: u32,
    /// Bytes per second while anything is under way; 0 when unknown.
    pub rate: f64,
    /// Piece bytes sent.
    pub sent_bytes: u64,
    /// Pieces sent to the end.
    pub sent_pieces: u64,
    /// Pieces stopped by a cancel.
    pub aborted_pieces: u64,
}
