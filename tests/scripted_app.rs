//! The application that other tests put behind CometBFT: what it answers by itself,
//! and with real nodes.

#![allow(clippy::unwrap_used)]

#[path = "support/comet_nodes.rs"]
mod comet_nodes;
#[path = "support/comet_tools.rs"]
mod comet_tools;
#[path = "scripted_app/node.rs"]
mod node;
#[path = "scripted_app/real.rs"]
mod real;
#[path = "support/scripted_app.rs"]
mod scripted_app;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use node::{Node, apply, finalize, made, value_of};
use scripted_app::{AppProcess, SCRIPTED_APP, ScriptedApp};
use sha2::{Digest as _, Sha256};
use tendermint_proto::v0_38::abci::response_apply_snapshot_chunk::Result as Applied;
use tendermint_proto::v0_38::abci::response_offer_snapshot::Result as Offered;
use tendermint_proto::v0_38::abci::{
    RequestCheckTx, RequestCommit, RequestEcho, RequestInitChain, RequestOfferSnapshot,
    RequestPrepareProposal, Snapshot, request, response,
};

/// A joiner's application with a script, not yet started.
struct Joiner(tempfile::TempDir);

impl Joiner {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn start(&self, script: &str) -> (ScriptedApp, Node) {
        let app = ScriptedApp::start(&self.0.path().join("app"), &["--script", script]);
        let node = Node::connect(&app.address);
        (app, node)
    }
}

#[test]
fn a_snapshot_is_the_same_everywhere_and_restores_the_state_that_it_is_of() {
    let made = made();
    let (one, other) = (&made.snapshot, self::made().snapshot);
    assert_eq!(*one, other);
    let digest = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    assert_eq!(one.hash, digest(&made.chunks.concat()));
    let digests: Vec<u8> = made.chunks.iter().flat_map(|chunk| digest(chunk)).collect();
    assert_eq!(one.metadata, digests);
    assert_ne!(one.hash, made.app_hash);

    // Into a state that is not empty, and after a restore that was left.
    let joiner = Joiner::new();
    let (app, mut node) = joiner.start("");
    node.block(1, &["old=1"]);
    assert_eq!(node.offer(&made), Offered::Accept);
    assert_eq!(value_of(&mut node, "old"), None);
    assert_eq!(node.info().last_block_height, 0);
    assert_eq!(node.apply(&made, 0), Applied::Accept);
    assert_eq!(node.restore(&made), Applied::Accept);
    let info = node.info();
    assert_eq!((info.last_block_height, info.app_version), (2, 1));
    assert_eq!(info.last_block_app_hash, made.app_hash);
    assert_eq!(value_of(&mut node, "one").unwrap(), "11");
    assert_eq!(value_of(&mut node, "more").unwrap(), "=x");
    assert_eq!(value_of(&mut node, "empty").unwrap(), "");
    assert!(app.log().contains("restored height=2"));
    assert!(app.log().contains("sender=peer\\n1 -> ACCEPT"));
    drop(app);
    let (_app, mut node) = joiner.start("");
    assert_eq!(node.info(), info);
    // The hash is of the values alone.
    assert_eq!(node.block(3, &[]), made.app_hash);
}

#[test]
fn what_is_not_the_snapshot_that_was_offered_is_not_restored() {
    let made = made();
    let joiner = Joiner::new();
    let (_app, mut node) = joiner.start("");
    assert_eq!(
        node.apply(&made, 0),
        Applied::Abort,
        "nothing was offered yet"
    );
    let changed = |change: fn(&mut Snapshot)| {
        let mut snapshot = made.snapshot.clone();
        change(&mut snapshot);
        snapshot
    };
    for (snapshot, result) in [
        (changed(|one| one.format = 2), Offered::RejectFormat),
        (changed(|one| one.height = 0), Offered::Reject),
        (changed(|one| one.height = u64::MAX), Offered::Reject),
        (changed(|one| one.chunks = u32::MAX), Offered::Reject),
        (
            changed(|one| one.metadata = "short".into()),
            Offered::Reject,
        ),
        (Snapshot::default(), Offered::RejectFormat),
    ] {
        assert_eq!(node.offer_of(snapshot, made.app_hash.clone()), result);
    }

    // Wrong bytes are for another sender, and then the right ones do.
    assert_eq!(node.offer(&made), Offered::Accept);
    let wrong = node.apply_bytes(0, "wrong".into());
    assert_eq!(wrong.result(), Applied::Retry);
    assert_eq!(wrong.refetch_chunks, [0]);
    assert_eq!(wrong.reject_senders, ["peer\n0"]);
    assert_eq!(node.apply(&made, 0), Applied::Accept);
    assert_eq!(node.apply(&made, 0), Applied::Accept, "it is there already");
    assert_eq!(
        node.apply(&made, 2),
        Applied::RejectSnapshot,
        "out of order"
    );

    // What is wrong as a whole shows after the last chunk.
    let last = made.snapshot.chunks - 1;
    for (snapshot, app_hash) in [
        (changed(|one| one.hash = "other".into()), &made.app_hash),
        (changed(|one| one.height = 3), &made.app_hash),
        (made.snapshot.clone(), &Bytes::from_static(b"other")),
    ] {
        node.offer_of(snapshot, app_hash.clone());
        for index in 0..last {
            assert_eq!(node.apply(&made, index), Applied::Accept);
        }
        assert_eq!(node.apply(&made, last), Applied::RejectSnapshot);
        assert_eq!(node.info().last_block_height, 0);
    }
}

#[test]
fn a_script_answers_offers() {
    let made = made();
    for (script, result) in [
        ("offer=reject", Offered::Reject),
        ("offer=reject-format", Offered::RejectFormat),
        ("offer=reject-sender", Offered::RejectSender),
        ("offer=abort", Offered::Abort),
        ("offer=unknown", Offered::Unknown),
        ("reject-heights=7;2", Offered::Reject),
        ("reject-heights=7", Offered::Accept),
        (" apply=abort , offer=rejectx2", Offered::Reject),
    ] {
        let joiner = Joiner::new();
        let (_app, mut node) = joiner.start(script);
        assert_eq!(node.offer(&made), result, "{script}");
        assert_eq!(node.offer(&made), result, "{script}");
    }
    // Counted, also past a restart.
    let joiner = Joiner::new();
    let (app, mut node) = joiner.start("offer=rejectx2");
    assert_eq!(node.offer(&made), Offered::Reject);
    drop(app);
    let (_app, mut node) = joiner.start("offer=rejectx2");
    assert_eq!(node.offer(&made), Offered::Reject);
    assert_eq!(node.restore(&made), Applied::Accept);
}

#[test]
fn a_script_answers_chunks() {
    let made = made();
    for (script, result) in [
        ("apply=reject-snapshot@1", Applied::RejectSnapshot),
        ("apply=abort@1", Applied::Abort),
        ("apply=retry-snapshot@1", Applied::RetrySnapshot),
        ("apply=unknown@1", Applied::Unknown),
    ] {
        let joiner = Joiner::new();
        let (app, mut node) = joiner.start(script);
        for _ in 0..2 {
            assert_eq!(node.restore(&made), result, "{script}");
        }
        // The restore is over with it.
        assert_eq!(node.apply(&made, 0), Applied::Abort);
        drop(app);
        let (_app, mut node) = joiner.start(&format!("{script},once"));
        assert_eq!(node.restore(&made), result, "{script}");
        assert_eq!(node.restore(&made), Applied::Accept, "{script}");
    }
    let joiner = Joiner::new();
    let (_app, mut node) = joiner.start("apply=retry-forever@1");
    assert_eq!(node.restore(&made), Applied::Retry);
    let answer = node.apply_bytes(1, made.chunks[1].clone());
    assert_eq!(answer.result(), Applied::Retry);
    assert!(answer.refetch_chunks.is_empty() && answer.reject_senders.is_empty());
    let joiner = Joiner::new();
    let (_app, mut node) = joiner.start("apply=retryx1");
    assert_eq!(node.offer(&made), Offered::Accept);
    let answer = node.apply_bytes(0, made.chunks[0].clone());
    assert_eq!(
        (answer.result(), answer.refetch_chunks),
        (Applied::Retry, vec![0])
    );
    assert_eq!(node.apply(&made, 0), Applied::Accept);
}

#[test]
fn a_wrong_hash_is_told_after_a_restore_and_no_more_after_a_block() {
    let made = made();
    let joiner = Joiner::new();
    let (app, mut node) = joiner.start("wrong-hash");
    assert_eq!(node.restore(&made), Applied::Accept);
    for _ in 0..2 {
        assert_ne!(node.info().last_block_app_hash, made.app_hash);
    }
    assert_eq!(node.block(3, &[]), made.app_hash);
    assert_eq!(node.info().last_block_app_hash, made.app_hash);
    drop(app);
    let (_app, mut node) = joiner.start("wrong-hash,once");
    assert_eq!(node.restore(&made), Applied::Accept);
    assert_ne!(node.info().last_block_app_hash, made.app_hash);
    assert_eq!(node.restore(&made), Applied::Accept);
    assert_eq!(node.info().last_block_app_hash, made.app_hash);
}

#[test]
fn a_wrong_version_is_told_likewise() {
    let made = made();
    let joiner = Joiner::new();
    let (_app, mut node) = joiner.start("wrong-version");
    let own = node.info().app_version;
    assert_eq!(node.restore(&made), Applied::Accept);
    let info = node.info();
    assert_eq!(info.app_version, own + 1);
    assert_eq!(info.last_block_app_hash, made.app_hash);
    node.block(3, &[]);
    assert_eq!(node.info().app_version, own);
}

#[test]
fn an_application_dies_at_a_chunk_once() {
    let made = made();
    let script = "die-at-apply=1,slow-apply=30";
    let joiner = Joiner::new();
    let (mut app, mut node) = joiner.start(script);
    let mut other = Node::connect(&app.address);
    assert_eq!(other.info().last_block_height, 0);
    assert_eq!(node.offer(&made), Offered::Accept);
    assert_eq!(node.apply(&made, 0), Applied::Accept);
    node.send(apply(1, made.chunks[1].clone()));
    assert_eq!(node.answer(), None);
    assert_eq!(other.answer(), None);
    assert!(app.ended().contains("dies"));
    let (_app, mut node) = joiner.start(script);
    let start = Instant::now();
    assert_eq!(node.restore(&made), Applied::Accept);
    assert!(start.elapsed() >= Duration::from_millis(30) * made.snapshot.chunks);

    // The process as well, also when its data is gone.
    let folder = tempfile::tempdir().unwrap();
    let (data, marks) = (folder.path().join("app"), folder.path().join("marks"));
    let options = ["--script", script, "--marks", marks.to_str().unwrap()];
    let mut app = AppProcess::start(&data, &options);
    let mut node = Node::connect(&app.address);
    assert_eq!(node.offer(&made), Offered::Accept);
    assert_eq!(node.apply(&made, 0), Applied::Accept);
    node.send(apply(1, made.chunks[1].clone()));
    assert_eq!(app.ended().code(), Some(1));
    std::fs::remove_dir_all(&data).unwrap();
    let app = AppProcess::start(&data, &options);
    assert_eq!(
        Node::connect(&app.address).restore(&made),
        Applied::Accept,
        "{}",
        app.log()
    );
}

#[test]
fn a_call_that_hangs_holds_up_its_own_connection_alone() {
    let made = made();
    let joiner = Joiner::new();
    let (app, mut node) = joiner.start("hang-at-apply=1x1");
    assert_eq!(node.offer(&made), Offered::Accept);
    assert_eq!(node.apply(&made, 0), Applied::Accept);
    node.send(apply(1, made.chunks[1].clone()));
    let mut other = Node::connect(&app.address);
    while !app.log().contains("apply index=1 : Hang") {
        other.info();
    }
    drop(node);
    assert_eq!(other.restore(&made), Applied::Accept);
    // A server that is stopped waits for no call that hangs.
    let joiner = Joiner::new();
    let (_app, mut node) = joiner.start("hang-at-apply=0");
    assert_eq!(node.offer(&made), Offered::Accept);
    node.send(apply(0, made.chunks[0].clone()));
}

#[test]
fn a_block_that_is_not_the_next_ends_an_application_that_is_told_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let mut app = ScriptedApp::start(&folder.path().join("app"), &["--empty-check"]);
    let mut node = Node::connect(&app.address);
    node.call(request::Value::InitChain(RequestInitChain {
        initial_height: 5,
        ..Default::default()
    }));
    node.block(5, &[]);
    node.block(6, &[]);
    node.send(finalize(8, &[]));
    assert_eq!(node.answer(), None);
    assert!(app.ended().contains("height 8 where 7 is next"));
    let options = ["--empty-check"];
    let mut app = AppProcess::start(&folder.path().join("empty"), &options);
    Node::connect(&app.address).send(finalize(8, &[]));
    assert_eq!(app.ended().code(), Some(1));
}

#[test]
fn old_snapshots_go_and_the_others_stay_past_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("app");
    let options = ["--snapshot-interval", "3", "--keep", "2"];
    let heights = |node: &mut Node| {
        let snapshots = node.snapshots();
        Vec::from_iter(snapshots.into_iter().map(|one| one.height))
    };
    let app = ScriptedApp::start(&data, &options);
    let mut node = Node::connect(&app.address);
    for height in 1..=10 {
        node.block(height, &["key=value"]);
    }
    assert_eq!(heights(&mut node), [6, 9]);
    // What a kill leaves of one that is being made is nothing.
    std::fs::create_dir(data.join("snapshots/12")).unwrap();
    drop(app);
    let app = ScriptedApp::start(&data, &options);
    let mut node = Node::connect(&app.address);
    assert_eq!(heights(&mut node), [6, 9]);
    assert!(!node.chunk(9, 1, 0).is_empty());
    for (height, format, chunk) in [(9, 1, 1), (9, 2, 0), (3, 1, 0), (12, 1, 0)] {
        assert!(node.chunk(height, format, chunk).is_empty());
    }
}

/// Makes blocks until the connection ends: the hash of each that was told, and how
/// many commits were answered.
fn make_blocks(node: &mut Node, hashes: &mut BTreeMap<i64, Bytes>) -> usize {
    let mut height = node.info().last_block_height;
    let mut commits = 0;
    loop {
        height += 1;
        let tx = format!("key{height}={}", "x".repeat(20_000));
        for asked in [
            finalize(height, &[&tx]),
            request::Value::Commit(RequestCommit {}),
        ] {
            match node.ask(asked) {
                Some(response::Value::FinalizeBlock(block)) => {
                    hashes.insert(height, block.app_hash);
                }
                Some(_) => commits += 1,
                None => return commits,
            }
        }
    }
}

#[test]
fn a_kill_at_any_moment_leaves_every_block_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("app");
    let options = ["--snapshot-interval", "1", "--chunk-bytes", "10000"];
    let mut hashes = BTreeMap::new();
    let mut committed = 0;
    for round in 0..20 {
        let app = AppProcess::start(&data, &options);
        let mut node = Node::connect(&app.address);
        let info = node.info();
        // The kill may have come between a commit and its answer.
        let height = info.last_block_height;
        assert!(height == committed || height == committed + 1);
        if height > 0 {
            assert_eq!(info.last_block_app_hash, hashes[&height]);
        }
        for snapshot in node.snapshots() {
            let digest = Sha256::digest(node.chunks(&snapshot).concat());
            assert_eq!(snapshot.hash, digest.to_vec());
        }
        let blocks = std::thread::scope(|scope| {
            let blocks = scope.spawn(|| make_blocks(&mut node, &mut hashes));
            std::thread::sleep(Duration::from_millis(10 + 3 * round));
            drop(app);
            blocks.join().unwrap()
        });
        committed = height + blocks as i64;
    }
    assert!(committed > 5, "only {committed} blocks");
}

#[test]
fn bytes_that_are_no_calls_end_a_connection_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let app = ScriptedApp::start(&folder.path().join("app"), &[]);
    // No length; too long; and one that is never filled.
    for bytes in [
        &[0xff; 20][..],
        &[0xff, 0xff, 0xff, 0x7f],
        &[0xff, 0xff, 0xff, 0x2f, 1],
    ] {
        let mut node = Node::connect(&app.address);
        node.send_bytes(bytes);
        node.0
            .get_mut()
            .shutdown(std::net::Shutdown::Write)
            .unwrap();
        let mut rest = Vec::new();
        // Bytes that were not read reset the connection.
        let _ = node.0.read_to_end(&mut rest);
    }
    // An empty frame, no protobuf, a call that nobody has: each has its answer.
    let mut node = Node::connect(&app.address);
    for bytes in [&[0][..], &[2, 0xff, 0xff], &[3, 0xfa, 0x06, 0]] {
        node.send_bytes(bytes);
        let answer = node.answer().unwrap();
        assert!(
            matches!(answer, response::Value::Exception(_)),
            "{answer:?}"
        );
    }
    // Calls with odd contents.
    for height in [-1, 0, i64::MIN] {
        let answer = node.call(finalize(height, &[]));
        assert!(
            matches!(answer, response::Value::Exception(_)),
            "{answer:?}"
        );
    }
    node.call(request::Value::Commit(RequestCommit {}));
    node.call(request::Value::OfferSnapshot(
        RequestOfferSnapshot::default(),
    ));
    node.call(request::Value::InitChain(RequestInitChain {
        initial_height: -7,
        ..Default::default()
    }));
    for tx in ["", "=", "=x", "no key"] {
        let tx = Bytes::from(tx);
        match node.call(request::Value::CheckTx(RequestCheckTx { tx, r#type: 0 })) {
            response::Value::CheckTx(answer) => assert_eq!(answer.code, 1),
            other => panic!("{other:?}"),
        }
    }
    node.block(i64::MAX, &["=", "good=1"]);
    assert_eq!(node.info().last_block_height, i64::MAX);
    assert_eq!(value_of(&mut node, "good").unwrap(), "1");
    let prepare = RequestPrepareProposal {
        max_tx_bytes: 30,
        txs: vec!["a=1".into(), "bb=2".into(), "c=3".into()],
        ..Default::default()
    };
    match node.call(request::Value::PrepareProposal(prepare)) {
        response::Value::PrepareProposal(answer) => assert_eq!(answer.txs, ["a=1", "bb=2"]),
        other => panic!("{other:?}"),
    }
    // Many calls before the first answer is read.
    for number in 0..1000 {
        node.send(request::Value::Echo(RequestEcho {
            message: number.to_string(),
        }));
    }
    for number in 0..1000 {
        match node.answer().unwrap() {
            response::Value::Echo(echo) => assert_eq!(echo.message, number.to_string()),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_script_that_is_wrong_is_refused_with_the_word_that_is_wrong() {
    for script in [
        "offer=accept",
        "offer",
        "apply=reject",
        "apply=retry-snapshot@x1",
        "apply=abort@-1",
        "die-at-apply=1x0",
        "die-at-apply=99999999999",
        "reject-heights=1;",
        "wrong-hash=1",
        "wrong-version=2",
        "slow-apply=fast",
        "offer=abort,offer=abort",
        "misbehave",
    ] {
        let mut command = Command::new(SCRIPTED_APP);
        let output = command
            .args(["--data", "/nonexistent", "--script", script])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{script}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        let word = script.split(',').next_back().unwrap();
        assert!(stderr.contains(&format!("'{word}'")), "{stderr}");
    }
}
