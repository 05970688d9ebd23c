use std::sync::Arc;

use snapswarm::net::{Identity, Key, Multiaddr, Net, NetError, NetSettings, PreSharedKey};
use snapswarm::snapshot::MAX_MANIFEST_BYTES;

use crate::bench::*;

async fn different_networks_stay_apart(transport: Over) {
    let named = |name: &str, bootstrap: Vec<Multiaddr>| NetSettings {
        network: name.parse().unwrap(),
        bootstrap,
        ..over(transport)
    };
    let ours = start(named("ours", Vec::new())).await;
    let stranger = start(named("theirs", ours.listeners())).await;
    stranger.announce(chain()).await.unwrap();
    // Whoever hears first who the other is hangs up, so the other may never hear
    // it. What must hold on both sides holds whoever was first.
    eventually("turning away", &ours, || {
        ours.stats().foreign_network_peers + stranger.stats().foreign_network_peers > 0
    })
    .await;
    disconnected(&ours, stranger.peer_id()).await;
    disconnected(&stranger, ours.peer_id()).await;

    let friend = start(named("ours", ours.listeners())).await;
    identified(&ours, friend.peer_id()).await;
    eventually("routing", &ours, || ours.stats().routed_peers > 0).await;
    assert!(
        find_all(&ours, Key::Chain(CHAIN.to_owned()))
            .await
            .is_empty()
    );
    assert_eq!(ours.stats().foreign_records, 0);
    assert_eq!(ours.stats().routed_peers, 1);
    // By then the figures of both are newer than the meeting.
    eventually("remembering", &friend, || !friend.remembered().is_empty()).await;
    for (net, other) in [(&ours, &stranger), (&stranger, &ours)] {
        let remembered = net.remembered();
        assert!(remembered.iter().all(|peer| peer.peer != other.peer_id()));
    }
}

#[tokio::test]
async fn nodes_of_different_networks_do_not_mix() {
    for transport in [Over::Tcp, Over::Quic, Over::Memory] {
        different_networks_stay_apart(transport).await;
    }
}

#[tokio::test]
async fn a_pre_shared_key_keeps_others_out() {
    let keyed = |key: u8| NetSettings {
        pre_shared_key: Some(PreSharedKey([key; 32])),
        ..over(Over::Tcp)
    };
    let first = start(keyed(1)).await;
    let friend = start(keyed(1)).await;
    let stranger = start(keyed(2)).await;
    let open = start(over(Over::Tcp)).await;
    assert_eq!(friend.dial(address(&first)).await.unwrap(), first.peer_id());
    for outsider in [stranger, open] {
        assert!(outsider.dial(address(&first)).await.is_err());
    }
    assert_eq!(first.connected().len(), 1);
}

#[tokio::test]
async fn connections_end_at_their_limit_and_one_that_leaves_makes_room() {
    for transport in [Over::Tcp, Over::Quic, Over::Memory] {
        let mut settings = over(transport);
        settings.limits.max_connections = 2;
        let limited = start(settings).await;
        let mut guests = Vec::new();
        for _ in 0..2 {
            let guest = start(over(transport)).await;
            guest.dial(address(&limited)).await.unwrap();
            connected(&limited, guest.peer_id()).await;
            guests.push(guest);
        }
        let third = start(over(transport)).await;
        // It may see the connection for a moment.
        let _ = third.dial(address(&limited)).await;
        eventually("a refusal", &limited, || {
            limited.stats().failed_connections > 0
        })
        .await;
        disconnected(&third, limited.peer_id()).await;
        for guest in &guests {
            assert!(is_connected(&limited, guest.peer_id()));
        }
        assert!(!is_connected(&limited, third.peer_id()));

        let leaving = guests.pop().unwrap();
        leaving.shutdown().await;
        disconnected(&limited, leaving.peer_id()).await;
        third.dial(address(&limited)).await.unwrap();
        connected(&limited, third.peer_id()).await;
    }
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it_and_what_to_do() {
    for transport in [Over::Tcp, Over::Quic] {
        let first = start(over(transport)).await;
        let mut taken = address(&first);
        taken.pop();
        let settings = NetSettings {
            listen: vec![taken.clone()],
            ..NetSettings::default()
        };
        let library = Arc::new(Shelf::default());
        let error = Net::start(settings, &Identity::generate(), library)
            .await
            .unwrap_err();
        assert!(matches!(error, NetError::PortTaken { .. }), "{error}");
        assert!(error.to_string().contains(&taken.to_string()), "{error}");
        assert!(error.is_fatal());
    }
}

#[tokio::test]
async fn all_listeners_are_bound_and_named_with_the_peer_id_when_start_returns() {
    let settings = NetSettings {
        listen: vec![
            "/ip4/127.0.0.1/tcp/0".parse().unwrap(),
            "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap(),
        ],
        ..NetSettings::default()
    };
    let net = start(settings).await;
    let listeners = net.listeners();
    assert_eq!(listeners.len(), 2, "{listeners:?}");
    for address in listeners {
        let text = address.to_string();
        assert!(text.ends_with(&format!("/p2p/{}", net.peer_id())), "{text}");
        assert!(
            !text.contains("/tcp/0") && !text.contains("/udp/0/"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_an_error_that_says_so() {
    let net = start(over(Over::Tcp)).await;
    let gone = start(over(Over::Tcp)).await;
    let nobody = address(&gone);
    gone.shutdown().await;
    let error = net.dial(nobody.clone()).await.unwrap_err();
    let text = error.to_string();
    assert!(error.is_retryable(), "{text}");
    assert!(text.contains(&nobody.to_string()), "{text}");
    assert!(text.to_lowercase().contains("refused"), "{text}");
}

#[tokio::test]
async fn private_addresses_that_a_peer_from_elsewhere_tells_are_ignored() {
    // Told over the memory transport, private addresses count as told from
    // outside of the private network.
    let teller = start(NetSettings {
        external: vec![
            "/ip4/10.1.2.3/tcp/4001".parse().unwrap(),
            "/ip4/127.0.0.1/tcp/4001".parse().unwrap(),
            "/ip4/203.0.113.5/tcp/4001".parse().unwrap(),
        ],
        ..over(Over::Memory)
    })
    .await;
    let listener = start(beside(&teller, Over::Memory)).await;
    identified(&listener, teller.peer_id()).await;
    assert!(listener.stats().ignored_addresses >= 2);
    publish(&teller, chain()).await;
    eventually("the record", &listener, || {
        listener.stats().foreign_records == 1
    })
    .await;
    eventually("remembering", &listener, || {
        !listener.remembered().is_empty()
    })
    .await;
    let remembered = listener.remembered();
    let told: Vec<String> = remembered[0]
        .addresses
        .iter()
        .map(Multiaddr::to_string)
        .collect();
    assert!(
        told.iter().any(|text| text.contains("203.0.113.5")),
        "{told:?}"
    );
    let private = |text: &String| text.contains("10.1.2.3") || text.contains("127.0.0.1");
    assert!(!told.iter().any(private), "{told:?}");
}

#[tokio::test]
async fn a_node_that_does_not_listen_can_still_find_and_download() {
    let first = start(over(Over::Tcp)).await;
    let (shelf, manifest) = Shelf::with_manifest(1000, 9);
    let provider = start_with(beside(&first, Over::Tcp), shelf).await;
    publish(&provider, chain()).await;
    let outbound_only = start(NetSettings {
        bootstrap: first.listeners(),
        ..NetSettings::default()
    })
    .await;
    let found = find(&outbound_only, Key::Chain(CHAIN.to_owned()), 1).await;
    assert_eq!(found, [provider.peer_id()]);
    let bytes = outbound_only
        .manifest(found[0], &manifest, MAX_MANIFEST_BYTES)
        .await
        .unwrap();
    assert_eq!(bytes.len(), 1000);
    assert!(!outbound_only.stats().dht_server);
    assert!(first.stats().dht_server);
}

#[tokio::test]
async fn after_the_shutdown_every_call_says_so() {
    let net = start(over(Over::Tcp)).await;
    net.shutdown().await;
    net.shutdown().await;
    let error = net.announce(chain()).await.unwrap_err();
    assert!(matches!(error, NetError::Stopped));
    let error = net.dial(address(&net)).await.unwrap_err();
    assert!(matches!(error, NetError::Stopped));
}
