//! What happens to others in the middle of a join: they die, they lie, they push.

use std::io;

use bytes::Bytes;
use nix::sys::signal::Signal;
use snapswarm::comet::peer::{ChunkSource, FeedSettings, Identity, Stop, feed};
use snapswarm::snapshot::Offer;

use crate::network::{CHAIN, Joiner, Network, Running};
use crate::{app_of, node_of, support};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_to_the_tip_whatever_dies_or_pushes_in_the_middle() {
    let network = Network::start().await;
    cometbft_dies(&network);
    the_application_dies_later(&network);
    an_intruder_pushes(&network);
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

/// The node has its state: it is started again, and nothing is restored twice.
fn the_application_dies_later(network: &Network) {
    let joiner = network.joiner("later");
    let mut join = Running::start(joiner.command(network, &[]));
    join.wait_for("the first block after the snapshot is stored");
    support::kill(app_of(&joiner), Signal::SIGKILL);
    let said = join.finish(0);
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["steps"].as_array().unwrap().len(), 0, "{said}");
    assert_eq!(joiner.app_log().matches("offer ").count(), 1);
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
