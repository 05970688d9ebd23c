//! The download scheduler.
#![allow(unused)] // first cut

mod model;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use model::{FetchAction, FetchLimits, FetchStats, HaveWhen, PeerStats, PieceState};

use super::{PeerHolding, PeerKey};
use crate::snapshot::{Bitmap, Manifest, PieceIndex, UniqueIndex};
use crate::wire::Refusal;

/// Peers asked for the same piece at once.
pub const MAX_COPIES: usize = 3;
/// Pieces in one [`FetchAction::Have`].
pub const MAX_HAVE_BATCH: usize = 256;

/// One snapshot under download.
pub struct Fetch;

impl Fetch {
    /// Gathers what `have` lacks.
    pub fn new(
        manifest: Arc<Manifest>,
        have: Bitmap,
        limits: FetchLimits,
        seed: u64,
        now: Instant,
    ) -> Self {
        todo!()
    }
    /// These chunks were checked in an earlier run: they are not checked again.
    pub fn with_checked(self, checked: impl IntoIterator<Item = UniqueIndex>) -> Self {
        todo!()
    }
    /// A peer takes part. It has nothing until it says so.
    pub fn handle_joined(&mut self, peer: PeerKey, rtt: Duration, now: Instant) {
        todo!()
    }
    /// A new measurement of the round trip.
    pub fn handle_rtt(&mut self, peer: PeerKey, rtt: Duration, now: Instant) {
        todo!()
    }
    /// The peer announced this manifest, and what it has of it. Replaces what it said before. A bitmap of another length is a fault.
    pub fn handle_holding(&mut self, peer: PeerKey, holding: PeerHolding, now: Instant) {
        todo!()
    }
    /// The peer has these chunks under another manifest: wrong bytes do not blame it.
    pub fn handle_chunks(&mut self, peer: PeerKey, chunks: &[UniqueIndex], now: Instant) {
        todo!()
    }
    /// The peer has these pieces now. A number beyond the last is a fault.
    pub fn handle_have(&mut self, peer: PeerKey, pieces: &[u32], now: Instant) {
        todo!()
    }
    /// The first bytes are about to come.
    pub fn handle_started(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        todo!()
    }
    /// So many more bytes came.
    pub fn handle_progress(&mut self, peer: PeerKey, piece: PieceIndex, bytes: u32, now: Instant) {
        todo!()
    }
    /// All bytes came. True: verify them and say `handle_verified` or `handle_bad`. False: nobody waits for them any more, drop them.
    #[must_use]
    pub fn handle_received(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) -> bool {
        todo!()
    }
    /// The bytes are right and written.
    pub fn handle_verified(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        todo!()
    }
    /// Wrong bytes or a wrong length. Allowed without `handle_received` before it.
    pub fn handle_bad(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        todo!()
    }
    /// The peer does not give the piece.
    pub fn handle_refused(
        &mut self,
        peer: PeerKey,
        piece: PieceIndex,
        refusal: Refusal,
        now: Instant,
    ) {
        todo!()
    }
    /// A started piece ended early.
    pub fn handle_aborted(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        todo!()
    }
    /// The peer broke the protocol.
    pub fn handle_fault(&mut self, peer: PeerKey, now: Instant) {
        todo!()
    }
    /// The peer is gone.
    pub fn handle_left(&mut self, peer: PeerKey, now: Instant) {
        todo!()
    }
    /// The answer to `CheckChunk`. False only when each piece read back still hashes right and the whole does not: that condemns the manifest. (Damage on our own disk is `handle_lost`.)
    pub fn handle_chunk_checked(&mut self, chunk: UniqueIndex, ok: bool, now: Instant) {
        todo!()
    }
    /// The chunk on our disk was found damaged: its pieces are missing again.
    pub fn handle_lost(&mut self, chunk: UniqueIndex, now: Instant) {
        todo!()
    }
    /// To call when `poll_timeout` is reached.
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }
    /// What to do next; call until it gives nothing, after every `handle_*`.
    pub fn poll(&mut self, now: Instant) -> Option<FetchAction> {
        todo!()
    }
    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// How the download stands.
    pub fn stats(&self, now: Instant) -> FetchStats {
        todo!()
    }
    /// Where a piece stands.
    pub fn piece_state(&self, piece: PieceIndex) -> PieceState {
        todo!()
    }
    /// Every chunk is here and checked.
    pub fn is_finished(&self) -> bool {
        todo!()
    }
}
