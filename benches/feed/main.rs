//! How fast a node is given its state: by another node, by the local peer, and by the
//! local peer with the adapter before the application; and how fast one gives its own.
//!
//! `cargo bench --bench feed [-- ROUNDS [MIB]]`
//!
//! A chain of one validator, real CometBFT 0.38 on loopback with raised p2p rates, and
//! for each way a fresh node that state-syncs a snapshot of 10 MB chunks. The
//! application does nothing with them. *native*: the validator's application serves
//! them. *local peer*: `snapswarm feed` from an archive. *stubs*: the same where
//! `snapswarm adapter` stands before the application and puts the bytes in. The time is
//! the application's: from the offer that it accepts to the last chunk. *harvest*: the
//! local peer takes the snapshot from the validator, chunk by chunk, and keeps nothing.
//! The ways take turns; compare inside one run.

#[path = "../../tests/support/adapter.rs"]
mod adapter;
#[path = "../../tests/support/comet_nodes.rs"]
mod comet_nodes;
#[path = "../../tests/support/comet_tools.rs"]
mod comet_tools;
#[path = "../../testnet/app/frame.rs"]
mod frame;
#[path = "../../tests/support/mod.rs"]
mod support;

mod app;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adapter::Adapter;
use anyhow::{Context, Result};
use comet_nodes::{CometNode, NodePlan, wait_until};
use comet_tools::comet_tools;
use snapswarm::comet::peer::{HarvestSettings, Harvester, Identity, Stop};
use snapswarm::snapshot::Source;
use support::{Home, Running};
use toml::Table;

use app::{APP_HASH, App, Blob};

const CHAIN: &str = "bench-feed-1";
/// Above the first blocks, so that all nodes of the chain are well.
const HEIGHT: u64 = 3;
const CHUNK_BYTES: usize = 10_000_000;
/// What `join` sets.
const P2P_RATE: i64 = 512_000_000;

const WAYS: [Way; 4] = [Way::Native, Way::LocalPeer, Way::Stubs, Way::Harvest];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    LocalPeer,
    Stubs,
    Harvest,
}

#[tokio::main]
async fn main() -> Result<()> {
    // cargo passes --bench along.
    let mut numbers = std::env::args()
        .skip(1)
        .filter_map(|word| word.parse().ok());
    let rounds: usize = numbers.next().unwrap_or(3);
    let mib: usize = numbers.next().unwrap_or(1024);
    let chunks = (mib << 20).div_ceil(CHUNK_BYTES) as u32;
    let bench = Bench::begin(Arc::new(Blob::new(HEIGHT, chunks, CHUNK_BYTES))).await?;
    let mut times = [const { Vec::new() }; WAYS.len()];
    for round in 0..rounds {
        for (way, times) in WAYS.into_iter().zip(&mut times) {
            times.push(match way {
                Way::Harvest => bench.harvest().await?,
                _ => bench.restore(way, round).await?,
            });
        }
    }
    let megabytes = bench.blob.bytes() as f64 / 1e6;
    println!(
        "{rounds} rounds of {megabytes:.0} MB in {chunks} chunks, median (slowest to fastest)"
    );
    let native = median(&mut times[0]);
    for (name, times) in ["native", "local peer", "stubs"]
        .into_iter()
        .zip(&mut times)
    {
        let time = median(times);
        let rate = |time: Duration| megabytes / time.as_secs_f64();
        println!(
            "{name:<10}  {:>5.0} MB/s ({:.0} to {:.0})   {:.2} x native",
            rate(time),
            rate(times[times.len() - 1]),
            rate(times[0]),
            native.as_secs_f64() / time.as_secs_f64(),
        );
    }
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A chain, and a home that has its snapshot.
struct Bench {
    blob: Arc<Blob>,
    validator: CometNode,
    trust: (u64, String),
    home: Home,
    manifest: String,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn begin(blob: Arc<Blob>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let place = folder.path().join("validator");
        let plan = plan(Table::new());
        let mut validator = CometNode::validator(&comet_tools(), &place, CHAIN, plan);
        validator.start_before(&App::start(blob.clone())?.address);
        validator.wait_for_height(HEIGHT + 2).await;
        let home = Home::new();
        Ok(Self {
            trust: validator.trusted(HEIGHT).await,
            manifest: load(&home, folder.path(), &blob)?,
            blob,
            validator,
            home,
            folder,
        })
    }

    /// A fresh node gets its state.
    async fn restore(&self, way: Way, round: usize) -> Result<Duration> {
        let app = App::start(self.blob.clone())?;
        let adapter = match way {
            Way::Stubs => Some(Adapter::start(
                &self.home,
                &app.address,
                &["--chain-id", CHAIN],
            )),
            _ => None,
        };
        let proxy = adapter
            .as_ref()
            .map_or(&app.address, |adapter| &adapter.listen);
        let folder = self.folder.path().join(format!("joiner-{round}"));
        let (tools, trust) = (comet_tools(), self.trust.clone());
        let plan = plan(self.peers(way)?);
        let mut node = CometNode::joiner(&tools, &folder, &self.validator, CHAIN, trust, plan);
        node.start_before(proxy);
        let feeding = match way {
            Way::LocalPeer | Way::Stubs => Some(self.feed(&node).await?),
            _ => None,
        };
        wait_until("a restored node", async || app.restored_in().is_some()).await;
        drop((feeding, node, adapter));
        std::fs::remove_dir_all(folder)?;
        app.restored_in().context("restored")
    }

    /// The validator gives all chunks of its snapshot.
    async fn harvest(&self) -> Result<Duration> {
        let settings = HarvestSettings {
            node: self.validator.address(),
            chain_id: Some(CHAIN.to_owned()),
        };
        let harvesting = tokio::task::spawn_blocking(move || {
            let mut source = Harvester::new(settings, Identity::generate(), Stop::new());
            let offers = source.list()?;
            let mut snapshot = source.open(offers.first().context("an offer")?)?;
            let began = Instant::now();
            while snapshot.next_chunk()?.is_some() {}
            Ok(began.elapsed())
        });
        harvesting.await?
    }

    /// Whom a joining node has for a peer.
    fn peers(&self, way: Way) -> Result<Table> {
        let mut p2p = Table::new();
        if way == Way::Native {
            let validator = self.validator.address().to_string();
            p2p.insert("persistent_peers".into(), validator.into());
        } else {
            let us = Identity::load_or_create(&self.home.path().join("comet.key"))?.id();
            p2p.insert("max_num_inbound_peers".into(), 0.into());
            p2p.insert("unconditional_peer_ids".into(), us.to_string().into());
        }
        let mut settings = Table::new();
        settings.insert("p2p".into(), p2p.into());
        Ok(settings)
    }

    async fn feed(&self, node: &CometNode) -> Result<Running> {
        let rpc = node.rpc();
        wait_until("a started node", async || rpc.status().await.is_ok()).await;
        let address = node.address().to_string();
        let mut command = self.home.command(["feed", &self.manifest]);
        command
            .args(["--node-p2p", &address, "--node-rpc", &node.rpc_url])
            .args(["--chain-rpc", &self.validator.rpc_url])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Running(command.spawn()?))
    }
}

fn plan(settings: Table) -> NodePlan {
    NodePlan {
        snapshot_interval: 0,
        block_ms: 500,
        p2p_rate: P2P_RATE,
        settings,
    }
}

/// Brings the snapshot into a home; its name.
fn load(home: &Home, folder: &Path, blob: &Blob) -> Result<String> {
    let files = folder.join("chunks");
    std::fs::create_dir(&files)?;
    for index in 0..blob.chunks {
        std::fs::write(files.join(index.to_string()), blob.chunk(index))?;
    }
    let (height, app_hash) = (blob.height.to_string(), hex::encode(APP_HASH));
    let place = files.to_str().context("a plain path")?;
    let load = ["load", place, "--kind", "files", "--chain-id", CHAIN];
    let fields = [
        "--height",
        &height,
        "--app-hash",
        &app_hash,
        "--format",
        "1",
    ];
    let loaded = home.run(load.iter().chain(&fields)).ok();
    std::fs::remove_dir_all(files)?;
    Ok(loaded["manifest"].as_str().context("a name")?.to_owned())
}
