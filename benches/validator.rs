//! What a validator's blocks cost when snapshots are shared beside it.
//!
//! `cargo bench --bench validator [-- ROUNDS [BLOCKS]]`
//!
//! One validator of real CometBFT 0.38 with its application on a socket, under a steady
//! load of transactions. *without*: nothing else runs. *with*: `snapswarm adapter` stands
//! between, and the daemon of its home, with the upload profile `validator`, serves a
//! snapshot to eight peers that pull all that the limit allows. The peers are other
//! people's machines: here they run at the lowest priority, with homes in memory. Times
//! between the blocks of a phase are those in their headers. The phases take turns on
//! one node; compare inside one run.

#[path = "../tests/support/adapter.rs"]
mod adapter;
#[path = "../tests/support/comet_nodes.rs"]
mod comet_nodes;
#[path = "../tests/support/comet_tools.rs"]
mod comet_tools;
#[path = "../tests/support/scripted_app.rs"]
mod scripted_app;
#[path = "../tests/support/mod.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use adapter::Adapter;
use anyhow::{Context, Result};
use comet_nodes::{CometNode, NodePlan, local_client};
use comet_tools::comet_tools;
use scripted_app::AppProcess;
use support::{Daemon, Home, Running, chunk_folder};
use toml::Table;

const CHAIN: &str = "bench-validator-1";
const BLOCK_MS: u32 = 300;
const PEERS: usize = 8;
/// More than eight peers get of it in a phase, so that none is done.
const SNAPSHOT_CHUNKS: u32 = 150;
const CHUNK_BYTES: usize = 10_000_000;
/// Transactions of the load: one after the other, with this between them.
const TX_BYTES: usize = 1000;
const TX_PAUSE: Duration = Duration::from_millis(5);
/// Blocks after a start that are not counted.
const WARM_UP: u64 = 10;

#[tokio::main]
async fn main() -> Result<()> {
    // cargo passes --bench along.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let (rounds, blocks) = (numbers.next().unwrap_or(4), numbers.next().unwrap_or(150));
    let folder = tempfile::tempdir()?;
    let app = AppProcess::start(&folder.path().join("app"), &["--snapshot-interval", "0"]);
    let plan = NodePlan {
        snapshot_interval: 0,
        block_ms: BLOCK_MS,
        p2p_rate: 512_000_000,
        settings: Table::new(),
    };
    let place = folder.path().join("validator");
    let mut node = CometNode::validator(&comet_tools(), &place, CHAIN, plan);
    let home = Home::new();
    home.configure("[upload]\nprofile = \"validator\"\n");
    let chunks = chunk_folder(SNAPSHOT_CHUNKS, CHUNK_BYTES, 1);
    let manifest = home.load(chunks.path(), CHAIN, 1);
    drop(chunks);

    let (mut without, mut with) = (Vec::new(), Vec::new());
    let mut rates = Vec::new();
    for _ in 0..rounds {
        node.start_before(&app.address);
        without.extend(intervals(&node, blocks).await?);
        node.kill();

        let adapter = Adapter::start(&home, &app.address, &["--chain-id", CHAIN]);
        let daemon = home.start::<_, &str>([]);
        node.start_before(&adapter.listen);
        let peers = pull(&daemon, &manifest)?;
        let (began, before) = (Instant::now(), sent(&daemon)?);
        with.extend(intervals(&node, blocks).await?);
        rates.push((sent(&daemon)? - before) / began.elapsed().as_secs_f64() / 1e6);
        node.kill();
        drop(peers);
    }
    rates.sort_unstable_by(f64::total_cmp);
    let rate = rates[rates.len() / 2];
    println!("{rounds} rounds of {blocks} blocks; {PEERS} peers pulled {rate:.1} MB/s (median)");
    for percent in [50, 90, 99] {
        let (without, with) = (at(&mut without, percent), at(&mut with, percent));
        println!(
            "block time p{percent}: {:.0} ms without, {:.0} ms with   {:.3} x",
            without * 1e3,
            with * 1e3,
            with / without,
        );
    }
    Ok(())
}

fn at(seconds: &mut [f64], percent: usize) -> f64 {
    seconds.sort_unstable_by(f64::total_cmp);
    seconds[(seconds.len() * percent / 100).min(seconds.len() - 1)]
}

/// Seconds between so many blocks, under the load.
async fn intervals(node: &CometNode, blocks: u64) -> Result<Vec<f64>> {
    let (rpc, client) = (node.rpc(), local_client());
    node.wait_for_height(1).await;
    let first = loop {
        if let Ok(status) = rpc.status().await {
            break status.height + WARM_UP;
        }
    };
    let last = first + blocks;
    let mut txs = 0;
    while !rpc.status().await.is_ok_and(|status| status.height >= last) {
        for _ in 0..20 {
            txs += 1;
            node.write_value(&client, txs, TX_BYTES).await;
            tokio::time::sleep(TX_PAUSE).await;
        }
    }
    let mut times = Vec::new();
    for height in first..=last {
        let header = rpc.header(height).await?;
        times.push(header.time.context("a header has a time")?);
    }
    let mut seconds = Vec::new();
    for pair in times.windows(2) {
        seconds.push(pair[1].duration_since(pair[0])?.as_secs_f64());
    }
    Ok(seconds)
}

/// Peers that download without end, each into a home of its own.
fn pull(daemon: &Daemon, manifest: &str) -> Result<Vec<(Running, tempfile::TempDir)>> {
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        let mut command = Command::new("nice");
        command
            .args(["-n", "19", support::SNAPSWARM, "--json", "--home"])
            .arg(home.path())
            .args(["fetch", manifest, "--bootstrap", &daemon.address()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        peers.push((Running(command.spawn()?), home));
    }
    Ok(peers)
}

/// Bytes of pieces that a daemon has served.
fn sent(daemon: &Daemon) -> Result<f64> {
    let metrics = daemon.get("/metrics");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("snapswarm_uploaded_bytes_total"));
    let number = line.and_then(|line| line.rsplit(' ').next());
    Ok(number.context("a figure of the bytes sent")?.parse()?)
}
