//! Blocking work of ours: bounded in number and in time, and harmless when it
//! panics.
//!
//! Who waits for work gives up after its time, but a thread that reads a disk that
//! hangs cannot be ended. So each piece of work carries a permit into its thread and
//! gives it back when it ends; while all permits are in threads that hang, more of
//! the same kind is refused at once. What peers of CometBFT ask for has permits of
//! its own: they do not use up those of a restore.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Lists, chunks and queries at once, over all connections: a connection has one
/// under way at a time.
const MAX_SERVING: usize = 8;
/// Offers, chunks to be checked and the look after a restore: there is one restore.
const MAX_DECIDING: usize = 4;
/// Looks at a committed state: one that hangs holds up no block after.
const MAX_COMMITTING: usize = 1;
/// Trouble of one kind is logged so often at most: peers can cause it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What a piece of work is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    List,
    Chunk,
    Query,
    Offer,
    Check,
    Info,
    Commit,
    Restore,
}

const PURPOSES: usize = 8;

impl Purpose {
    fn text(self) -> &'static str {
        match self {
            Self::List => "a list of snapshots",
            Self::Chunk => "a chunk for a peer",
            Self::Query => "a query",
            Self::Offer => "an offered snapshot",
            Self::Check => "a chunk to be checked",
            Self::Info => "the application's Info",
            Self::Commit => "the copy of a committed state",
            Self::Restore => "a restore into the application's storage",
        }
    }
}

/// Who does the work.
pub(super) struct Crew {
    serving: Arc<Semaphore>,
    deciding: Arc<Semaphore>,
    committing: Arc<Semaphore>,
    told: Mutex<[Option<Instant>; PURPOSES]>,
    refused: AtomicU64,
}

impl Crew {
    pub(super) fn new() -> Self {
        Self {
            serving: Arc::new(Semaphore::new(MAX_SERVING)),
            deciding: Arc::new(Semaphore::new(MAX_DECIDING)),
            committing: Arc::new(Semaphore::new(MAX_COMMITTING)),
            told: Mutex::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// Work that was refused because too much of it hung.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What the work brings; nothing when it panics, takes too long, or when too much
    /// of the kind hangs already.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        purpose: Purpose,
        time: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permits = match purpose {
            Purpose::List | Purpose::Chunk | Purpose::Query => &self.serving,
            Purpose::Offer | Purpose::Check | Purpose::Info | Purpose::Restore => &self.deciding,
            Purpose::Commit => &self.committing,
        };
        let Ok(permit) = permits.clone().try_acquire_owned() else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.tell(purpose, "too much of it hangs already");
            return None;
        };
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match tokio::time::timeout(time, work).await {
            Ok(Ok(done)) => Some(done),
            Ok(Err(error)) => {
                let problem =
                    format!("a defect of snapswarm, please report it with the log: {error}");
                self.tell(purpose, &problem);
                None
            }
            Err(_) => {
                let problem = format!("nothing came in {} s", time.as_secs_f64());
                self.tell(purpose, &problem);
                None
            }
        }
    }

    fn tell(&self, purpose: Purpose, problem: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut told[purpose as usize];
        let what = purpose.text();
        if last.is_some_and(|last| last.elapsed() < TELL_EVERY) {
            tracing::debug!(what, problem, "no answer of ours");
        } else {
            tracing::error!(what, problem, "no answer of ours; a harmless one is given");
            *last = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn work_that_hangs_keeps_its_permit_until_it_ends_and_leaves_those_of_others_alone() {
        let crew = Crew::new();
        let (go_on, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        for _ in 0..MAX_SERVING {
            let wait = wait.clone();
            let hang = move || wait.lock().unwrap().recv().is_ok();
            assert_eq!(crew.run(Purpose::Chunk, SHORT, hang).await, None);
        }
        assert_eq!(crew.refused(), 0);
        assert_eq!(crew.run(Purpose::List, LONG, || 1).await, None);
        assert_eq!(crew.refused(), 1, "at once, and no thread is taken");
        assert_eq!(crew.run(Purpose::Offer, LONG, || 1).await, Some(1));
        for _ in 0..MAX_SERVING {
            go_on.send(()).unwrap();
        }
        while crew.serving.available_permits() < MAX_SERVING {
            tokio::task::yield_now().await;
        }
        assert_eq!(crew.run(Purpose::List, LONG, || 1).await, Some(1));
    }

    #[tokio::test]
    async fn work_that_panics_brings_nothing_and_gives_its_permit_back() {
        let crew = Crew::new();
        for _ in 0..=MAX_DECIDING {
            let panics = || -> u32 { panic!("as the test says") };
            assert_eq!(crew.run(Purpose::Offer, LONG, panics).await, None);
        }
        assert_eq!(crew.refused(), 0);
        assert_eq!(crew.run(Purpose::Offer, LONG, || 1).await, Some(1));
    }
}
