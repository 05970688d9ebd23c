//! The asking side of a stream.

use libp2p::PeerId;
use tokio::sync::mpsc;

use super::{Budget, PieceEvent, Reservation};
use crate::snapshot::{ChunkId, ManifestId};
use crate::wire::{Holding, RequestId};

/// A piece stream that this node opened. Dropping the events ends it.
pub struct Client {
    asker: Asker,
    events: mpsc::Receiver<PieceEvent>,
}

impl Client {
    /// Opens a stream on a connected peer.
    pub async fn open(
        control: &mut libp2p_stream::Control,
        peer: PeerId,
        budget: &Budget,
    ) -> Result<Self, OpenError> {
        let _ = (control, peer, budget);
        unimplemented!()
    }

    /// Speaks the protocol over any stream.
    pub fn over<S>(stream: S, peer: PeerId, reservation: Reservation) -> Self
    where
        S: futures::AsyncRead + futures::AsyncWrite + Send + 'static,
    {
        let _ = (stream, peer, reservation);
        unimplemented!()
    }

    /// The two halves: what is asked, and what happens. The last event is
    /// [`PieceEvent::Closed`].
    pub fn split(self) -> (Asker, mpsc::Receiver<PieceEvent>) {
        (self.asker, self.events)
    }
}

/// Asks. Clones ask on the same stream. No call waits; what is asked is written
/// as soon as the stream takes it.
#[derive(Clone)]
pub struct Asker {
    peer: PeerId,
}

impl Asker {
    /// Whom it asks.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Asks what the peer has of a snapshot, now and from now on: `Holdings`
    /// follows, then `Have`s.
    pub fn open(&self, manifest: ManifestId) -> Result<(), AskError> {
        let _ = manifest;
        unimplemented!()
    }

    /// Tells what this node has of a snapshot.
    pub fn holdings(&self, manifest: ManifestId, holding: Holding) -> Result<(), AskError> {
        let _ = (manifest, holding);
        unimplemented!()
    }

    /// Tells pieces that this node has since.
    pub fn have(&self, manifest: ManifestId, pieces: &[u32]) -> Result<(), AskError> {
        let _ = (manifest, pieces);
        unimplemented!()
    }

    /// Asks for a piece of `size` bytes. `Refused`, or `Started`, `Progress` and
    /// one of `Received` and `Aborted` follow, unless it is cancelled.
    pub fn request(&self, chunk: ChunkId, piece: u32, size: u32) -> Result<RequestId, AskError> {
        let _ = (chunk, piece, size);
        unimplemented!()
    }

    /// Takes a request back. Nothing more is queued about it from now on. A
    /// request that is not open any more is left alone.
    pub fn cancel(&self, id: RequestId) {
        let _ = id;
        unimplemented!()
    }

    /// Asks which of these chunks the peer has, under whatever manifest: `Holds`
    /// follows.
    pub fn probe(&self, chunks: &[ChunkId]) -> Result<RequestId, AskError> {
        let _ = chunks;
        unimplemented!()
    }

    /// Ends the stream.
    pub fn close(&self) {
        unimplemented!()
    }

    /// What went over the stream so far.
    pub fn stats(&self) -> ClientStats {
        unimplemented!()
    }
}

/// What went over one stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClientStats {
    /// Bytes of pieces that came, those of cancelled requests included.
    pub received_bytes: u64,
    /// Of them, bytes that were thrown away: cancelled or aborted on the way.
    pub discarded_bytes: u64,
    /// Pieces that came whole.
    pub received_pieces: u64,
    /// Requests open now.
    pub open_requests: usize,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as the budget has room for.
    #[error("{0} piece streams are open, no more have room")]
    Budget(usize),
    /// The peer gave no stream.
    #[error("peer {peer} gave no piece stream")]
    Stream {
        /// The peer.
        peer: PeerId,
        /// What happened.
        #[source]
        source: libp2p_stream::OpenStreamError,
    },
}

/// Why something cannot be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// A limit of the protocol is reached; the peer would refuse.
    #[error("more {what} than the {limit} that a piece stream takes")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// The stream is gone.
    #[error("the piece stream is closed")]
    Closed,
}
