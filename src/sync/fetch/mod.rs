//! The download scheduler: which piece is asked of whom.
//!
//! A piece is [missing, asked, received or here](PieceState). Peers tell what
//! they have; each gets a *window* of requests, sized by its measured rate and
//! round trip. A free place in a window is filled with the rarest missing piece
//! that the peer has, at random among equals (`plan`). When nothing is missing
//! for it, it takes over what would come late from others; at the end started
//! pieces are asked twice or three times, and the losers cancelled.
//!
//! Who delivers nothing is paused for a time that grows and ends; its requests
//! go to others. Wrong bytes ban who announced them, if it announced this
//! manifest (`blame`). A chunk whose pieces all fit and whose whole digest does
//! not condemns the manifest.
//!
//! Every decision that needs a number takes it from a named constant here, in
//! `peer` or in `plan`; the source is `facts/swarm-policy.md` unless said.

mod blame;
mod board;
mod chunks;
mod model;
mod peer;
mod plan;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub use self::peer::MAX_WINDOW;
pub use model::{FetchAction, FetchLimits, FetchStats, HaveWhen, PeerStats, PieceState};

use self::board::{Board, Holds};
use self::chunks::Chunks;
use self::peer::{Peer, Record};
use super::bits::Bits;
use super::{Offence, PeerHolding, PeerKey};
use crate::snapshot::{Bitmap, Manifest, PieceIndex, UniqueIndex};
use crate::wire::Refusal;

/// Peers asked for the same piece at once.
pub const MAX_COPIES: usize = 3;
/// Pieces in one [`FetchAction::Have`].
pub const MAX_HAVE_BATCH: usize = 256;
/// The longest a verified piece waits to be told to others.
const HAVE_DELAY: Duration = Duration::from_millis(20);
/// All windows are looked at so often, whatever happens.
const REFILL_EVERY: Duration = Duration::from_millis(200);
/// Peers remembered after they left; 100 KiB. Bounds what a crowd that comes and
/// goes can make us hold.
const MAX_RECORDS: usize = 1024;
/// A peer that was of no use for so long gives its place to a newcomer when all
/// are taken: longer than a piece takes over a slow uplink that eight share.
const YIELD_AFTER: Duration = Duration::from_secs(60);

/// The most that [`FetchLimits::peers`] can allow: holders of a piece are counted
/// in a byte.
const MAX_PEERS: u32 = 255;

/// One snapshot under download.
pub struct Fetch {
    manifest: Arc<Manifest>,
    limits: FetchLimits,
    rng: ChaCha8Rng,
    board: Board,
    chunks: Chunks,
    peers: BTreeMap<PeerKey, Peer>,
    records: BTreeMap<PeerKey, Record>,
    /// Copies being verified; true where their sender is to blame for wrong
    /// bytes. They outlive their sender's connection.
    verifying: BTreeMap<(u32, PeerKey), bool>,
    /// Peers whose windows are to be looked at.
    dirty: BTreeSet<PeerKey>,
    actions: VecDeque<FetchAction>,
    /// Pieces to be told to others, and by when.
    fresh: VecDeque<PieceIndex>,
    fresh_due: Option<Instant>,
    next_refill: Instant,
    received_bytes: u64,
    wasted_bytes: u64,
    /// Finished or condemned: nothing more is done.
    over: bool,
}

impl Fetch {
    /// Gathers the pieces that `have` lacks. Every chunk is checked as a whole
    /// once its pieces are here.
    ///
    /// Panics when `have` is not of the manifest's piece count.
    pub fn new(
        manifest: Arc<Manifest>,
        have: Bitmap,
        limits: FetchLimits,
        seed: u64,
        now: Instant,
    ) -> Self {
        assert_eq!(have.len(), manifest.piece_count(), "a bitmap of the pieces");
        let chunks = Chunks::new(manifest.clone(), &have);
        let mut this = Self {
            limits,
            rng: ChaCha8Rng::seed_from_u64(seed),
            board: Board::new(&have),
            peers: BTreeMap::new(),
            records: BTreeMap::new(),
            verifying: BTreeMap::new(),
            dirty: BTreeSet::new(),
            actions: VecDeque::new(),
            fresh: VecDeque::new(),
            fresh_due: None,
            next_refill: now + REFILL_EVERY,
            received_bytes: 0,
            wasted_bytes: 0,
            over: false,
            chunks,
            manifest,
        };
        if this.chunks.contradiction() {
            this.condemn(now);
        }
        this
    }

    /// These chunks were checked as a whole in an earlier run: those of them
    /// whose pieces are all here are not checked again.
    pub fn with_checked(mut self, checked: impl IntoIterator<Item = UniqueIndex>) -> Self {
        self.chunks.assume_checked(checked);
        self
    }

    /// A peer takes part. It has nothing until it says so. When all places are
    /// taken, the one that was of no use for longest yields, or the newcomer
    /// is sent away.
    pub fn handle_joined(&mut self, peer: PeerKey, rtt: Duration, now: Instant) {
        if self.over {
            return;
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.rtt = rtt;
            return;
        }
        let banned = self.records.get(&peer).is_some_and(|r| r.banned);
        if banned || !self.make_place(now) {
            self.actions.push_back(FetchAction::Disconnect { peer });
            return;
        }
        self.records.entry(peer).or_default();
        self.peers.insert(peer, Peer::new(rtt, now));
        self.forget_records();
    }

    /// A new measurement of the round trip.
    pub fn handle_rtt(&mut self, peer: PeerKey, rtt: Duration, _now: Instant) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.rtt = rtt;
        }
    }

    /// The peer announced this manifest, and what it has of it; replaces what it
    /// said before. A bitmap of another length is a fault.
    pub fn handle_holding(&mut self, peer: PeerKey, holding: PeerHolding, now: Instant) {
        if self.over || !self.peers.contains_key(&peer) {
            return;
        }
        let holds = match holding {
            PeerHolding::Complete => Holds::Complete,
            PeerHolding::Nothing => Holds::Nothing,
            PeerHolding::Pieces(pieces) if pieces.len() != self.board.len() => {
                return self.handle_fault(peer, now);
            }
            PeerHolding::Pieces(pieces) if pieces.is_full() => Holds::Complete,
            PeerHolding::Pieces(pieces) => Holds::Some(Box::new(Bits::from_bitmap(&pieces))),
        };
        self.set_holds(peer, holds, true);
    }

    /// The peer has these chunks under another manifest: it is asked for them,
    /// and wrong bytes end that without blame.
    pub fn handle_chunks(&mut self, peer: PeerKey, chunks: &[UniqueIndex], _now: Instant) {
        if self.over {
            return;
        }
        let pieces: Vec<u32> = chunks
            .iter()
            .flat_map(|chunk| self.chunks.pieces(chunk.get()))
            .collect();
        self.add_pieces(peer, &pieces);
    }

    /// The peer announced this manifest and has these pieces now. A number
    /// beyond the last is a fault.
    pub fn handle_have(&mut self, peer: PeerKey, pieces: &[u32], now: Instant) {
        if self.over || !self.peers.contains_key(&peer) {
            return;
        }
        if pieces.iter().any(|piece| *piece >= self.board.len()) {
            return self.handle_fault(peer, now);
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.announced = true;
        }
        self.add_pieces(peer, pieces);
        for piece in pieces {
            self.rebind(*piece, peer, now);
        }
    }

    /// The piece's bytes are about to come.
    pub fn handle_started(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        if let Some(known) = self.peers.get_mut(&peer)
            && let Some(request) = known.request(piece.get())
        {
            request.started_at.get_or_insert(now);
            known.alive(now);
        }
    }

    /// So many more bytes of the piece came.
    pub fn handle_progress(&mut self, peer: PeerKey, piece: PieceIndex, bytes: u32, now: Instant) {
        self.received_bytes += u64::from(bytes);
        let Some(known) = self.peers.get_mut(&peer) else {
            return self.waste(peer, bytes);
        };
        let Some(request) = known.request(piece.get()) else {
            return self.waste(peer, bytes);
        };
        request.bytes = request.bytes.saturating_add(bytes);
        request.started_at.get_or_insert(now);
        known.moved(bytes, now);
    }

    /// So many bytes came for requests that were taken back.
    pub fn handle_stray(&mut self, peer: PeerKey, bytes: u32) {
        self.received_bytes += u64::from(bytes);
        self.waste(peer, bytes);
    }

    /// All bytes of the piece came. True: verify them and say
    /// [`Fetch::handle_verified`] or [`Fetch::handle_bad`]. False: nobody waits
    /// for them any more. Other copies of the piece stay asked until one is
    /// verified: this one may be wrong.
    #[must_use]
    pub fn handle_received(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) -> bool {
        let number = piece.get();
        let Some(known) = self.peers.get_mut(&peer) else {
            return false;
        };
        let Some(request) = known.request(number) else {
            return false;
        };
        let unsaid = request.left();
        known.moved(unsaid, now);
        let request = known.close(number, now).expect("found above");
        self.received_bytes += u64::from(unsaid);
        self.verifying.insert((number, peer), request.announced);
        self.board.receive(number, peer);
        self.dirty.insert(peer);
        true
    }

    /// The bytes are right and written.
    pub fn handle_verified(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        let number = piece.get();
        if self.verifying.remove(&(number, peer)).is_none() {
            return;
        }
        let len = self.manifest.piece(piece).len;
        self.mark_all_room();
        if self.over || self.board.has(number) {
            return self.waste(peer, len);
        }
        if let Some(record) = self.records.get_mut(&peer) {
            record.proved(len);
        }
        if let Some(known) = self.peers.get_mut(&peer) {
            known.useful_at = now;
            known.grow();
            self.dirty.insert(peer);
        }
        for other in self.board.keep(number) {
            self.overtake(other, number, now);
        }
        self.chunks.note_have(number);
        if self.limits.have_when == HaveWhen::PieceVerified {
            self.tell(piece, now);
        }
    }

    /// The answer to [`FetchAction::CheckChunk`]. False only when each piece,
    /// read back, still has its SHA-256 and the whole has not: that condemns the
    /// manifest. Damage on our own disk is [`Fetch::handle_lost`].
    pub fn handle_chunk_checked(&mut self, chunk: UniqueIndex, ok: bool, now: Instant) {
        if self.over || !self.chunks.is_being_checked(chunk.get()) {
            return;
        }
        if !ok {
            return self.condemn(now);
        }
        self.chunks.note_checked(chunk.get());
        if self.limits.have_when == HaveWhen::ChunkChecked {
            for piece in self.manifest.pieces_of(chunk) {
                self.tell(piece, now);
            }
        }
    }

    /// The chunk was found damaged on our own disk: its pieces are missing
    /// again.
    pub fn handle_lost(&mut self, chunk: UniqueIndex, _now: Instant) {
        if self.over {
            return;
        }
        let pieces = self.chunks.pieces(chunk.get());
        let lost = pieces.filter(|piece| self.board.lose(*piece)).count();
        self.chunks.note_lost(chunk.get(), lost as u8);
        let range = self.chunks.pieces(chunk.get());
        self.fresh.retain(|piece| !range.contains(&piece.get()));
        self.verifying
            .retain(|(piece, _), _| !range.contains(piece));
        self.wake_all();
    }

    /// To be called when [`Fetch::poll_timeout`] is reached.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.over || now < self.next_refill {
            return;
        }
        self.next_refill = now + REFILL_EVERY;
        let stalled: Vec<PeerKey> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.has_stalled(now))
            .map(|(key, _)| *key)
            .collect();
        for peer in stalled {
            self.stall(peer, now);
        }
        self.dirty.extend(self.peers.keys().copied());
    }

    /// What to do next. To be called until it gives nothing, after every
    /// `handle_*`.
    pub fn poll(&mut self, now: Instant) -> Option<FetchAction> {
        loop {
            if let Some(action) = self.actions.pop_front() {
                return Some(action);
            }
            if self.over {
                return None;
            }
            if let Some(chunk) = self.chunks.next_check(self.limits.checks) {
                return Some(FetchAction::CheckChunk(chunk));
            }
            let finished = self.chunks.all_checked();
            if let Some(pieces) = self.next_have(finished, now) {
                return Some(FetchAction::Have { pieces });
            }
            if finished {
                self.over = true;
                return Some(FetchAction::Finished);
            }
            let peer = self.dirty.pop_first()?;
            self.refill(peer, now);
        }
    }

    /// When to call [`Fetch::handle_timeout`] and [`Fetch::poll`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let refill = (!self.peers.is_empty()).then_some(self.next_refill);
        match (refill, self.fresh_due) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Every piece is here and every chunk was checked.
    pub fn is_finished(&self) -> bool {
        self.chunks.all_checked()
    }

    fn next_have(&mut self, flush: bool, now: Instant) -> Option<Vec<PieceIndex>> {
        let due = self.fresh_due.is_some_and(|due| due <= now);
        if self.fresh.is_empty() || !(flush || due || self.fresh.len() >= MAX_HAVE_BATCH) {
            return None;
        }
        let count = self.fresh.len().min(MAX_HAVE_BATCH);
        let pieces = self.fresh.drain(..count).collect();
        if self.fresh.is_empty() {
            self.fresh_due = None;
        }
        Some(pieces)
    }

    fn tell(&mut self, piece: PieceIndex, now: Instant) {
        self.fresh.push_back(piece);
        self.fresh_due.get_or_insert(now + HAVE_DELAY);
    }

    /// Whether one more peer may join; may send another away for it.
    fn make_place(&mut self, now: Instant) -> bool {
        if self.peers.len() < self.limits.peers.clamp(1, MAX_PEERS) as usize {
            return true;
        }
        let useless = self
            .peers
            .iter()
            .min_by_key(|(_, peer)| peer.useful_at)
            .filter(|(_, peer)| now.saturating_duration_since(peer.useful_at) > YIELD_AFTER)
            .map(|(key, _)| *key);
        let Some(peer) = useless else {
            return false;
        };
        self.drop_peer(peer, now);
        self.actions.push_back(FetchAction::Disconnect { peer });
        true
    }

    /// Keeps the records of those who left within their bound: who gave least
    /// is forgotten first, who is banned last.
    fn forget_records(&mut self) {
        while self.records.len() > MAX_RECORDS + self.peers.len() {
            let least = self
                .records
                .iter()
                .filter(|(key, _)| !self.peers.contains_key(key))
                .min_by_key(|(_, record)| (record.is_out(), record.bytes))
                .map(|(key, _)| *key);
            let Some(least) = least else { return };
            self.records.remove(&least);
        }
    }
}
