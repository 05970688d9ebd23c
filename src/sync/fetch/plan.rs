//! Which piece is asked of whom: filling windows, rebinding, taking over.

use std::time::{Duration, Instant};

use super::board::Holds;
use super::peer::{Peer, Record, Request};
use super::{Fetch, FetchAction, HaveWhen, MAX_COPIES, PieceIndex};
use crate::snapshot::PIECE_BYTES;
use crate::sync::PeerKey;

/// Where only complete peers have a piece, and so many of them, each joiner asks
/// the same one first. One alone needs no order; more than 16 are no bottleneck.
const RANKED_PEERS: std::ops::RangeInclusive<usize> = 2..=16;
/// Random candidates among which the best ranked is taken. With 16 complete
/// peers one of 32 is ranked first with a chance of 87 %.
const RANK_TRIES: usize = 32;
/// The least rate assumed of peers of whom nothing is known.
const FIRST_GUESS: f64 = 1024.0 * 1024.0;

/// At the end, what would come this much later elsewhere is asked here too.
const ENDGAME_FACTOR: f64 = 1.2;
/// Before the end a request moves only for a clear gain.
const STEAL_FACTOR: f64 = 2.0;
/// And only when it is this old, and two round trips: its answer may be on its
/// way.
const STEAL_AGE: Duration = Duration::from_secs(1);
/// A started piece is asked again before the end, or given up for a fourth copy,
/// only when it comes this many times later than here.
const SLOW_FACTOR: f64 = 8.0;
/// And this many seconds on top.
const SLOW_SECS: f64 = 10.0;

/// How a piece is asked of others.
struct Elsewhere {
    /// When the first copy would be here, in seconds.
    soonest: f64,
    copies: usize,
    /// No copy is started, and each is old enough to be moved.
    movable: bool,
    /// The copy that would come last: when, and from whom.
    latest: (f64, PeerKey),
}

impl Fetch {
    /// Fills the window of a peer.
    pub(super) fn refill(&mut self, key: PeerKey, now: Instant) {
        while self.may_ask(key, now) {
            if let Some(piece) = self.pick(key) {
                self.ask(key, piece, now);
            } else if !self.steal(key, now) {
                return;
            }
        }
    }

    /// What is assumed of peers whose rate is unknown: the mean of the others,
    /// and never less than [`FIRST_GUESS`], or a trickler that is the only one
    /// known would keep all others from taking over.
    pub(super) fn rate_guess(&self, now: Instant) -> f64 {
        let rates = self.peers.values().filter_map(|peer| peer.rate.get(now));
        let (sum, count) = rates.fold((0.0, 0u32), |(sum, count), rate| (sum + rate, count + 1));
        (sum / f64::from(count.max(1))).max(FIRST_GUESS)
    }

    /// Pieces whose bytes are in memory.
    pub(super) fn buffered(&self) -> u32 {
        let started = |peer: &Peer| {
            let requests = peer.requests.iter();
            requests.filter(|r| r.started_at.is_some()).count()
        };
        (self.peers.values().map(started).sum::<usize>() + self.verifying.len()) as u32
    }

    fn may_ask(&self, key: PeerKey, now: Instant) -> bool {
        let (Some(peer), Some(record)) = (self.peers.get(&key), self.records.get(&key)) else {
            return false;
        };
        if record.is_out() || record.pause_until.is_some_and(|until| until > now) {
            return false;
        }
        let verifying = self.verifying.keys().filter(|(_, of)| *of == key).count();
        let idle = peer.requests.is_empty() && verifying == 0;
        if self.buffered() >= self.limits.buffered_pieces && !idle {
            return false;
        }
        // What a stranger sent may be as wrong as what it has yet to send.
        let stranger = record.verified == 0;
        let open = peer.requests.len() + if stranger { verifying } else { 0 };
        (open as u32) < peer.window(record, self.rate_guess(now), now)
    }

    fn ask(&mut self, key: PeerKey, number: u32, now: Instant) {
        let piece = self.index(number);
        if self.board.is_missing(number) {
            self.chunks.note_asked(number);
        }
        self.board.ask(number, key);
        let len = self.manifest.piece(piece).len;
        let peer = self
            .peers
            .get_mut(&key)
            .expect("only connected peers are asked");
        let request = Request {
            piece: number,
            len,
            asked_at: now,
            started_at: None,
            bytes: 0,
            announced: peer.announced,
        };
        peer.open(request, now);
        let action = FetchAction::Request { peer: key, piece };
        self.actions.push_back(action);
    }

    /// The missing piece to ask the peer for: of a chunk that was begun where
    /// whole chunks count, else the rarest, by rank where seeders are the only
    /// holders, at random among equals.
    fn pick(&mut self, key: PeerKey) -> Option<u32> {
        let peer = self.peers.get(&key)?;
        if peer.dry {
            return None;
        }
        let picked = self.pick_begun(key).or_else(|| self.pick_rarest(key));
        if picked.is_none()
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.dry = true;
        }
        picked
    }

    fn pick_begun(&mut self, key: PeerKey) -> Option<u32> {
        if self.limits.have_when != HaveWhen::ChunkChecked {
            return None;
        }
        let holds = &self.peers.get(&key)?.holds;
        let wanted = |piece: &u32| self.board.is_missing(*piece) && holds.contains(*piece);
        self.chunks
            .some_begun(&mut self.rng)
            .find_map(|chunk| self.chunks.pieces(chunk).find(wanted))
    }

    fn pick_rarest(&mut self, key: PeerKey) -> Option<u32> {
        let holds = &self.peers.get(&key)?.holds;
        let (level, mut next) = self.board.rarest(holds, &mut self.rng)?;
        let complete: Vec<PeerKey> = self
            .peers
            .iter()
            .filter(|(_, peer)| level == 0 && peer.holds.is_complete())
            .map(|(key, _)| *key)
            .collect();
        if !RANKED_PEERS.contains(&complete.len()) {
            return next();
        }
        let mut best: Option<(usize, u32)> = None;
        for _ in 0..RANK_TRIES {
            let Some(piece) = next() else { break };
            let unit = match self.limits.have_when {
                HaveWhen::ChunkChecked => self.chunks.of(piece),
                HaveWhen::PieceVerified => piece,
            };
            let own = rank_hash(unit, key);
            let before = |other: &&PeerKey| rank_hash(unit, **other) < own;
            let rank = complete.iter().filter(before).count();
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, piece));
            }
            if rank == 0 {
                break;
            }
        }
        best.map(|(_, piece)| piece)
    }

    /// Takes over the request that would come latest and that this peer would
    /// serve clearly sooner. True when it did.
    fn steal(&mut self, key: PeerKey, now: Instant) -> bool {
        let guess = self.rate_guess(now);
        let endgame = self.board.obtainable() == 0;
        let Some(peer) = self.peers.get(&key) else {
            return false;
        };
        if matches!(peer.holds, Holds::Nothing) {
            return false;
        }
        let here = peer.eta(PIECE_BYTES, guess, now);
        let slow = SLOW_SECS + SLOW_FACTOR * here;
        let clear = if endgame {
            ENDGAME_FACTOR * here
        } else {
            (STEAL_FACTOR * here + peer.rtt.as_secs_f64()).min(slow)
        };
        let gains = |request: &Elsewhere| {
            request.soonest > clear
                && if request.copies >= MAX_COPIES {
                    request.latest.0 > slow
                } else {
                    endgame || request.movable || request.soonest > slow
                }
        };
        let found = self
            .late_pieces(key, clear, guess, now)
            .into_iter()
            .filter_map(|piece| Some((piece, self.elsewhere(piece, key, guess, now)?)))
            .find(|(_, request)| gains(request));
        let Some((piece, request)) = found else {
            return false;
        };
        for other in self.board.active()[&piece].asked.clone() {
            let surplus = request.copies >= MAX_COPIES && other == request.latest.1;
            if surplus || self.waits(other, piece) {
                self.take_back(other, piece, now);
            }
        }
        self.ask(key, piece, now);
        true
    }

    /// What is asked of others, would come later than in `after` seconds, and
    /// `key` has: the latest first.
    fn late_pieces(&self, key: PeerKey, after: f64, guess: f64, now: Instant) -> Vec<u32> {
        let holds = &self.peers[&key].holds;
        let mut late: Vec<(f64, u32)> = Vec::new();
        for (other, peer) in &self.peers {
            if *other != key {
                let etas = peer.etas(guess, now);
                let wanted = etas.filter(|(r, eta)| *eta > after && holds.contains(r.piece));
                late.extend(wanted.map(|(request, eta)| (eta, request.piece)));
            }
        }
        late.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        late.into_iter().map(|(_, piece)| piece).collect()
    }

    /// How a piece is asked of others; nothing when `key` is among them or its
    /// bytes are here.
    fn elsewhere(&self, piece: u32, key: PeerKey, guess: f64, now: Instant) -> Option<Elsewhere> {
        let active = self.board.active().get(&piece)?;
        if active.verifying > 0 || active.asked.contains(&key) {
            return None;
        }
        let mut found = Elsewhere {
            soonest: f64::INFINITY,
            copies: active.asked.len(),
            movable: true,
            latest: (0.0, key),
        };
        for other in &active.asked {
            let peer = &self.peers[other];
            let (request, eta) = peer.etas(guess, now).find(|(r, _)| r.piece == piece)?;
            let age = now.saturating_duration_since(request.asked_at);
            found.movable &= request.started_at.is_none() && age > STEAL_AGE + 2 * peer.rtt;
            found.soonest = found.soonest.min(eta);
            if eta >= found.latest.0 {
                found.latest = (eta, *other);
            }
        }
        Some(found)
    }

    /// The peer is asked for the piece and has not started it.
    fn waits(&self, key: PeerKey, piece: u32) -> bool {
        let requests = self.peers.get(&key).map(|peer| &peer.requests);
        let mut requests = requests.into_iter().flatten();
        requests.any(|r| r.piece == piece && r.started_at.is_none())
    }

    /// A partial peer has a piece that waits at a complete one: it is asked
    /// instead, so that seeders are left for what only they have.
    pub(super) fn rebind(&mut self, piece: u32, to: PeerKey, now: Instant) {
        let Some(active) = self.board.active().get(&piece) else {
            return;
        };
        let complete = |key: &PeerKey| self.peers.get(key).is_some_and(|p| p.holds.is_complete());
        if active.verifying > 0
            || active.asked.len() != 1
            || complete(&to)
            || active.asked.contains(&to)
        {
            return;
        }
        let from = active.asked[0];
        if complete(&from) && self.waits(from, piece) && self.may_ask(to, now) {
            self.take_back(from, piece, now);
            self.ask(to, piece, now);
        }
    }

    /// Cancels a request. The piece may be missing afterwards.
    pub(super) fn take_back(&mut self, key: PeerKey, number: u32, now: Instant) {
        if self.close(key, number, now).is_some() {
            self.actions.push_back(FetchAction::Cancel {
                peer: key,
                piece: self.index(number),
            });
        }
    }

    /// Forgets a request on both sides; what came of it is wasted.
    pub(super) fn close(&mut self, key: PeerKey, number: u32, now: Instant) -> Option<Request> {
        let request = self.peers.get_mut(&key)?.close(number, now)?;
        self.waste(key, request.bytes);
        if self.board.unask(number, key) {
            self.missing_again(number);
        }
        self.dirty.insert(key);
        Some(request)
    }

    /// The piece is here from elsewhere: the request of a slower peer ends. Who
    /// kept a started piece for long is paused as after a stall.
    pub(super) fn overtake(&mut self, key: PeerKey, number: u32, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let Some(request) = peer.close(number, now) else {
            return;
        };
        self.waste(key, request.bytes);
        self.actions.push_back(FetchAction::Cancel {
            peer: key,
            piece: self.index(number),
        });
        self.dirty.insert(key);
        let slow = Duration::from_secs_f64(SLOW_SECS);
        if request
            .started_at
            .is_some_and(|at| now.saturating_duration_since(at) > slow)
        {
            self.demote(key, now);
        }
    }

    /// The piece is missing: whoever has it may be asked.
    pub(super) fn missing_again(&mut self, number: u32) {
        self.chunks.note_missing(number);
        for (key, peer) in &mut self.peers {
            if peer.holds.contains(number) {
                peer.dry = false;
                self.dirty.insert(*key);
            }
        }
    }

    /// Buffers came free: peers that were held back may be asked.
    pub(super) fn mark_all_room(&mut self) {
        if self.buffered() + 1 >= self.limits.buffered_pieces {
            self.dirty.extend(self.peers.keys().copied());
        }
    }

    pub(super) fn wake_all(&mut self) {
        for (key, peer) in &mut self.peers {
            peer.dry = false;
            self.dirty.insert(*key);
        }
    }

    pub(super) fn index(&self, number: u32) -> PieceIndex {
        self.manifest
            .piece_index(number)
            .expect("a piece of this manifest")
    }

    pub(super) fn waste(&mut self, key: PeerKey, bytes: u32) {
        self.wasted_bytes += u64::from(bytes);
        if let Some(record) = self.records.get_mut(&key) {
            record.wasted_bytes += u64::from(bytes);
        }
    }

    pub(super) fn record(&mut self, key: PeerKey) -> &mut Record {
        self.records.entry(key).or_default()
    }
}

/// The order of complete peers for a piece or chunk, the same at every joiner
/// (SplitMix64 over both numbers).
fn rank_hash(unit: u32, peer: PeerKey) -> u64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    mix(mix(peer.0.wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ u64::from(unit))
}
