//! The rate limit, counted at the socket by a proxy between two nodes.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use snapswarm::net::pieces::{Budget, PieceEvent, Server, UploadLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::nodes::Node;
use crate::shelf::Shelf;
use crate::wires::{event, soon};

/// Passes bytes on and counts those that come from behind it.
struct Proxy {
    address: Multiaddr,
    counted: Arc<AtomicU64>,
}

impl Proxy {
    async fn before(behind: &Multiaddr) -> Self {
        let counted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&counted);
        let found = behind.iter().find_map(|part| match part {
            Protocol::Tcp(port) | Protocol::Udp(port) => Some((port, part)),
            _ => None,
        });
        let address = match found.unwrap() {
            (port, Protocol::Tcp(_)) => Self::tcp(port, counter).await,
            (port, _) => Self::udp(port, counter).await,
        };
        Self {
            address: address.parse().unwrap(),
            counted,
        }
    }

    async fn tcp(port: u16, counter: Arc<AtomicU64>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (outside, _) = listener.accept().await.unwrap();
                let inside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut from_outside, mut to_outside) = outside.into_split();
                let (mut from_inside, mut to_inside) = inside.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_outside, &mut to_inside).await;
                });
                let counter = Arc::clone(&counter);
                tokio::spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(count @ 1..) = from_inside.read(&mut buffer).await {
                        counter.fetch_add(count as u64, Ordering::Relaxed);
                        if to_outside.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        format!("/ip4/127.0.0.1/tcp/{own}")
    }

    /// One socket towards the inside for each who comes from outside.
    async fn udp(port: u16, counter: Arc<AtomicU64>) -> String {
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let own = outside.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut inside: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
            let mut buffer = vec![0; 64 << 10];
            loop {
                let (count, from) = outside.recv_from(&mut buffer).await.unwrap();
                if let Entry::Vacant(vacant) = inside.entry(from) {
                    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    socket.connect(("127.0.0.1", port)).await.unwrap();
                    let socket = Arc::clone(vacant.insert(Arc::new(socket)));
                    let (outside, counter) = (Arc::clone(&outside), Arc::clone(&counter));
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(count) = socket.recv(&mut buffer).await {
                            counter.fetch_add(count as u64, Ordering::Relaxed);
                            let _ = outside.send_to(&buffer[..count], from).await;
                        }
                    });
                }
                let _ = inside[&from].send(&buffer[..count]).await;
            }
        });
        format!("/ip4/127.0.0.1/udp/{own}/quic-v1")
    }

    /// Bytes per second over a time.
    async fn measure(&self, over: Duration) -> f64 {
        let (start, before) = (Instant::now(), self.counted.load(Ordering::Relaxed));
        tokio::time::sleep(over).await;
        let bytes = self.counted.load(Ordering::Relaxed) - before;
        bytes as f64 / start.elapsed().as_secs_f64()
    }
}

fn limit(bytes_per_second: u64) -> UploadLimits {
    UploadLimits {
        bytes_per_second: Some(bytes_per_second),
        ..UploadLimits::default()
    }
}

/// Keeps a window full for ever.
async fn keep_asking(shelf: Arc<Shelf>, mut node: Node, proxy: Multiaddr, seeder: libp2p::PeerId) {
    let budget = Budget::default();
    let client = node.open(seeder, &proxy, &budget).await;
    let (asker, mut events) = client.split();
    let mut number = 0;
    loop {
        while asker.stats().open_requests < 8 {
            let (chunk, piece, len) = shelf.request(number % 8);
            asker.request(chunk, piece, len).unwrap();
            number += 1;
        }
        if let PieceEvent::Closed(closed) = event(&mut events).await {
            panic!("the stream ended: {closed:?}");
        }
    }
}

/// A seeder behind a proxy, of whom two joiners ask without end.
async fn asked_by_two(listen: &str, limits: UploadLimits) -> (Node, Server, Proxy) {
    let shelf = Shelf::of_pieces(8);
    let mut seeder = Node::start(listen).await;
    let server = seeder.serve(&shelf, limits);
    let proxy = Proxy::before(&seeder.address).await;
    for number in 1..=2 {
        let joiner = Node::start(listen).await;
        let asking = keep_asking(
            Arc::clone(&shelf),
            joiner,
            proxy.address.clone(),
            seeder.peer,
        );
        tokio::spawn(asking);
        soon("a stream", async {
            while server.stats().peers.len() < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    // The handshakes and the first turn are past.
    while server.stats().sent_bytes < 1_000_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (seeder, server, proxy)
}

fn is(found: f64, expected: f64) {
    println!("{found:.0} bytes/s at a limit of {expected:.0}");
    assert!(
        (found / expected - 1.0).abs() < 0.05,
        "{found} of {expected}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_at_the_socket_within_a_twentieth_and_changes_at_once() {
    let (_seeder, server, proxy) = asked_by_two("/ip4/127.0.0.1/tcp/0", limit(3_000_000)).await;
    is(proxy.measure(Duration::from_secs(10)).await, 3e6);
    let stats = server.stats();
    let [a, b] = &stats.peers[..] else {
        panic!("two peers");
    };
    let share = a.sent_bytes as f64 / (a.sent_bytes + b.sent_bytes) as f64;
    assert!((0.4..0.6).contains(&share), "the first peer got {share}");

    server.set_limits(limit(12_000_000)).await;
    is(proxy.measure(Duration::from_secs(10)).await, 12e6);
    server.set_limits(limit(200_000)).await;
    soon("what was written before has arrived", async {
        while proxy.measure(Duration::from_millis(100)).await > 1e6 {}
    })
    .await;
    is(proxy.measure(Duration::from_secs(10)).await, 2e5);
    server.set_limits(UploadLimits::default()).await;
    let free = proxy.measure(Duration::from_secs(1)).await;
    assert!(free > 15e6, "{free} without a limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_in_datagrams_over_quic_as_well() {
    let listen = "/ip4/127.0.0.1/udp/0/quic-v1";
    let (_seeder, _server, proxy) = asked_by_two(listen, limit(3_000_000)).await;
    is(proxy.measure(Duration::from_secs(10)).await, 3e6);
}
