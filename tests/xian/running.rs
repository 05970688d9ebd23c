//! A Xian node that runs: its storage is copied by the adapter at Commit, and the daemon
//! makes snapshots of the copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use tendermint_proto::v0_38::abci::{RequestCommit, RequestFinalizeBlock, request, response};

use crate::adapter::Adapter;
use crate::app::{FakeApp, obliging};
use crate::comet::Node;
use crate::process::{Daemon, Home, eventually};
use crate::support::*;

/// What the files of two states are made of; a node goes from one to the other and back.
struct States([PathBuf; 2]);

impl States {
    fn new(folder: &Path) -> Self {
        Self(["even", "odd"].map(|name| {
            let state = folder.join(name);
            let seed = if name == "even" { "1" } else { "2" };
            let flags = ["--records", "300", "--files", "3", "--seed", seed].map(Path::new);
            let options = [&[state.as_path()][..], &flags].concat();
            python("generate.py", &options, None);
            state
        }))
    }

    /// Writes the state of a block into a storage, in place.
    fn write(&self, height: i64, storage: &Path) {
        let from = &self.0[(height % 2) as usize];
        for folder in ["contract_state", "run_state"] {
            fs::create_dir_all(storage.join(folder)).unwrap();
            for file in fs::read_dir(from.join(folder)).unwrap() {
                let file = file.unwrap();
                let bytes = fs::read(file.path()).unwrap();
                fs::write(storage.join(folder).join(file.file_name()), bytes).unwrap();
            }
        }
        let hash = hex::encode(app_hash(height));
        let latest = format!(r#"{{"hash": "{hash}", "height": {height}}}"#);
        fs::write(storage.join("__latest_block.json"), latest).unwrap();
    }

    /// The CID that the state of a block has, by `load` of a stopped node.
    fn cid(&self, height: i64, folder: &Path) -> String {
        let storage = folder.join(format!("stopped-{height}"));
        self.write(height, &storage);
        let storage = storage.to_str().unwrap();
        let load = ["load", storage, "--kind", "xian", "--chain-id", "xian-1"];
        let loaded = Home::new().run(load).ok();
        loaded["manifest"].as_str().unwrap().to_owned()
    }
}

fn app_hash(height: i64) -> String {
    format!("{height:064}")
}

/// CometBFT before the adapter before an application that writes its storage at Commit.
struct Chain {
    node: Node,
    height: i64,
    _app: FakeApp,
}

impl Chain {
    fn new(adapter: &Adapter, app: FakeApp) -> Self {
        Self {
            node: Node::connect(&adapter.listen.parse().unwrap()),
            height: 0,
            _app: app,
        }
    }

    fn blocks_until(&mut self, height: i64) {
        while self.height < height {
            self.height += 1;
            let block = RequestFinalizeBlock {
                height: self.height,
                hash: app_hash(self.height).into(),
                ..Default::default()
            };
            self.node.call(request::Value::FinalizeBlock(block));
            let answer = self.node.call(request::Value::Commit(RequestCommit {}));
            assert!(matches!(answer, response::Value::Commit(_)));
        }
    }
}

/// The application; at the height `spoiled` it writes what no node writes.
fn app(states: States, storage: PathBuf, spoiled: i64) -> FakeApp {
    let executing = Mutex::new(0);
    let rest = obliging(0, b"");
    FakeApp::start(move |asked| {
        match asked {
            request::Value::FinalizeBlock(block) => *executing.lock().unwrap() = block.height,
            request::Value::Commit(_) => {
                let height = *executing.lock().unwrap();
                states.write(height, &storage);
                if height == spoiled {
                    fs::write(storage.join("contract_state/con_001"), b"no HDF5").unwrap();
                }
            }
            request::Value::ListSnapshots(_) => {
                return Some(response::Value::ListSnapshots(Default::default()));
            }
            _ => {}
        }
        rest(asked)
    })
}

/// Height and CID of the snapshots that are here, newest first.
fn here(home: &Home) -> Vec<(i64, String)> {
    listed(home, "harvested", "manifest")
}

/// Height and base of the deltas that were made of them.
fn derived(home: &Home) -> Vec<(i64, String)> {
    listed(home, "derived", "base")
}

fn listed(home: &Home, origin: &str, name: &str) -> Vec<(i64, String)> {
    let listed = home.run(["list"]).ok();
    let all = listed["snapshots"].as_array().unwrap().iter();
    let line = |one: &Value| {
        assert_eq!(one["app_hash_confirmed"], true);
        let cid = one[name].as_str().unwrap().to_owned();
        (one["height"].as_i64().unwrap(), cid)
    };
    all.filter(|one| one["origin"] == origin)
        .map(line)
        .collect()
}

/// The part of the status, once it holds.
fn standing(daemon: &Daemon, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let xian = daemon.status()["xian"].clone();
        holds(&xian).then_some(xian)
    })
}

/// The adapter has heard of the snapshot: it may copy again.
fn has_made(adapter: &Adapter, height: u64) {
    let line = format!("made a snapshot of the node's state height={height}");
    eventually(&line, || adapter.has_logged(&line).then_some(()));
}

#[test]
fn a_running_node_is_copied_at_commit_and_its_state_becomes_the_snapshot_of_a_stopped_one() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("xian");
    let states = States::new(folder.path());
    let cids = [10, 20, 40].map(|height| (height, states.cid(height, folder.path())));
    let home = Home::new();
    home.configure(
        "[store]\nmax_snapshots = 2\n[xian]\nsnapshot_interval = 10\ncommit_hold_ms = 1000\n",
    );
    let app = app(states, storage.clone(), 30);
    let options = ["--chain-id", "xian-1", "--xian", storage.to_str().unwrap()];
    let adapter = Adapter::start(&home, &app.address.to_string(), &options);
    let mut chain = Chain::new(&adapter, app);
    let daemon = home.start(["--listen", "/ip4/127.0.0.1/tcp/0"]);

    chain.blocks_until(11);
    let first = standing(&daemon, "a snapshot", |xian| xian["newest_height"] == 10);
    assert_eq!(first["skipped"], 0);
    assert_eq!(first["failed"], 0);
    assert!(first["last_hold_ms"].as_f64().unwrap() < 1100.0, "{first}");
    assert_eq!(first["storage"], storage.to_str().unwrap());
    assert_eq!(here(&home), cids[..1]);
    let metrics = daemon.get("/metrics");
    for metric in [
        "snapswarm_state_newest_height 10",
        "snapswarm_commit_hold_seconds 0.",
    ] {
        assert!(metrics.contains(metric), "{metric}: {metrics}");
    }

    has_made(&adapter, 10);
    // The node goes on without the daemon, and the copy waits for it.
    daemon.kill();
    chain.blocks_until(21);
    eventually("the adapter says so", || {
        adapter
            .has_logged("the copy of the node's state waits")
            .then_some(())
    });
    let daemon = home.start(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    standing(&daemon, "the next", |xian| xian["newest_height"] == 20);
    assert_eq!(here(&home)[0], cids[1]);

    has_made(&adapter, 20);
    let deltas = [(20, cids[0].1.clone())];
    eventually("a delta", || (derived(&home) == deltas).then_some(()));
    // What is damaged is no snapshot, and said; the next one is made.
    chain.blocks_until(31);
    let failed = standing(&daemon, "a failure", |xian| xian["failed"] == 1);
    let said = failed["last_error"].as_str().unwrap();
    for part in ["height 30", "contract_state/con_001"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(failed["newest_height"], 20);
    chain.blocks_until(41);
    let last = standing(&daemon, "the last", |xian| xian["newest_height"] == 40);
    eventually("an old one leaves", || {
        (here(&home) == [cids[2].clone(), cids[1].clone()]).then_some(())
    });
    let deltas = [(40, cids[1].1.clone()), deltas[0].clone()];
    eventually("the next delta", || {
        (derived(&home) == deltas).then_some(())
    });
    assert_eq!(last["skipped"], 0, "{last}");
    let text = eventually("all is well", || {
        let xian = daemon.status()["xian"].clone();
        xian["last_error"].is_null().then_some(xian)
    });
    assert_eq!(text["making"], Value::Null);
    // CometBFT's peers are not offered what no application takes by itself.
    let listed = chain
        .node
        .call(request::Value::ListSnapshots(Default::default()));
    match listed {
        response::Value::ListSnapshots(list) => assert!(list.snapshots.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_application_whose_hash_is_not_the_storages_has_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("xian");
    let states = States::new(folder.path());
    let home = Home::new();
    home.configure("[xian]\nsnapshot_interval = 10\ncommit_hold_ms = 1000\n");
    let executing = Mutex::new(0);
    let (at, rest) = (storage.clone(), obliging(0, b""));
    let app = FakeApp::start(move |asked| {
        match asked {
            request::Value::FinalizeBlock(block) => *executing.lock().unwrap() = block.height,
            request::Value::Commit(_) => {
                let height = *executing.lock().unwrap();
                states.write(height, &at);
                let latest = format!(r#"{{"hash": "6f74686572", "height": {height}}}"#);
                fs::write(at.join("__latest_block.json"), latest).unwrap();
            }
            request::Value::ListSnapshots(_) => {
                return Some(response::Value::ListSnapshots(Default::default()));
            }
            _ => {}
        }
        rest(asked)
    });
    let options = ["--chain-id", "xian-1", "--xian", storage.to_str().unwrap()];
    let adapter = Adapter::start(&home, &app.address.to_string(), &options);
    let mut chain = Chain::new(&adapter, app);
    let daemon = home.start(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    chain.blocks_until(11);
    let failed = standing(&daemon, "a failure", |xian| xian["failed"] == 1);
    let said = failed["last_error"].as_str().unwrap();
    assert!(said.contains("6f74686572"), "{said}");
    assert!(here(&home).is_empty());
}

#[test]
fn a_second_adapter_does_not_take_the_copy_from_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("xian");
    let options = ["--chain-id", "xian-1", "--xian", storage.to_str().unwrap()];
    let home = Home::new();
    let _first = Adapter::start(&home, "tcp://127.0.0.1:1", &options);
    let begin = [
        "adapter",
        "--app",
        "tcp://127.0.0.1:1",
        "--listen",
        "tcp://127.0.0.1:0",
    ];
    let second = home.run([&begin[..], &options].concat()).failed(1);
    let said = second["message"].as_str().unwrap();
    assert!(said.contains("another adapter (process "), "{said}");
}

#[test]
fn a_copy_where_the_storage_is_and_patches_without_a_storage_are_wrong_use() {
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("xian");
    fs::create_dir(&storage).unwrap();
    let home = Home::new();
    let in_storage = format!("[xian]\ncopy_in = {:?}\n", storage.to_str().unwrap());
    home.configure(&in_storage);
    let adapter = |more: &[&str]| {
        let fixed = [
            "adapter",
            "--app",
            "tcp://127.0.0.1:1",
            "--listen",
            "tcp://127.0.0.1:0",
        ];
        home.run([&fixed[..], more].concat()).failed(2)
    };
    let said = adapter(&["--xian", storage.to_str().unwrap()]);
    assert!(
        said["hint"].as_str().unwrap().contains("xian.copy_in"),
        "{said}"
    );
    let patches = folder.path().join("x.json");
    let patches = ["--state-patches", patches.to_str().unwrap()];
    let told = |said: &Value, word: &str| {
        assert!(said["message"].as_str().unwrap().contains(word), "{said}");
    };
    told(&adapter(&patches), "there is no such file");
    fs::write(patches[1], "{}").unwrap();
    told(&adapter(&patches), "--xian");
    let file = ["--xian", patches[1]];
    told(&adapter(&file), "is no folder");
    let storage = ["--xian", folder.path().to_str().unwrap()];
    home.configure("");
    told(
        &adapter(&[&storage[..], &["--app-cmd", " "]].concat()),
        "--app-cmd",
    );
    let itself = [
        "adapter",
        "--app",
        "tcp://127.0.0.1:1",
        "--listen",
        "tcp://127.0.0.1:1",
    ];
    told(&home.run(itself).failed(2), "are both");
}
