//! A daemon that reads the snapshot folder of a node, from the first look to the
//! shelf. The folder and the RPC are made up; the program is the real one.

#[path = "support/fake_rpc.rs"]
mod fake_rpc;
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use support::{Daemon, Home, eventually};

const CHAIN: &str = "sdk-folder-1";
const HEIGHT: u64 = 70;
const CHUNK_BYTES: usize = 10_000_000;

/// A snapshot of two chunks, as a node leaves it.
fn write_snapshot(folder: &Path) -> PathBuf {
    let mut content = vec![0; CHUNK_BYTES + 5000];
    rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut content);
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(&content).unwrap();
    let place = folder.join(HEIGHT.to_string()).join("3");
    std::fs::create_dir_all(&place).unwrap();
    for (index, chunk) in encoder.finish().unwrap().chunks(CHUNK_BYTES).enumerate() {
        std::fs::write(place.join(index.to_string()), chunk).unwrap();
    }
    place
}

/// The manifest's CID when a person brings the same files and says of them what a
/// node would.
fn loaded_by_hand(place: &Path) -> String {
    let (mut whole, mut metadata) = (Sha256::new(), String::new());
    for index in 0..2 {
        let chunk = std::fs::read(place.join(index.to_string())).unwrap();
        whole.update(&chunk);
        metadata += &format!("0a20{}", hex::encode(Sha256::digest(&chunk)));
    }
    let hash = hex::encode(whole.finalize());
    let (place, height) = (place.to_str().unwrap(), HEIGHT.to_string());
    let what = ["load", place, "--kind", "files", "--chain-id", CHAIN];
    let fields = ["--height", &height, "--format", "3", "--app-hash", "AB"];
    let hashes = ["--hash", &hash, "--metadata", &metadata];
    let home = Home::new();
    let loaded = home.run(what.iter().chain(&fields).chain(&hashes)).ok();
    loaded["manifest"].as_str().unwrap().to_owned()
}

/// An RPC whose tip the test moves.
fn rpc(tip: &Arc<AtomicU64>) -> String {
    let tip = tip.clone();
    fake_rpc::answering(move |method| match method {
        "commit" => json!({ "signed_header": { "header": {
            "height": (HEIGHT + 1).to_string(), "app_hash": "AB",
        } } }),
        _ => fake_rpc::status(CHAIN, tip.load(Ordering::Relaxed)),
    })
}

fn folder_status(daemon: &Daemon) -> Value {
    daemon.status()["sdk_snapshots"].clone()
}

fn waits(daemon: &Daemon, why: &str) -> Option<()> {
    let status = folder_status(daemon);
    status["waiting"].as_str()?.contains(why).then_some(())
}

#[test]
fn a_nodes_snapshot_folder_is_seeded_and_outlived() {
    let node = tempfile::tempdir().unwrap();
    let folder = node.path().join("snapshots");
    let tip = Arc::new(AtomicU64::new(HEIGHT + 1));
    let home = Home::new();
    let (url, place) = (rpc(&tip), folder.to_str().unwrap());
    let arguments = ["--sdk-snapshots", place, "--node-rpc", &url];
    let daemon = home.start(arguments);
    eventually("a folder that is missing is told", || {
        let error = folder_status(&daemon)["last_error"].clone();
        error.as_str()?.contains("cannot be read").then_some(())
    });

    let place = write_snapshot(&folder);
    eventually("the chain is waited for", || waits(&daemon, "two blocks"));
    tip.store(HEIGHT + 2, Ordering::Relaxed);
    eventually("quiet files are waited for", || {
        waits(&daemon, "may still change")
    });
    let here = |daemon: &Daemon| daemon.status()["snapshots"].get(0).cloned();
    let snapshot = eventually("the snapshot is here", || here(&daemon));
    assert_eq!(snapshot["manifest"], *loaded_by_hand(&place));
    assert_eq!(snapshot["proven"], true);
    assert_eq!(snapshot["origin"], "harvested");
    assert!(snapshot["complete"].as_bool().unwrap());
    let status = eventually("all is well", || {
        let status = folder_status(&daemon);
        status["last_error"].is_null().then_some(status)
    });
    assert_eq!(status["newest_height"], HEIGHT);
    assert!(status["waiting"].is_null(), "{status}");
    let metrics = daemon.get("/metrics");
    assert!(metrics.contains("snapswarm_harvest_folder_well 1"));
    assert!(metrics.contains("snapswarm_harvest_snapshots_total 1"));
    assert!(!metrics.contains("harvest_connected"), "no p2p harvest");

    // The node prunes; what was taken stays.
    std::fs::remove_dir_all(place.parent().unwrap()).unwrap();
    let cid = snapshot["manifest"].as_str().unwrap();
    let says_computed = |daemon: &Daemon| {
        let shown = home.run(["show", cid]).ok();
        let own = json!({
            "endorser": daemon.peer_id(), "kind": "computed", "listed": false, "own": true,
        });
        assert_eq!(shown["endorsements"], json!([own]));
    };
    says_computed(&daemon);
    assert_eq!(daemon.terminate(), Some(0));
    // A run that was killed between the two says it at its next start.
    let endorsed = home.path().join(format!("snapshots/{cid}.endorsed"));
    std::fs::remove_file(endorsed).unwrap();
    let settings = "[harvest]\nsdk_snapshots = \"/nowhere\"\nrpc = \"http://127.0.0.1:1\"\n";
    home.configure(settings);
    let daemon = home.start(arguments);
    eventually("the command line wins", || {
        let status = folder_status(&daemon);
        (status["folder"] == *arguments[1] && status["newest_height"] == HEIGHT).then_some(())
    });
    assert_eq!(here(&daemon).unwrap()["manifest"], snapshot["manifest"]);
    says_computed(&daemon);
}
