//! What happens between the application's answer to Commit and CometBFT.

use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use snapswarm::abci::{CommitHold, Commits};
use tendermint_proto::v0_38::abci::{RequestCommit, RequestQuery, request, response};

use crate::app::{FakeApp, obliging};
use crate::between::*;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// What is done at Commit, as a test says.
#[derive(Default)]
struct Copier {
    mood: Mutex<Option<&'static str>>,
    /// Heights that it was called for.
    seen: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl Copier {
    fn be(&self, mood: Option<&'static str>) {
        *self.mood.lock().unwrap() = mood;
        self.changed.notify_all();
    }

    fn seen(&self) -> Vec<u64> {
        self.seen.lock().unwrap().clone()
    }
}

impl Commits for Copier {
    fn committed(&self, height: u64, until: Instant) {
        assert!(until > Instant::now());
        self.seen.lock().unwrap().push(height);
        let mood = self.mood.lock().unwrap();
        assert!(*mood != Some("panics"), "as the test says");
        let hangs = |mood: &mut Option<&str>| *mood == Some("hangs");
        drop(self.changed.wait_while(mood, hangs).unwrap());
    }
}

fn commit() -> request::Value {
    request::Value::Commit(RequestCommit {})
}

fn query(path: &str) -> request::Value {
    request::Value::Query(RequestQuery {
        path: path.to_owned(),
        ..RequestQuery::default()
    })
}

fn holding(limit: Duration) -> (Arc<Copier>, FakeApp, Between) {
    let copier = Arc::new(Copier::default());
    let app = FakeApp::start(obliging(0, b""));
    let hold = CommitHold {
        every: NonZeroU64::new(10).unwrap(),
        limit,
        then: copier.clone(),
    };
    let between = Between::holding(&app.address, hold);
    (copier, app, between)
}

#[test]
fn the_answer_is_held_at_the_heights_of_the_interval_and_at_no_other() {
    let (copier, _app, between) = holding(LONG);
    let mut node = between.node();
    for height in 8..=21 {
        node.call(block(height, "hash"));
        assert!(matches!(node.call(commit()), response::Value::Commit(_)));
        assert_eq!(*between.learnt.commits().borrow(), height as u64);
    }
    assert_eq!(copier.seen(), [10, 20]);
    let held = between.learnt.last_hold().unwrap();
    assert!(held.height == 20 && held.took < LONG);
}

#[test]
fn while_it_is_held_cometbft_has_neither_it_nor_what_comes_after_and_others_have_theirs() {
    let (copier, app, between) = holding(LONG);
    let mut node = between.node();
    node.call(block(10, "hash"));
    copier.be(Some("hangs"));
    node.send(check_tx("before"));
    node.send(commit());
    node.send(check_tx("after"));
    node.flush();
    let tx = |answer: Option<response::Value>| match answer {
        Some(response::Value::CheckTx(tx)) => tx.data,
        other => panic!("{other:?}"),
    };
    // What came before is not held with it.
    assert_eq!(tx(node.answer()), "before");
    eventually("the copier is at work", || copier.seen() == [10]);
    let committed = |call: &request::Value| matches!(call, request::Value::Commit(_));
    assert!(
        app.calls().iter().any(committed),
        "the application has done it"
    );
    assert_eq!(
        *between.learnt.commits().borrow(),
        0,
        "CometBFT has not heard"
    );
    // A query could touch what is being copied: it waits, too.
    let mut asking = between.node();
    asking.send(query("/store"));
    asking.flush();
    let mut other = between.node();
    assert_eq!(tx(Some(other.call(check_tx("other")))), "other");
    let asked = |call: &request::Value| matches!(call, request::Value::Query(_));
    assert!(!app.calls().iter().any(asked));
    copier.be(None);
    let answer = asking.answer();
    assert!(matches!(answer, Some(response::Value::Query(_))));
    assert!(matches!(node.answer(), Some(response::Value::Commit(_))));
    assert_eq!(tx(node.answer()), "after");
    assert!(matches!(node.answer(), Some(response::Value::Flush(_))));
}

#[test]
fn who_hangs_holds_one_answer_for_its_time_and_no_other() {
    let limit = Duration::from_millis(200);
    let (copier, _app, between) = holding(limit);
    let mut node = between.node();
    copier.be(Some("hangs"));
    node.call(block(10, "hash"));
    let began = Instant::now();
    assert!(matches!(node.call(commit()), response::Value::Commit(_)));
    assert!((limit..LONG).contains(&began.elapsed()));
    let held = between.learnt.last_hold().unwrap();
    assert!(held.height == 10 && held.took >= limit);
    for height in [20, 30] {
        node.call(block(height, "hash"));
        assert!(matches!(node.call(commit()), response::Value::Commit(_)));
    }
    assert_eq!(copier.seen(), [10], "one thread hangs");
    assert_eq!(between.learnt.standing().served.refused, 2);
    copier.be(None);
    eventually("it is asked again", || {
        node.call(block(40, "hash"));
        node.call(commit());
        copier.seen().contains(&40)
    });
}

#[test]
fn who_panics_holds_nothing_up() {
    let (copier, _app, between) = holding(LONG);
    let mut node = between.node();
    copier.be(Some("panics"));
    node.call(block(10, "hash"));
    let began = Instant::now();
    assert!(matches!(node.call(commit()), response::Value::Commit(_)));
    assert!(began.elapsed() < LONG);
    assert_eq!(copier.seen(), [10]);
    assert_eq!(*between.learnt.commits().borrow(), 10);
}
