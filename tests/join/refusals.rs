//! What a join tells before it begins, or instead of going on.

use std::sync::Arc;

use bytes::Bytes;
use nix::sys::signal::Signal;
use snapswarm::snapshot::{Manifest, ManifestBuilder, SnapshotFields};
use toml::Table;

use crate::liar::{FalseLibrary, Liar};
use crate::network::{CHAIN, Joiner, Network, Running};
use crate::small_disk::small_disk;
use crate::support;

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_cannot_go_on_says_why_and_leaves_the_node_as_it_was() {
    let network = Network::start().await;
    a_command_is_not_there(&network);
    the_node_has_no_rpc(&network);
    the_person_stops_it_while_it_waits(&network);
    a_join_works_on_the_node_already(&network);
    what_the_validator_signed_is_missing(&network);
    a_disk_is_full(&network);
    every_provider_lies(&network).await;
}

fn a_command_is_not_there(network: &Network) {
    let joiner = network.joiner("command");
    let mut command = joiner.home.command(["join", "--node-home"]);
    command
        .arg(&joiner.node.home)
        .args(["--chain-rpc", &network.rpcs()])
        .args(["--node-cmd", "no-such-node start --home x"]);
    let error = support::Ran(command.output().unwrap()).failed(2);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("`no-such-node` is not found"), "{error}");
}

fn the_node_has_no_rpc(network: &Network) {
    let joiner = network.joiner("mute");
    let mut rpc = Table::new();
    rpc.insert("laddr".into(), "".into());
    let mut settings = Table::new();
    settings.insert("rpc".into(), rpc.into());
    joiner.node.configure(settings);
    let error = joiner.join(network, &[]).ran.failed(2);
    assert!(
        error["message"].as_str().unwrap().contains("rpc.laddr"),
        "{error}"
    );
}

fn the_person_stops_it_while_it_waits(network: &Network) {
    let joiner = network.joiner("stopped");
    let command = joiner.command_with_app(network, "exec sleep 600");
    let mut join = Running::start(command);
    join.wait_for("starting the application");
    support::kill(join.child.id(), Signal::SIGINT);
    join.finish(6);
    assert!(joiner.has_own_settings());
    it_goes_on_with_what_it_has(network, &joiner);
}

/// A newer snapshot may be there by now: what was downloaded is taken all the same.
fn it_goes_on_with_what_it_has(network: &Network, joiner: &Joiner) {
    let here = joiner.home.run(["list"]).ok()["snapshots"][0]["manifest"].clone();
    let said = joiner.join(network, &[]).said();
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["manifest"], here, "{said}");
    assert!(said["fetched"].is_null(), "{said}");
    assert!(joiner.is_as_it_was());
}

fn a_join_works_on_the_node_already(network: &Network) {
    let joiner = network.joiner("both");
    let mut join = Running::start(joiner.command_with_app(network, "exec sleep 600"));
    join.wait_for("starting the application");
    let error = joiner.join(network, &[]).ran.failed(1);
    assert!(
        error["message"].as_str().unwrap().contains("another join"),
        "{error}"
    );
    support::kill(join.child.id(), Signal::SIGINT);
    join.finish(6);
    assert!(joiner.has_own_settings());
}

/// A file that no way to a state can do without.
fn what_the_validator_signed_is_missing(network: &Network) {
    let joiner = network.joiner("unsigned");
    std::fs::remove_file(joiner.node.home.join("data/priv_validator_state.json")).unwrap();
    let error = joiner.join(network, &[]).ran.failed(2);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("priv_validator_state.json"), "{error}");
}

fn a_disk_is_full(network: &Network) {
    let of_the_app = |joiner: &Joiner| joiner.app_data();
    let of_the_home = |joiner: &Joiner| joiner.home.path().to_owned();
    for (name, full) in [
        ("app", &of_the_app as &dyn Fn(&Joiner) -> std::path::PathBuf),
        ("home", &of_the_home),
    ] {
        let joiner = network.joiner(name);
        let folder = full(&joiner);
        std::fs::create_dir_all(&folder).unwrap();
        let Some(_unmount) = small_disk(&folder, "200k") else {
            return;
        };
        let error = joiner.join(network, &[]).ran.failed(5);
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(folder.to_str().unwrap()),
            "{name}: {error}"
        );
        assert!(joiner.is_as_it_was());
    }
}

/// The manifest is of the chain's own state; no byte that comes for it is.
async fn every_provider_lies(network: &Network) {
    let height = 2;
    let rpc = network.validator.rpc();
    let app_hash = rpc.app_hash_after(height).await.unwrap();
    let manifest = Arc::new(manifest(height, app_hash));
    let library = FalseLibrary::of_zeros(manifest);
    let joiner = network.joiner("lied-to");
    let liar = tokio::task::spawn_blocking(move || Liar::start(library, &[]));
    let liar = liar.await.unwrap();
    let more = ["--bootstrap", &liar.address(), "--timeout", "5"];
    let ended = joiner.join(network, &more);
    assert_eq!(ended.code, Some(8), "{}", ended.ran.stderr());
    let said = ended.said();
    assert_eq!(said["rung"], "peers", "{said}");
    assert!(
        ended.ran.stderr().contains("banned"),
        "{}",
        ended.ran.stderr()
    );
    assert!(joiner.is_as_it_was());
    tokio::task::spawn_blocking(move || drop(liar))
        .await
        .unwrap();
}

fn manifest(height: u64, app_hash: Bytes) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for number in 1..4 {
        builder.push(&vec![number; 50_000]).unwrap();
    }
    let fields = SnapshotFields {
        chain_id: CHAIN.to_owned(),
        height,
        app_hash: Some(app_hash),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    builder.finish(fields).unwrap()
}
