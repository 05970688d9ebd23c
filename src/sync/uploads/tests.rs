use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::snapshot::{Bitmap, ManifestBuilder, SnapshotFields};

const RTT: Duration = Duration::from_millis(10);

/// Chunks of one piece each.
fn manifest(chunks: u8) -> Arc<Manifest> {
    let mut builder = ManifestBuilder::new();
    for chunk in 0..chunks {
        builder.push(&[chunk; 100]).unwrap();
    }
    let fields = SnapshotFields {
        chain_id: "test-1".to_owned(),
        height: 5,
        app_hash: None,
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    Arc::new(builder.finish(fields).unwrap())
}

struct Server {
    uploads: Uploads,
    manifest: Arc<Manifest>,
    now: Instant,
}

impl Server {
    fn new(slots: u32, conns: u64) -> Self {
        let now = Instant::now();
        let limits = UploadLimits {
            slots,
            ..UploadLimits::default()
        };
        let manifest = manifest(40);
        let mut uploads = Uploads::new(limits, 1, now);
        for conn in 0..conns {
            uploads.handle_joined(ConnKey(conn), RTT);
            uploads.handle_opened(ConnKey(conn), &manifest);
        }
        Self {
            uploads,
            manifest,
            now,
        }
    }

    fn chunk(&self, piece: u32) -> ChunkId {
        let chunk = self.manifest.unique_index(piece).unwrap();
        self.manifest.unique_chunk(chunk).id
    }

    /// The request's number is the piece's.
    fn request(&mut self, conn: u64, piece: u32) {
        let chunk = self.chunk(piece);
        self.uploads
            .handle_request(ConnKey(conn), RequestId(piece), chunk, 0)
            .unwrap();
    }

    fn have(&mut self, conn: u64, pieces: &[u32]) {
        let id = self.manifest.id();
        assert!(self.uploads.handle_have(ConnKey(conn), &id, pieces));
    }

    fn start(&mut self) -> Option<(u64, u32)> {
        match self.uploads.poll(self.now)? {
            UploadAction::Start { conn, request, .. } => Some((conn.0, request.0)),
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, conn: u64, piece: u32) {
        let (conn, request) = (ConnKey(conn), RequestId(piece));
        self.uploads.handle_finished(conn, request, self.now);
    }
}

#[test]
fn the_piece_that_fewest_neighbours_have_goes_first() {
    let mut server = Server::new(1, 3);
    server.have(1, &[0, 1]);
    server.have(2, &[0]);
    for piece in [0, 1, 2] {
        server.request(0, piece);
    }
    for piece in [2, 1, 0] {
        assert_eq!(server.start(), Some((0, piece)));
        assert_eq!(server.start(), None, "one slot");
        server.finish(0, piece);
    }
}

#[test]
fn a_piece_that_was_sent_counts_as_seen_and_the_least_served_comes_next() {
    let mut server = Server::new(1, 2);
    for conn in 0..2 {
        server.request(conn, 0);
        server.request(conn, 1);
    }
    let mut order = Vec::new();
    while let Some((conn, piece)) = server.start() {
        server.finish(conn, piece);
        order.push((conn, piece));
    }
    assert_eq!(order.len(), 4);
    assert_ne!(order[0].1, order[1].1, "first copies first: {order:?}");
    assert_ne!(order[0].0, order[1].0, "in turn: {order:?}");
}

#[test]
fn who_does_not_spread_first_copies_gets_no_more_of_them_while_others_do() {
    let mut server = Server::new(1, 3);
    for piece in 0..UNSPREAD_MAX {
        server.request(0, piece);
        assert_eq!(server.start(), Some((0, piece)));
        server.finish(0, piece);
    }
    server.request(0, 20);
    server.request(1, 21);
    assert_eq!(server.start(), Some((1, 21)));
    server.finish(1, 21);
    assert_eq!(server.start(), Some((0, 20)), "never refused");
    server.finish(0, 20);

    server.have(2, &[0, 1]);
    server.request(0, 22);
    assert_eq!(
        server.start(),
        Some((0, 22)),
        "what it spread counts for it"
    );
}

#[test]
fn a_cancel_takes_a_queued_request_back_and_stops_a_started_one() {
    let mut server = Server::new(1, 2);
    server.request(0, 0);
    server.request(0, 1);
    assert_eq!(server.start(), Some((0, 0)));
    server
        .uploads
        .handle_cancel(ConnKey(0), RequestId(1), server.now);
    assert_eq!(server.uploads.stats(server.now).queued, 0);
    server
        .uploads
        .handle_cancel(ConnKey(0), RequestId(0), server.now);
    let abort = UploadAction::Abort {
        conn: ConnKey(0),
        request: RequestId(0),
    };
    assert_eq!(server.uploads.poll(server.now), Some(abort));
    assert_eq!(server.start(), None);

    // The stopped piece is a first copy again, before the one that is seen.
    server.have(0, &[5]);
    server.request(1, 5);
    server.request(1, 0);
    assert_eq!(server.start(), Some((1, 0)));
}

#[test]
fn a_slot_that_does_not_move_is_not_counted_and_a_full_connection_not_chosen() {
    let mut server = Server::new(1, 3);
    server.request(0, 0);
    server.request(1, 1);
    server.request(2, 2);
    server.uploads.handle_blocked(ConnKey(2));
    let (first, _) = server.start().unwrap();
    assert_eq!(server.start(), None);
    let at = server
        .uploads
        .poll_timeout()
        .expect("a slot may stand still");
    assert!(at >= server.now + SLOT_STALL);
    server.now = at;
    let (second, _) = server.start().expect("the slot stands still");
    assert_ne!(first, second);
    server.now += 10 * SLOT_STALL;
    assert_eq!(server.start(), None, "blocked");
    server.uploads.handle_unblocked(ConnKey(2));
    assert_eq!(server.start(), Some((2, 2)));
}

#[test]
fn slots_follow_the_uplink_and_the_limits_at_once() {
    let mut server = Server::new(MAX_SLOTS, 1);
    let before = server.uploads.stats(server.now).slots;
    server.request(0, 0);
    server.start().unwrap();
    for _ in 0..300 {
        server.now += Duration::from_millis(10);
        let bytes = 1 << 20;
        server
            .uploads
            .handle_progress(ConnKey(0), bytes, server.now);
    }
    let fast = server.uploads.stats(server.now).slots;
    assert!(fast > 5 * before, "{before} {fast}");
    server.uploads.set_limits(UploadLimits {
        slots: 8,
        bytes_per_second: Some(5 << 20),
    });
    assert_eq!(server.uploads.stats(server.now).slots, 2);
}

#[test]
fn requests_end_at_their_limit_and_what_does_not_exist_is_gone() {
    let mut server = Server::new(1, 1);
    let chunk = server.chunk(0);
    let ask = |server: &mut Server, id: usize, piece: u32| {
        let id = RequestId(id as u32);
        server.uploads.handle_request(ConnKey(0), id, chunk, piece)
    };
    for id in 0..MAX_OPEN_REQUESTS {
        assert_eq!(ask(&mut server, id, 0), Ok(()));
    }
    assert_eq!(
        ask(&mut server, MAX_OPEN_REQUESTS, 0),
        Err(Refusal::OverLimit)
    );
    let mut server = Server::new(1, 1);
    assert_eq!(ask(&mut server, 0, 1), Err(Refusal::Gone));
    server.uploads.set_limits(UploadLimits {
        slots: 0,
        ..UploadLimits::default()
    });
    assert_eq!(ask(&mut server, 0, 0), Err(Refusal::NotAllowed));
}

#[test]
fn foreign_numbers_beyond_the_snapshot_are_faults_and_change_nothing() {
    let mut server = Server::new(1, 1);
    let id = server.manifest.id();
    let conn = ConnKey(0);
    assert!(!server.uploads.handle_have(conn, &id, &[3, 40]));
    let wrong = PeerHolding::Pieces(Bitmap::new(41));
    assert!(!server.uploads.handle_holding(conn, &id, wrong));
    server.request(0, 3);
    let place = Some((id, 3));
    assert_eq!(server.uploads.view(place), 0);
}

#[test]
fn a_connection_that_left_is_forgotten_with_all_it_had() {
    let mut server = Server::new(2, 2);
    server.have(0, &[1, 2]);
    server.request(0, 0);
    server.start().unwrap();
    server.uploads.handle_left(ConnKey(0), server.now);
    assert!(server.uploads.first_copies.is_empty());
    for piece in 0..3 {
        let place = Some((server.manifest.id(), piece));
        assert_eq!(server.uploads.view(place), 0);
    }
    server.uploads.handle_left(ConnKey(1), server.now);
    assert!(server.uploads.snapshots.is_empty());
}
