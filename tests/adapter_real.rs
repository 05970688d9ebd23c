//! The adapter between real CometBFT and an application that nobody here wrote.

#![allow(clippy::unwrap_used)]

#[path = "support/adapter.rs"]
mod adapter;
#[path = "support/comet_nodes.rs"]
mod comet_nodes;
#[path = "support/comet_tools.rs"]
mod comet_tools;
#[path = "support/small_disk.rs"]
mod small_disk;
mod support;

use std::path::Path;
use std::process::Stdio;

use adapter::Adapter;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use comet_nodes::{CometNode, NodePlan, wait_until};
use comet_tools::comet_tools;
use serde_json::Value;
use small_disk::{fill, small_disk};
use support::{Home, kill};
use toml::Table;

const CHAIN: &str = "adapter-real-1";

fn plan(settings: Table) -> NodePlan {
    NodePlan {
        snapshot_interval: 5,
        block_ms: 300,
        p2p_rate: 512_000_000,
        settings,
    }
}

/// The newest proven snapshot of a home with so many chunks.
fn harvested(home: &Home, chunks: u64) -> Option<(String, u64)> {
    let listed = home.run(["list"]).ok();
    let all = listed["snapshots"].as_array().unwrap();
    let fits = |one: &&Value| {
        one["proven"] == true && one["complete"] == true && one["chunks"].as_u64() >= Some(chunks)
    };
    let found = all.iter().find(fits)?;
    let manifest = found["manifest"].as_str().unwrap().to_owned();
    Some((manifest, found["height"].as_u64().unwrap()))
}

/// What `/abci_query` answers through CometBFT.
async fn query(node: &CometNode, path: &str) -> Value {
    let url = format!("{}/abci_query?path=\"{path}\"", node.rpc_url);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    let value = answer["result"]["response"]["value"].as_str().unwrap();
    serde_json::from_slice(&BASE64_STANDARD.decode(value).unwrap()).unwrap()
}

async fn joiner(folder: &Path, validator: &CometNode, height: u64) -> CometNode {
    let trust = validator.trusted(height).await;
    let mut p2p = Table::new();
    let peers = validator.address().to_string();
    p2p.insert("persistent_peers".into(), peers.into());
    let mut settings = Table::new();
    settings.insert("p2p".into(), p2p.into());
    CometNode::joiner(
        &comet_tools(),
        folder,
        validator,
        CHAIN,
        trust,
        plan(settings),
    )
}

async fn follows(joiner: &CometNode, validator: &CometNode, height: u64) {
    joiner.wait_for_height(height + 3).await;
    let at = joiner.rpc().status().await.unwrap().height;
    joiner.wait_for_height(at + 1).await;
    assert_eq!(
        joiner.rpc().app_hash_after(at).await.unwrap(),
        validator.rpc().app_hash_after(at).await.unwrap(),
    );
    assert_eq!(joiner.log_count("Snapshot restored"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_behind_adapters_is_harvested_served_and_joined_whatever_becomes_of_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    // A validator behind an adapter, and the daemon of its home.
    let provider = Home::new();
    let daemon = provider.start::<_, &str>([]);
    let mut validator = CometNode::validator(
        &comet_tools(),
        &folder.path().join("v"),
        CHAIN,
        plan(Table::new()),
    );
    let app = validator.start_app();
    let adapter = Adapter::start(&provider, &app, &[]);
    validator.start_before(&adapter.listen);
    validator.wait_for_height(1).await;
    validator.write_state(15, 200_000).await;
    wait_until(
        "a snapshot that the daemon took from the application",
        async || harvested(&provider, 3).is_some(),
    )
    .await;

    // The swarm brings it to another home, then the daemon dies for good.
    let other = Home::new();
    let (manifest, height) = harvested(&provider, 3).unwrap();
    let fetch = ["fetch", &manifest, "--bootstrap", &daemon.address()];
    let fetched = other.run(fetch).ok();
    assert!(fetched["bytes"].as_u64().unwrap() > 2_000_000);
    kill(daemon.pid(), nix::sys::signal::Signal::SIGSTOP);
    let status = query(&validator, "/sync_status").await;
    assert_eq!(status["daemon"], false, "it hangs: {status}");
    kill(daemon.pid(), nix::sys::signal::Signal::SIGKILL);
    let now = validator.rpc().status().await.unwrap().height;
    validator.wait_for_height(now + 3).await;
    let listed = query(&validator, "/snapshots").await;
    let heights = listed["snapshots"].as_array().unwrap().iter();
    assert!(
        heights
            .map(|one| &one["height"])
            .any(|found| *found == height)
    );
    assert_eq!(query(&validator, "/sync_status").await["daemon"], false);

    // A node that knows nothing of snapswarm joins from what the adapter serves.
    let mut plain = joiner(&folder.path().join("plain"), &validator, height).await;
    plain.start();
    follows(&plain, &validator, height).await;
    // A node takes one peer of an address.
    plain.kill();

    // One behind an adapter takes what its own home holds, verified, and no other.
    let mut strict = joiner(&folder.path().join("strict"), &validator, height).await;
    let app = strict.start_app();
    let arguments = ["--offers", "swarm-only", "--chain-id", CHAIN];
    let own = Adapter::start(&other, &app, &arguments);
    strict.start_before(&own.listen);
    follows(&strict, &validator, height).await;
    assert!(own.has_logged("has the trusted application hash"));
    strict.kill();

    // One whose home is still bringing that very snapshot waits for the rest of it.
    let source = other.start::<_, &str>([]);
    let slowly = ["limits", "--upload-bytes-per-s", "150kB"];
    other.run(slowly).ok();
    let late = Home::new();
    let mut fetching = late
        .command(["fetch", &manifest, "--bootstrap", &source.address()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the beginning of a download", async || {
        let listed = late.run(["list"]).ok();
        listed["snapshots"][0]["complete"] == false
    })
    .await;
    let mut hasty = joiner(&folder.path().join("hasty"), &validator, height).await;
    let app = hasty.start_app();
    let own = Adapter::start(&late, &app, &arguments);
    hasty.start_before(&own.listen);
    follows(&hasty, &validator, height).await;
    assert!(own.has_logged("a snapshot that CometBFT offers waits"));
    assert!(fetching.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_on_with_a_full_disk_with_another_daemon_and_without_its_store() {
    let folder = tempfile::tempdir().unwrap();
    let provider = Home::new();
    let Some(_unmount) = small_disk(provider.path(), "24m") else {
        return;
    };
    let daemon = provider.start::<_, &str>([]);
    let mut validator = CometNode::validator(
        &comet_tools(),
        &folder.path().join("v"),
        CHAIN,
        plan(Table::new()),
    );
    let app = validator.start_app();
    let adapter = Adapter::start(&provider, &app, &[]);
    validator.start_before(&adapter.listen);
    validator.wait_for_height(1).await;
    validator.write_state(5, 200_000).await;
    let taken = async |above: u64| {
        wait_until("a snapshot that the daemon took", async || {
            harvested(&provider, 1).is_some_and(|(_, height)| height > above)
        })
        .await;
        harvested(&provider, 1).unwrap().1
    };
    let first = taken(0).await;
    let goes_on = async || {
        let now = validator.rpc().status().await.unwrap().height;
        // Two snapshots of the application later.
        validator.wait_for_height(now + 11).await;
    };

    let filler = provider.path().join("filler");
    fill(&filler);
    goes_on().await;
    let before = query(&validator, "/snapshots").await;
    assert!(before["snapshots"].as_array().is_some(), "{before}");
    std::fs::remove_file(&filler).unwrap();
    let second = taken(first + 5).await;

    // Another one takes the place of the first.
    kill(daemon.pid(), nix::sys::signal::Signal::SIGKILL);
    goes_on().await;
    drop(daemon);
    let daemon = provider.start::<_, &str>([]);
    taken(second + 5).await;

    drop(daemon);
    std::fs::remove_dir_all(provider.path().join("snapshots")).unwrap();
    goes_on().await;
    let none = query(&validator, "/snapshots").await;
    assert_eq!(none["snapshots"].as_array().unwrap().len(), 0, "{none}");
}
