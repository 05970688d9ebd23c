//! What a joiner's scheduler must keep, judged from outside: a second book of
//! every piece and peer, kept from what was said in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use snapswarm::snapshot::{Bitmap, Manifest, PieceIndex};
use snapswarm::sync::{Fetch, PeerKey, PieceState};

/// The laws in numbers, of their own: a change of the code's is noticed here.
const MAX_COPIES: usize = 3;
const MAX_WINDOW: usize = 32;
/// Requests open at a peer of whom nothing was verified.
const UNPROVEN_WINDOW: usize = 4;

pub struct Book {
    pieces: Vec<PieceBook>,
    peers: BTreeMap<PeerKey, PeerBook>,
    pub banned: BTreeSet<PeerKey>,
    shunned: BTreeSet<PeerKey>,
    proven: BTreeSet<PeerKey>,
    /// Verified and written.
    pub stored: Bitmap,
}

#[derive(Default)]
struct PieceBook {
    asked: Vec<PeerKey>,
    verifying: Vec<PeerKey>,
}

struct PeerBook {
    claims: Bitmap,
    open: usize,
}

impl Book {
    pub fn new(manifest: &Manifest, stored: Bitmap) -> Self {
        Self {
            pieces: (0..manifest.piece_count())
                .map(|_| PieceBook::default())
                .collect(),
            peers: BTreeMap::new(),
            banned: BTreeSet::new(),
            shunned: BTreeSet::new(),
            proven: BTreeSet::new(),
            stored,
        }
    }

    pub fn joined(&mut self, peer: PeerKey) {
        let claims = Bitmap::new(self.stored.len());
        self.peers
            .entry(peer)
            .or_insert(PeerBook { claims, open: 0 });
    }

    pub fn claims(&mut self, peer: PeerKey, pieces: impl IntoIterator<Item = u32>) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            for piece in pieces {
                peer.claims.insert(piece);
            }
        }
    }

    pub fn holding(&mut self, peer: PeerKey, holding: Bitmap) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.claims = holding;
        }
    }

    /// Laws of asking: who may be asked, for what, how much at once.
    pub fn request(
        &mut self,
        peer: PeerKey,
        piece: PieceIndex,
        fetch: &Fetch,
        buffered_limit: u32,
        now: Instant,
    ) {
        let verifying_of_peer = self.verifying_of(peer);
        let book = &mut self.pieces[piece.get() as usize];
        assert!(!self.banned.contains(&peer), "a banned peer is asked");
        assert!(!self.shunned.contains(&peer), "a shunned peer is asked");
        let known = self
            .peers
            .get_mut(&peer)
            .expect("a peer that left is asked");
        assert!(
            known.claims.contains(piece.get()),
            "asked for what it does not claim"
        );
        assert!(
            !self.stored.contains(piece.get()),
            "a stored piece is asked for"
        );
        assert!(book.verifying.is_empty(), "a received piece is asked for");
        assert!(
            !book.asked.contains(&peer),
            "a piece is asked twice of a peer"
        );
        book.asked.push(peer);
        assert!(
            book.asked.len() <= MAX_COPIES,
            "too many copies: {:?}",
            book.asked
        );
        known.open += 1;
        assert!(known.open <= MAX_WINDOW, "a window of {}", known.open);
        if !self.proven.contains(&peer) {
            assert!(
                known.open <= UNPROVEN_WINDOW,
                "{} asked of a stranger",
                known.open
            );
        }
        let stats = fetch.stats(now);
        if stats.buffered_pieces >= buffered_limit {
            assert!(
                known.open == 1 && verifying_of_peer == 0,
                "asked over the buffer limit"
            );
        }
        let peer = stats.peers.iter().find(|stats| stats.peer == peer);
        let window = peer.expect("a peer that is asked has stats").window as usize;
        assert!(
            known.open <= window,
            "{} open, the window is {window}",
            known.open
        );
    }

    pub fn close(&mut self, peer: PeerKey, piece: PieceIndex) {
        let asked = &mut self.pieces[piece.get() as usize].asked;
        let at = asked.iter().position(|asked| *asked == peer);
        asked.remove(at.expect("closed what is not open"));
        self.peers
            .get_mut(&peer)
            .expect("closed at a peer that left")
            .open -= 1;
    }

    pub fn received(&mut self, peer: PeerKey, piece: PieceIndex) {
        self.close(peer, piece);
        self.pieces[piece.get() as usize].verifying.push(peer);
    }

    /// Verifying ended; right bytes are stored.
    pub fn judged(&mut self, peer: PeerKey, piece: PieceIndex, right: bool) {
        let verifying = &mut self.pieces[piece.get() as usize].verifying;
        let at = verifying.iter().position(|of| *of == peer);
        verifying.remove(at.expect("judged what was not received"));
        if right {
            self.stored.insert(piece.get());
            self.proven.insert(peer);
        }
    }

    /// The peer said that the piece is gone: it does not claim it any more.
    pub fn gone(&mut self, peer: PeerKey, piece: PieceIndex) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.claims.remove(piece.get());
        }
    }

    pub fn shunned(&mut self, peer: PeerKey) {
        self.shunned.insert(peer);
    }

    pub fn left(&mut self, peer: PeerKey) {
        if self.peers.remove(&peer).is_some() {
            for piece in &mut self.pieces {
                piece.asked.retain(|asked| *asked != peer);
            }
        }
    }

    /// Nothing of a peer is being verified.
    pub fn verifying_of(&self, peer: PeerKey) -> usize {
        let of = |piece: &PieceBook| piece.verifying.iter().filter(|of| **of == peer).count();
        self.pieces.iter().map(of).sum()
    }

    pub fn verifying(&self) -> usize {
        self.pieces.iter().map(|piece| piece.verifying.len()).sum()
    }

    /// Both books say the same of every piece.
    pub fn compare(&self, fetch: &Fetch, manifest: &Manifest) {
        for piece in manifest.piece_indexes() {
            let book = &self.pieces[piece.get() as usize];
            let expected = if self.stored.contains(piece.get()) {
                assert!(book.asked.is_empty(), "{piece:?} is here and asked for");
                PieceState::Have
            } else if !book.verifying.is_empty() {
                PieceState::Received
            } else if !book.asked.is_empty() {
                PieceState::Asked(book.asked.clone())
            } else {
                PieceState::Missing
            };
            assert_eq!(fetch.piece_state(piece), expected, "{piece:?}");
        }
    }
}
