//! Where the three meet: the answer to Commit that is held, the thread that copies, and
//! the task that leads both.
//!
//! Whoever holds an answer to Commit puts an order down and waits for a word of the
//! copyist, a little less long than consensus does: so both know whether the copy was
//! made in time. The word is handed from thread to thread, and one that nobody waits
//! for any more is no word.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::abci::Commits;
use crate::node::command::XianStatus;
use crate::node::services::lock;

/// The copyist gets this part of the time, so that its word comes before the end.
const COPY_PART: f64 = 0.9;
/// Its word is waited for as long, so that the answer leaves before the end.
const WORD_PART: f64 = 0.95;

/// What the copyist is to do.
pub(super) enum Order {
    /// Copy what changed, while the node is at work.
    Ahead,
    /// Copy the rest of it, while the answer to Commit is held.
    Held(Hold),
}

/// An answer to Commit that waits.
pub(super) struct Hold {
    /// Of the block of this height.
    pub(super) height: u64,
    until: Instant,
    word: SyncSender<Result<(), String>>,
}

impl Hold {
    /// The time that is left for copying.
    pub(super) fn time(&self) -> Duration {
        let left = self.until.saturating_duration_since(Instant::now());
        left.mul_f64(COPY_PART)
    }

    /// Says how it went; whether that was heard in time.
    pub(super) fn say(self, word: Result<(), String>) -> bool {
        self.word.send(word).is_ok()
    }
}

/// What is known between the three.
pub(super) struct Desk {
    state: Mutex<State>,
    /// An answer waits, or all is over: copying ahead ends.
    hurry: AtomicBool,
    over: AtomicBool,
    /// Whoever has it is the one that writes the copy.
    copy: Mutex<()>,
}

struct State {
    /// Where the copyist gets its orders; none while there is no copyist.
    orders: Option<Sender<Order>>,
    /// The height whose copy is being made or handed over: it stays as it is.
    busy: Option<u64>,
    /// Why nothing is copied at all: the disk is too full.
    unable: Option<String>,
    status: XianStatus,
}

impl Desk {
    pub(super) fn new(storage: PathBuf, snapshot_interval: u64) -> Self {
        Self {
            state: Mutex::new(State {
                orders: None,
                busy: None,
                unable: None,
                status: XianStatus {
                    storage,
                    snapshot_interval,
                    ..XianStatus::default()
                },
            }),
            hurry: AtomicBool::new(false),
            over: AtomicBool::new(false),
            copy: Mutex::default(),
        }
    }

    /// Orders for a new copyist, which an earlier one gets no more.
    pub(super) fn new_copyist(&self) -> Receiver<Order> {
        let (orders, received) = channel();
        let mut state = lock(&self.state);
        state.orders = Some(orders);
        state.busy = None;
        state.unable = None;
        self.hurry.store(false, Ordering::SeqCst);
        received
    }

    /// Has what changed copied. False when there is no copyist, and while a copy is being
    /// handed over, which stays as it is.
    pub(super) fn copy_ahead(&self) -> bool {
        let mut state = lock(&self.state);
        state.busy.is_none() && state.order(Order::Ahead)
    }

    /// The right to write the copy. A copyist of before gives it back when it ends.
    pub(super) fn only_copyist(&self) -> MutexGuard<'_, ()> {
        lock(&self.copy)
    }

    /// What there was of a copy is handed over, or given up.
    pub(super) fn is_free(&self) {
        lock(&self.state).busy = None;
    }

    /// Whether there is room for a copy, and what is said where there is none.
    pub(super) fn set_unable(&self, reason: Option<String>) {
        lock(&self.state).unable = reason;
    }

    /// Whether copying ahead is to end.
    pub(super) fn is_hurried(&self) -> bool {
        self.hurry.load(Ordering::SeqCst) || self.over.load(Ordering::SeqCst)
    }

    /// The copyist has come to the answer that waits.
    pub(super) fn calm(&self) {
        self.hurry.store(false, Ordering::SeqCst);
    }

    /// All is over.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// How it stands.
    pub(super) fn status(&self) -> XianStatus {
        lock(&self.state).status.clone()
    }

    /// Changes how it stands.
    pub(super) fn note(&self, change: impl FnOnce(&mut XianStatus)) {
        change(&mut lock(&self.state).status);
    }

    /// A snapshot is left out.
    fn skip(&self, height: u64, reason: &str) {
        tracing::warn!(height, reason, "no state snapshot is made at this height");
        self.note(|status| {
            status.skipped += 1;
            status.last_error = Some(format!("height {height} was left out: {reason}"));
        });
    }

    /// Has the rest copied; an error says why there is no copy.
    fn hold(&self, height: u64, until: Instant) -> Result<(), String> {
        let now = Instant::now();
        let time = until.saturating_duration_since(now);
        let (word, said) = sync_channel(0);
        {
            let mut state = lock(&self.state);
            if let Some(busy) = state.busy {
                return Err(format!("the snapshot of height {busy} is still being made"));
            }
            if let Some(reason) = &state.unable {
                return Err(reason.clone());
            }
            self.hurry.store(true, Ordering::SeqCst);
            let hold = Hold {
                height,
                until,
                word,
            };
            if !state.order(Order::Held(hold)) {
                return Err("nobody copies, after a defect".to_owned());
            }
            // Before the copyist has said a word: what comes of it may be over soon.
            state.busy = Some(height);
        }
        let word = match said.recv_timeout(time.mul_f64(WORD_PART)) {
            Ok(word) => word,
            Err(RecvTimeoutError::Timeout) => Err(format!(
                "the copy was not made within {} ms",
                time.as_millis()
            )),
            Err(RecvTimeoutError::Disconnected) => Err("the copyist has a defect".to_owned()),
        };
        if word.is_err() {
            self.is_free();
        }
        word
    }
}

impl State {
    fn order(&mut self, order: Order) -> bool {
        let sent = self
            .orders
            .as_ref()
            .is_some_and(|to| to.send(order).is_ok());
        if !sent {
            self.orders = None;
        }
        sent
    }
}

impl Commits for Desk {
    fn committed(&self, height: u64, until: Instant) {
        if let Err(reason) = self.hold(height, until) {
            self.skip(height, &reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn desk() -> Desk {
        Desk::new("/storage".into(), 10)
    }

    /// The next order, whichever thread takes it.
    fn next(orders: &Mutex<Receiver<Order>>) -> Option<Hold> {
        match lock(orders).recv() {
            Ok(Order::Held(hold)) => Some(hold),
            Ok(Order::Ahead) | Err(_) => None,
        }
    }

    fn committed(desk: &Desk, height: u64, limit: Duration) {
        desk.committed(height, Instant::now() + limit);
    }

    #[test]
    fn a_copy_in_time_is_agreed_on_by_both_and_the_next_waits_for_its_end() {
        let desk = desk();
        let orders = Mutex::new(desk.new_copyist());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hold = next(&orders).expect("an order");
                assert!(desk.is_hurried());
                desk.calm();
                assert!(hold.height == 10 && hold.time() < LONG);
                assert!(hold.say(Ok(())));
            });
            committed(&desk, 10, LONG);
        });
        assert_eq!(desk.status().skipped, 0);
        committed(&desk, 20, LONG);
        let status = desk.status();
        assert_eq!(status.skipped, 1);
        assert!(status.last_error.unwrap().contains("height 10 is still"));
        desk.is_free();
        desk.set_unable(Some("the disk is full".to_owned()));
        committed(&desk, 30, LONG);
        let status = desk.status();
        assert!(status.last_error.unwrap().contains("the disk is full"));
        desk.set_unable(None);
        assert!(desk.copy_ahead());
        assert!(matches!(lock(&orders).recv(), Ok(Order::Ahead)));
    }

    #[test]
    fn a_copyist_that_is_late_holds_nobody_up_and_hears_of_it() {
        let desk = desk();
        let orders = Mutex::new(desk.new_copyist());
        let limit = Duration::from_millis(50);
        let began = Instant::now();
        committed(&desk, 10, limit);
        assert!(began.elapsed() < LONG);
        let hold = next(&orders).expect("an order");
        assert!(!hold.say(Ok(())), "nobody waits for it");
        let status = desk.status();
        assert_eq!(status.skipped, 1);
        assert!(status.last_error.unwrap().contains("within"));
        // What it says of its own accord is a reason likewise.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let hold = next(&orders).expect("an order");
                hold.say(Err("too much changed".to_owned()));
            });
            committed(&desk, 20, LONG);
        });
        let status = desk.status();
        assert!(status.last_error.unwrap().contains("too much changed"));
    }

    #[test]
    fn without_a_copyist_the_answer_goes_on_at_once() {
        let desk = desk();
        committed(&desk, 10, LONG);
        drop(desk.new_copyist());
        committed(&desk, 20, LONG);
        // One that ends while it is waited for.
        let orders = desk.new_copyist();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(orders.recv()));
            committed(&desk, 30, LONG);
        });
        assert_eq!(desk.status().skipped, 3);
        assert!(!desk.copy_ahead());
    }
}
