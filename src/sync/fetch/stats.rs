//! How a download stands, for people and tests.

use std::time::{Duration, Instant};

use super::board::Active;
use super::peer::Record;
use super::{Fetch, FetchStats, PeerKey, PeerStats, PieceIndex, PieceState, UniqueIndex};

impl Fetch {
    /// Where a piece stands.
    pub fn piece_state(&self, piece: PieceIndex) -> PieceState {
        let number = piece.get();
        if self.board.has(number) {
            return PieceState::Have;
        }
        match self.board.active().get(&number) {
            None => PieceState::Missing,
            Some(active) if active.verifying > 0 => PieceState::Received,
            Some(active) => PieceState::Asked(active.asked.clone()),
        }
    }

    /// How the download stands.
    pub fn stats(&self, now: Instant) -> FetchStats {
        let received = |active: &&Active| active.verifying > 0;
        let verifying = self.board.active().values().filter(received).count() as u32;
        FetchStats {
            pieces: self.board.len(),
            have: self.board.have_count(),
            asked: self.board.active().len() as u32 - verifying,
            verifying,
            nowhere: self.board.nowhere(),
            checked_chunks: self.chunks.checked_count(),
            received_bytes: self.received_bytes,
            wasted_bytes: self.wasted_bytes,
            buffered_pieces: self.buffered(),
            peers: self
                .records
                .iter()
                .map(|(peer, record)| self.peer_stats(*peer, record, now))
                .collect(),
        }
    }

    /// At most so many chunks, in order from number `from` on, of which a piece
    /// is missing that no connected peer claims to have.
    pub fn nowhere_chunks(&self, from: u32, most: usize) -> Vec<UniqueIndex> {
        (from..self.manifest.unique_count())
            .filter(|chunk| self.is_nowhere(*chunk))
            .take(most)
            .map(|chunk| self.chunks.index(chunk))
            .collect()
    }

    /// At most so many chunks to ask a new peer about: those of
    /// [`Self::nowhere_chunks`] first, then others that are not all here.
    pub fn wanted_chunks(&self, from: u32, most: usize) -> Vec<UniqueIndex> {
        let mut wanted = self.nowhere_chunks(from, most);
        let others = (0..self.manifest.unique_count()).filter(|chunk| {
            let mut pieces = self.chunks.pieces(*chunk);
            let chosen = *chunk >= from && self.is_nowhere(*chunk);
            !chosen && pieces.any(|piece| !self.board.has(piece))
        });
        let room = most - wanted.len();
        wanted.extend(others.take(room).map(|chunk| self.chunks.index(chunk)));
        wanted
    }

    fn is_nowhere(&self, chunk: u32) -> bool {
        let mut pieces = self.chunks.pieces(chunk);
        pieces.any(|piece| self.board.is_nowhere(piece))
    }

    fn peer_stats(&self, peer: PeerKey, record: &Record, now: Instant) -> PeerStats {
        let known = self.peers.get(&peer);
        PeerStats {
            peer,
            connected: known.is_some(),
            banned: record.banned,
            bytes: record.bytes,
            wasted_bytes: record.wasted_bytes,
            rate: known.and_then(|p| p.rate.get(now)).unwrap_or(0.0),
            rtt: known.map_or(Duration::ZERO, |p| p.rtt),
            window: known.map_or(0, |p| p.window(record, self.rate_guess(now), now)),
            outstanding: known.map_or(0, |p| p.requests.len() as u32),
            refusals: record.refusals,
            stalls: record.stalls,
        }
    }

    /// Recounts everything that is kept twice, in time proportional to the
    /// snapshot: for tests. The sentence says what does not fit.
    #[doc(hidden)]
    pub fn audit(&self) -> Result<(), String> {
        self.board.audit()?;
        self.chunks
            .audit(|p| self.board.has(p), |p| self.board.is_missing(p))?;
        for (key, peer) in &self.peers {
            for request in &peer.requests {
                let active = self.board.active().get(&request.piece);
                if !active.is_some_and(|active| active.asked.contains(key)) {
                    return Err(format!("{key:?} is asked for {request:?} unknown to it"));
                }
            }
        }
        let open: usize = self.peers.values().map(|peer| peer.requests.len()).sum();
        let asked = self.board.active().values().map(|a| a.asked.len());
        if open != asked.sum::<usize>() {
            return Err("a piece is asked of a peer that does not know".to_owned());
        }
        Ok(())
    }
}
