//! The order in which pieces are given to others.
#![allow(unused)] // first cut

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PeerHolding;
use crate::snapshot::{ChunkId, Manifest, ManifestId};
use crate::wire::{Refusal, RequestId};

/// A connection on which pieces are asked of us.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnKey(pub u64);

/// Limits of the server; may change while it runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UploadLimits {
    /// Pieces under way at once, at most 32.
    pub slots: u32,
    /// Bytes per second that the operator allows; the pace itself is kept by the transport.
    pub bytes_per_second: Option<u64>,
}

/// What the server is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UploadAction {
    /// Send this piece; `handle_finished` or `handle_failed` follows.
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
    /// Stop sending this piece after what is written (it was cancelled): say Aborted. It is over already.
    Abort {
        /// To whom.
        conn: ConnKey,
        /// Which request.
        request: RequestId,
    },
}

/// What the server did.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct UploadStats {
    /// Connections.
    pub connections: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Pieces under way.
    pub active: u32,
    /// Pieces that may be under way.
    pub slots: u32,
    /// Measured bytes per second.
    pub rate: f64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Pieces sent to the end.
    pub sent_pieces: u64,
    /// Pieces stopped by a cancel.
    pub aborted_pieces: u64,
}

/// The server's order.
pub struct Uploads;

impl Uploads {
    /// Serves nobody yet.
    pub fn new(limits: UploadLimits, seed: u64, now: Instant) -> Self {
        todo!()
    }
    /// Other limits from now on.
    pub fn set_limits(&mut self, limits: UploadLimits, now: Instant) {
        todo!()
    }
    /// A connection asks from now on.
    pub fn handle_joined(&mut self, conn: ConnKey, rtt: Duration, now: Instant) {
        todo!()
    }
    /// A new measurement of the round trip.
    pub fn handle_rtt(&mut self, conn: ConnKey, rtt: Duration) {
        todo!()
    }
    /// The connection is gone.
    pub fn handle_left(&mut self, conn: ConnKey, now: Instant) {
        todo!()
    }
    /// The connection opened this snapshot.
    pub fn handle_opened(&mut self, conn: ConnKey, manifest: &Arc<Manifest>) {
        todo!()
    }
    /// What the neighbour has of a snapshot that it opened. False: the bitmap does not fit (a fault of the peer).
    #[must_use]
    pub fn handle_holding(
        &mut self,
        conn: ConnKey,
        manifest: &ManifestId,
        holding: PeerHolding,
        now: Instant,
    ) -> bool {
        todo!()
    }
    /// The neighbour has these pieces now. False: a number beyond the last (a fault of the peer).
    #[must_use]
    pub fn handle_have(
        &mut self,
        conn: ConnKey,
        manifest: &ManifestId,
        pieces: &[u32],
        now: Instant,
    ) -> bool {
        todo!()
    }
    /// A request. The error is the answer to give.
    pub fn handle_request(
        &mut self,
        conn: ConnKey,
        request: RequestId,
        chunk: ChunkId,
        piece: u32,
        now: Instant,
    ) -> Result<(), Refusal> {
        todo!()
    }
    /// The request is taken back.
    pub fn handle_cancel(&mut self, conn: ConnKey, request: RequestId, now: Instant) {
        todo!()
    }
    /// So many bytes of the piece under way left.
    pub fn handle_progress(&mut self, conn: ConnKey, bytes: u32, now: Instant) {
        todo!()
    }
    /// The piece under way was written to the end.
    pub fn handle_finished(&mut self, conn: ConnKey, request: RequestId, now: Instant) {
        todo!()
    }
    /// The piece under way could not be given (not here any more, not readable).
    pub fn handle_failed(&mut self, conn: ConnKey, request: RequestId, now: Instant) {
        todo!()
    }
    /// The connection has no room for more unsent bytes.
    pub fn handle_blocked(&mut self, conn: ConnKey) {
        todo!()
    }
    /// It has room again.
    pub fn handle_unblocked(&mut self, conn: ConnKey) {
        todo!()
    }
    /// What to do next; call until it gives nothing.
    pub fn poll(&mut self, now: Instant) -> Option<UploadAction> {
        todo!()
    }
    /// When to call `poll` again although nothing happened.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// What the server does.
    pub fn stats(&self, now: Instant) -> UploadStats {
        todo!()
    }
}
