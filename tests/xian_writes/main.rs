//! A Xian node that writes as fast as it can while its storage is copied and made into
//! snapshots, again and again. It stands alone, so that nothing else takes the time.

#![allow(clippy::unwrap_used)]

mod node;
#[path = "../support/mod.rs"]
mod process;
mod snapshots;
#[path = "../xian/support.rs"]
#[allow(dead_code, unused_imports)] // a part of it is for other tests
mod support;

use std::time::{Duration, Instant};

use node::Node;
use snapshots::Snapshots;

/// For how many seconds the node writes, where another time is wanted.
const SECONDS: &str = "SNAPSWARM_WRITE_SECONDS";
const DEFAULT_SECONDS: u64 = 300;
/// What a busy machine manages at the least; an idle one makes three blocks in a second,
/// and a snapshot in a second.
const SECONDS_FOR_A_BLOCK: u64 = 5;
const SECONDS_FOR_A_SNAPSHOT: u64 = 20;

#[test]
fn no_write_fails_and_no_read_is_wrong_while_each_snapshot_is_the_state_of_its_block() {
    let seconds = std::env::var(SECONDS).map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("xian");
    let mut node = Node::start(&storage);
    node.block();
    let mut snapshots = Snapshots::start(&storage, folder.path());
    let began = Instant::now();
    let mut blocks = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        let state = node.block();
        snapshots.commit(&state);
        blocks += 1;
    }
    let made = snapshots.end();
    let said = node.end();
    println!(
        "{seconds} s: {blocks} blocks, {} writes, {} reads, {} records; {made:?}",
        said.writes, said.reads, said.records
    );
    assert!(blocks >= seconds / SECONDS_FOR_A_BLOCK, "{blocks} blocks");
    assert!(
        made.snapshots >= seconds / SECONDS_FOR_A_SNAPSHOT,
        "{made:?}"
    );
}
