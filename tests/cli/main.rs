//! The real program: its help, its wrong use, and its verbs against a daemon
//! whose answers are made up.

mod home;
#[path = "../support/mod.rs"]
mod homes;
mod selection;
#[path = "../support/small_disk.rs"]
mod small_disk;
mod state;
mod states;
mod support;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use snapswarm::node::command::Command;
use tokio::{io::AsyncReadExt, time::timeout};

use support::*;

const VERBS: [&str; 19] = [
    "init", "load", "start", "fetch", "feed", "list", "show", "verify", "dump", "diff", "delta",
    "genesis", "delete", "pin", "unpin", "endorse", "status", "limits", "doctor",
];

#[tokio::test]
async fn every_verb_has_a_help_with_an_example() {
    let home = tempfile::tempdir().unwrap();
    let all = stdout(&run(home.path(), &["--help"]).await);
    assert!(all.contains("Example") && all.contains("Exit codes"));
    for verb in VERBS {
        assert!(
            all.contains(&format!("\n  {verb} ")),
            "{verb} is missing: {all}"
        );
        let help = run(home.path(), &[verb, "--help"]).await;
        assert_eq!(help.status.code(), Some(0));
        let help = stdout(&help);
        let example = help.split("Example").nth(1).unwrap_or_default();
        assert!(
            example.contains("snapswarm ") && example.contains(verb),
            "{verb}: {help}"
        );
        assert!(help.contains("--home") && help.contains("--json"), "{help}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

/// One character more than CometBFT takes.
const LONG_CHAIN_ID: &str = "chain-6789-123456789-123456789-123456789-123456789-";

/// 2^63: heights are signed.
const TOO_HIGH: &str = "9223372036854775808";

const NODE: &str = "0123456789abcdef0123456789abcdef01234567@127.0.0.1:26656";

/// The made-up daemon feeds until it is cancelled.
const FEED: [&str; 6] = [
    "feed",
    CID,
    "--node-p2p",
    NODE,
    "--node-rpc",
    "http://127.0.0.1:1",
];

#[tokio::test]
async fn wrong_use_exits_with_2_and_a_sentence_and_as_json_with_a_document() {
    let home = tempfile::tempdir().unwrap();
    let wrong: &[&[&str]] = &[
        &[],
        &["dance"],
        &["list", "--sideways"],
        &["show"],
        &["show", "not-a-cid"],
        &["verify", "not-a-cid"],
        &["load", "x"],
        &["load", "x", "--kind", "files", "--chain-id", "c"],
        &["load", "x", "--kind", "file", "--height", "1"],
        &[
            "load",
            "x",
            "--kind",
            "file",
            "--chain-id",
            "c",
            "--height",
            "0",
        ],
        &["load", "x", "--kind", "car", "--app-hash", "xyz"],
        &["load", "x", "--kind", "car", "--chain-id", ""],
        &["load", "x", "--kind", "car", "--chain-id", LONG_CHAIN_ID],
        &["load", "x", "--kind", "car", "--height", TOO_HIGH],
        &["fetch", "--chain-id", ""],
        &["fetch", "--chain-id", LONG_CHAIN_ID],
        &["fetch", "--chain-id", "c", "--height", "0"],
        &["fetch", "--chain-id", "c", "--height", TOO_HIGH],
        &["fetch"],
        &["fetch", CID, "--chain-id", "c"],
        &["fetch", CID, "--height", "1"],
        &["fetch", CID, "--bootstrap", "/ip4/127.0.0.1/tcp/1"],
        &["fetch", CID, "--node-rpc", "127.0.0.1:26657"],
        &["start", "--harvest", NODE],
        &["start", "--sdk-snapshots", "data/snapshots"],
        &["start", "--node-rpc", "http://h"],
        &["start", "--listen", "localhost:1"],
        &[
            "feed",
            CID,
            "--node-p2p",
            "127.0.0.1:1",
            "--node-rpc",
            "http://h",
        ],
        &["init", "--network", "NOT A NAME"],
        &["dump", CID, "x", "--format", "yaml"],
        &["diff", CID],
        &["delta", CID],
        &["genesis", "--from", CID],
        &["limits", "--upload-bytes-per-s", "much"],
        &["limits", "--upload-slots", "65"],
    ];
    for arguments in wrong {
        let text = run(home.path(), arguments).await;
        assert_eq!(text.status.code(), Some(2), "{arguments:?}");
        assert!(stdout(&text).is_empty(), "{arguments:?}");
        assert!(!stderr(&text).is_empty(), "{arguments:?}");
        let mut as_json = vec!["--json"];
        as_json.extend(*arguments);
        let output = run(home.path(), &as_json).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let document = json(&output);
        assert_eq!(document["error"]["code"], "usage", "{document}");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(!message.is_empty() && !message.contains('\n'), "{document}");
        assert!(document["error"]["hint"].is_string(), "{document}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_verb_goes_through_the_daemon_of_its_home() {
    let mut daemon = Daemon::start().await;
    let output = daemon.run(&["list", "--json"]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(json(&output)["snapshots"][0]["manifest"], CID);
    assert!(matches!(daemon.asked.recv().await, Some(Command::List)));
    let mode = std::fs::metadata(daemon.home.path().join("api.sock")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let files = std::fs::read_dir(daemon.home.path()).unwrap().count();
    assert_eq!(files, 1, "the daemon's home is its own matter");
}

#[tokio::test]
async fn the_flag_wins_over_the_variable() {
    let daemon = Daemon::start().await;
    let other = tempfile::tempdir().unwrap();
    let home = daemon.home.path().to_str().unwrap();
    let output = run(other.path(), &["pin", CID, "--home", home]).await;
    assert_eq!(stdout(&output), format!("Pinned: {CID}\n"));
}

#[tokio::test]
async fn nothing_from_the_network_reaches_the_terminal_unescaped() {
    let daemon = Daemon::start().await;
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["show", CID],
        &["show", CID, "--json"],
        &["fetch", CID],
    ] {
        let output = daemon.run(arguments).await;
        for text in [stdout(&output), stderr(&output)] {
            let hostile = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(hostile), "{arguments:?}: {text:?}");
        }
    }
    let text = stdout(&daemon.run(&["list"]).await);
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains("not proven"));
}

#[tokio::test]
async fn a_download_tells_its_progress_on_stderr_and_its_outcome_on_stdout() {
    let daemon = Daemon::start().await;
    let output = daemon.run(&["fetch", CID]).await;
    assert_eq!(output.status.code(), Some(0));
    let told = stderr(&output);
    assert_eq!(
        told.lines().collect::<Vec<_>>(),
        [
            "downloading",
            // Lines between the first and the last are held back for seconds.
            "downloading: 16.0 MiB of 16.0 MiB (100 %), 1.0 MiB/s, 4 peers, then: sealing",
            "peer \\u{1b}[2Jevil was banned",
        ],
    );
    assert!(stdout(&output).contains("Bytes checked, state not proven"));
    let output = daemon.run(&["--json", "fetch", CID]).await;
    let document = json(&output);
    for key in [
        "manifest",
        "bytes",
        "received_bytes",
        "resumed_bytes",
        "wasted_bytes",
        "seconds",
        "proven",
    ] {
        assert!(!document[key].is_null(), "{key}: {document}");
    }
    assert_eq!(document["peers"][0]["peer_id"], "12D3KooW");
}

#[tokio::test]
async fn a_failure_has_the_exit_code_of_its_class() {
    let daemon = Daemon::start().await;
    for (arguments, exit, code) in [
        (&["verify", CID][..], 4, "verification"),
        (&["show", CID], 3, "not_found"),
        (&["delete", CID], 7, "policy"),
    ] {
        let mut as_json = arguments.to_vec();
        as_json.push("--json");
        let output = daemon.run(&as_json).await;
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}");
        assert_eq!(json(&output)["error"]["code"], code);
        let output = daemon.run(arguments).await;
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}");
        assert!(stderr(&output).starts_with("error: ") && stdout(&output).is_empty());
    }
}

#[tokio::test]
async fn ctrl_c_stops_cleanly_and_says_how_to_go_on() {
    let mut daemon = Daemon::start().await;
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let child = program(daemon.home.path()).args(FEED).spawn().unwrap();
        timeout(PATIENCE, daemon.asked.recv()).await.unwrap();
        kill(Pid::from_raw(child.id().unwrap() as i32), signal).unwrap();
        timeout(PATIENCE, daemon.cancelled.recv()).await.unwrap();
        let output = end_of(child).await;
        assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
        let told = stderr(&output);
        assert!(
            told.contains("interrupted") && told.contains("same command again"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_second_ctrl_c_leaves_at_once() {
    let mut daemon = Daemon::start().await;
    let mut child = program(daemon.home.path())
        .args(["--json", "dump", CID, "x.car"])
        .spawn()
        .unwrap();
    let id = Pid::from_raw(child.id().unwrap() as i32);
    timeout(PATIENCE, daemon.asked.recv()).await.unwrap();
    // The same Ctrl-C may come twice; a person's second one comes later.
    let impatient = async {
        loop {
            let _ = kill(id, Signal::SIGINT);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let left = async {
        let mut said = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_to_string(&mut said).await.unwrap();
        (said, child.wait().await.unwrap())
    };
    let left = timeout(PATIENCE, async {
        tokio::select! {
            left = left => left,
            () = impatient => unreachable!("it has no end"),
        }
    });
    let (said, status) = left.await.unwrap();
    assert_eq!(status.code(), Some(6));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["error"]["code"], "interrupted", "{said}");
}

#[tokio::test]
async fn a_command_line_that_is_killed_takes_its_request_with_it() {
    let mut daemon = Daemon::start().await;
    let mut child = program(daemon.home.path()).args(FEED).spawn().unwrap();
    timeout(PATIENCE, daemon.asked.recv()).await.unwrap();
    child.kill().await.unwrap();
    timeout(PATIENCE, daemon.cancelled.recv()).await.unwrap();
}

#[tokio::test]
async fn limits_are_changed_live_and_need_a_daemon() {
    let mut daemon = Daemon::start().await;
    let output = daemon
        .run(&["limits", "--upload-bytes-per-s", "12MB", "--json"])
        .await;
    assert_eq!(json(&output)["upload_bytes_per_s"], 12_000_000);
    let Some(Command::Limits(asked)) = daemon.asked.recv().await else {
        panic!("another command came");
    };
    assert_eq!(
        (asked.upload_bytes_per_s, asked.upload_slots),
        (Some(12_000_000), None)
    );
    let nobody = tempfile::tempdir().unwrap();
    let output = run(nobody.path(), &["limits"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no daemon runs"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn paths_are_absolute_when_they_reach_the_daemon() {
    let mut daemon = Daemon::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let child = program(daemon.home.path())
        .args([
            "load",
            "chunks",
            "--kind",
            "files",
            "--chain-id",
            "c",
            "--height",
            "7",
        ])
        .current_dir(elsewhere.path())
        .spawn()
        .unwrap();
    end_of(child).await;
    let Some(Command::Load(load)) = daemon.asked.recv().await else {
        panic!("another command came");
    };
    let expected = elsewhere.path().canonicalize().unwrap().join("chunks");
    assert_eq!(load.path, expected);
}
