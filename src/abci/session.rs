//! What the four connections of one application share: what is known of the
//! chain, and the restore under way. Here is answered what peers and people ask for;
//! what CometBFT brings is judged in `judge`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use super::commit::Holding;
use super::memory::Memory;
use super::message;
use super::restore::Restore;
use super::work::{Crew, Purpose};
use super::{
    AdapterSettings, Address, Chain, MAX_LISTED, Restoring, Served, Snapshots, Standing, Times,
};

/// One application under the adapter.
pub(super) struct Session {
    pub(super) app: Address,
    pub(super) times: Times,
    pub(super) snapshots: Arc<dyn Snapshots>,
    state: Mutex<State>,
    committed: watch::Sender<u64>,
    pub(super) crew: Crew,
    pub(super) counts: Counts,
    pub(super) holding: Holding,
}

pub(super) struct State {
    memory: Memory,
    pub(super) restore: Option<Restore>,
    /// Why an offer was rejected last: CometBFT comes with the same ones, and peers
    /// can make up more.
    pub(super) rejected: Option<String>,
}

#[derive(Default)]
pub(super) struct Counts {
    lists: AtomicU64,
    chunks: AtomicU64,
    missing: AtomicU64,
    pub(super) unconfirmed: AtomicU64,
}

/// What is answered here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    List,
    Chunk {
        height: u64,
        format: u32,
        chunk: u32,
    },
    Snapshots,
    SyncStatus,
}

impl Question {
    /// The question behind a query's path, where it is one of ours.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/snapshots" => Some(Self::Snapshots),
            "/sync_status" => Some(Self::SyncStatus),
            _ => None,
        }
    }

    /// The answer when there is no other.
    pub(super) fn harmless(self) -> Bytes {
        match self {
            Self::List => message::answer_list(Vec::new()),
            Self::Chunk { .. } => message::answer_load(None),
            Self::Snapshots | Self::SyncStatus => message::answer_query(b"{}".to_vec(), 0),
        }
    }
}

impl Session {
    pub(super) fn new(settings: AdapterSettings, snapshots: Arc<dyn Snapshots>) -> Self {
        Self {
            app: settings.app,
            times: settings.times,
            snapshots,
            state: Mutex::new(State {
                memory: Memory::of(settings.chain_id),
                restore: None,
                rejected: None,
            }),
            committed: watch::Sender::new(0),
            crew: Crew::new(),
            counts: Counts::default(),
            holding: Holding::default(),
        }
    }

    /// Plain data stays whole even if a holder panicked.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of the chain.
    pub(super) fn learn(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.state().memory);
    }

    /// A chain begins.
    pub(super) fn genesis(&self, chain_id: String) {
        self.learn(|memory| memory.genesis(chain_id));
        let chain = self.chain();
        if let (Some(said), Some(named)) = (chain.id, chain.contradicted_by) {
            tracing::error!(
                said,
                named,
                "CometBFT begins another chain than --chain-id says: snapshots are neither \
                 served nor taken"
            );
        }
    }

    pub(super) fn chain(&self) -> Chain {
        self.state().memory.chain.clone()
    }

    pub(super) fn app_hash(&self, height: u64) -> Option<Bytes> {
        self.state().memory.app_hash(height)
    }

    pub(super) fn is_past(&self, height: u64) -> bool {
        self.state().memory.is_past(height)
    }

    /// The newest block given to the application.
    pub(super) fn confirmed(&self) -> u64 {
        self.state().memory.confirmed()
    }

    /// A block was committed.
    pub(super) fn committed(&self) {
        let tip = self.state().memory.chain.tip;
        self.committed.send_replace(tip);
    }

    /// The heights of commits.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    pub(super) fn standing(&self) -> Standing {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Standing {
            restoring: self.restoring(),
            served: Served {
                lists: count(&self.counts.lists),
                chunks: count(&self.counts.chunks),
                missing_chunks: count(&self.counts.missing),
                refused: self.crew.refused(),
                unconfirmed_restores: count(&self.counts.unconfirmed),
            },
        }
    }

    pub(super) fn restoring(&self) -> Option<Restoring> {
        self.state().restore.as_ref().map(Restore::view)
    }

    /// Answers what is answered here.
    pub(super) async fn answer(&self, question: Question) -> Bytes {
        let answer = match question {
            Question::List => self.list().await,
            Question::Chunk {
                height,
                format,
                chunk,
            } => Some(self.load(height, format, chunk).await),
            Question::Snapshots => {
                let ask = |snapshots: &dyn Snapshots, chain: &Chain| snapshots.snapshots(chain);
                self.query(ask).await
            }
            Question::SyncStatus => {
                let standing = self.standing();
                let ask = move |snapshots: &dyn Snapshots, chain: &Chain| {
                    snapshots.sync_status(chain, &standing)
                };
                self.query(ask).await
            }
        };
        answer.unwrap_or_else(|| question.harmless())
    }

    async fn list(&self) -> Option<Bytes> {
        count(&self.counts.lists);
        let chain = self.chain();
        if chain.contradicted_by.is_some() {
            return None;
        }
        let ask = move |snapshots: &dyn Snapshots| snapshots.list(&chain);
        let mut offers = self.ask(Purpose::List, self.times.serve, ask).await?;
        offers.truncate(MAX_LISTED);
        Some(message::answer_list(offers))
    }

    async fn load(&self, height: u64, format: u32, chunk: u32) -> Bytes {
        let chain = self.chain();
        let found = if chain.contradicted_by.is_some() {
            None
        } else {
            let ask =
                move |snapshots: &dyn Snapshots| snapshots.chunk(&chain, height, format, chunk);
            let asked = self.ask(Purpose::Chunk, self.times.serve, ask);
            asked.await.flatten()
        };
        if found.is_none() {
            // A peer asks for whatever it likes.
            count(&self.counts.missing);
            tracing::debug!(
                height,
                format,
                chunk,
                "a peer asks for a chunk that is not here"
            );
        } else {
            count(&self.counts.chunks);
        }
        message::answer_load(found)
    }

    async fn query(
        &self,
        ask: impl FnOnce(&dyn Snapshots, &Chain) -> Vec<u8> + Send + 'static,
    ) -> Option<Bytes> {
        let chain = self.chain();
        let height = chain.tip;
        let ask = move |snapshots: &dyn Snapshots| ask(snapshots, &chain);
        let json = self.ask(Purpose::Query, self.times.serve, ask).await?;
        Some(message::answer_query(json, height))
    }

    pub(super) async fn ask<T, F>(&self, purpose: Purpose, time: Duration, ask: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Snapshots) -> T + Send + 'static,
    {
        let snapshots = self.snapshots.clone();
        let work = move || ask(&*snapshots);
        self.crew.run(purpose, time, work).await
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
