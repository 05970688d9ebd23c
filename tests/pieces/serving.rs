//! The server, against scripted clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use snapswarm::net::pieces::{MAX_STREAMS_PER_PEER, Server, UploadLimits};
use snapswarm::snapshot::hash::sha256;
use snapswarm::snapshot::{Bitmap, ChunkId, ManifestId, PIECE_BYTES};
use snapswarm::wire::{
    Answer, Ask, Holding, MAX_OPEN_REQUESTS, MAX_OPEN_SNAPSHOTS, Refusal, RequestId,
};

use crate::shelf::{Shelf, Shelves};
use crate::wires::{Frame, Scripted, soon};

fn serve(shelf: &Arc<Shelf>) -> Server {
    Server::start(Arc::clone(shelf) as _, UploadLimits::default(), 1).0
}

fn request(shelf: &Shelf, id: u32, number: u32) -> Ask {
    let (chunk, piece, _) = shelf.request(number);
    let id = RequestId(id);
    Ask::Request { id, chunk, piece }
}

fn refused(id: u32, refusal: Refusal) -> Option<Answer> {
    let id = RequestId(id);
    Some(Answer::Refused { id, refusal })
}

#[tokio::test]
async fn a_snapshot_is_opened_and_its_pieces_are_given() {
    let shelf = Shelf::new(&[2_500_000, 10, 1 << 20]);
    let server = serve(&shelf);
    let (mut peer, who) = Scripted::asking(&server);
    let manifest = shelf.manifest.id();
    peer.ask(Ask::Open(manifest)).await;
    let holding = Holding::Complete;
    assert_eq!(
        peer.plain_answer().await,
        Some(Answer::Holdings { manifest, holding })
    );
    assert_eq!(*shelf.in_use.lock().unwrap(), [(manifest, who)]);

    let mut lacking: Vec<u32> = (0..shelf.manifest.piece_count()).collect();
    for number in &lacking {
        peer.ask(request(&shelf, 100 + number, *number)).await;
    }
    while !lacking.is_empty() {
        let Some(Answer::Started { id, size }) = peer.plain_answer().await else {
            panic!("no piece started");
        };
        let mut bytes = Vec::new();
        peer.rest_of_piece(size, &mut bytes).await;
        let number = id.0 - 100;
        assert!(bytes == shelf.bytes(number), "piece {number} differs");
        lacking.retain(|n| *n != number);
    }
    let stats = server.stats();
    assert_eq!(stats.sent_bytes, shelf.manifest.total_bytes());
    assert_eq!(stats.sent_pieces, 5);
    assert_eq!(stats.peers[0].peer, who);
}

#[tokio::test]
async fn what_is_not_here_is_refused_with_the_reason() {
    let shelf = Shelf::of_pieces(3);
    let server = serve(&shelf);
    let (mut peer, _) = Scripted::asking(&server);
    let manifest = ManifestId(sha256(b"unknown"));
    peer.ask(Ask::Open(manifest)).await;
    let holding = Holding::Refused(Refusal::Gone);
    assert_eq!(
        peer.plain_answer().await,
        Some(Answer::Holdings { manifest, holding })
    );

    let chunk = ChunkId(sha256(b"unknown"));
    let id = RequestId(1);
    peer.ask(Ask::Request {
        id,
        chunk,
        piece: 0,
    })
    .await;
    assert_eq!(peer.plain_answer().await, refused(1, Refusal::Gone));
    let (chunk, ..) = shelf.request(0);
    let id = RequestId(2);
    peer.ask(Ask::Request {
        id,
        chunk,
        piece: 1,
    })
    .await;
    assert_eq!(peer.plain_answer().await, refused(2, Refusal::Gone));

    // Here by its name, but its bytes cannot be read.
    shelf.damaged.lock().unwrap().push(chunk);
    peer.ask(request(&shelf, 3, 0)).await;
    assert_eq!(peer.plain_answer().await, refused(3, Refusal::Gone));
    // The next one is given, so the slot was free again.
    peer.ask(request(&shelf, 4, 1)).await;
    assert!(matches!(
        peer.plain_answer().await,
        Some(Answer::Started {
            id: RequestId(4),
            ..
        })
    ));

    let (gone, ..) = shelf.request(2);
    shelf.forget(&gone);
    peer.ask(Ask::Probe {
        id: RequestId(9),
        chunks: vec![gone, chunk],
    })
    .await;
    let mut data = Vec::new();
    let mut held = Bitmap::new(2);
    held.insert(1);
    let chunks = held.as_bytes().to_vec().into();
    let id = RequestId(9);
    assert_eq!(
        peer.next_answer(&mut data).await,
        Some(Answer::Holds { id, chunks })
    );
    assert_eq!(server.stats().refused, 3);
}

#[tokio::test]
async fn one_request_more_than_the_limit_is_refused() {
    let shelf = Shelf::of_pieces(2);
    let server = serve(&shelf);
    let (mut peer, _) = Scripted::asking(&server);
    // The answer to the first fills the pipe; all requests stay open.
    for id in 0..=MAX_OPEN_REQUESTS as u32 {
        peer.ask(request(&shelf, id, id % 2)).await;
    }
    let mut data = Vec::new();
    loop {
        match peer.next_answer(&mut data).await {
            Some(Answer::Started { .. }) => {}
            answer => {
                let last = MAX_OPEN_REQUESTS as u32;
                assert_eq!(answer, refused(last, Refusal::OverLimit));
                break;
            }
        }
    }
}

#[tokio::test]
async fn one_snapshot_more_than_the_limit_is_refused() {
    let shelves: Vec<_> = (1..=MAX_OPEN_SNAPSHOTS + 1)
        .map(|size| Shelf::new(&[size]))
        .collect();
    let ids: Vec<_> = shelves.iter().map(|shelf| shelf.manifest.id()).collect();
    let (server, _) = Server::start(Arc::new(Shelves(shelves)), UploadLimits::default(), 1);
    let (mut peer, _) = Scripted::asking(&server);
    // Unknown ones are refused and take no place.
    let unknown = (0..20u32).map(|n| ManifestId(sha256(&n.to_be_bytes())));
    for manifest in unknown.chain(ids.iter().copied()) {
        peer.ask(Ask::Open(manifest)).await;
        let expected = match ids.iter().position(|id| *id == manifest) {
            None => Holding::Refused(Refusal::Gone),
            Some(n) if n < MAX_OPEN_SNAPSHOTS => Holding::Complete,
            Some(_) => Holding::Refused(Refusal::OverLimit),
        };
        let Some(Answer::Holdings { holding, .. }) = peer.plain_answer().await else {
            panic!("no holdings");
        };
        assert_eq!(holding, expected);
    }
}

#[tokio::test]
async fn a_node_that_serves_nobody_says_so() {
    let shelf = Shelf::of_pieces(1);
    let limits = UploadLimits {
        bytes_per_second: Some(0),
        ..UploadLimits::default()
    };
    let (server, _) = Server::start(Arc::clone(&shelf) as _, limits, 1);
    let (mut peer, _) = Scripted::asking(&server);
    peer.ask(request(&shelf, 1, 0)).await;
    assert_eq!(peer.plain_answer().await, refused(1, Refusal::NotAllowed));
    let manifest = shelf.manifest.id();
    peer.ask(Ask::Open(manifest)).await;
    let holding = Holding::Refused(Refusal::NotAllowed);
    assert_eq!(
        peer.plain_answer().await,
        Some(Answer::Holdings { manifest, holding })
    );
    server.set_limits(UploadLimits::default()).await;
    peer.ask(request(&shelf, 2, 0)).await;
    assert!(matches!(
        peer.plain_answer().await,
        Some(Answer::Started { .. })
    ));
    // Turned off again, what runs ends.
    server.set_limits(limits).await;
    let mut data = Vec::new();
    assert_eq!(peer.next_answer(&mut data).await, None);
}

#[tokio::test]
async fn a_waiting_request_is_forgotten_and_a_started_one_ends_with_an_abort() {
    let shelf = Shelf::of_pieces(4);
    let server = serve(&shelf);
    let (mut peer, _) = Scripted::asking(&server);
    peer.ask(request(&shelf, 1, 0)).await;
    assert!(matches!(
        peer.plain_answer().await,
        Some(Answer::Started { .. })
    ));
    peer.ask(request(&shelf, 2, 1)).await;
    peer.ask(request(&shelf, 3, 2)).await;
    peer.ask(Ask::Cancel(RequestId(2))).await;
    peer.ask(Ask::Cancel(RequestId(1))).await;
    // An id that is not open is no fault: the answer may be on its way.
    peer.ask(Ask::Cancel(RequestId(77))).await;
    let mut data = Vec::new();
    let aborted = Answer::Aborted(RequestId(1));
    assert_eq!(peer.next_answer(&mut data).await, Some(aborted));
    assert!(data.len() < PIECE_BYTES as usize / 2, "{}", data.len());

    let Some(Answer::Started { id, size }) = peer.plain_answer().await else {
        panic!("the third was not started");
    };
    assert_eq!(id, RequestId(3));
    let mut bytes = Vec::new();
    peer.rest_of_piece(size, &mut bytes).await;
    assert!(bytes == shelf.bytes(2));
    // The ids of cancelled requests may be used again.
    peer.ask(request(&shelf, 2, 3)).await;
    assert!(matches!(
        peer.plain_answer().await,
        Some(Answer::Started {
            id: RequestId(2),
            ..
        })
    ));
    assert_eq!(server.stats().aborted_pieces, 1);
}

#[tokio::test]
async fn no_more_than_the_credit_is_sent_before_it_is_acknowledged() {
    let shelf = Shelf::of_pieces(2);
    let server = serve(&shelf);
    let (mut peer, _) = Scripted::asking(&server);
    peer.ask(request(&shelf, 1, 0)).await;
    let mut got = 0;
    let quiet = std::time::Duration::from_millis(500);
    while let Ok(frame) = tokio::time::timeout(quiet, peer.frame()).await {
        if let Some(Frame::Data(bytes)) = frame {
            got += bytes.len();
        }
    }
    assert!((128 << 10..=256 << 10).contains(&got), "{got}");
    // Control messages still pass.
    peer.ask(Ask::Probe {
        id: RequestId(5),
        chunks: vec![shelf.request(0).0],
    })
    .await;
    assert!(matches!(
        peer.plain_answer().await,
        Some(Answer::Holds { .. })
    ));
    let bytes = got as u64;
    peer.ask(Ask::Ack { bytes }).await;
    assert!(matches!(peer.frame().await, Some(Frame::Data(_))));
}

#[tokio::test]
async fn news_reach_every_peer_that_opened_the_snapshot_after_its_holdings() {
    let shelf = Shelf::of_pieces(9);
    let mut some = Bitmap::new(9);
    some.insert(4);
    let holding = Holding::Pieces(some.as_bytes().to_vec().into());
    *shelf.holding.lock().unwrap() = holding.clone();
    let server = serve(&shelf);
    let manifest = shelf.manifest.id();
    let mut peers = Vec::new();
    for _ in 0..3 {
        let (mut peer, _) = Scripted::asking(&server);
        peer.ask(Ask::Open(manifest)).await;
        let expected = Answer::Holdings {
            manifest,
            holding: holding.clone(),
        };
        assert_eq!(peer.plain_answer().await, Some(expected));
        peers.push(peer);
    }
    let (mut stranger, _) = Scripted::asking(&server);
    server.publish_have(&manifest, &[7, 8]);
    for peer in &mut peers {
        let pieces = vec![7, 8];
        let expected = Answer::Have { manifest, pieces };
        assert_eq!(peer.plain_answer().await, Some(expected));
    }
    // The stranger hears nothing but the answer to its own question.
    stranger.ask(Ask::Open(ManifestId(sha256(b"x")))).await;
    assert!(matches!(
        stranger.plain_answer().await,
        Some(Answer::Holdings { .. })
    ));
    // What the peers tell of themselves is taken.
    let pieces = vec![0, 8];
    peers[0].ask(Ask::Have { manifest, pieces }).await;
    let holding = Holding::Complete;
    peers[0].ask(Ask::Holdings { manifest, holding }).await;
    peers[0].ask(request(&shelf, 1, 4)).await;
    assert!(matches!(
        peers[0].plain_answer().await,
        Some(Answer::Started { .. })
    ));
}

#[tokio::test]
async fn a_peer_has_two_streams_and_a_third_ends_the_oldest() {
    let shelf = Shelf::of_pieces(1);
    let server = serve(&shelf);
    let peer = PeerId::random();
    let mut streams: Vec<_> = (0..=MAX_STREAMS_PER_PEER)
        .map(|_| Scripted::asking_as(&server, peer))
        .collect();
    assert_eq!(streams[0].frame().await, None);
    for stream in &mut streams[1..] {
        stream.ask(Ask::Open(shelf.manifest.id())).await;
        assert!(stream.plain_answer().await.is_some());
    }
    server.drop_peer(&peer);
    for stream in &mut streams {
        assert_eq!(stream.frame().await, None);
    }
    soon("their end", async {
        while !server.stats().peers.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_piece_is_read_when_it_is_its_turn_and_not_before() {
    let shelf = Shelf::of_pieces(8);
    let server = serve(&shelf);
    let (mut peer, _) = Scripted::asking(&server);
    for number in 0..8 {
        peer.ask(request(&shelf, number, number)).await;
    }
    let Some(Answer::Started { size, .. }) = peer.plain_answer().await else {
        panic!("nothing started");
    };
    // Stopped by its credit in the first piece.
    assert_eq!(shelf.reads.load(Ordering::Relaxed), 1);
    let mut bytes = Vec::new();
    peer.rest_of_piece(size, &mut bytes).await;
    assert!(shelf.reads.load(Ordering::Relaxed) <= 3);
}
