//! What a peer does wrong, and what follows from it.

use std::time::Instant;

use rand::RngExt;

use super::board::Holds;
use super::peer::Reason;
use super::{Bits, Fetch, FetchAction, Offence, PieceIndex, Refusal};
use crate::sync::PeerKey;

impl Fetch {
    /// Wrong bytes or a wrong length, found by verifying or before. Bans a peer
    /// that had announced this manifest when it was asked; another one is only
    /// not asked any more.
    pub fn handle_bad(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        let number = piece.get();
        let announced = match self.verifying.remove(&(number, peer)) {
            Some(announced) => {
                self.waste(peer, self.manifest.piece(piece).len);
                if self.board.reject(number) {
                    self.missing_again(number);
                }
                announced
            }
            None => match self.close(peer, number, now) {
                Some(request) => request.announced,
                None => return,
            },
        };
        self.mark_all_room();
        if self.over {
            return;
        }
        if announced {
            self.ban(peer, Offence::WrongBytes, now);
        } else {
            self.shun(peer, now);
        }
    }

    /// The peer does not give the piece. No fault, but it is asked later, and
    /// less often each time.
    pub fn handle_refused(
        &mut self,
        peer: PeerKey,
        piece: PieceIndex,
        refusal: Refusal,
        now: Instant,
    ) {
        let number = piece.get();
        if self.close(peer, number, now).is_none() {
            return;
        }
        let reason = match refusal {
            Refusal::Gone => {
                self.unclaim(peer, number);
                Reason::Gone
            }
            Refusal::Busy => Reason::Busy,
            Refusal::OverLimit => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.shrink();
                }
                Reason::Busy
            }
            Refusal::NotAllowed => Reason::NotAllowed,
        };
        self.refused(peer, reason, now);
    }

    /// A started piece ended early.
    pub fn handle_aborted(&mut self, peer: PeerKey, piece: PieceIndex, now: Instant) {
        if self.close(peer, piece.get(), now).is_some() {
            self.refused(peer, Reason::Busy, now);
        }
    }

    /// The peer broke the protocol.
    pub fn handle_fault(&mut self, peer: PeerKey, now: Instant) {
        if !self.over {
            self.ban(peer, Offence::Protocol, now);
        }
    }

    /// The peer is gone: what was asked of it is missing again. Pieces of its
    /// that are being verified still count.
    pub fn handle_left(&mut self, peer: PeerKey, now: Instant) {
        self.drop_peer(peer, now);
    }

    pub(super) fn drop_peer(&mut self, key: PeerKey, now: Instant) {
        for piece in self.open_pieces(key) {
            self.close(key, piece, now);
        }
        if let Some(peer) = self.peers.remove(&key) {
            self.board.unclaim_all(&peer.holds);
        }
        self.dirty.remove(&key);
        // What was not said yet has nobody to be said to.
        self.actions.retain(|action| match action {
            FetchAction::Request { peer, .. } | FetchAction::Cancel { peer, .. } => *peer != key,
            _ => true,
        });
    }

    /// The peer stopped delivering: what was asked of it goes to others.
    pub(super) fn stall(&mut self, key: PeerKey, now: Instant) {
        for piece in self.open_pieces(key) {
            self.take_back(key, piece, now);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.forget_rate(now);
        }
        self.demote(key, now);
    }

    pub(super) fn demote(&mut self, key: PeerKey, now: Instant) {
        let jitter = self.rng.random();
        let record = self.record(key);
        record.stalls += 1;
        record.pause(Reason::Stall, jitter, now);
    }

    fn refused(&mut self, key: PeerKey, reason: Reason, now: Instant) {
        let jitter = self.rng.random();
        let record = self.record(key);
        record.refusals += 1;
        record.pause(reason, jitter, now);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.alive(now);
        }
    }

    fn ban(&mut self, peer: PeerKey, offence: Offence, now: Instant) {
        self.drop_peer(peer, now);
        let record = self.record(peer);
        if !record.banned {
            record.banned = true;
            record.liftable = offence == Offence::WrongBytes;
            self.actions.push_back(FetchAction::Ban { peer, offence });
        }
    }

    fn shun(&mut self, key: PeerKey, now: Instant) {
        self.record(key).shunned = true;
        for piece in self.open_pieces(key) {
            self.take_back(key, piece, now);
        }
        self.set_holds(key, Holds::Nothing, false);
    }

    /// The manifest lies. Nothing more is fetched, and who was banned for bytes
    /// that it names is free.
    pub(super) fn condemn(&mut self, now: Instant) {
        let peers: Vec<PeerKey> = self.peers.keys().copied().collect();
        for peer in peers {
            for piece in self.open_pieces(peer) {
                self.take_back(peer, piece, now);
            }
        }
        for (peer, record) in &mut self.records {
            if record.banned && record.liftable {
                record.banned = false;
                self.actions.push_back(FetchAction::Lift { peer: *peer });
            }
        }
        self.actions.push_back(FetchAction::Condemned);
        self.over = true;
    }

    /// Replaces what a peer has.
    pub(super) fn set_holds(&mut self, key: PeerKey, holds: Holds, announced: bool) {
        let shunned = self.record(key).shunned;
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.announced |= announced;
        let holds = if shunned { Holds::Nothing } else { holds };
        self.board.unclaim_all(&peer.holds);
        self.board.claim_all(&holds);
        peer.holds = holds;
        peer.dry = false;
        self.dirty.insert(key);
    }

    /// Adds to what a peer has.
    pub(super) fn add_pieces(&mut self, key: PeerKey, pieces: &[u32]) {
        let shunned = self.record(key).shunned;
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if shunned || peer.holds.is_complete() {
            return;
        }
        if matches!(peer.holds, Holds::Nothing) {
            peer.holds = Holds::Some(Box::new(Bits::new(self.board.len())));
        }
        let Holds::Some(bits) = &mut peer.holds else {
            return;
        };
        for piece in pieces {
            if bits.insert(*piece) {
                self.board.claim(*piece);
            }
        }
        let everything = bits.count() == bits.len();
        peer.dry = false;
        self.dirty.insert(key);
        if everything {
            self.set_holds(key, Holds::Complete, false);
        }
    }

    /// A peer turned out not to have a piece.
    fn unclaim(&mut self, key: PeerKey, piece: u32) {
        if self.peers.get(&key).is_some_and(|p| p.holds.is_complete()) {
            let all = Holds::Some(Box::new(Bits::full(self.board.len())));
            self.set_holds(key, all, false);
        }
        if let Some(peer) = self.peers.get_mut(&key)
            && let Holds::Some(bits) = &mut peer.holds
            && bits.remove(piece)
        {
            self.board.unclaim(piece);
        }
    }

    fn open_pieces(&self, key: PeerKey) -> Vec<u32> {
        let requests = self.peers.get(&key).map(|peer| &peer.requests);
        requests.into_iter().flatten().map(|r| r.piece).collect()
    }
}
