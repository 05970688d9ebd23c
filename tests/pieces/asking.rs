//! The client, against a scripted server.

use snapswarm::net::pieces::{AskError, Budget, Closed, Fault, PieceEvent};
use snapswarm::snapshot::hash::sha256;
use snapswarm::snapshot::{ChunkId, ManifestId, PIECE_BYTES};
use snapswarm::wire::{Answer, Ask, Holding, MAX_OPEN_REQUESTS, Refusal, RequestId};

use crate::wires::{Scripted, event};

fn chunk() -> ChunkId {
    ChunkId(sha256(b"chunk"))
}

fn snapshot() -> ManifestId {
    ManifestId(sha256(b"snapshot"))
}

fn is_received(event: &PieceEvent, expected: RequestId, len: usize) -> bool {
    matches!(event, PieceEvent::Received { id, bytes } if *id == expected && bytes.len() == len)
}

#[tokio::test]
async fn what_is_asked_is_written_in_order_and_news_are_told() {
    let (mut peer, asker, mut events) = Scripted::answering(&Budget::default());
    asker.open(snapshot()).unwrap();
    asker.open(snapshot()).unwrap();
    let holding = Holding::Pieces(vec![3].into());
    asker.holdings(snapshot(), holding.clone()).unwrap();
    let id = asker.request(chunk(), 2, 10).unwrap();
    assert_eq!(peer.next_ask().await, Some(Ask::Open(snapshot())));
    let manifest = snapshot();
    let expected = Ask::Holdings { manifest, holding };
    assert_eq!(peer.next_ask().await, Some(expected));
    let expected = Ask::Request {
        id,
        chunk: chunk(),
        piece: 2,
    };
    assert_eq!(peer.next_ask().await, Some(expected));
    asker.have(snapshot(), &[5, 6]).unwrap();
    let pieces = vec![5, 6];
    assert_eq!(peer.next_ask().await, Some(Ask::Have { manifest, pieces }));

    let holding = Holding::Complete;
    peer.answer(Answer::Holdings { manifest, holding }).await;
    let pieces = vec![1, 9];
    peer.answer(Answer::Have { manifest, pieces }).await;
    let probe = asker.probe(&[chunk(), chunk()]).unwrap();
    assert!(matches!(peer.next_ask().await, Some(Ask::Probe { id, .. }) if id == probe));
    let bits = vec![2].into();
    peer.answer(Answer::Holds {
        id: probe,
        chunks: bits,
    })
    .await;
    peer.piece(id, 10).await;

    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Holdings {
            holding: Holding::Complete,
            ..
        }
    ));
    assert!(
        matches!(event(&mut events).await, PieceEvent::Have { pieces, .. } if pieces == [1, 9])
    );
    let PieceEvent::Holds { chunks, .. } = event(&mut events).await else {
        panic!("no answer to the probe");
    };
    assert_eq!(chunks.iter().collect::<Vec<_>>(), [1]);
    assert!(
        matches!(event(&mut events).await, PieceEvent::Started { id: started } if started == id)
    );
    assert!(is_received(&event(&mut events).await, id, 10));

    drop(peer);
    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Closed(Closed::ByPeer)
    ));
    assert_eq!(asker.open(ManifestId(sha256(b"x"))), Err(AskError::Closed));
    assert_eq!(asker.request(chunk(), 0, 1), Err(AskError::Closed));
}

#[tokio::test]
async fn a_cancelled_piece_is_passed_over_wherever_it_is() {
    let (mut peer, asker, mut events) = Scripted::answering(&Budget::default());
    let size = PIECE_BYTES;
    let ids: Vec<_> = (0..5)
        .map(|piece| asker.request(chunk(), piece, size).unwrap())
        .collect();
    for _ in 0..5 {
        peer.next_ask().await.unwrap();
    }
    // The first ends with an abort, the second comes whole, the third is refused,
    // the fourth is forgotten.
    peer.answer(Answer::Started { id: ids[0], size }).await;
    peer.data(&[0; 1000]).await;
    assert!(matches!(event(&mut events).await, PieceEvent::Started { id } if id == ids[0]));
    for id in &ids[..4] {
        asker.cancel(*id);
        asker.cancel(*id);
        assert_eq!(peer.next_ask().await, Some(Ask::Cancel(*id)));
    }
    peer.data(&[0; 1000]).await;
    peer.answer(Answer::Aborted(ids[0])).await;
    peer.piece(ids[1], size).await;
    let refusal = Refusal::Gone;
    peer.answer(Answer::Refused {
        id: ids[2],
        refusal,
    })
    .await;
    peer.piece(ids[4], size).await;

    assert!(matches!(event(&mut events).await, PieceEvent::Started { id } if id == ids[4]));
    assert!(is_received(
        &event(&mut events).await,
        ids[4],
        size as usize
    ));
    let stats = asker.stats();
    assert_eq!(stats.received_pieces, 1);
    assert_eq!(stats.discarded_bytes, 2000 + u64::from(size));
    assert_eq!(stats.received_bytes, 2000 + 2 * u64::from(size));
    assert_eq!(stats.open_requests, 0);
}

#[tokio::test]
async fn refused_and_aborted_pieces_are_told_and_are_no_fault() {
    let (mut peer, asker, mut events) = Scripted::answering(&Budget::default());
    let refused = asker.request(chunk(), 0, 500).unwrap();
    let aborted = asker.request(chunk(), 1, 500).unwrap();
    let refusal = Refusal::Busy;
    peer.answer(Answer::Refused {
        id: refused,
        refusal,
    })
    .await;
    let size = 500;
    peer.answer(Answer::Started { id: aborted, size }).await;
    peer.data(&[1; 499]).await;
    peer.answer(Answer::Aborted(aborted)).await;
    let again = asker.request(chunk(), 1, 500).unwrap();
    peer.piece(again, 500).await;

    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Refused { id, refusal: Refusal::Busy } if id == refused
    ));
    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Started { .. }
    ));
    assert!(matches!(event(&mut events).await, PieceEvent::Aborted { id } if id == aborted));
    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Started { .. }
    ));
    assert!(is_received(&event(&mut events).await, again, 500));
}

#[tokio::test]
async fn data_is_acknowledged_as_it_is_read() {
    let (mut peer, asker, mut events) = Scripted::answering(&Budget::default());
    let id = asker.request(chunk(), 0, PIECE_BYTES).unwrap();
    peer.next_ask().await.unwrap();
    peer.piece(id, PIECE_BYTES).await;
    let mut acknowledged = 0;
    while acknowledged + (32 << 10) <= u64::from(PIECE_BYTES) {
        let Some(crate::wires::Frame::Control(payload)) = peer.frame().await else {
            panic!("no acknowledgement");
        };
        let Ok(Ask::Ack { bytes }) = Ask::decode(payload) else {
            panic!("another ask");
        };
        assert!(bytes > acknowledged && bytes <= u64::from(PIECE_BYTES));
        acknowledged = bytes;
    }
    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Started { .. }
    ));
    assert!(is_received(&event(&mut events).await, id, 1 << 20));
}

#[tokio::test]
async fn the_limits_of_the_protocol_are_kept_before_anything_is_written() {
    let (_peer, asker, _events) = Scripted::answering(&Budget::default());
    for _ in 0..MAX_OPEN_REQUESTS {
        asker.request(chunk(), 0, 1).unwrap();
    }
    assert!(matches!(
        asker.request(chunk(), 0, 1),
        Err(AskError::OverLimit { .. })
    ));
    let bits = Holding::Pieces(vec![0; 1 << 20].into());
    assert!(matches!(
        asker.holdings(snapshot(), bits),
        Err(AskError::OverLimit { .. })
    ));
}

#[tokio::test]
async fn memory_for_pieces_is_bounded_and_every_stream_goes_on() {
    let budget = Budget::new(2, 2);
    let (mut fast, fast_asker, mut fast_events) = Scripted::answering(&budget);
    let (mut slow, slow_asker, mut slow_events) = Scripted::answering(&budget);
    assert!(budget.reserve().is_none());

    // The fast peer's pieces are kept by their owner: three, then it waits.
    let size = 1 << 16;
    let ids: Vec<_> = (0..6)
        .map(|piece| fast_asker.request(chunk(), piece, size).unwrap())
        .collect();
    let sending = tokio::spawn(async move {
        for id in ids {
            fast.piece(id, size).await;
        }
        fast
    });
    let mut kept = Vec::new();
    while kept.len() < 3 {
        if let PieceEvent::Received { bytes, .. } = event(&mut fast_events).await {
            kept.push(bytes);
        }
    }
    // The slow one still has room for its own.
    let id = slow_asker.request(chunk(), 0, size).unwrap();
    slow.piece(id, size).await;
    assert!(matches!(
        event(&mut slow_events).await,
        PieceEvent::Started { .. }
    ));
    assert!(is_received(&event(&mut slow_events).await, id, 1 << 16));

    while kept.len() < 6 {
        kept[0] = bytes::Bytes::new();
        if let PieceEvent::Received { bytes, .. } = event(&mut fast_events).await {
            kept.push(bytes);
        }
        kept.rotate_left(1);
    }
    sending.await.unwrap();
    assert!(budget.most_used_bytes() <= 4 << 20);
    kept.clear();
}

/// A server that does `attack` after two requests (100 bytes each) and an open
/// were asked; how the stream ended.
async fn attacked(attack: impl AsyncFnOnce(Scripted, RequestId, RequestId) -> Scripted) -> Closed {
    let budget = Budget::default();
    let (peer, asker, mut events) = Scripted::answering(&budget);
    asker.open(snapshot()).unwrap();
    let first = asker.request(chunk(), 0, 100).unwrap();
    let second = asker.request(chunk(), 1, 100).unwrap();
    let _peer = attack(peer, first, second).await;
    loop {
        if let PieceEvent::Closed(closed) = event(&mut events).await {
            assert_eq!(budget.used_bytes(), 0, "a buffer is still taken");
            return closed;
        }
    }
}

fn fault(closed: Closed) -> Fault {
    match closed {
        Closed::Fault(fault) => fault,
        other => panic!("no fault: {other}"),
    }
}

#[tokio::test]
async fn a_server_that_breaks_the_rules_is_cut_off_and_named() {
    let found = attacked(async |mut peer, _, _| {
        peer.data(&[0; 10]).await;
        peer
    });
    assert_eq!(fault(found.await), Fault::DataWithoutStart(10));

    let found = attacked(async |mut peer, id, _| {
        peer.answer(Answer::Started { id, size: 101 }).await;
        peer
    });
    assert!(matches!(fault(found.await), Fault::Size { .. }));

    let found = attacked(async |mut peer, id, _| {
        peer.answer(Answer::Started { id, size: 100 }).await;
        peer.data(&[0; 60]).await;
        peer.data(&[0; 41]).await;
        peer
    });
    assert!(matches!(fault(found.await), Fault::TooMuchData { .. }));

    let found = attacked(async |mut peer, id, _| {
        peer.piece(id, 100).await;
        peer.data(&[0; 1]).await;
        peer
    });
    assert_eq!(fault(found.await), Fault::DataWithoutStart(1));

    let found = attacked(async |mut peer, id, next| {
        peer.answer(Answer::Started { id, size: 100 }).await;
        let size = 100;
        peer.answer(Answer::Started { id: next, size }).await;
        peer
    });
    assert!(matches!(fault(found.await), Fault::Overlap { .. }));

    let found = attacked(async |mut peer, id, _| {
        peer.piece(id, 100).await;
        peer.answer(Answer::Started { id, size: 100 }).await;
        peer
    });
    assert!(matches!(fault(found.await), Fault::UnknownRequest(_)));

    for answer in [
        Answer::Aborted(RequestId(77)),
        Answer::Refused {
            id: RequestId(77),
            refusal: Refusal::Gone,
        },
        Answer::Holds {
            id: RequestId(77),
            chunks: vec![0].into(),
        },
        Answer::Started {
            id: RequestId(77),
            size: 1,
        },
    ] {
        let found = attacked(async |mut peer, _, _| {
            peer.answer(answer).await;
            peer
        });
        let unknown = Fault::UnknownRequest(RequestId(77));
        assert_eq!(fault(found.await), unknown);
    }

    let manifest = ManifestId(sha256(b"another"));
    let found = attacked(async |mut peer, _, _| {
        let pieces = vec![1];
        peer.answer(Answer::Have { manifest, pieces }).await;
        peer
    });
    assert_eq!(fault(found.await), Fault::UnknownSnapshot(manifest));
}

#[tokio::test]
async fn frames_that_are_none_are_faults_and_a_cut_is_not() {
    for bytes in [
        &[7, 0, 0, 0, 1][..],
        &[0, 255, 255, 255, 255],
        &[1, 0, 1, 0, 1],
        &[0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 3, 255, 255, 255],
    ] {
        let found = attacked(async |mut peer, _, _| {
            peer.write(bytes).await;
            peer
        });
        assert!(matches!(fault(found.await), Fault::Wire(_)), "{bytes:?}");
    }

    let found = attacked(async |mut peer, id, _| {
        peer.answer(Answer::Started { id, size: 100 }).await;
        peer.write(&[1, 0, 0, 0, 50, 1, 2, 3]).await;
        Scripted::answering(&Budget::default()).0
    });
    assert!(matches!(found.await, Closed::Lost(_)));
}

#[tokio::test]
async fn have_messages_without_end_wait_at_their_sender() {
    let budget = Budget::default();
    let (mut peer, asker, mut events) = Scripted::answering(&budget);
    asker.open(snapshot()).unwrap();
    let flood = async {
        let have = Answer::Have {
            manifest: snapshot(),
            pieces: (0..4096).collect(),
        }
        .to_frame();
        for _ in 0..100_000 {
            peer.write(&have).await;
        }
    };
    // The owner does not look: the flood stops where the queue is full.
    let short = std::time::Duration::from_millis(500);
    assert!(tokio::time::timeout(short, flood).await.is_err());
    // It is still a stream: what the owner takes is made room for.
    assert!(matches!(event(&mut events).await, PieceEvent::Have { .. }));
    asker.close();
    loop {
        if let PieceEvent::Closed(closed) = event(&mut events).await {
            assert!(matches!(closed, Closed::Here));
            return;
        }
    }
}
