//! The adapter before an application that has nothing yet; CometBFT's side by hand.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use bytes::Bytes;
use snapswarm::abci::stub;
use snapswarm::snapshot::{ChunkId, Offer, hash};
use snapswarm::xian::LatestBlock;
use tendermint_proto::v0_38::abci::{
    RequestApplySnapshotChunk, RequestCheckTx, RequestCommit, RequestEcho, RequestFinalizeBlock,
    RequestInfo, RequestInitChain, RequestOfferSnapshot, RequestQuery, ResponseInfo,
    Snapshot as Told, request, response,
};

use crate::application::{App, CHAIN, Snapshot};
use crate::node::Node;
use crate::support::{Home, eventually, kill, wait};
use crate::xian::{python, read};

const ACCEPT: i32 = 1;
const REJECT: i32 = 3;
const REJECT_SNAPSHOT: i32 = 5;
/// Of the storage that `tests/xian/generate.py` makes.
const HEIGHT: i64 = 1000;

/// A storage with a state, a snapshot of it in a home, and an application without one.
struct House {
    folder: tempfile::TempDir,
    home: Home,
    app: App,
    snapshot: Snapshot,
}

impl House {
    fn new() -> Self {
        Self::with_patches(None)
    }

    fn with_patches(patches: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        let flags = ["--records", "3000", "--files", "3"].map(Path::new);
        python(
            "generate.py",
            &[&[source.as_path()][..], &flags].concat(),
            None,
        );
        let file = folder.path().join("patches.json");
        let patches = patches.map(|text| {
            fs::write(&file, text).unwrap();
            file.as_path()
        });
        let snapshot = Snapshot::of(&source, patches);
        assert!(snapshot.chunks.len() > 2, "{}", snapshot.chunks.len());
        let home = Home::new();
        snapshot.load_into(&home);
        let app = App::new(&folder.path().join("app"));
        Self {
            folder,
            home,
            app,
            snapshot,
        }
    }

    fn adapter(&self, more: &[&str]) -> Adapter {
        self.adapter_with(&self.app.command(""), more)
    }

    fn named(&self) -> Adapter {
        self.adapter(&["--cid", &self.snapshot.cid()])
    }

    fn adapter_with(&self, app_cmd: &str, more: &[&str]) -> Adapter {
        let log = self.folder.path().join("adapter.log");
        let log = fs::File::options().create(true).append(true).open(log);
        let mut child = self
            .home
            .command(["adapter", "--listen", "tcp://127.0.0.1:0"])
            .args(["--app", &self.app.address, "--app-cmd", app_cmd, "--xian"])
            .arg(self.app.storage())
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let started: serde_json::Value = serde_json::from_str(&line).unwrap();
        Adapter {
            child,
            listen: started["listen"].as_str().unwrap().to_owned(),
        }
    }

    /// Waits until the adapter has logged this: it writes its log beside its work.
    fn wait_for_log(&self, text: &str) {
        let log = self.folder.path().join("adapter.log");
        let logged = || fs::read_to_string(&log).unwrap().contains(text);
        eventually(text, || logged().then_some(()));
    }

    fn offer(&self) -> request::Value {
        let offer = Offer::of(&self.snapshot.manifest);
        request::Value::OfferSnapshot(RequestOfferSnapshot {
            snapshot: Some(Told {
                height: offer.height,
                format: offer.format,
                chunks: offer.chunks,
                hash: offer.hash,
                metadata: offer.metadata,
            }),
            app_hash: self.snapshot.manifest.app_hash().unwrap().clone(),
        })
    }

    /// Applies all chunks from one on; what the last one was answered.
    fn apply_from(&self, node: &mut Node, first: usize) -> i32 {
        let mut last = 0;
        for (index, chunk) in self.snapshot.chunks.iter().enumerate().skip(first) {
            assert!(last == ACCEPT || index == first, "chunk {index}");
            last = applied(node.call(apply(index, chunk.clone()))).0;
        }
        last
    }

    /// The name of one of its contracts.
    fn a_contract(&self) -> String {
        let folder = self.folder.path().join("source/contract_state");
        let first = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
        first.file_name().into_string().unwrap()
    }

    fn is_empty(&self) -> bool {
        LatestBlock::read_or_none(&self.app.storage()).unwrap() == LatestBlock::NONE
    }

    fn assert_restored(&self) {
        let source = self.folder.path().join("source");
        assert_eq!(read(&self.app.storage()).unwrap(), read(&source).unwrap());
    }
}

struct Adapter {
    child: Child,
    listen: String,
}

impl Adapter {
    fn connect(&self) -> Node {
        Node::connect(&self.listen.parse().unwrap())
    }

    fn end_by(&mut self, signal: nix::sys::signal::Signal) {
        kill(self.child.id(), signal);
        wait(&mut self.child);
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        // What it started ends with it.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.end_by(nix::sys::signal::Signal::SIGTERM);
        }
    }
}

fn apply(index: usize, chunk: impl Into<Bytes>) -> request::Value {
    request::Value::ApplySnapshotChunk(RequestApplySnapshotChunk {
        index: index as u32,
        chunk: chunk.into(),
        sender: "peer".to_owned(),
    })
}

fn applied(answer: response::Value) -> (i32, Vec<String>) {
    match answer {
        response::Value::ApplySnapshotChunk(answer) => (answer.result, answer.reject_senders),
        other => panic!("{other:?}"),
    }
}

fn offered(answer: response::Value) -> i32 {
    match answer {
        response::Value::OfferSnapshot(answer) => answer.result,
        other => panic!("{other:?}"),
    }
}

fn info(node: &mut Node) -> ResponseInfo {
    match node.call(request::Value::Info(RequestInfo::default())) {
        response::Value::Info(info) => info,
        other => panic!("{other:?}"),
    }
}

fn init_chain(node: &mut Node) {
    let begin = request::Value::InitChain(RequestInitChain {
        chain_id: CHAIN.to_owned(),
        ..Default::default()
    });
    assert!(matches!(node.call(begin), response::Value::InitChain(_)));
}

/// Has the application execute a block, and gives its hash.
fn block(node: &mut Node, height: i64) -> Bytes {
    let block = request::Value::FinalizeBlock(RequestFinalizeBlock {
        height,
        ..Default::default()
    });
    let app_hash = match node.call(block) {
        response::Value::FinalizeBlock(done) => done.app_hash,
        other => panic!("{other:?}"),
    };
    node.call(request::Value::Commit(RequestCommit {}));
    app_hash
}

#[test]
fn a_state_is_restored_before_the_application_runs_with_it() {
    let house = House::new();
    let adapter = house.named();
    let mut node = [0; 4].map(|_| adapter.connect());
    let [query, snapshot, mempool, consensus] = &mut node;

    // What the application says with nothing: CometBFT takes its version for the chain's.
    let before = info(query);
    assert_eq!((before.last_block_height, before.app_version), (0, 1));
    assert_eq!(before.last_block_app_hash, "");
    let tx = RequestCheckTx {
        tx: "early".into(),
        ..Default::default()
    };
    match mempool.call(request::Value::CheckTx(tx)) {
        response::Value::CheckTx(tx) => assert_eq!(tx.code, 1),
        other => panic!("{other:?}"),
    }
    let mut ask = |path: &str| {
        let path = path.to_owned();
        match query.call(request::Value::Query(RequestQuery {
            path,
            ..Default::default()
        })) {
            response::Value::Query(answer) => (answer.code, answer.value),
            other => panic!("{other:?}"),
        }
    };
    let code = house.a_contract() + ".__code__";
    assert_eq!(ask(&format!("/get/{code}")).0, 1);
    assert_eq!(ask("/sync_status").0, 0);

    assert_eq!(offered(snapshot.call(house.offer())), ACCEPT);
    assert_eq!(
        house.app.starts(),
        1,
        "it does not run while its storage is made"
    );
    let wrong = applied(snapshot.call(apply(0, "wrong")));
    assert_eq!(wrong, (ACCEPT, vec!["peer".to_owned()]));
    assert!(house.is_empty());
    let second = stub(&ChunkId(hash::sha256(&house.snapshot.chunks[1])));
    assert_eq!(applied(snapshot.call(apply(1, second))).0, ACCEPT);
    let during: serde_json::Value = serde_json::from_slice(&ask("/sync_status").1).unwrap();
    assert_eq!(during["restoring"]["applied"], 2);
    assert_eq!(during["restoring"]["replaced"], 2);
    assert_eq!(house.apply_from(snapshot, 2), ACCEPT);

    let after = info(query);
    assert_eq!(after.last_block_height, HEIGHT);
    assert_eq!(
        after.last_block_app_hash,
        house.snapshot.manifest.app_hash().unwrap()
    );
    assert_eq!(house.app.starts(), 2);
    assert!(ask_value(query, &code).starts_with(b"\"def seed"));
    house.assert_restored();
    let app_hash = block(consensus, HEIGHT + 1);
    assert_eq!(info(query).last_block_app_hash, app_hash);
    // None is taken by one that runs.
    assert_eq!(offered(snapshot.call(house.offer())), REJECT);
    assert!(house.app.storage().join(".snapswarm-restore/old").exists());
    house.wait_for_log("it was named by its CID");
    house.wait_for_log("does not say with which state patches");

    // One that dies takes its connections with it, and is started again.
    kill(house.app.pid(), nix::sys::signal::Signal::SIGKILL);
    for one in &mut node {
        assert_eq!(one.answer(), None);
    }
    assert_eq!(info(&mut adapter.connect()).last_block_app_hash, app_hash);
    assert_eq!(house.app.starts(), 3);

    // A storage with a state is of a node that runs.
    drop(node);
    drop(adapter);
    let adapter = house.named();
    let mut query = adapter.connect();
    assert_eq!(info(&mut query).last_block_height, HEIGHT + 1);
    assert_eq!(offered(adapter.connect().call(house.offer())), REJECT);
}

/// What the application says that a key holds.
fn ask_value(node: &mut Node, key: &str) -> Bytes {
    let path = format!("/get/{key}");
    match node.call(request::Value::Query(RequestQuery {
        path,
        ..Default::default()
    })) {
        response::Value::Query(answer) => answer.value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_state_that_nobody_vouches_for_is_rejected_and_the_chain_can_begin_without() {
    let house = House::new();
    let adapter = house.adapter(&[]);
    let mut node = adapter.connect();
    let mut consensus = adapter.connect();
    assert_eq!(offered(node.call(house.offer())), REJECT);
    let advice = format!(
        "pinned_manifests = [\\\"{}\\\"] below [trust]",
        house.snapshot.cid()
    );
    house.wait_for_log(&advice);
    assert_eq!(house.app.starts(), 0);
    assert!(house.is_empty());
    // Block sync from the first block needs the application.
    assert_eq!(info(&mut consensus).last_block_height, 0);
    init_chain(&mut consensus);
    assert_eq!(
        house.app.starts(),
        1,
        "the one that told what it is went on"
    );
    block(&mut consensus, 1);
    assert_eq!(info(&mut consensus).last_block_height, 1);
    drop((node, consensus));
    drop(adapter);

    // Where the settings name it, it is believed.
    fs::remove_dir_all(house.app.storage()).unwrap();
    let pinned = format!(
        "[trust]\npinned_manifests = [\"{}\"]\n",
        house.snapshot.cid()
    );
    house.home.configure(&pinned);
    let adapter = house.adapter(&[]);
    let mut node = adapter.connect();
    assert_eq!(offered(node.call(house.offer())), ACCEPT);
    assert_eq!(house.apply_from(&mut node, 0), ACCEPT);
    house.assert_restored();
}

#[test]
fn a_snapshot_of_other_state_patches_is_told_before_anything_is_restored() {
    let patches = r#"{"900": [{"key": "currency.x", "value": 1}]}"#;
    let house = House::with_patches(Some(patches));
    let own = house.folder.path().join("own.json");
    let named = [
        "--cid",
        &house.snapshot.cid(),
        "--state-patches",
        own.to_str().unwrap(),
    ];
    for (text, result) in [
        (patches.replace(r#""value": 1"#, r#""value": 2"#), REJECT),
        (patches.to_owned(), ACCEPT),
    ] {
        fs::write(&own, text).unwrap();
        let adapter = house.adapter(&named);
        assert_eq!(offered(adapter.connect().call(house.offer())), result);
    }
    house.wait_for_log("has other state patches up to height 1000");
    house.wait_for_log("the state patches are those of the snapshot");
}

#[test]
fn an_application_that_does_not_start_with_the_state_gets_its_old_storage_back() {
    let house = House::new();
    let storage = house.app.storage();
    let (latest, command) = (LatestBlock::path(&storage), house.app.command(""));
    let choosy = format!("! grep -q {HEIGHT} '{}' && {command}", latest.display());
    fs::create_dir_all(storage.join("contract_state")).unwrap();
    fs::write(storage.join("contract_state/submission.bak"), "mine").unwrap();
    let adapter = house.adapter_with(&choosy, &["--cid", &house.snapshot.cid()]);
    let mut node = adapter.connect();
    for _ in 0..2 {
        assert_eq!(offered(node.call(house.offer())), ACCEPT);
        assert_eq!(house.apply_from(&mut node, 0), REJECT_SNAPSHOT);
        assert!(house.is_empty());
        let kept = fs::read_to_string(storage.join("contract_state/submission.bak"));
        assert_eq!(kept.unwrap(), "mine");
        assert!(!storage.join("contract_state/currency").exists());
    }
    house.wait_for_log("the application ended by itself");
    // And the chain can begin.
    let mut consensus = adapter.connect();
    init_chain(&mut consensus);
    block(&mut consensus, 1);
    assert_eq!(info(&mut consensus).last_block_height, 1);
}

#[test]
fn a_restore_whose_connection_ends_is_given_up_and_another_begins_anew() {
    let house = House::new();
    let adapter = house.named();
    let mut waiting = adapter.connect();
    for _ in 0..2 {
        let mut node = adapter.connect();
        assert_eq!(offered(node.call(house.offer())), ACCEPT);
        assert_eq!(
            applied(node.call(apply(0, house.snapshot.chunks[0].clone()))).0,
            ACCEPT
        );
        drop(node);
    }
    let mut node = adapter.connect();
    assert_eq!(offered(node.call(house.offer())), ACCEPT);
    // A second offer forgets the first; chunks come in order.
    assert_eq!(offered(node.call(house.offer())), ACCEPT);
    let second = house.snapshot.chunks[1].clone();
    assert_eq!(applied(node.call(apply(1, second))).0, REJECT_SNAPSHOT);
    let none = applied(node.call(apply(0, house.snapshot.chunks[0].clone()))).0;
    assert_eq!(none, REJECT_SNAPSHOT, "nothing is under way");
    assert_eq!(offered(node.call(house.offer())), ACCEPT);
    assert_eq!(house.apply_from(&mut node, 0), ACCEPT);
    // One that said nothing until now leads to the application, too.
    let echo = RequestEcho {
        message: "late".to_owned(),
    };
    assert!(matches!(
        waiting.call(request::Value::Echo(echo)),
        response::Value::Echo(_)
    ));
    assert_eq!(info(&mut waiting).last_block_height, HEIGHT);
    house.assert_restored();
}

#[test]
fn killed_at_any_chunk_the_adapter_begins_anew_or_finds_the_state_in_place() {
    let house = House::new();
    let chunks = house.snapshot.chunks.len();
    for applied_before in 0..chunks {
        let mut adapter = house.named();
        let mut node = adapter.connect();
        assert_eq!(offered(node.call(house.offer())), ACCEPT);
        for (index, chunk) in house.snapshot.chunks[..applied_before].iter().enumerate() {
            assert_eq!(applied(node.call(apply(index, chunk.clone()))).0, ACCEPT);
        }
        adapter.end_by(nix::sys::signal::Signal::SIGKILL);
        assert!(house.is_empty());
    }
    // In the last one: wherever it was.
    let mut adapter = house.named();
    let mut node = adapter.connect();
    assert_eq!(offered(node.call(house.offer())), ACCEPT);
    for (index, chunk) in house.snapshot.chunks.iter().enumerate() {
        node.send(apply(index, chunk.clone()));
        node.flush();
    }
    let storage = house.app.storage();
    let last = [".snapswarm-restore/new/", ""]
        .map(|at| storage.join(format!("{at}contract_state/currency")));
    eventually("the last file is written", || {
        last.iter().any(|file| file.exists()).then_some(())
    });
    adapter.end_by(nix::sys::signal::Signal::SIGKILL);
    let adapter = house.named();
    let mut query = adapter.connect();
    let height = info(&mut query).last_block_height;
    if height == 0 {
        let mut node = adapter.connect();
        assert_eq!(offered(node.call(house.offer())), ACCEPT);
        assert_eq!(house.apply_from(&mut node, 0), ACCEPT);
    }
    assert_eq!(info(&mut query).last_block_height, HEIGHT);
    house.assert_restored();
}
