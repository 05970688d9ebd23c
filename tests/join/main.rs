//! `join` with real CometBFT and an application that misbehaves as it is told.

#![allow(clippy::unwrap_used)]

mod chain;
#[path = "../support/comet_nodes.rs"]
mod comet_nodes;
#[path = "../support/comet_tools.rs"]
mod comet_tools;
mod cut_off;
#[path = "../support/fake_rpc.rs"]
mod fake_rpc;
mod faults;
#[path = "../support/liar.rs"]
mod liar;
mod middle;
mod network;
mod others;
mod refusals;
#[path = "../support/scripted_app.rs"]
mod scripted_app;
#[path = "../support/small_disk.rs"]
mod small_disk;
#[path = "../support/mod.rs"]
mod support;

use network::{Ended, Network, Running};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_gets_to_the_tip_and_stays_there_with_its_own_settings() {
    let network = Network::start().await;
    let joiner = network.joiner("one");
    let command = joiner.command(&network, &[]);
    // A supervisor, unlike the other tests.
    let staying = without(&command, &["--exit-when-synced", "--no-seed"]);
    let mut join = Running::start(staying);
    join.wait_for("own settings come back");
    let said = join.first_line();
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["steps"], json!([]));
    assert_eq!(said["fetched"]["proven"], true);
    assert!(joiner.is_as_it_was());
    let height = said["height"].as_u64().unwrap();
    assert!(height > said["snapshot_height"].as_u64().unwrap() + 1);
    joiner.node.wait_for_height(height + 3).await;
    assert_eq!(
        joiner.node.rpc().app_hash_after(height).await.unwrap(),
        network
            .validator
            .rpc()
            .app_hash_after(height)
            .await
            .unwrap(),
    );
    // What it has it serves, and its status tells of the join.
    let status = joiner.home.run(["status"]).ok();
    assert_eq!(status["running"], true);
    assert_eq!(status["join"]["phase"], "synced");
    // A node that ends is started again.
    let before = joiner.node.rpc().status().await.unwrap().height;
    support::kill(node_of(&joiner), nix::sys::signal::Signal::SIGKILL);
    join.wait_for("started again");
    joiner.node.wait_for_height(before + 3).await;
    // Told to stop, it stops the node, too.
    support::kill(join.child.id(), nix::sys::signal::Signal::SIGTERM);
    assert_eq!(support::wait(&mut join.child).code(), Some(0));
    assert!(joiner.node.rpc().status().await.is_err());

    // The same command again follows on with the blocks that are there.
    let again = joiner.join(&network, &[]);
    assert_eq!(again.code, Some(0), "{}", again.ran.stderr());
    let said = again.said();
    assert_eq!(said["rung"], "none");
    assert_eq!(said["seeding"], json!(null), "it was told to leave none");
    assert!(joiner.is_as_it_was());

    // Left to itself, it leaves a daemon that shares the snapshot.
    let leaving = without(&joiner.command(&network, &[]), &["--no-seed"]);
    let left = Ended::of(leaving);
    let said = left.said();
    let status = joiner.home.run(["status"]).ok();
    assert_eq!(status["running"], true, "{}", left.ran.stderr());
    let process = said["seeding"]["process"].as_u64().unwrap() as u32;
    let log = std::path::Path::new(said["seeding"]["log"].as_str().unwrap());
    assert!(std::fs::read_to_string(log).unwrap().contains("peer_id"));
    // One that runs already stays the only one.
    let leaving = without(&joiner.command(&network, &[]), &["--no-seed"]);
    assert_eq!(Ended::of(leaving).said()["seeding"], json!(null));
    support::kill(process, nix::sys::signal::Signal::SIGTERM);
    support::eventually("the daemon ends", || {
        let status = joiner.home.run(["status"]).ok();
        (status["running"] == false).then_some(())
    });
}

/// The same command without some of its arguments.
fn without(command: &std::process::Command, left_out: &[&str]) -> std::process::Command {
    let mut shorter = std::process::Command::new(command.get_program());
    let arguments = command.get_args();
    shorter.args(arguments.filter(|one| left_out.iter().all(|out| one != out)));
    shorter
}

/// The joiner's CometBFT.
fn node_of(joiner: &network::Joiner) -> u32 {
    process_of("cometbft", &joiner.node.home)
}

/// The joiner's application.
fn app_of(joiner: &network::Joiner) -> u32 {
    process_of(scripted_app::SCRIPTED_APP, &joiner.app_data())
}

/// The process of a program that was told a folder, not the shell that keeps it.
fn process_of(program: &str, folder: &std::path::Path) -> u32 {
    let folder = folder.to_str().unwrap();
    let is_it = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let own = line.split('\0').next().unwrap_or_default();
        own.ends_with(program) && line.contains(folder)
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let found = processes.map_while(Result::ok).find(is_it).unwrap();
    found.file_name().to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_that_is_killed_in_any_phase_goes_on_when_it_is_started_again() {
    let network = Network::start().await;
    for (name, text) in [
        ("download", "fetching "),
        ("node", "starting CometBFT"),
        ("feed", "snapshot offered"),
        ("restore", "the node has all chunks"),
        ("window", "catching up"),
        ("blocks", "the first block after the snapshot is stored"),
        ("settings", "own settings come back"),
    ] {
        let joiner = network.joiner(name);
        joiner.join_until(&network, text);
        let ended = joiner.join(&network, &[]);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.ran.stderr());
        assert!(joiner.is_as_it_was());
        println!("{name}: {}", ended.said()["rung"]);
    }
}
