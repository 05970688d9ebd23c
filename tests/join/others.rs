//! Other ways to a state: behind an adapter, and from a file when the chain is down.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::network::{Joiner, Network};
use crate::scripted_app::AppProcess;
use crate::support;

/// An adapter between a joiner and an application that was started, without anything
/// that tells it of the chain but the home.
fn adapter_before(joiner: &Joiner, app: &AppProcess) -> support::Running {
    let adapter = [
        "adapter",
        "--app",
        &app.address,
        "--listen",
        "tcp://127.0.0.1:0",
    ];
    let log = std::fs::File::create(joiner.app_data().with_extension("adapter")).unwrap();
    let mut adapter = support::Running(
        joiner
            .home
            .command(adapter)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let mut line = String::new();
    let stdout = adapter.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    joiner.set_app(started["listen"].as_str().unwrap());
    adapter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_an_adapter_gets_the_names_of_chunks_and_the_adapter_puts_bytes_in() {
    let network = Network::start().await;
    an_application_of_another_version_is_known_before_cometbft_asks_it(&network);
    let joiner = network.joiner("behind");
    let app = AppProcess::start(&joiner.app_data(), &["--empty-check"]);
    let _adapter = adapter_before(&joiner, &app);
    let ended = joiner.join_before_app(&network, &["--fallback", "none"]);
    assert_eq!(
        ended.code,
        Some(0),
        "{}\n{}",
        ended.ran.stdout(),
        ended.ran.stderr()
    );
    assert_eq!(ended.said()["rung"], "swarm");
    let progress = ended.ran.stderr();
    assert!(
        progress.contains("only the names of the chunks are sent"),
        "{progress}"
    );
    let chunks = app.log().matches("-> ACCEPT").count();
    assert!(chunks > 4, "an offer and its chunks: {}", app.log());
}

/// The version is that of the header which proved the snapshot. Where CometBFT finds it
/// wrong by itself, it gives up state sync for good.
fn an_application_of_another_version_is_known_before_cometbft_asks_it(network: &Network) {
    let joiner = network.joiner("version");
    let app = AppProcess::start(&joiner.app_data(), &["--script", "wrong-version"]);
    let _adapter = adapter_before(&joiner, &app);
    let ended = joiner.join_before_app(network, &["--fallback", "none"]);
    assert_eq!(ended.code, Some(7), "{}", ended.ran.stdout());
    let log = std::fs::read_to_string(joiner.app_data().with_extension("adapter")).unwrap();
    assert!(
        log.contains("its application version is 2, and the chain has 1"),
        "{log}"
    );
    let told = ended.ran.stderr();
    assert!(told.contains("does not take the snapshot"), "{told}");
    assert!(!joiner.node_log().contains("State sync failed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_chain_that_is_down_is_restored_from_a_file_and_one_node_with_blocks() {
    let mut network = Network::start().await;
    let listed = network.provider.run(["list"]).ok();
    let newest = &listed["snapshots"][0];
    let manifest = newest["manifest"].as_str().unwrap().to_owned();
    let height = newest["height"].as_u64().unwrap();
    network.follower.wait_for_height(height + 3).await;
    let folder = tempfile::tempdir().unwrap();
    let car = folder.path().join("snapshot.car");
    let car = car.to_str().unwrap();
    network.provider.run(["dump", &manifest, car]).ok();
    let (_, hash) = network.follower.trusted(height).await;

    // Nobody makes blocks any more, and nobody shares anything.
    network.validator.kill();
    network.daemon = None;
    let tip = network.follower.rpc().status().await.unwrap().height;
    let joiner = network.joiner("restored");
    joiner.name_peers(&network.follower.address().to_string());
    let trusted = height.to_string();
    let ended = joiner.restore(
        car,
        &[
            "--chain-rpc",
            &network.follower.rpc_url,
            "--trust-height",
            &trusted,
            "--trust-hash",
            &hash,
        ],
    );
    assert_eq!(
        ended.code,
        Some(0),
        "{}\n{}",
        ended.ran.stdout(),
        ended.ran.stderr()
    );
    let said = ended.said();
    assert_eq!(said["manifest"], manifest.as_str());
    assert!(said["height"].as_u64().unwrap() + 1 >= tip, "{said}");
}
