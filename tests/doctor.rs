//! `doctor` against made-up RPCs, a node's home and an empty one.

#[path = "support/fake_rpc.rs"]
mod fake_rpc;
#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::Home;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const CHAIN: &str = "doctor-1";
/// Of the snapshot.
const HEIGHT: u64 = 100;
/// What the snapshot and the chain have, hex.
const APP_HASH: &str = "AB";

/// What an endpoint says.
#[derive(Clone)]
struct Node {
    height: u64,
    earliest: u64,
    block_hash: &'static str,
    app_version: &'static str,
    version: &'static str,
}

const WELL: Node = Node {
    height: 110,
    earliest: 1,
    block_hash: "DD",
    app_version: "1",
    version: "0.38.25",
};

/// An RPC of such a node; its blocks are made now.
fn serve(node: Node) -> String {
    let now = OffsetDateTime::from(std::time::SystemTime::now());
    let time = now.replace_nanosecond(0).unwrap().format(&Rfc3339).unwrap();
    fake_rpc::answering_to(move |method, params| match method {
        "status" => json!({
            "node_info": { "id": "00", "network": CHAIN, "version": node.version },
            "sync_info": {
                "latest_block_height": node.height.to_string(),
                "earliest_block_height": node.earliest.to_string(),
                "latest_block_time": time,
                "catching_up": false,
            },
        }),
        "commit" => json!({ "signed_header": {
            "header": {
                "version": { "app": "1" },
                "height": params["height"],
                "time": time,
                "app_hash": APP_HASH,
            },
            "commit": { "block_id": { "hash": node.block_hash } },
        } }),
        "abci_info" => json!({ "response": { "app_version": node.app_version } }),
        "net_info" => json!({ "n_peers": "0", "peers": [] }),
        other => panic!("asked for {other}"),
    })
}

/// A home with a snapshot of the chain.
fn home() -> Home {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0"), b"chunk").unwrap();
    let height = HEIGHT.to_string();
    let load = ["load", folder.path().to_str().unwrap(), "--kind", "files"];
    let rest = [
        "--chain-id",
        CHAIN,
        "--height",
        &height,
        "--app-hash",
        APP_HASH,
    ];
    home.run([&load[..], &rest].concat()).ok();
    home
}

/// The home of a node that is to state-sync.
fn node_home(trust_height: u64) -> tempfile::TempDir {
    let node = tempfile::tempdir().unwrap();
    fs::create_dir(node.path().join("config")).unwrap();
    let settings = format!(
        "[rpc]\nladdr = \"tcp://127.0.0.1:1\"\n[p2p]\nrecv_rate = 5120000\n[statesync]\n\
         enable = true\nrpc_servers = \"a:1,b:1\"\ntrust_height = {trust_height}\n\
         trust_hash = \"DD\"\ntrust_period = \"168h0m0s\"\n"
    );
    fs::write(node.path().join("config/config.toml"), settings).unwrap();
    let genesis = json!({ "chain_id": CHAIN }).to_string();
    fs::write(node.path().join("config/genesis.json"), genesis).unwrap();
    node
}

/// Exit code and document.
fn doctor(home: &Home, arguments: &[&str]) -> (Option<i32>, Value) {
    let arguments = [&["doctor"], arguments].concat();
    let output = home.command(arguments).output().unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.code(), document)
}

/// The level of the first finding on a subject.
fn level<'a>(document: &'a Value, subject: &str) -> &'a str {
    let mut findings = document["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["subject"] == subject);
    found.map_or("none", |finding| finding["level"].as_str().unwrap())
}

fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn an_empty_home_has_hints_that_say_what_to_type_and_stays_empty() {
    let home = Home::new();
    let (code, document) = doctor(&home, &[]);
    assert_eq!(code, Some(0), "{document}");
    assert_eq!(document["problems"], 0);
    let findings = document["findings"].as_array().unwrap();
    for finding in findings {
        let keys: Vec<&String> = finding.as_object().unwrap().keys().collect();
        assert_eq!(keys.len(), 5, "{finding}");
        assert!(finding["subject"].is_string() && !finding["why"].as_str().unwrap().is_empty());
        let is_good = finding["level"] == "good";
        assert_eq!(
            finding["do"].as_str().unwrap().is_empty(),
            is_good,
            "{finding}"
        );
    }
    for subject in ["daemon", "snapshot", "endpoints", "node home", "node"] {
        assert_eq!(level(&document, subject), "hint", "{subject}");
    }
    assert_eq!(files(home.path()), [""; 0], "it only looks");
    let missing = home.path().join("missing");
    let output = support::run_in(&missing, ["doctor"]);
    assert_eq!(output.ok()["problems"], 0);
    assert!(!missing.exists());
}

#[test]
fn a_node_that_can_be_restored_has_no_problem() {
    let (home, node) = (home(), node_home(HEIGHT));
    let (a, b) = (serve(WELL), serve(WELL));
    let own = serve(Node {
        height: 0,
        earliest: 0,
        ..WELL
    });
    let folder = node.path().to_str().unwrap();
    let before = files(home.path());
    let endpoints = format!("{a},{b}");
    let arguments = [
        "--node-home",
        folder,
        "--node-rpc",
        &own,
        "--chain-rpc",
        &endpoints,
    ];
    let (code, document) = doctor(&home, &arguments);
    assert_eq!(code, Some(0), "{document:#}");
    for subject in [
        "snapshot",
        "endpoints",
        "chain id",
        "agreement",
        "clock",
        "history",
        "application hash",
        "node height",
        "application version",
        "CometBFT version",
        "trust height",
        "trust hash",
        "trust period",
        "disk of the node",
    ] {
        assert_eq!(level(&document, subject), "good", "{subject}: {document:#}");
    }
    assert_eq!(level(&document, "recv_rate"), "hint");
    assert_eq!(files(home.path()), before);
}

#[test]
fn what_would_stop_a_restore_is_told_before_it_begins() {
    let (home, node) = (home(), node_home(HEIGHT + 1));
    fs::write(node.path().join("snapswarm-join.json"), "{}").unwrap();
    let pruned = serve(Node {
        earliest: HEIGHT + 2,
        ..WELL
    });
    let other = serve(Node {
        block_hash: "EE",
        earliest: HEIGHT + 2,
        ..WELL
    });
    let own = serve(Node {
        height: 0,
        earliest: 0,
        app_version: "2",
        ..WELL
    });
    let folder = node.path().to_str().unwrap();
    let endpoints = format!("{pruned},{other},http://127.0.0.1:1");
    let arguments = [
        "--node-home",
        folder,
        "--node-rpc",
        &own,
        "--chain-rpc",
        &endpoints,
    ];
    let (code, document) = doctor(&home, &arguments);
    assert_eq!(code, Some(1), "{document:#}");
    for subject in [
        "agreement",
        "history",
        "trust height",
        "application version",
        "join",
    ] {
        assert_eq!(
            level(&document, subject),
            "problem",
            "{subject}: {document:#}"
        );
    }
    assert_eq!(level(&document, "endpoints"), "hint", "two are left");
    let findings = document["findings"].as_array().unwrap();
    let problems = document["problems"].as_u64().unwrap() as usize;
    let (first, rest) = findings.split_at(problems);
    assert!(first.iter().all(|finding| finding["level"] == "problem"));
    assert!(rest.iter().all(|finding| finding["level"] != "problem"));
}

#[test]
fn a_daemon_is_asked_for_its_peers_and_its_port() {
    let home = Home::new();
    let _daemon = home.start([""; 0]);
    let (code, document) = doctor(&home, &[]);
    assert_eq!(code, Some(0), "{document:#}");
    assert_eq!(level(&document, "daemon"), "good");
    assert_eq!(level(&document, "peers"), "hint");
    assert_eq!(level(&document, "own port"), "hint");
}
