use futures::StreamExt;
use libp2p::core::transport::{MemoryTransport, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{Config, SwarmEvent};
use libp2p::{Swarm, tls, yamux};

use super::*;

const ONE: StreamProtocol = StreamProtocol::new("/one/1");
const OTHER: StreamProtocol = StreamProtocol::new("/other/1");

fn swarm() -> Swarm<Behaviour> {
    let key = Keypair::generate_ed25519();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(tls::Config::new(&key).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let config = Config::with_tokio_executor()
        .with_idle_connection_timeout(std::time::Duration::from_secs(60));
    Swarm::new(
        transport,
        Behaviour::new(),
        key.public().to_peer_id(),
        config,
    )
}

/// Two connected swarms; the controls of both, and the second's id.
async fn pair() -> (Control, Control, PeerId) {
    let (mut here, mut there) = (swarm(), swarm());
    let controls = (
        here.behaviour().new_control(),
        there.behaviour().new_control(),
    );
    let peer = *there.local_peer_id();
    there.listen_on("/memory/0".parse().unwrap()).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = there.select_next_some().await {
            break address;
        }
    };
    tokio::spawn(async move { while there.next().await.is_some() {} });
    here.dial(address).unwrap();
    while !matches!(
        here.select_next_some().await,
        SwarmEvent::ConnectionEstablished { .. }
    ) {}
    tokio::spawn(async move { while here.next().await.is_some() {} });
    (controls.0, controls.1, peer)
}

#[tokio::test]
async fn streams_that_come_in_the_same_moment_are_all_taken() {
    let (here, there, peer) = pair().await;
    let mut incoming = there.accept(ONE);
    let opening = (0..MAX_WANTED).map(|_| here.open_stream(peer, ONE));
    let opened = futures::future::join_all(opening).await;
    let streams: Vec<Stream> = opened.into_iter().map(Result::unwrap).collect();
    // A lazily negotiated stream is seen when something is written.
    for mut stream in streams {
        futures::AsyncWriteExt::close(&mut stream).await.unwrap();
    }
    for _ in 0..MAX_WANTED {
        incoming.next().await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_be_opened_is_told_apart() {
    let (here, there, peer) = pair().await;
    let _incoming = there.accept(ONE);
    let refused = here.open_stream(peer, OTHER).await;
    assert!(matches!(refused, Err(OpenStreamError::Unsupported(name)) if name == OTHER));
    let stranger = PeerId::random();
    let refused = here.open_stream(stranger, ONE).await;
    assert!(matches!(refused, Err(OpenStreamError::NotConnected(who)) if who == stranger));
    let wanted = || {
        let (reply, opened) = oneshot::channel();
        let protocol = ONE;
        (here.ask(peer, Wanted { protocol, reply }), opened)
    };
    // Nothing else runs in between: no handler takes what waits.
    let asked: Vec<_> = (0..=MAX_WANTED).map(|_| wanted()).collect();
    assert!(asked[..MAX_WANTED].iter().all(|(asked, _)| asked.is_ok()));
    assert!(matches!(asked[MAX_WANTED].0, Err(OpenStreamError::Busy(_))));
}

#[test]
fn a_connection_that_ends_leaves_nothing_behind() {
    let (control, peer) = (Control::default(), PeerId::random());
    let handlers = [1, 2].map(|id| Handler::enter(&control, peer, ConnectionId::new_unchecked(id)));
    assert_eq!(control.lock().connections[&peer].len(), 2);
    drop(handlers);
    assert!(control.lock().connections.is_empty());
}
