//! The application behind real CometBFT nodes.

use std::path::Path;

use toml::Table;

use crate::comet_nodes::{CometNode, NodePlan, wait_until};
use crate::comet_tools::comet_tools;
use crate::node::{Node, value_of};
use crate::scripted_app::AppProcess;

const CHAIN: &str = "scripted-app-1";

fn plan(settings: Table) -> NodePlan {
    NodePlan {
        // Of the application that does not run here.
        snapshot_interval: 0,
        block_ms: 200,
        p2p_rate: 512_000_000,
        settings,
    }
}

fn start_app(folder: &Path) -> AppProcess {
    let options = "--snapshot-interval 5 --keep 0 --chunk-bytes 1000 --empty-check";
    AppProcess::start(folder, &Vec::from_iter(options.split(' ')))
}

/// The node is some blocks further, with the validator's application hash.
async fn goes_on(node: &CometNode, validator: &CometNode) {
    let at = node.rpc().status().await.unwrap().height.max(1);
    node.wait_for_height(at + 3).await;
    validator.wait_for_height(at + 3).await;
    assert_eq!(
        node.rpc().app_hash_after(at + 1).await.unwrap(),
        validator.rpc().app_hash_after(at + 1).await.unwrap(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn real_nodes_make_blocks_join_by_a_snapshot_and_go_on_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let tools = comet_tools();
    let mut validator = CometNode::validator(&tools, &place("v"), CHAIN, plan(Table::new()));
    let first = start_app(&place("v-app"));
    validator.start_before(&first.address);
    validator.wait_for_height(1).await;
    validator.write_state(10, 1000).await;
    let mut served = Node::connect(&first.address);
    wait_until("a snapshot with the values", async || {
        served.snapshots().iter().any(|one| one.chunks > 10)
    })
    .await;
    let height = served.snapshots().pop().unwrap().height;
    validator.wait_for_height(height).await;

    let mut p2p = Table::new();
    let peers = validator.address().to_string();
    p2p.insert("persistent_peers".into(), peers.into());
    let mut settings = Table::new();
    settings.insert("p2p".into(), p2p.into());
    let trust = validator.trusted(height).await;
    let mut joiner = CometNode::joiner(
        &tools,
        &place("j"),
        &validator,
        CHAIN,
        trust,
        plan(settings),
    );
    let second = start_app(&place("j-app"));
    joiner.start_before(&second.address);
    joiner.wait_for_height(height).await;
    goes_on(&joiner, &validator).await;
    assert_eq!(joiner.log_count("Snapshot restored"), 1);
    let restored = second.log();
    assert!(restored.contains("restored height="), "{restored}");
    let mut joined = Node::connect(&second.address);
    let key = "key00007";
    assert!(value_of(&mut served, key).is_some());
    assert_eq!(value_of(&mut joined, key), value_of(&mut served, key));

    // All four die at once, with SIGKILL.
    drop((first, second));
    validator.kill();
    joiner.kill();
    let first = start_app(&place("v-app"));
    let second = start_app(&place("j-app"));
    let kept = Node::connect(&second.address).info().last_block_height;
    assert!(kept as u64 > height);
    validator.start_before(&first.address);
    joiner.start_before(&second.address);
    wait_until("both to answer", async || {
        joiner.rpc().status().await.is_ok() && validator.rpc().status().await.is_ok()
    })
    .await;
    goes_on(&joiner, &validator).await;
    // It did not begin anew.
    assert_eq!(joiner.log_count("Snapshot restored"), 1);
    assert!(!first.log().contains("finalize") && !second.log().contains("finalize"));
    assert_eq!(
        value_of(&mut Node::connect(&second.address), key).map(|one| one.len()),
        Some(1000)
    );
}
