//! Offers and restores that do not go straight.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use snapswarm::abci::{Times, stub};
use snapswarm::snapshot::{ChunkId, hash};
use tendermint_proto::v0_38::abci::{ResponseApplySnapshotChunk, request, response};

use crate::app::{FakeApp, obliging};
use crate::between::*;

const ACCEPT: i32 = 1;
const RETRY: i32 = 3;
const REJECT: i32 = 3;
const RETRY_SNAPSHOT: i32 = 4;
const REJECT_SNAPSHOT: i32 = 5;

/// What an application says about a chunk, by its bytes; else it accepts.
fn choosy(
    height: i64,
    answer: impl Fn(&Bytes) -> Option<ResponseApplySnapshotChunk> + Send + Sync,
) -> impl Fn(&request::Value) -> Option<response::Value> {
    let others = obliging(height, APP_HASH);
    move |asked| match asked {
        request::Value::ApplySnapshotChunk(apply) => match answer(&apply.chunk) {
            Some(answer) => Some(response::Value::ApplySnapshotChunk(answer)),
            None => others(asked),
        },
        _ => others(asked),
    }
}

fn answer(result: i32, refetch: &[u32], senders: &[&str]) -> Option<ResponseApplySnapshotChunk> {
    Some(ResponseApplySnapshotChunk {
        result,
        refetch_chunks: refetch.to_vec(),
        reject_senders: senders.iter().map(|one| (*one).to_owned()).collect(),
    })
}

#[test]
fn an_offer_waits_while_the_snapshot_is_coming_and_is_checked_when_it_is_here() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    *between.shelf.verdict.lock().unwrap() = "wait";
    let mut node = between.node();
    node.send(offer());
    node.flush();
    eventually("it is asked about again", || {
        between.shelf.asked.load(Ordering::SeqCst) > 3
    });
    assert!(app.calls().is_empty());
    *between.shelf.verdict.lock().unwrap() = "checked";
    assert_eq!(offered(&node.answer().unwrap()), ACCEPT);
    assert!(between.learnt.restoring().unwrap().checked);
}

#[test]
fn an_offer_that_waits_too_long_is_rejected() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    for verdict in ["wait", "hold"] {
        let times = Times {
            hold: Duration::from_millis(50),
            ..short()
        };
        let between = Between::patient(&app.address, "tcp://127.0.0.1:0", Shelf::new(), times);
        *between.shelf.verdict.lock().unwrap() = verdict;
        let start = Instant::now();
        assert_eq!(offered(&between.node().call(offer())), REJECT);
        assert!(start.elapsed() >= Duration::from_millis(50));
    }
    assert!(app.calls().is_empty());
}

#[test]
fn a_chunk_that_the_application_wants_again_with_the_last_one_is_not_the_end() {
    let wants = std::sync::atomic::AtomicBool::new(true);
    let app = FakeApp::start(choosy(10, move |chunk| match &chunk[..] {
        b"three" if wants.swap(false, Ordering::SeqCst) => answer(ACCEPT, &[1], &["liar"]),
        _ => None,
    }));
    let between = Between::start(&app.address);
    let mut node = between.node();
    node.call(offer());
    node.call(apply(0, "one"));
    node.call(apply(1, "two"));
    let last = applied(node.call(apply(2, "three")));
    assert_eq!(last, (ACCEPT, vec!["liar".to_owned()]));
    let infos = |app: &FakeApp| {
        let calls = app.calls().into_iter();
        calls
            .filter(|call| matches!(call, request::Value::Info(_)))
            .count()
    };
    assert_eq!(infos(&app), 0, "it is not complete");
    assert!(between.learnt.restoring().is_some());
    assert_eq!(applied(node.call(apply(1, "two"))).0, ACCEPT);
    assert_eq!(infos(&app), 1);
    assert!(between.learnt.restoring().is_none());
}

#[test]
fn who_sent_a_wrong_last_chunk_is_named_also_when_the_end_is_wrong() {
    let app = FakeApp::start(choosy(9, |chunk| match &chunk[..] {
        b"three" => answer(ACCEPT, &[], &["another"]),
        _ => None,
    }));
    let between = Between::start(&app.address);
    let mut node = between.node();
    node.call(offer());
    node.call(apply(0, "one"));
    node.call(apply(1, "two"));
    let last = applied(node.call(apply(2, "wrong")));
    let named = vec!["another".to_owned(), "peer2".to_owned()];
    assert_eq!(last, (REJECT_SNAPSHOT, named));
}

#[test]
fn a_restore_is_over_when_the_application_gives_up_or_begins_anew() {
    for result in [2, RETRY_SNAPSHOT, REJECT_SNAPSHOT] {
        let app = FakeApp::start(choosy(10, move |chunk| match &chunk[..] {
            b"two" => answer(result, &[], &[]),
            _ => None,
        }));
        let between = Between::start(&app.address);
        let mut node = between.node();
        node.call(offer());
        node.call(apply(0, "one"));
        assert_eq!(between.learnt.restoring().unwrap().applied, 1);
        assert_eq!(applied(node.call(apply(1, "two"))).0, result);
        assert!(between.learnt.restoring().is_none());
        // CometBFT offers the same one again after RETRY_SNAPSHOT.
        assert_eq!(offered(&node.call(offer())), ACCEPT);
        assert_eq!(between.learnt.restoring().unwrap().applied, 0);
    }
}

#[test]
fn a_restore_is_over_when_another_offer_is_rejected_here_or_its_connection_ends() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    let mut other = between.node();
    node.call(offer());
    *between.shelf.verdict.lock().unwrap() = "not here";
    assert_eq!(offered(&node.call(offer())), REJECT);
    assert!(between.learnt.restoring().is_none());
    *between.shelf.verdict.lock().unwrap() = "checked";
    node.call(offer());
    other.call(check_tx("x"));
    drop(other);
    eventually("one end", || app.ended() == 1);
    assert!(
        between.learnt.restoring().is_some(),
        "it is not on that one"
    );
    drop(node);
    eventually("the restore is over", || {
        between.learnt.restoring().is_none()
    });
}

#[test]
fn a_stub_never_reaches_an_application_that_restores_unchecked_or_not_at_all() {
    let app = FakeApp::start(obliging(10, APP_HASH));
    let between = Between::start(&app.address);
    let mut node = between.node();
    let stubbed = stub(&ChunkId(hash::sha256(b"one")));
    let refused = (RETRY, vec!["peer0".to_owned()]);
    assert_eq!(applied(node.call(apply(0, stubbed.clone()))), refused);
    assert_eq!(applied(node.call(apply(0, "no offer"))).0, ACCEPT);
    *between.shelf.verdict.lock().unwrap() = "unchecked";
    node.call(offer());
    assert_eq!(applied(node.call(apply(0, stubbed))), refused);
    assert_eq!(given(&app), ["no offer"]);
}

#[test]
fn an_application_that_does_not_tell_its_state_is_left_to_cometbft() {
    // Its Info fails on every connection but CometBFT's.
    let app = FakeApp::start(|asked| match asked {
        request::Value::Info(_) => None,
        other => obliging(10, APP_HASH)(other),
    });
    let between = Between::start(&app.address);
    let mut node = between.node();
    node.call(offer());
    node.call(apply(0, "one"));
    node.call(apply(1, "two"));
    assert_eq!(applied(node.call(apply(2, "three"))).0, ACCEPT);
    let infos = app.calls().into_iter();
    let infos = infos.filter(|call| matches!(call, request::Value::Info(_)));
    assert_eq!(infos.count(), 2, "it is tried twice");
    assert_eq!(between.learnt.standing().served.unconfirmed_restores, 1);
}
