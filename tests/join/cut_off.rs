//! Joins that were cut off, and what only some nodes need afterwards.

use crate::network::{Joiner, Network, Running};
use crate::scripted_app::AppProcess;
use crate::support;

/// An application that stumbles over what it took of a snapshot, as those of the Cosmos
/// SDK; slow enough to be killed in the middle.
const KEEPS_PART: &str = "keeps-part,slow-apply=300";

/// Nobody is found; the next rung is that of CometBFT's own peers.
const NO_PROVIDER: [&str; 4] = [
    "--bootstrap",
    "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWL1xrRZo838fbLzHmEwVKeXpau8C4V5GPFvMqxvh14k3n",
    "--timeout",
    "3",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_off_leaves_nothing_that_the_next_join_stumbles_over() {
    let network = Network::start().await;
    a_part_of_a_state_is_removed(&network, "swarm", &[], 0);
    a_part_of_a_state_is_removed(&network, "peers", &NO_PROVIDER, 8);
    an_application_among_cometbfts_stores_has_to_be_named(&network);
    a_node_that_names_nobody_finds_its_chain_again(&network);
}

fn a_part_of_a_state_is_removed(network: &Network, rung: &str, more: &[&str], code: i32) {
    let mut joiner = network.joiner(rung);
    joiner.script = KEEPS_PART.to_owned();
    let join = Running::start(joiner.command(network, more));
    kill_in_the_middle(join, || joiner.app_log());
    assert!(joiner.app_data().join("part").exists());
    let mut again = Running::start(joiner.command(network, more));
    let said = again.finish(code);
    assert_eq!(said["rung"], rung, "{said}");
    assert_eq!(said["steps"].as_array().unwrap().len(), 0, "{said}");
    assert!(!joiner.app_log().contains("ABORT"));
    assert!(joiner.is_as_it_was());
}

fn kill_in_the_middle(mut join: Running, app_log: impl Fn() -> String) {
    support::eventually("a chunk in the application", || {
        app_log().contains("apply index=1").then_some(())
    });
    join.kill();
}

/// Nothing else helps, so nothing else is tried, however often it is asked for.
fn an_application_among_cometbfts_stores_has_to_be_named(network: &Network) {
    let joiner: Joiner = network.joiner("unnamed");
    for name in ["app.toml", "client.toml"] {
        std::fs::write(joiner.node.home.join("config").join(name), "").unwrap();
    }
    let app = AppProcess::start(&joiner.app_data(), &["--script", KEEPS_PART]);
    joiner.set_app(&app.address);
    let join = Running::start(joiner.command_before_app(network, &[]));
    kill_in_the_middle(join, || app.log());
    let data = joiner.node.home.join("data");
    for _ in 0..2 {
        let mut again = Running::start(joiner.command_before_app(network, &[]));
        let said = again.finish(7);
        let (why, hint) = (said["error"]["message"].as_str(), &said["error"]["hint"]);
        assert!(why.unwrap().contains("a part of a state"), "{said}");
        let named = format!("--app-data {}", data.display());
        assert!(hint.as_str().unwrap().contains(&named), "{said}");
    }
}

fn a_node_that_names_nobody_finds_its_chain_again(network: &Network) {
    let joiner = network.joiner("nobody");
    joiner.name_peers("");
    let config = || std::fs::read_to_string(joiner.node.home.join("config/config.toml"));
    let own = config().unwrap();
    joiner.join_until(network, "the first block after the snapshot is stored");
    let mut again = Running::start(joiner.command(network, &[]));
    let said = again.finish(0);
    assert_eq!(said["rung"], "none", "{said}");
    assert_eq!(config().unwrap(), own);
}
