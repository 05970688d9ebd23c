//! The order in which pieces are given to others.
//!
//! Each connection has a queue of requests and at most one piece under way.
//! When a *slot* is free, each idle connection offers the queued piece that the
//! fewest neighbours have (its *view*); the least viewed of all is sent. Between
//! equals the connection goes first that has spread what it got from us: a piece
//! that nobody else has is best given to who passes it on. Nobody is refused a
//! second copy, only served later.
//!
//! Few slots: what is under way cannot be reordered. Their number follows the
//! uplink, which is measured; one that does not move is not counted. The pace in
//! bytes and the bytes in flight are the transport's.

mod model;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use self::model::{ConnKey, UploadAction, UploadLimits, UploadStats};
use self::views::{Known, Snapshot};
use super::PeerHolding;
use super::rate::Rate;
use crate::snapshot::{ChunkId, Manifest, ManifestId, PIECE_BYTES};
use crate::wire::{MAX_OPEN_REQUESTS, MAX_OPEN_SNAPSHOTS, Refusal, RequestId};

/// Slots that a fast uplink gets; beyond, nothing is gained by choosing.
pub const MAX_SLOTS: u32 = 32;
/// Pieces under way at once, those that do not move included. 64 MiB is never
/// reached: a transport holds a few frames of each.
const MAX_ACTIVE: u32 = 64;
/// Slots cover so much time of the uplink, and so many round trips on top.
const SLOT_SECS: f64 = 0.25;
const SLOT_ROUND_TRIPS: f64 = 6.0;
/// A slot that does not move for so long is not counted.
const SLOT_STALL: Duration = Duration::from_millis(300);
/// Or for the time that the uplink takes for so many bytes, if that is longer.
const SLOT_STALL_BYTES: f64 = 8.0 * 128.0 * 1024.0;
/// The uplink assumed until one is measured: 100 Mbit/s.
const FIRST_UPLINK: f64 = 12.5e6;
/// Memory of the measured uplink: a pause in demand does not shrink it at once.
const UPLINK_MEMORY_SECS: f64 = 10.0;
/// First copies that a connection may hold without having spread them, while
/// another one has fewer.
const UNSPREAD_MAX: u32 = 4;
/// First copies remembered for each connection; only [`UNSPREAD_MAX`] matter.
const UNSPREAD_REMEMBERED: u32 = 256;
/// Connections that may ask; the network's own limit is lower.
const MAX_CONNECTIONS: usize = 1024;

/// A piece of a snapshot that its connection has open.
type Place = (ManifestId, u32);

struct Queued {
    request: RequestId,
    chunk: ChunkId,
    piece: u32,
    /// Nothing when no open snapshot has the chunk.
    place: Option<Place>,
}

struct Sending {
    request: RequestId,
    place: Option<Place>,
    /// It counts in the view only because it is being sent.
    counted: bool,
    moved_at: Instant,
}

struct Conn {
    rtt: Duration,
    blocked: bool,
    queue: VecDeque<Queued>,
    active: Option<Sending>,
    opened: BTreeMap<ManifestId, Known>,
    /// First copies that it holds and nobody else has from it.
    unspread: u32,
    /// When it was served last, as a number.
    served: u64,
}

/// The server's order.
pub struct Uploads {
    limits: UploadLimits,
    conns: BTreeMap<ConnKey, Conn>,
    snapshots: BTreeMap<ManifestId, Snapshot>,
    /// Who was given a piece that nobody else had, until another has it.
    first_copies: BTreeMap<Place, ConnKey>,
    aborts: VecDeque<UploadAction>,
    rate: Rate,
    uplink: f64,
    uplink_at: Instant,
    /// Counts pieces started: the order of serving.
    turn: u64,
    polled_at: Instant,
    rng: ChaCha8Rng,
    sent_bytes: u64,
    sent_pieces: u64,
    aborted_pieces: u64,
}

impl Uploads {
    /// Serves nobody yet.
    pub fn new(limits: UploadLimits, seed: u64, now: Instant) -> Self {
        Self {
            limits,
            conns: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            first_copies: BTreeMap::new(),
            aborts: VecDeque::new(),
            rate: Rate::new(now),
            uplink: FIRST_UPLINK,
            uplink_at: now,
            turn: 0,
            polled_at: now,
            rng: ChaCha8Rng::seed_from_u64(seed),
            sent_bytes: 0,
            sent_pieces: 0,
            aborted_pieces: 0,
        }
    }

    /// Other limits from now on. What is under way goes on.
    pub fn set_limits(&mut self, limits: UploadLimits) {
        self.limits = limits;
    }

    /// A connection may ask from now on.
    pub fn handle_joined(&mut self, conn: ConnKey, rtt: Duration) {
        if self.conns.len() >= MAX_CONNECTIONS {
            return;
        }
        // Newcomers are served in a random order among themselves.
        let served = self.rng.random_range(0..=self.turn);
        self.conns.entry(conn).or_insert(Conn {
            rtt,
            blocked: false,
            queue: VecDeque::new(),
            active: None,
            opened: BTreeMap::new(),
            unspread: 0,
            served,
        });
    }

    /// A new measurement of the round trip.
    pub fn handle_rtt(&mut self, conn: ConnKey, rtt: Duration) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.rtt = rtt;
        }
    }

    /// The connection is gone, with all that it asked for and has.
    pub fn handle_left(&mut self, key: ConnKey, now: Instant) {
        let Some(mut conn) = self.conns.remove(&key) else {
            return;
        };
        for (manifest, known) in &mut conn.opened {
            if let Some(snapshot) = self.snapshots.get_mut(manifest) {
                snapshot.forget(known);
                snapshot.openers -= 1;
                if snapshot.openers == 0 {
                    self.snapshots.remove(manifest);
                }
            }
        }
        self.first_copies.retain(|_, holder| *holder != key);
        self.note_idle(now);
    }

    /// The connection opened a snapshot: its pieces are ranked from now on.
    pub fn handle_opened(&mut self, conn: ConnKey, manifest: &Arc<Manifest>) {
        let Some(conn) = self.conns.get_mut(&conn) else {
            return;
        };
        let id = manifest.id();
        if conn.opened.len() >= MAX_OPEN_SNAPSHOTS || conn.opened.contains_key(&id) {
            return;
        }
        conn.opened.insert(id, Known::default());
        let snapshot = self
            .snapshots
            .entry(id)
            .or_insert_with(|| Snapshot::new(manifest));
        snapshot.openers += 1;
    }

    /// What the neighbour has of a snapshot that it opened; replaces what is
    /// known. False: the bitmap does not fit, which is a fault of the peer.
    #[must_use]
    pub fn handle_holding(
        &mut self,
        key: ConnKey,
        manifest: &ManifestId,
        holding: PeerHolding,
    ) -> bool {
        let Some((known, snapshot)) = open(&mut self.conns, &mut self.snapshots, key, manifest)
        else {
            return true;
        };
        if matches!(&holding, PeerHolding::Pieces(pieces) if pieces.len() != snapshot.len()) {
            return false;
        }
        snapshot.replace(known, holding);
        let spread: Vec<Place> = self
            .first_copies
            .range((*manifest, 0)..=(*manifest, u32::MAX))
            .filter(|((_, piece), holder)| **holder != key && known.has(*piece))
            .map(|(place, _)| *place)
            .collect();
        for place in spread {
            self.note_spread(place, key);
        }
        true
    }

    /// The neighbour has these pieces now. False: a number beyond the last,
    /// which is a fault of the peer.
    #[must_use]
    pub fn handle_have(&mut self, key: ConnKey, manifest: &ManifestId, pieces: &[u32]) -> bool {
        let Some((known, snapshot)) = open(&mut self.conns, &mut self.snapshots, key, manifest)
        else {
            return true;
        };
        if pieces.iter().any(|piece| *piece >= snapshot.len()) {
            return false;
        }
        for piece in pieces {
            snapshot.add(known, *piece);
        }
        let sending = self.conns.get_mut(&key).and_then(|c| c.active.as_mut());
        if let Some(sending) = sending
            && let Some((id, piece)) = sending.place
            && id == *manifest
            && pieces.contains(&piece)
        {
            sending.counted = false;
        }
        for piece in pieces {
            self.note_spread((*manifest, *piece), key);
        }
        true
    }

    /// A request. The error is the answer to give.
    pub fn handle_request(
        &mut self,
        key: ConnKey,
        request: RequestId,
        chunk: ChunkId,
        piece: u32,
    ) -> Result<(), Refusal> {
        let conn = self.conns.get_mut(&key).ok_or(Refusal::Busy)?;
        if self.limits.slots == 0 {
            return Err(Refusal::NotAllowed);
        }
        let open = conn.queue.len() + usize::from(conn.active.is_some());
        if open >= MAX_OPEN_REQUESTS || conn.queue.iter().any(|q| q.request == request) {
            return Err(Refusal::OverLimit);
        }
        let found = conn.opened.keys().find_map(|id| {
            let piece = self.snapshots.get(id)?.piece(&chunk, piece)?;
            Some(piece.map(|number| (*id, number)))
        });
        let place = found.transpose().map_err(|()| Refusal::Gone)?;
        conn.queue.push_back(Queued {
            request,
            chunk,
            piece,
            place,
        });
        Ok(())
    }

    /// The request is taken back.
    pub fn handle_cancel(&mut self, key: ConnKey, request: RequestId, now: Instant) {
        let Some(conn) = self.conns.get_mut(&key) else {
            return;
        };
        conn.queue.retain(|queued| queued.request != request);
        if self.end(key, request, false, now) {
            self.aborted_pieces += 1;
            self.aborts
                .push_back(UploadAction::Abort { conn: key, request });
        }
    }

    /// So many bytes of the piece under way left.
    pub fn handle_progress(&mut self, key: ConnKey, bytes: u32, now: Instant) {
        let Some(conn) = self.conns.get_mut(&key) else {
            return;
        };
        if let Some(sending) = &mut conn.active {
            sending.moved_at = now;
        }
        self.sent_bytes += u64::from(bytes);
        self.rate.add(u64::from(bytes), now);
        if let Some(rate) = self.rate.get(now) {
            let passed = now.saturating_duration_since(self.uplink_at).as_secs_f64();
            let decay = (-passed / UPLINK_MEMORY_SECS).exp();
            self.uplink = rate.max(rate + (self.uplink - rate) * decay);
        }
        self.uplink_at = now;
    }

    /// The piece under way was written to the end.
    pub fn handle_finished(&mut self, key: ConnKey, request: RequestId, now: Instant) {
        if self.end(key, request, true, now) {
            self.sent_pieces += 1;
        }
    }

    /// The piece under way could not be given: not here any more, not readable.
    pub fn handle_failed(&mut self, key: ConnKey, request: RequestId, now: Instant) {
        self.end(key, request, false, now);
    }

    /// The connection has no room for more unsent bytes: it is not chosen.
    pub fn handle_blocked(&mut self, conn: ConnKey) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.blocked = true;
        }
    }

    /// It has room again.
    pub fn handle_unblocked(&mut self, conn: ConnKey) {
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.blocked = false;
        }
    }

    /// What to do next. To be called until it gives nothing, after every
    /// `handle_*`.
    pub fn poll(&mut self, now: Instant) -> Option<UploadAction> {
        self.polled_at = now;
        if let Some(abort) = self.aborts.pop_front() {
            return Some(abort);
        }
        let active = self.active();
        let stall = self.slot_stall();
        let moving = active
            .clone()
            .filter(|sending| sending.moved_at + stall > now)
            .count() as u32;
        if moving >= self.slots() || active.count() as u32 >= MAX_ACTIVE {
            return None;
        }
        let (key, at) = self.choose()?;
        self.start(key, at, now)
    }

    /// When to call [`Uploads::poll`] although nothing happened: a slot will
    /// have stood still for too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.choose()?;
        let stall = self.slot_stall();
        self.active()
            .map(|sending| sending.moved_at + stall)
            .filter(|at| *at > self.polled_at)
            .min()
    }

    /// What the server does and did.
    pub fn stats(&self, now: Instant) -> UploadStats {
        UploadStats {
            connections: self.conns.len() as u32,
            queued: self.conns.values().map(|c| c.queue.len() as u32).sum(),
            active: self.active().count() as u32,
            slots: self.slots(),
            rate: self.rate.get(now).unwrap_or(0.0),
            sent_bytes: self.sent_bytes,
            sent_pieces: self.sent_pieces,
            aborted_pieces: self.aborted_pieces,
        }
    }

    fn active(&self) -> impl Iterator<Item = &Sending> + Clone {
        self.conns.values().filter_map(|conn| conn.active.as_ref())
    }

    fn slots(&self) -> u32 {
        let conns = self.conns.len().max(1) as f64;
        let rtts = self.conns.values().map(|conn| conn.rtt.as_secs_f64());
        let mean_rtt = rtts.sum::<f64>() / conns;
        let limit = self.limits.bytes_per_second.map_or(f64::MAX, |b| b as f64);
        let bytes = self.uplink.min(limit) * (SLOT_SECS + SLOT_ROUND_TRIPS * mean_rtt);
        let slots = (bytes / f64::from(PIECE_BYTES)).ceil() as u32;
        slots.clamp(1, MAX_SLOTS).min(self.limits.slots)
    }

    fn slot_stall(&self) -> Duration {
        // A minute bounds what a measurement near zero would make of it.
        let scaled = (SLOT_STALL_BYTES / self.uplink.max(1.0)).min(60.0);
        SLOT_STALL.max(Duration::from_secs_f64(scaled))
    }

    /// The connection to serve next, and which of its requests.
    fn choose(&self) -> Option<(ConnKey, usize)> {
        let offers: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.active.is_none() && !conn.blocked)
            .filter_map(|(key, conn)| {
                let views = conn.queue.iter().map(|queued| self.view(queued.place));
                let (at, view) = views.enumerate().min_by_key(|(_, view)| *view)?;
                Some((view, conn.unspread, conn.served, *key, at))
            })
            .collect();
        let spreads = |unspread: u32| unspread < UNSPREAD_MAX;
        let some_spread = offers.iter().any(|offer| spreads(offer.1));
        offers
            .into_iter()
            .filter(|offer| offer.0 > 0 || spreads(offer.1) || !some_spread)
            .min()
            .map(|(_, _, _, key, at)| (key, at))
    }

    /// A chunk of no open snapshot counts as seen once: it is no first copy.
    fn view(&self, place: Option<Place>) -> u32 {
        place.map_or(1, |(id, piece)| {
            self.snapshots.get(&id).map_or(1, |s| s.view(piece))
        })
    }

    fn start(&mut self, key: ConnKey, at: usize, now: Instant) -> Option<UploadAction> {
        self.turn += 1;
        let conn = self.conns.get_mut(&key)?;
        let queued = conn.queue.remove(at)?;
        conn.served = self.turn;
        let mut counted = false;
        if let Some((id, piece)) = queued.place
            && let (Some(known), Some(snapshot)) =
                (conn.opened.get_mut(&id), self.snapshots.get_mut(&id))
        {
            let first = snapshot.view(piece) == 0;
            counted = snapshot.add(known, piece);
            if first && conn.unspread < UNSPREAD_REMEMBERED {
                conn.unspread += 1;
                self.first_copies.insert((id, piece), key);
            }
        }
        conn.active = Some(Sending {
            request: queued.request,
            place: queued.place,
            counted,
            moved_at: now,
        });
        self.rate.run(now);
        Some(UploadAction::Start {
            conn: key,
            request: queued.request,
            chunk: queued.chunk,
            piece: queued.piece,
        })
    }

    /// The piece under way ends; true when it was this one.
    fn end(&mut self, key: ConnKey, request: RequestId, whole: bool, now: Instant) -> bool {
        let Some(conn) = self.conns.get_mut(&key) else {
            return false;
        };
        let Some(sending) = conn.active.take_if(|sending| sending.request == request) else {
            return false;
        };
        if let Some(place) = sending.place
            && !whole
            && sending.counted
        {
            if let (Some(known), Some(snapshot)) = (
                conn.opened.get_mut(&place.0),
                self.snapshots.get_mut(&place.0),
            ) {
                snapshot.remove(known, place.1);
            }
            if self.first_copies.get(&place) == Some(&key) {
                self.first_copies.remove(&place);
                conn.unspread = conn.unspread.saturating_sub(1);
            }
        }
        self.note_idle(now);
        true
    }

    /// `by` has a piece: if it was a first copy at another, it is spread.
    fn note_spread(&mut self, place: Place, by: ConnKey) {
        let Some(holder) = self.first_copies.get(&place).copied() else {
            return;
        };
        if holder != by {
            self.first_copies.remove(&place);
            if let Some(conn) = self.conns.get_mut(&holder) {
                conn.unspread = conn.unspread.saturating_sub(1);
            }
        }
    }

    fn note_idle(&mut self, now: Instant) {
        if self.active().next().is_none() {
            self.rate.pause(now);
        }
    }
}

/// What a connection has of a snapshot that it opened, and the snapshot.
fn open<'a>(
    conns: &'a mut BTreeMap<ConnKey, Conn>,
    snapshots: &'a mut BTreeMap<ManifestId, Snapshot>,
    conn: ConnKey,
    manifest: &ManifestId,
) -> Option<(&'a mut Known, &'a mut Snapshot)> {
    let known = conns.get_mut(&conn)?.opened.get_mut(manifest)?;
    Some((known, snapshots.get_mut(manifest)?))
}
