//! Networks of `testnet/networks` from nothing to their end: real CometBFT nodes, real
//! daemons, a new node at the tip. These are the cheapest that differ; the others are
//! commands. `testnet/test.sh` installs what they need.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Each network counts on the whole machine: they run one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

fn run(network: &str) {
    run_with(network, &[]);
}

/// `folders` beside the network's own: other versions of CometBFT.
fn run_with(network: &str, folders: &[PathBuf]) {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let networks = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/networks");
    let status = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .arg("run")
        .arg(networks.join(network).with_extension("toml"))
        .args(
            folders
                .iter()
                .flat_map(|folder| [Path::new("--tools"), folder]),
        )
        .status()
        .unwrap();
    assert!(status.success(), "testnet run {network}: {status}");
}

#[test]
fn a_new_node_starts_from_four_providers_and_follows_the_chain() {
    run("smoke");
}

#[test]
fn a_node_behind_an_adapter_joins_a_chain_behind_adapters() {
    run("adapter");
}

/// Where `testnet/tools.sh` puts the versions of CometBFT: the usual one, and the others.
fn versions() -> (PathBuf, Vec<PathBuf>) {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let tools = target.join("tools");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/tools.sh");
    let script = std::fs::read_to_string(script).unwrap();
    let (_, named) = script.split_once("OTHER_COMETBFT_VERSIONS=\"").unwrap();
    let (named, _) = named.split_once('"').unwrap();
    let folder = |version| tools.join(format!("cometbft-{version}"));
    (tools.join("bin"), named.split(' ').map(folder).collect())
}

#[test]
fn the_adapter_stands_before_other_versions_of_cometbft() {
    let (_, others) = versions();
    assert!(others.len() >= 2);
    run_with("adapter", &others);
}

#[test]
fn chains_of_several_versions_of_cometbft_are_harvested_and_joined() {
    let (usual, others) = versions();
    run_with("versions", &[vec![usual], others].concat());
}

#[test]
fn a_node_takes_a_snapshot_that_the_blocks_of_a_pruned_chain_still_follow() {
    run("pruned");
}

#[test]
fn a_node_of_a_xian_like_chain_gets_its_storage_from_snapshots_made_at_commit() {
    run("xian");
}

#[test]
fn a_node_of_a_xian_like_chain_joins_however_often_the_join_is_killed() {
    run("xian-restart");
}

#[test]
fn a_real_chain_of_the_cosmos_sdk_is_harvested_in_both_ways_and_joined() {
    run("sdk");
}

#[test]
fn a_node_of_the_cosmos_sdk_that_was_cut_off_in_its_restore_begins_anew() {
    run("sdk-restart");
}

#[test]
fn a_provider_that_answers_with_wrong_bytes_is_banned_and_the_join_succeeds() {
    run("liar");
}
