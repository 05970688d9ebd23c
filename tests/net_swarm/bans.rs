use std::time::Duration;

use snapswarm::net::{NetError, NetEvent, NetSettings};

use crate::bench::*;

#[tokio::test]
async fn a_ban_closes_the_connection_and_refuses_both_ways_until_it_is_lifted() {
    let judge = start(over(Over::Tcp)).await;
    let culprit = start(over(Over::Tcp)).await;
    culprit.dial(address(&judge)).await.unwrap();
    connected(&judge, culprit.peer_id()).await;

    let term = Duration::from_secs(3600);
    judge.ban(culprit.peer_id(), term, "test").await.unwrap();
    disconnected(&judge, culprit.peer_id()).await;
    disconnected(&culprit, judge.peer_id()).await;
    assert_eq!(judge.stats().banned_peers, 1);
    assert!(matches!(
        judge.dial(address(&culprit)).await,
        Err(NetError::Banned { .. })
    ));
    assert!(matches!(
        judge.connect(culprit.peer_id()).await,
        Err(NetError::Banned { .. })
    ));
    // The refusal comes after the handshake: the culprit may see a connection for
    // a moment, the judge never does.
    let mut events = judge.events();
    let _ = culprit.dial(address(&judge)).await;
    disconnected(&culprit, judge.peer_id()).await;
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, NetEvent::Connected { .. }));
    }

    judge.lift(culprit.peer_id()).await.unwrap();
    event(&mut events, |event| {
        matches!(event, NetEvent::Lifted { .. })
    })
    .await;
    judge.dial(address(&culprit)).await.unwrap();
    connected(&culprit, judge.peer_id()).await;
}

#[tokio::test]
async fn a_ban_ends_by_itself() {
    let judge = start(over(Over::Memory)).await;
    let culprit = start(beside(&judge, Over::Memory)).await;
    connected(&judge, culprit.peer_id()).await;
    let mut events = judge.events();
    let term = Duration::from_millis(300);
    judge.ban(culprit.peer_id(), term, "test").await.unwrap();
    event(&mut events, |event| {
        matches!(event, NetEvent::Lifted { .. })
    })
    .await;
    // It comes back by itself: the judge is its bootstrap peer.
    connected(&judge, culprit.peer_id()).await;
}

#[tokio::test]
async fn with_an_allow_list_nobody_else_may_connect() {
    let friend = start(over(Over::Memory)).await;
    let stranger = start(over(Over::Memory)).await;
    let private = start(NetSettings {
        allow: Some(vec![friend.peer_id()]),
        ..over(Over::Memory)
    })
    .await;
    let _ = stranger.dial(address(&private)).await;
    friend.dial(address(&private)).await.unwrap();
    connected(&private, friend.peer_id()).await;
    disconnected(&stranger, private.peer_id()).await;
    assert!(!is_connected(&private, stranger.peer_id()));
}
