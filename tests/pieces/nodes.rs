//! Two nodes, each with a swarm, over memory, TCP and QUIC.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use libp2p::core::Transport;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm, quic, tcp, tls, yamux};
use snapswarm::net::pieces::{Asker, Budget, Client, Closed, PieceEvent, Server, UploadLimits};
use snapswarm::net::socket::Buffered;
use snapswarm::net::streams;
use snapswarm::wire::{Holding, PIECES_PROTOCOL};
use tokio::sync::{mpsc, oneshot};

use crate::shelf::Shelf;
use crate::wires::{event, soon};

/// A running swarm; ends with the test's runtime.
pub struct Node {
    pub peer: PeerId,
    pub address: Multiaddr,
    pub control: streams::Control,
    dial: mpsc::Sender<(Multiaddr, oneshot::Sender<()>)>,
}

impl Node {
    pub async fn start(listen: &str) -> Self {
        let key = Keypair::generate_ed25519();
        let tls = tls::Config::new(&key).unwrap();
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        let tcp = tcp
            .map(|socket, _| Buffered::new(socket))
            .upgrade(Version::V1Lazy)
            .authenticate(tls.clone())
            .multiplex(yamux::Config::default())
            .boxed();
        let memory = MemoryTransport::default()
            .upgrade(Version::V1Lazy)
            .authenticate(tls)
            .multiplex(yamux::Config::default())
            .boxed();
        let quic = quic::tokio::Transport::new(quic::Config::new(&key))
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .boxed();
        let transport = memory
            .or_transport(tcp)
            .map(|either, _| either.into_inner())
            .or_transport(quic)
            .map(|either, _| either.into_inner())
            .boxed();
        let behaviour = streams::Behaviour::new();
        let config = swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(std::time::Duration::from_secs(60));
        let peer = key.public().to_peer_id();
        let mut swarm = Swarm::new(transport, behaviour, peer, config);
        swarm.listen_on(listen.parse().unwrap()).unwrap();
        let address = loop {
            let event = soon("a listener", swarm.select_next_some()).await;
            if let SwarmEvent::NewListenAddr { address, .. } = event {
                break address;
            }
        };
        let control = swarm.behaviour().new_control();
        let (dial, mut dials) = mpsc::channel::<(Multiaddr, oneshot::Sender<()>)>(1);
        tokio::spawn(async move {
            let mut dialling = None;
            loop {
                tokio::select! {
                    event = swarm.select_next_some() => match event {
                        SwarmEvent::ConnectionEstablished { .. } => {
                            dialling.take().map(|done: oneshot::Sender<()>| done.send(()));
                        }
                        SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                        _ => {}
                    },
                    Some((address, done)) = dials.recv() => {
                        dialling = Some(done);
                        swarm.dial(address).unwrap();
                    }
                }
            }
        });
        Self {
            peer,
            address,
            control,
            dial,
        }
    }

    /// Serves a library.
    pub fn serve(&mut self, shelf: &Arc<Shelf>, limits: UploadLimits) -> Server {
        let (server, _) = Server::start(Arc::clone(shelf) as _, limits, 1);
        let protocol = StreamProtocol::new(PIECES_PROTOCOL);
        let incoming = self.control.accept(protocol);
        let running = server.clone();
        tokio::spawn(async move { running.run(incoming).await });
        server
    }

    /// Opens a stream on a peer behind an address.
    pub async fn open(&mut self, peer: PeerId, address: &Multiaddr, budget: &Budget) -> Client {
        let (connected, connection) = oneshot::channel();
        self.dial.send((address.clone(), connected)).await.unwrap();
        soon("a connection", connection).await.unwrap();
        let opened = Client::open(&self.control, peer, budget);
        soon("a stream", opened).await.unwrap()
    }
}

/// Asks for every piece with a window, and compares what comes.
pub async fn gather(
    shelf: &Shelf,
    asker: &Asker,
    events: &mut mpsc::Receiver<PieceEvent>,
    window: usize,
) {
    let mut wanted = 0..shelf.manifest.piece_count();
    let mut asked = BTreeMap::new();
    let mut received = 0;
    while received < shelf.manifest.piece_count() {
        while asked.len() < window
            && let Some(number) = wanted.next()
        {
            let (chunk, piece, len) = shelf.request(number);
            asked.insert(asker.request(chunk, piece, len).unwrap(), number);
        }
        match event(events).await {
            PieceEvent::Received { id, bytes } => {
                let number = asked.remove(&id).unwrap();
                assert!(bytes == shelf.bytes(number), "piece {number} differs");
                received += 1;
            }
            PieceEvent::Started { id } => assert!(asked.contains_key(&id)),
            PieceEvent::Holdings { holding, .. } => assert_eq!(holding, Holding::Complete),
            other => panic!("{other:?}"),
        }
    }
}

async fn many_pieces_arrive_over(listen: &str) {
    // Large chunks with a short last piece, and small ones.
    let mut sizes = vec![10_000_001; 6];
    sizes.extend([1, 5_000, 1 << 20, (1 << 20) + 1, 40_000]);
    let shelf = Shelf::new(&sizes);
    let mut seeder = Node::start(listen).await;
    let server = seeder.serve(&shelf, UploadLimits::default());
    let mut joiner = Node::start(listen).await;
    let budget = Budget::default();
    let client = joiner.open(seeder.peer, &seeder.address, &budget).await;
    let (asker, mut events) = client.split();
    asker.open(shelf.manifest.id()).unwrap();
    gather(&shelf, &asker, &mut events, 32).await;

    let total = shelf.manifest.total_bytes();
    assert_eq!(asker.stats().received_bytes, total);
    assert_eq!(server.stats().sent_bytes, total);
    assert!(server.stats().peers[0].round_trip.is_some());
    assert_eq!(budget.used_bytes(), 0);
    drop(events);
    soon("the end of the stream", async {
        while !server.stats().peers.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pieces_arrive_whole_over_memory() {
    many_pieces_arrive_over("/memory/0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pieces_arrive_whole_over_tcp() {
    many_pieces_arrive_over("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pieces_arrive_whole_over_quic() {
    many_pieces_arrive_over("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_in_the_middle_of_a_piece_leaves_the_stream_in_order() {
    let shelf = Shelf::of_pieces(24);
    let mut seeder = Node::start("/memory/0").await;
    let _server = seeder.serve(&shelf, UploadLimits::default());
    let mut joiner = Node::start("/memory/0").await;
    let budget = Budget::default();
    let client = joiner.open(seeder.peer, &seeder.address, &budget).await;
    let (asker, mut events) = client.split();
    for round in 0..20 {
        let mut ids = Vec::new();
        for number in 0..16 {
            let (chunk, piece, len) = shelf.request(number);
            ids.push(asker.request(chunk, piece, len).unwrap());
        }
        // Wait for a piece under way, then take all back but one.
        loop {
            if let PieceEvent::Started { id } = event(&mut events).await
                && ids.contains(&id)
            {
                break;
            }
        }
        let (kept, cancelled) = ids.split_last().unwrap();
        for id in cancelled {
            asker.cancel(*id);
        }
        loop {
            match event(&mut events).await {
                PieceEvent::Received { id, bytes } if id == *kept => {
                    assert!(bytes == shelf.bytes(15), "round {round}");
                    break;
                }
                PieceEvent::Closed(closed) => panic!("{closed:?}"),
                _ => {}
            }
        }
    }
    gather_after(&shelf, &asker, &mut events).await;
}

/// Events of cancelled requests may still be queued.
async fn gather_after(shelf: &Shelf, asker: &Asker, events: &mut mpsc::Receiver<PieceEvent>) {
    let (chunk, piece, len) = shelf.request(20);
    let last = asker.request(chunk, piece, len).unwrap();
    loop {
        match event(events).await {
            PieceEvent::Received { id, bytes } if id == last => {
                assert!(bytes == shelf.bytes(20));
                return;
            }
            PieceEvent::Closed(closed) => panic!("{closed:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_server_closes_the_stream_without_blame() {
    let shelf = Shelf::of_pieces(2);
    let mut seeder = Node::start("/memory/0").await;
    let server = seeder.serve(&shelf, UploadLimits::default());
    let mut joiner = Node::start("/memory/0").await;
    let budget = Budget::default();
    let client = joiner.open(seeder.peer, &seeder.address, &budget).await;
    let (asker, mut events) = client.split();
    asker.open(shelf.manifest.id()).unwrap();
    assert!(matches!(
        event(&mut events).await,
        PieceEvent::Holdings { .. }
    ));
    server.shutdown();
    let PieceEvent::Closed(closed) = event(&mut events).await else {
        panic!("not closed");
    };
    assert!(closed.blame().is_none(), "{closed:?}");
    assert!(matches!(closed, Closed::ByPeer | Closed::Lost(_)));
}
