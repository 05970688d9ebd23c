//! Networks of `testnet/networks` from nothing to their end: real CometBFT nodes, real
//! daemons, a new node at the tip. These are the cheapest that differ; the others are
//! commands. `testnet/test.sh` installs what they need.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Each network counts on the whole machine: they run one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

fn run(network: &str) {
    let _alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let networks = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/networks");
    let status = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .arg("run")
        .arg(networks.join(network).with_extension("toml"))
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
