use std::sync::{Arc, Condvar, Mutex};

use snapswarm::net::pieces::PieceEvent;
use snapswarm::net::{NetError, NetLimits, NetSettings};
use snapswarm::snapshot::{ChunkId, MAX_MANIFEST_BYTES, ManifestId};
use snapswarm::wire::{MAX_CATALOGUE_ENTRIES, Refusal};

use crate::bench::*;

#[tokio::test]
async fn a_manifest_of_the_largest_size_arrives_whole() {
    let len = snapswarm::snapshot::MAX_MANIFEST_BYTES as usize;
    let (shelf, manifest) = Shelf::with_manifest(len, 5);
    let provider = start_with(over(Over::Tcp), shelf).await;
    let seeker = start(beside(&provider, Over::Tcp)).await;
    connected(&seeker, provider.peer_id()).await;
    let bytes = seeker
        .manifest(provider.peer_id(), &manifest, MAX_MANIFEST_BYTES)
        .await
        .unwrap();
    assert_eq!(bytes.len(), len);
    assert_eq!(digest(&bytes), manifest.0);
}

#[tokio::test]
async fn a_manifest_that_is_not_there_is_refused_without_blame() {
    let provider = start(over(Over::Memory)).await;
    let seeker = start(beside(&provider, Over::Memory)).await;
    connected(&seeker, provider.peer_id()).await;
    let unknown = ManifestId(digest(b"unknown"));
    let error = seeker
        .manifest(provider.peer_id(), &unknown, MAX_MANIFEST_BYTES)
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        NetError::Refused {
            refusal: Refusal::Gone,
            ..
        }
    ));
    assert_eq!(error.blame(), None);
}

#[tokio::test]
async fn a_catalogue_ends_at_the_limit_of_entries() {
    let mut shelf = Shelf::default();
    for n in 0..MAX_CATALOGUE_ENTRIES as u32 + 10 {
        shelf
            .entries
            .push(entry(ManifestId(digest(&n.to_be_bytes())), 10));
    }
    let provider = start_with(over(Over::Memory), shelf).await;
    let seeker = start(beside(&provider, Over::Memory)).await;
    connected(&seeker, provider.peer_id()).await;
    let answer = seeker.catalogue(provider.peer_id(), None).await.unwrap();
    assert_eq!(answer.entries.len(), MAX_CATALOGUE_ENTRIES);
}

#[tokio::test]
async fn one_peer_gets_only_so_many_answers_at_once_and_others_still_theirs() {
    let gate = Arc::new((Mutex::new(0), Condvar::new()));
    let shelf = Shelf {
        gate: Some(Arc::clone(&gate)),
        ..Shelf::default()
    };
    let limits = NetLimits {
        max_exchanges_per_peer: 2,
        answer_timeout: DEADLINE,
        ..NetLimits::default()
    };
    let settings = |base: NetSettings| NetSettings {
        limits: limits.clone(),
        ..base
    };
    let provider = start_with(settings(over(Over::Memory)), shelf).await;
    let greedy = start(settings(beside(&provider, Over::Memory))).await;
    let modest = start(settings(beside(&provider, Over::Memory))).await;
    for net in [&greedy, &modest] {
        connected(net, provider.peer_id()).await;
    }
    let ask = |net: &snapswarm::net::Net| {
        let (net, peer) = (net.clone(), provider.peer_id());
        tokio::spawn(async move { net.catalogue(peer, None).await })
    };
    let asked: Vec<_> = (0..5).map(|_| ask(&greedy)).collect();
    eventually("three drops", &provider, || {
        provider.stats().requests_dropped == 3
    })
    .await;
    let other = ask(&modest);
    {
        let (permits, ready) = &*gate;
        *permits.lock().unwrap() = 10;
        ready.notify_all();
    }
    assert!(soon("the modest answer", other).await.unwrap().is_ok());
    let mut answered = 0;
    for task in asked {
        answered += usize::from(soon("an end", task).await.unwrap().is_ok());
    }
    assert_eq!(answered, 2);
    assert_eq!(provider.stats().catalogues_served, 3);
}

#[tokio::test]
async fn a_piece_comes_over_a_stream_that_the_handle_opened() {
    for transport in [Over::Tcp, Over::Quic] {
        let bytes = vec![9; 1 << 20];
        let chunk = ChunkId(digest(&bytes));
        let mut shelf = Shelf::default();
        shelf.chunks.insert(chunk, bytes.clone().into());
        let provider = start_with(over(transport), shelf).await;
        let seeker = start(beside(&provider, transport)).await;
        connected(&seeker, provider.peer_id()).await;
        let client = seeker.pieces(provider.peer_id()).await.unwrap();
        let (asker, mut events) = client.split();
        let asked = asker.request(chunk, 0, bytes.len() as u32).unwrap();
        let received = soon("the piece", async {
            loop {
                match events.recv().await.expect("the stream goes on") {
                    PieceEvent::Received { id, bytes } if id == asked => return bytes,
                    PieceEvent::Closed(closed) => panic!("{closed}"),
                    _ => {}
                }
            }
        })
        .await;
        assert_eq!(received, bytes);
        assert_eq!(provider.upload_stats().sent_pieces, 1);
        // A ban ends the stream at once.
        let term = std::time::Duration::from_secs(60);
        let ban = provider.ban(seeker.peer_id(), term, "test");
        ban.await.unwrap();
        soon("the end of the stream", async {
            while let Some(event) = events.recv().await {
                if matches!(event, PieceEvent::Closed(_)) {
                    return;
                }
            }
        })
        .await;
    }
}
