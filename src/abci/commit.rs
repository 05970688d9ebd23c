//! The moment between the application's answer to Commit and the next block: nobody
//! writes into the application's state until CometBFT has that answer.
//!
//! So it is the moment to copy the state of an application that makes no snapshots
//! itself. Consensus waits meanwhile: the answer goes on when the copy is made, or its
//! time is over, or the copier fails or panics, whatever comes first. A copier that
//! hangs holds one answer; while it does, the others go on at once.
//!
//! A query that comes meanwhile waits as long: an application may touch its files even to
//! read them, as Xian's does, and what is touched cannot be copied.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::session::Session;
use super::work::Purpose;

/// What is done while the answer to Commit is held.
pub trait Commits: Send + Sync + 'static {
    /// The application has committed the block of this height, and nobody executes the
    /// next one before this returns, or it is `until`. It blocks, on a thread of its
    /// own; a panic is harmless.
    fn committed(&self, height: u64, until: Instant);
}

/// When the answer to Commit is held, and for how long at most.
#[derive(Clone)]
pub struct CommitHold {
    /// At heights that this divides.
    pub every: NonZeroU64,
    /// At most so long.
    pub limit: Duration,
    /// Meanwhile this is done.
    pub then: Arc<dyn Commits>,
}

/// How the answer to Commit was held last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastHold {
    /// Of which block.
    pub height: u64,
    /// For how long.
    pub took: Duration,
}

/// The hold of a session.
#[derive(Default)]
pub(super) struct Holding {
    hold: OnceLock<CommitHold>,
    last: Mutex<Option<LastHold>>,
    is_holding: watch::Sender<bool>,
}

/// An answer is held for as long as it lives.
struct Hold<'s>(&'s watch::Sender<bool>);

impl<'s> Hold<'s> {
    fn begin(is_holding: &'s watch::Sender<bool>) -> Self {
        is_holding.send_replace(true);
        Self(is_holding)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl Holding {
    /// From now on. Only the first one counts.
    pub(super) fn begin(&self, hold: CommitHold) {
        let _ = self.hold.set(hold);
    }

    pub(super) fn last(&self) -> Option<LastHold> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hold at a height, where there is one.
    fn at(&self, height: u64) -> Option<&CommitHold> {
        let hold = self.hold.get()?;
        (height > 0 && height.is_multiple_of(hold.every.get())).then_some(hold)
    }
}

impl Session {
    /// Whether the answer to the Commit that is under way is held.
    pub(super) fn is_held(&self) -> bool {
        self.holding.at(self.confirmed()).is_some()
    }

    /// Ends when no answer to Commit is held, at once where none is.
    pub(super) async fn quiet(&self) {
        let mut is_holding = self.holding.is_holding.subscribe();
        // The sender lives as long as the session.
        let _ = is_holding.wait_for(|is_holding| !is_holding).await;
    }

    /// Holds the answer to Commit, where it is held.
    pub(super) async fn hold_commit(&self) {
        let height = self.confirmed();
        let Some(hold) = self.holding.at(height) else {
            return;
        };
        let (began, then) = (Instant::now(), hold.then.clone());
        let until = began + hold.limit;
        let work = move || then.committed(height, until);
        let holding = Hold::begin(&self.holding.is_holding);
        self.crew.run(Purpose::Commit, hold.limit, work).await;
        drop(holding);
        let took = began.elapsed();
        let mut last = self
            .holding
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some(LastHold { height, took });
    }
}
