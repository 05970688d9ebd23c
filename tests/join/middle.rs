//! What happens to others in the middle of a join: they die, they lie, they push.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nix::sys::signal::Signal;
use snapswarm::comet::peer::{ChunkSource, FeedSettings, Identity, Stop, feed};
use snapswarm::snapshot::Offer;

use crate::network::{CHAIN, Joiner, Network, Running};
use crate::{node_of, support};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_to_the_tip_whatever_dies_or_pushes_in_the_middle() {
    let network = Network::start().await;
    cometbft_dies(&network);
    an_intruder_pushes(&network);
    the_rpc_dies(&network);
    the_provider_vanishes(network);
}

fn cometbft_dies(network: &Network) {
    let mut joiner = network.joiner("dies");
    joiner.script = "slow-apply=300".to_owned();
    let mut join = Running::start(joiner.command(network, &[]));
    support::eventually("a chunk in the application", || {
        joiner.app_log().contains("apply index=1").then_some(())
    });
    support::kill(node_of(&joiner), Signal::SIGKILL);
    let said = join.finish(0);
    assert_eq!(said["rung"], "swarm", "{said}");
    let why = said["steps"][0]["why"].as_str().unwrap();
    assert!(why.contains("CometBFT has ended by itself"), "{why}");
    assert!(joiner.is_as_it_was());
}

/// Gives garbage for everything.
struct Garbage;

impl ChunkSource for Garbage {
    fn chunk(&self, _index: u32) -> io::Result<Bytes> {
        Ok(Bytes::from_static(b"garbage"))
    }
}

fn an_intruder_pushes(network: &Network) {
    let joiner = network.joiner("pushed");
    let intruder = Identity::generate();
    let id = intruder.id().to_string();
    let offer = Offer {
        height: 1 << 40,
        format: 9,
        chunks: 1,
        hash: Bytes::from_static(b"hash"),
        metadata: Bytes::new(),
    };
    let settings = FeedSettings {
        node: joiner.node.address(),
        listen: None,
        chain_id: Some(CHAIN.to_owned()),
    };
    let stop = Stop::new();
    let mut join = Running::start(joiner.command(network, &[]));
    join.wait_for("starting CometBFT");
    let said = std::thread::scope(|scope| {
        let pushing = scope
            .spawn(|| feed(&settings, &intruder, &offer, &Garbage, &mut |_| {}, &stop).unwrap());
        let said = join.finish(0);
        stop.stop();
        assert_eq!(pushing.join().unwrap().chunks_sent, 0);
        said
    });
    assert_eq!(said["rung"], "swarm", "{said}");
    assert!(!joiner.app_log().contains(&id), "nothing of the intruder");
    assert!(!joiner.node_log().contains("format=9"), "nor its offer");
}

/// A door to an RPC that can be shut.
struct Gate {
    address: SocketAddr,
    shut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn before(rpc_url: &str) -> Self {
        let inside = rpc_url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            shut: Arc::default(),
            open: Arc::default(),
        };
        let (shut, open) = (gate.shut.clone(), gate.open.clone());
        std::thread::spawn(move || {
            for outer in listener.incoming().map_while(Result::ok) {
                let Ok(inner) = TcpStream::connect(&inside) else {
                    continue;
                };
                let ends = [&outer, &inner].map(|end| end.try_clone().unwrap());
                open.lock().unwrap().extend(ends);
                if shut.load(Ordering::SeqCst) {
                    let _ = outer.shutdown(Shutdown::Both);
                    continue;
                }
                copy(outer.try_clone().unwrap(), inner.try_clone().unwrap());
                copy(inner, outer);
            }
        });
        gate
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}

fn the_rpc_dies(network: &Network) {
    let joiner = network.joiner("mute");
    let gates = [&network.validator, &network.follower].map(|node| Gate::before(&node.rpc_url));
    let urls = gates.each_ref().map(Gate::url).join(",");
    let mut join = Running::start(joiner.command(network, &["--chain-rpc", &urls]));
    join.wait_for("starting CometBFT");
    gates.iter().for_each(Gate::shut);
    // Without anybody who tells what to believe only the blocks themselves are left.
    let said = join.finish(8);
    assert_eq!(said["rung"], "blocks", "{said}");
    assert!(joiner.is_as_it_was());
}

fn the_provider_vanishes(mut network: Network) {
    let joiner: Joiner = network.joiner("half");
    // Half of it takes some seconds.
    let slowly = ["limits", "--upload-bytes-per-s", "40000"];
    network.provider.run(slowly).ok();
    let more = ["--patience", "60", "--timeout", "4"];
    let mut join = Running::start(joiner.command(&network, &more));
    join.wait_for("fetching ");
    support::eventually("a part of the snapshot", || {
        let listed = joiner.home.run(["status"]).ok();
        let done = listed["downloads"][0]["done"].as_u64()?;
        (done > 0).then_some(())
    });
    drop(network.daemon.take());
    let said = join.finish(8);
    assert_eq!(said["rung"], "peers", "{said}");
    let listed = joiner.home.run(["list"]).ok();
    let kept = listed["snapshots"][0]["have_bytes"].as_u64();
    assert!(kept > Some(0), "what came is kept: {listed}");
}
