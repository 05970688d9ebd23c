use std::sync::Arc;

use snapswarm::net::{Identity, Net, NetSettings};

use crate::bench::*;

#[tokio::test]
async fn remembered_peers_survive_a_restart_and_are_dialled() {
    let home = tempfile::tempdir().unwrap();
    let peers_file = Some(home.path().join("peers.json"));
    let key_file = home.path().join("identity.key");
    let identity = Identity::load_or_create(&key_file).unwrap();
    let other = start(over(Over::Tcp)).await;
    let settings = NetSettings {
        peers_file: peers_file.clone(),
        ..beside(&other, Over::Tcp)
    };
    let first_run = Net::start(settings, &identity, Arc::new(Shelf::default()))
        .await
        .unwrap();
    identified(&first_run, other.peer_id()).await;
    first_run.shutdown().await;
    disconnected(&other, identity.peer_id()).await;

    let identity = Identity::load_or_create(&key_file).unwrap();
    let settings = NetSettings {
        peers_file,
        ..over(Over::Tcp)
    };
    let second_run = Net::start(settings, &identity, Arc::new(Shelf::default()))
        .await
        .unwrap();
    assert_eq!(second_run.peer_id(), first_run.peer_id());
    connected(&second_run, other.peer_id()).await;
}

#[tokio::test]
async fn a_damaged_file_of_remembered_peers_does_not_stop_the_start() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("peers.json");
    std::fs::write(&path, b"{\"version\":1,\"peers\":[{\"peer_id\":7}]}").unwrap();
    let net = start(NetSettings {
        peers_file: Some(path),
        ..over(Over::Memory)
    })
    .await;
    assert!(net.remembered().is_empty());
}

#[tokio::test]
async fn a_bootstrap_peer_that_comes_late_or_comes_back_is_dialled_again() {
    let identity = Identity::generate();
    let place = start(over(Over::Tcp)).await;
    let mut free = address(&place);
    free.pop();
    place.shutdown().await;

    let waiting = start(NetSettings {
        bootstrap: vec![free.clone()],
        ..over(Over::Tcp)
    })
    .await;
    for _ in 0..2 {
        let settings = NetSettings {
            listen: vec![free.clone()],
            ..NetSettings::default()
        };
        let late = Net::start(settings, &identity, Arc::new(Shelf::default()))
            .await
            .unwrap();
        connected(&waiting, late.peer_id()).await;
        late.shutdown().await;
        disconnected(&waiting, late.peer_id()).await;
    }
}
