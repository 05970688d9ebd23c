use std::collections::BTreeSet;

use snapswarm::net::{Announcement, DhtMode, Key, Net, NetSettings, PeerId, RememberedPeer};
use snapswarm::snapshot::{ChunkId, MAX_MANIFEST_BYTES, ManifestId};

use crate::bench::*;

async fn three_nodes_find_each_other(transport: Over) {
    let first = start(over(transport)).await;
    let (shelf, manifest) = Shelf::with_manifest(100_000, 3);
    let provider = start_with(beside(&first, transport), shelf).await;
    let seeker = start(beside(&first, transport)).await;
    let chunk = ChunkId(digest(b"chunk"));
    publish(
        &provider,
        Announcement {
            manifests: vec![manifest],
            chunks: vec![chunk],
            ..chain()
        },
    )
    .await;

    for key in [
        Key::Chain(CHAIN.to_owned()),
        Key::Manifest(manifest),
        Key::Chunk(chunk),
    ] {
        assert_eq!(find(&seeker, key, 1).await, [provider.peer_id()]);
    }
    // What was found can be reached, though nobody gave its address.
    let answer = seeker
        .catalogue(provider.peer_id(), Some(CHAIN))
        .await
        .unwrap();
    assert_eq!(answer.entries.len(), 1);
    assert_eq!(answer.entries[0].manifest, manifest);
    let bytes = seeker
        .manifest(provider.peer_id(), &manifest, MAX_MANIFEST_BYTES)
        .await
        .unwrap();
    assert_eq!(digest(&bytes), manifest.0);
    for net in [seeker, provider, first] {
        net.shutdown().await;
    }
}

#[tokio::test]
async fn over_tcp_three_nodes_find_each_other_and_exchange_a_snapshots_manifest() {
    three_nodes_find_each_other(Over::Tcp).await;
}

#[tokio::test]
async fn over_quic_three_nodes_find_each_other_and_exchange_a_snapshots_manifest() {
    three_nodes_find_each_other(Over::Quic).await;
}

#[tokio::test]
async fn over_memory_three_nodes_find_each_other_and_exchange_a_snapshots_manifest() {
    three_nodes_find_each_other(Over::Memory).await;
}

#[tokio::test]
async fn one_record_store_gives_more_than_twenty_providers_of_a_key() {
    let first = start(over(Over::Memory)).await;
    let client = || NetSettings {
        mode: DhtMode::Client,
        ..beside(&first, Over::Memory)
    };
    let mut providers: Vec<Net> = Vec::new();
    for _ in 0..30 {
        let net = start(client()).await;
        net.announce(chain()).await.unwrap();
        providers.push(net);
    }
    eventually("30 records", &first, || first.stats().foreign_records == 30).await;
    let seeker = start(client()).await;
    let found: BTreeSet<PeerId> = find_all(&seeker, Key::Chain(CHAIN.to_owned()))
        .await
        .into_iter()
        .collect();
    let announced: BTreeSet<PeerId> = providers.iter().map(Net::peer_id).collect();
    assert_eq!(found, announced, "one look-up of one store finds them all");
}

#[tokio::test]
async fn what_is_withdrawn_is_not_found_any_more() {
    let provider = start(over(Over::Memory)).await;
    let seeker = start(NetSettings {
        mode: DhtMode::Client,
        ..beside(&provider, Over::Memory)
    })
    .await;
    let manifest = ManifestId(digest(b"manifest"));
    let wanted = Announcement {
        manifests: vec![manifest],
        ..chain()
    };
    provider.announce(wanted).await.unwrap();
    let key = Key::Manifest(manifest);
    assert_eq!(find(&seeker, key.clone(), 1).await, [provider.peer_id()]);

    provider.announce(chain()).await.unwrap();
    eventually("the withdrawal", &provider, || {
        provider.stats().own_records == 1
    })
    .await;
    assert!(find_all(&seeker, key).await.is_empty());
    let key = Key::Chain(CHAIN.to_owned());
    assert_eq!(find(&seeker, key, 1).await, [provider.peer_id()]);
}

#[tokio::test]
async fn a_record_that_was_published_to_nobody_reaches_peers_that_come_later() {
    let provider = start(over(Over::Memory)).await;
    provider.announce(chain()).await.unwrap();
    let later = start(beside(&provider, Over::Memory)).await;
    eventually("the record", &later, || later.stats().foreign_records == 1).await;
}

#[tokio::test]
async fn a_look_up_begun_before_there_is_a_dht_ends_when_there_is_one() {
    let seeker = start(over(Over::Memory)).await;
    let looking = {
        let seeker = seeker.clone();
        tokio::spawn(async move { find(&seeker, Key::Chain(CHAIN.to_owned()), 1).await })
    };
    let provider = start(beside(&seeker, Over::Memory)).await;
    provider.announce(chain()).await.unwrap();
    assert_eq!(looking.await.unwrap(), [provider.peer_id()]);
}

#[tokio::test]
async fn the_round_trip_to_a_peer_is_shown() {
    let first = start(over(Over::Tcp)).await;
    let second = start(beside(&first, Over::Tcp)).await;
    eventually("a ping", &second, || {
        let peers = second.connected();
        peers
            .iter()
            .any(|info| info.rtt.is_some() && info.agent.is_some())
    })
    .await;
    let peers: Vec<PeerId> = second.connected().iter().map(|info| info.peer).collect();
    assert_eq!(peers, [first.peer_id()]);
    let remembered = |peer: &RememberedPeer| peer.peer == first.peer_id();
    eventually("remembering", &second, || {
        second.remembered().iter().any(remembered)
    })
    .await;
}

#[tokio::test]
async fn a_catalogue_names_others_that_serve_the_chain() {
    let first = start(over(Over::Tcp)).await;
    let (shelf, _) = Shelf::with_manifest(100, 1);
    let provider = start_with(beside(&first, Over::Tcp), shelf).await;
    connected(&first, provider.peer_id()).await;
    identified(&first, provider.peer_id()).await;
    let answer = first.catalogue(provider.peer_id(), None).await.unwrap();
    assert_eq!(answer.entries.len(), 1);

    let seeker = start(NetSettings {
        mode: DhtMode::Client,
        ..over(Over::Tcp)
    })
    .await;
    let met = seeker.dial(address(&first)).await.unwrap();
    assert_eq!(met, first.peer_id());
    let answer = seeker.catalogue(met, Some(CHAIN)).await.unwrap();
    assert_eq!(answer.peers, [provider.peer_id()]);
    seeker.connect(provider.peer_id()).await.unwrap();
    let other = seeker.catalogue(met, Some("other-chain")).await.unwrap();
    assert!(other.peers.is_empty() && other.entries.is_empty());
}
