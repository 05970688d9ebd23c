//! The adapter between a node and an application that do what a test says.

mod app;
mod between;
mod commit;
mod limits;
mod log;
mod node;
mod restore;

use std::sync::atomic::Ordering;

use app::{FakeApp, obliging};
use between::*;
use bytes::Bytes;
use snapswarm::abci::{Address, AppSource, stub};
use snapswarm::snapshot::{ChunkId, Source, hash};
use tendermint_proto::v0_38::abci::{
    RequestCommit, RequestEcho, RequestInfo, RequestInitChain, RequestQuery, ResponseException,
    ResponseListSnapshots, Snapshot, request, response,
};

#[test]
fn ten_thousand_transactions_before_one_flush_pass_in_order() {
    let app = FakeApp::start(obliging(0, b""));
    let between = Between::start(&app.address);
    let mut node = between.node();
    let sender = std::thread::spawn({
        let mut other = between.node();
        move || {
            for number in 0..10_000 {
                other.send(check_tx(&number.to_string()));
            }
            other.flush();
            for number in 0..10_000 {
                match other.answer().unwrap() {
                    response::Value::CheckTx(tx) => assert_eq!(tx.data, number.to_string()),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let message = "x".repeat(5_000_000);
    let asked = RequestEcho {
        message: message.clone(),
    };
    match node.call(request::Value::Echo(asked)) {
        response::Value::Echo(echo) => assert!(echo.message == message),
        other => panic!("{other:?}"),
    }
    sender.join().unwrap();
}

#[test]
fn a_call_that_nobody_knows_passes_as_it_is() {
    // An application that echoes every byte.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream.try_clone().unwrap(), &mut &stream).unwrap();
    });
    let between = Between::start(&address);
    let Address::Tcp(address) = &between.address else {
        panic!("not TCP");
    };
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    use std::io::{Read, Write};
    // A call with the number 99, one without a body, and bytes that are no frame.
    let bytes = [&[4, 0x9a, 6, 1, 7][..], &[0], &[0xff; 40]].concat();
    stream.write_all(&bytes).unwrap();
    let mut echoed = vec![0; bytes.len()];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(echoed, bytes);
}

#[test]
fn lists_and_chunks_come_from_here_two_blocks_behind_the_chain_and_in_their_turn() {
    let app = FakeApp::start(obliging(11, b"x"));
    let between = Between::start(&app.address);
    let mut consensus = between.node();
    let mut node = between.node();
    assert_eq!(listed(&mut node), [0; 0], "nothing is known of the chain");
    consensus.call(request::Value::Info(RequestInfo::default()));
    assert_eq!(listed(&mut node), [0; 0], "block 12 is not there");
    consensus.call(block(12, "hash 12"));
    assert_eq!(listed(&mut node), [10]);
    // Answers of ours and of the application in the order of the requests.
    node.send(check_tx("a"));
    node.send(load(1));
    node.send(check_tx("b"));
    node.send(load(7));
    node.flush();
    let answers: Vec<_> = (0..5).map(|_| node.answer().unwrap()).collect();
    let bytes = |answer: &response::Value| match answer {
        response::Value::CheckTx(tx) => tx.data.clone(),
        response::Value::LoadSnapshotChunk(load) => load.chunk.clone(),
        response::Value::Flush(_) => "flush".into(),
        other => panic!("{other:?}"),
    };
    let answers: Vec<Bytes> = answers.iter().map(bytes).collect();
    assert_eq!(answers, ["a", "two", "b", "", "flush"]);
}

#[test]
fn the_chain_is_learnt_as_it_goes_by() {
    let app = FakeApp::start(obliging(0, b""));
    let between = Between::start(&app.address);
    let mut commits = between.learnt.commits();
    let mut node = between.node();
    node.call(request::Value::InitChain(RequestInitChain {
        chain_id: "a-chain".to_owned(),
        ..Default::default()
    }));
    node.call(block(1, "hash 1"));
    node.call(request::Value::Commit(RequestCommit {}));
    assert_eq!(between.learnt.app_hash(1), None, "no header has it yet");
    node.call(block(2, "hash 2"));
    assert_eq!(between.learnt.app_hash(1), Some("hash 1".into()));
    let chain = between.learnt.chain();
    assert_eq!((chain.id.as_deref(), chain.tip), (Some("a-chain"), 2));
    assert!(commits.has_changed().unwrap());
    assert_eq!(*commits.borrow_and_update(), 1);
}

#[test]
fn wrong_bytes_and_stubs_are_replaced_and_only_liars_are_named() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    assert_eq!(offered(&node.call(offer())), 1);
    assert_eq!(applied(node.call(apply(0, "one"))), (1, vec![]));
    let liar = applied(node.call(apply(1, "wrong")));
    assert_eq!(liar, (1, vec!["peer1".to_owned()]));
    let stubbed = stub(&ChunkId(hash::sha256(b"three")));
    assert_eq!(applied(node.call(apply(2, stubbed))), (1, vec![]));
    assert_eq!(given(&app), ["one", "two", "three"]);
    let asked = |call: &request::Value| matches!(call, request::Value::Info(_));
    assert!(
        app.calls().iter().any(asked),
        "what was restored is checked"
    );
    assert!(between.learnt.restoring().is_none());
}

#[test]
fn a_restore_that_ends_in_another_state_is_rejected_before_cometbft_sees_it() {
    for (height, app_hash, version) in [
        (9, APP_HASH, None),
        (10, &b"another"[..], None),
        (10, APP_HASH, Some(2)),
    ] {
        let app = FakeApp::start(obliging(height, app_hash));
        let mut shelf = Shelf::new();
        shelf.app_version = version;
        let between = Between::with(&app.address, "tcp://127.0.0.1:0", shelf);
        let mut node = between.node();
        node.call(offer());
        node.call(apply(0, "one"));
        node.call(apply(1, "two"));
        let last = applied(node.call(apply(2, "three")));
        assert_eq!(last.0, 5, "{height} {version:?}: REJECT_SNAPSHOT");
        // Another offer begins anew.
        assert_eq!(offered(&node.call(offer())), 1);
        assert_eq!(between.learnt.restoring().unwrap().applied, 0);
    }
}

#[test]
fn an_offer_is_rejected_or_passed_as_the_policy_says() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    *between.shelf.verdict.lock().unwrap() = "not here";
    assert_eq!(offered(&node.call(offer())), 3);
    assert!(app.calls().is_empty(), "the application is not asked");
    *between.shelf.verdict.lock().unwrap() = "unchecked";
    assert_eq!(offered(&node.call(offer())), 1);
    assert_eq!(applied(node.call(apply(0, "anything"))), (1, vec![]));
    assert_eq!(given(&app), ["anything"]);
}

#[test]
fn a_shelf_that_panics_or_fails_harms_nobody() {
    let app = FakeApp::start(obliging(20, APP_HASH));
    let between = Between::start(&app.address);
    let mut consensus = between.node();
    let mut node = between.node();
    consensus.call(request::Value::Info(RequestInfo::default()));
    assert_eq!(offered(&node.call(offer())), 1);
    between.shelf.be(Mood::Panics);
    assert_eq!(listed(&mut node), [0; 0]);
    assert_eq!(offered(&node.call(offer())), 3);
    assert_eq!(loaded(node.call(load(0))), "");
    consensus.call(block(21, "hash"));
    between.shelf.be(Mood::Well);
    assert_eq!(listed(&mut node), [10]);
    // A disk that is gone under a restore: the liar is named, a stub tried again,
    // and then the snapshot given up.
    node.call(offer());
    between.shelf.readable.store(false, Ordering::SeqCst);
    assert_eq!(applied(node.call(apply(0, "one"))), (1, vec![]));
    assert_eq!(
        applied(node.call(apply(1, "no"))),
        (3, vec!["peer1".to_owned()])
    );
    let stubbed = stub(&ChunkId(hash::sha256(b"two")));
    let mut tried = |times| -> Vec<i32> {
        (0..times)
            .map(|_| applied(node.call(apply(1, stubbed.clone()))).0)
            .collect()
    };
    assert_eq!(tried(3), [3, 3, 3]);
    // One that can be read again makes up for those that could not.
    between.shelf.readable.store(true, Ordering::SeqCst);
    assert_eq!(tried(1), [1]);
    between.shelf.readable.store(false, Ordering::SeqCst);
    assert_eq!(tried(4), [3, 3, 3, 5]);
    assert!(between.learnt.restoring().is_none());
}

#[test]
fn while_the_shelf_hangs_consensus_goes_on_and_a_held_call_dies_with_its_socket() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    between.shelf.be(Mood::Hangs);
    let mut consensus = between.node();
    let mut held = between.node();
    held.send(offer());
    held.flush();
    eventually("the shelf is asked", || {
        between.shelf.asked.load(Ordering::SeqCst) == 1
    });
    for height in 11..50 {
        consensus.call(block(height, "hash"));
    }
    drop(held);
    eventually("the application sees the end", || app.ended() == 1);
    between.shelf.be(Mood::Well);
    let asked = |call: &request::Value| matches!(call, request::Value::OfferSnapshot(_));
    assert!(!app.calls().iter().any(asked));
    assert_eq!(offered(&between.node().call(offer())), 1);
}

#[test]
fn queries_of_ours_are_answered_here_and_others_by_the_application() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    let mut ask = |path: &str| {
        let path = path.to_owned();
        let query = request::Value::Query(RequestQuery {
            path,
            ..Default::default()
        });
        match node.call(query) {
            response::Value::Query(answer) => (answer.value, answer.log),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask("/snapshots").0, "{\"snapshots\":[]}");
    assert_eq!(ask("/sync_status").0, "None None");
    assert_eq!(ask("/store/key").1, "/store/key");
    assert_eq!(app.calls().len(), 1);
}

#[test]
fn an_end_on_one_side_ends_the_other_and_an_exception_passes() {
    let app = FakeApp::start(|asked| match asked {
        request::Value::Echo(echo) if echo.message == "hang up" => None,
        request::Value::Echo(_) => Some(response::Value::Exception(ResponseException {
            error: "no".to_owned(),
        })),
        other => obliging(0, b"")(other),
    });
    let between = Between::start(&app.address);
    let echo = |message: &str| {
        request::Value::Echo(RequestEcho {
            message: message.to_owned(),
        })
    };
    let mut node = between.node();
    match node.call(echo("x")) {
        response::Value::Exception(exception) => assert_eq!(exception.error, "no"),
        other => panic!("{other:?}"),
    }
    let mut other = between.node();
    node.send(echo("hang up"));
    node.flush();
    assert_eq!(node.answer(), None);
    assert!(matches!(
        other.call(check_tx("x")),
        response::Value::CheckTx(_)
    ));
    drop(other);
    eventually("the application sees the end", || app.ended() == 2);
}

#[test]
fn an_application_that_comes_late_is_waited_for_and_unix_sockets_serve_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let listen = format!("unix://{}", folder.path().join("adapter.sock").display());
    let between = Between::with(&Address::Unix(path.clone()), &listen, Shelf::new());
    let mut node = between.node();
    node.send(check_tx("early"));
    node.flush();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    use std::io::Write;
    let tx = app::frame(&mut stream).unwrap();
    assert!(tx.windows(5).any(|part| part == b"early"));
    stream.write_all(&[2, 0x4a, 0]).unwrap();
    assert!(matches!(node.answer(), Some(response::Value::CheckTx(_))));
}

#[test]
fn an_application_is_a_source_of_snapshots() {
    let app = FakeApp::start(|asked| {
        Some(match asked {
            request::Value::ListSnapshots(_) => {
                let one = |height| Snapshot {
                    height,
                    format: 1,
                    chunks: 2,
                    ..Default::default()
                };
                let snapshots = vec![one(10), one(30), one(20)];
                response::Value::ListSnapshots(ResponseListSnapshots { snapshots })
            }
            request::Value::LoadSnapshotChunk(load) => {
                let chunk = match load.height {
                    30 => format!("chunk {}", load.chunk).into(),
                    _ => Bytes::new(),
                };
                response::Value::LoadSnapshotChunk(
                    tendermint_proto::v0_38::abci::ResponseLoadSnapshotChunk { chunk },
                )
            }
            other => panic!("{other:?}"),
        })
    });
    let mut source = AppSource::new(app.address.clone());
    let offers = source.list().unwrap();
    let heights: Vec<u64> = offers.iter().map(|offer| offer.height).collect();
    assert_eq!(heights, [30, 20, 10]);
    let mut open = source.open(&offers[0]).unwrap();
    assert_eq!(open.next_chunk().unwrap().unwrap(), "chunk 0");
    assert_eq!(open.next_chunk().unwrap().unwrap(), "chunk 1");
    assert_eq!(open.next_chunk().unwrap(), None);
    drop(open);
    let gone = source.open(&offers[1]).unwrap().next_chunk().unwrap_err();
    assert!(gone.to_string().contains("height 20"), "{gone}");
    let nobody = AppSource::new("127.0.0.1:1".parse().unwrap()).list();
    assert!(nobody.unwrap_err().to_string().contains("127.0.0.1:1"));
}
