//! The rate limit, counted at the socket by a proxy between two nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use snapswarm::net::pieces::{Budget, PieceEvent, UploadLimits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
        let port = behind
            .iter()
            .find_map(|part| match part {
                Protocol::Tcp(port) => Some(port),
                _ => None,
            })
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let counted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&counted);
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
        Self {
            address: format!("/ip4/127.0.0.1/tcp/{own}").parse().unwrap(),
            counted,
        }
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_holds_at_the_socket_within_a_twentieth_and_changes_at_once() {
    let shelf = Shelf::of_pieces(8);
    let mut seeder = Node::start("/ip4/127.0.0.1/tcp/0").await;
    let server = seeder.serve(&shelf, limit(3_000_000));
    let proxy = Proxy::before(&seeder.address).await;
    for number in 1..=2 {
        let joiner = Node::start("/ip4/127.0.0.1/tcp/0").await;
        let asking = keep_asking(
            Arc::clone(&shelf),
            joiner,
            proxy.address.clone(),
            seeder.peer,
        );
        tokio::spawn(asking);
        // `libp2p-stream` drops one of two streams that come in the same moment.
        soon("a stream", async {
            while server.stats().peers.len() < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    let is = |found: f64, expected: f64| {
        println!("{found:.0} bytes/s at a limit of {expected:.0}");
        assert!(
            (found / expected - 1.0).abs() < 0.05,
            "{found} of {expected}"
        );
    };
    // The handshakes and the first turn are past.
    while server.stats().sent_bytes < 1_000_000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    is(proxy.measure(Duration::from_secs(10)).await, 3e6);
    let stats = server.stats();
    let [a, b] = &stats.peers[..] else {
        panic!("two peers");
    };
    let share = a.sent_bytes as f64 / (a.sent_bytes + b.sent_bytes) as f64;
    assert!((0.4..0.6).contains(&share), "the first peer got {share}");

    server.set_limits(limit(12_000_000)).await;
    is(proxy.measure(Duration::from_secs(5)).await, 12e6);
    server.set_limits(limit(200_000)).await;
    // What was written before may still be on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    is(proxy.measure(Duration::from_secs(10)).await, 2e5);
    server.set_limits(UploadLimits::default()).await;
    let free = proxy.measure(Duration::from_secs(1)).await;
    assert!(free > 15e6, "{free} without a limit");
}
