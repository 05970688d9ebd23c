//! Follows a restore from both sides: what the node asks of the local peer, and
//! what its RPC says.
//!
//! Only three things are progress: the first connection, a chunk that was not
//! sent before, and, once the node has all chunks, an answer of its RPC, for its
//! application may work long on the last of them. An application at work may not
//! answer for itself: then the node's own answer counts. A node whose application
//! refuses the snapshot connects, asks for offers and asks for the same chunks
//! without end; once it asks for anything again, its answers are no progress.
//!
//! Waiting after the last chunk has an end of its own ([`work_limit`]): a node
//! whose state sync has failed for good looks the same from here as one at work.
//! Its process and its RPC stay up, at height 0, and it asks for nothing more;
//! the reason stands in its log alone. Only a state of the right height with
//! another application hash is told at once.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::behind::adapter_holds;
use super::{Connection, Stubs, interrupted};
use crate::comet::peer::FeedEvent;
use crate::comet::rpc::{AppState, Restored, Rpc, RpcError};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::{Meter, Reporter};
use crate::snapshot::Manifest;

/// How often the node is asked whether it has restored the snapshot.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A new connection brings an offer unasked, and one that the node asks for. Who
/// asks for more of them has no snapshot in hand.
const OFFERS_OF_A_CONNECTION: u32 = 2;

/// A node that asks for offers so often beyond that, and for no chunk, has refused the
/// snapshot: it bars what it refused and looks for others, without a word to its peers.
const OFFERS_IN_VAIN: u32 = 3;

/// The most that an application may take after the last chunk, in patiences: large ones
/// need an hour, and 6 hours go by at the default patience of `join`, 12 at that of
/// `feed`. Whoever reads the node's log knows of a failure long before.
const WORK_PATIENCES: u32 = 72;

/// And not sooner than this: ten minutes, whatever short patience was given.
const WORK_MIN: Duration = Duration::from_secs(600);

fn work_limit(patience: Duration) -> Duration {
    patience.saturating_mul(WORK_PATIENCES).max(WORK_MIN)
}

/// A question to the node's RPC that is under way.
type Question = Pin<Box<dyn Future<Output = Result<Seen, RpcError>> + Send>>;

/// Whether an adapter that holds the snapshot stands before the node's application:
/// being asked.
type Asking = Pin<Box<dyn Future<Output = Option<Connection>> + Send>>;

/// What the node's RPC says of the restore.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    /// Something else; or its application does not answer, and the node does.
    NotYet,
    /// The application holds exactly the snapshot's state.
    State,
    /// The application is at the snapshot's height with another hash.
    OtherState { app_hash: Bytes },
    /// The node has blocks above the snapshot, from this height on; 0 when it
    /// does not tell.
    Following { earliest: u64 },
}

/// What blocks above the snapshot mean.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Restored,
    /// The node came there without this snapshot.
    Otherwise,
}

pub(super) struct Watch<'a> {
    rpc: &'a Rpc,
    manifest: &'a Manifest,
    app_hash: &'a Bytes,
    reporter: &'a Reporter,
    meter: Meter,
    connected: bool,
    sent: Vec<bool>,
    sent_bytes: u64,
    moved_at: Instant,
    patience: Duration,
    /// Since when the node has all chunks and has asked for nothing more.
    working_since: Option<Instant>,
    /// How often the person was told that its application takes its time.
    told_working: u32,
    /// Offers since the connection stands.
    offers: u32,
    last_trouble: Option<String>,
    stubs: Stubs,
    asking: Option<Asking>,
}

impl<'a> Watch<'a> {
    /// `patience` is how long nothing may move.
    pub(super) fn new(
        rpc: &'a Rpc,
        manifest: &'a Manifest,
        app_hash: &'a Bytes,
        reporter: &'a Reporter,
        patience: Duration,
        stubs: Stubs,
    ) -> Self {
        Self {
            stubs,
            asking: None,
            rpc,
            manifest,
            app_hash,
            reporter,
            meter: Meter::new(reporter.clone(), manifest.total_bytes()),
            connected: false,
            sent: vec![false; manifest.chunk_count() as usize],
            sent_bytes: 0,
            moved_at: Instant::now(),
            patience,
            working_since: None,
            told_working: 0,
            offers: 0,
            last_trouble: None,
        }
    }

    /// The question runs beside everything else: an RPC that does not answer
    /// holds up neither an event nor the person's stop.
    pub(super) async fn until_restored(
        &mut self,
        heard: &mut mpsc::Receiver<FeedEvent>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let mut question: Option<Question> = None;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Err(interrupted()),
                Some(event) = heard.recv() => self.heard(event, Instant::now()),
                connection = allowed(&mut self.asking) => self.stubs_are_taken(connection),
                seen = answer(&mut question) => {
                    question = None;
                    if self.is_restored(seen, Instant::now())? {
                        return Ok(());
                    }
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    if self.offers > OFFERS_OF_A_CONNECTION + OFFERS_IN_VAIN {
                        return Err(self.refused());
                    }
                    if self.works_too_long(now) {
                        return Err(self.never_done());
                    }
                    if self.is_stuck(now) {
                        return Err(self.stuck());
                    }
                    question.get_or_insert_with(|| self.question());
                }
            }
        }
    }

    fn question(&self) -> Question {
        let rpc = self.rpc.clone();
        let (height, app_hash) = (self.manifest.height(), self.app_hash.clone());
        Box::pin(async move {
            match see(&rpc, height, &app_hash).await {
                Err(error) if error.is_retryable() && rpc.status().await.is_ok() => {
                    Ok(Seen::NotYet)
                }
                seen => seen,
            }
        })
    }

    /// Bytes of a chunk.
    fn size(&self, index: u32) -> u64 {
        let index = self.manifest.chunk_index(index);
        index.map_or(0, |index| {
            u64::from(
                self.manifest
                    .unique_chunk(self.manifest.unique_at(index))
                    .size,
            )
        })
    }

    fn ask_for_adapter(&self) -> Asking {
        let (rpc, wanted) = (self.rpc.clone(), self.manifest.id().to_string());
        let connection = self.stubs.connection();
        Box::pin(async move {
            let is_there = adapter_holds(&rpc, &wanted).await;
            is_there.then_some(connection)
        })
    }

    fn stubs_are_taken(&mut self, connection: Connection) {
        self.stubs.allow(connection);
        self.reporter.note(
            "the node's application is behind an adapter that has the snapshot: only the names of \
             the chunks are sent",
        );
    }

    fn is_stuck(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.moved_at) >= self.patience
    }

    /// Whether all chunks are with the node for longer than any application needs.
    fn works_too_long(&self, now: Instant) -> bool {
        self.working_since
            .is_some_and(|since| now.saturating_duration_since(since) >= work_limit(self.patience))
    }

    fn is_restored(&mut self, seen: Result<Seen, RpcError>, now: Instant) -> Result<bool, Failure> {
        match seen {
            Ok(Seen::State) => Ok(true),
            // Before it has all chunks, what it holds is not what it made of them.
            Ok(Seen::OtherState { app_hash }) if self.working_since.is_some() => {
                Err(self.other_state(&app_hash))
            }
            Ok(Seen::NotYet | Seen::OtherState { .. }) => {
                self.lives(now);
                Ok(false)
            }
            Ok(Seen::Following { earliest }) => {
                let all_sent = self.sent.iter().all(|sent| *sent);
                match verdict(self.manifest.height(), earliest, all_sent) {
                    Verdict::Restored => Ok(true),
                    Verdict::Otherwise => Err(self.otherwise(earliest)),
                }
            }
            Err(error) => {
                self.trouble(error.to_string());
                Ok(false)
            }
        }
    }

    /// The node's RPC answered that the restore is not done.
    fn lives(&mut self, now: Instant) {
        let Some(since) = self.working_since else {
            return;
        };
        self.moved_at = now;
        let working = now.saturating_duration_since(since);
        if working >= self.patience.saturating_mul(self.told_working + 1) {
            self.told_working += 1;
            self.reporter.note(format!(
                "the node has had all chunks for {} seconds and its application is not done; its \
                 RPC answers, so waiting goes on, up to {} seconds. \"State sync failed\" in the \
                 node's log would mean that it has given up",
                working.as_secs(),
                work_limit(self.patience).as_secs()
            ));
        }
    }

    fn heard(&mut self, event: FeedEvent, now: Instant) {
        match event {
            FeedEvent::Listening { addr } => {
                self.reporter
                    .note(format!("waiting for the node on {addr}"));
            }
            FeedEvent::Connected { version, .. } => {
                if !std::mem::replace(&mut self.connected, true) {
                    self.moved_at = now;
                }
                self.offers = 0;
                self.asking = Some(self.ask_for_adapter());
                self.reporter
                    .note(format!("connected; the node runs CometBFT {version}"));
            }
            FeedEvent::Offered => {
                self.offers += 1;
                if self.offers > OFFERS_OF_A_CONNECTION {
                    self.working_since = None;
                }
                self.reporter.note("snapshot offered");
            }
            FeedEvent::ChunkSent { index, .. } => {
                let first = !std::mem::replace(&mut self.sent[index as usize], true);
                self.working_since = None;
                self.offers = self.offers.min(OFFERS_OF_A_CONNECTION);
                if first {
                    self.moved_at = now;
                    self.sent_bytes += self.size(index);
                }
                self.meter.tell(self.sent_bytes, 1);
                if first && self.sent.iter().all(|sent| *sent) {
                    self.working_since = Some(now);
                    self.reporter
                        .phase("the node has all chunks; its application restores the state");
                }
            }
            FeedEvent::Disconnected { why } => {
                self.asking = None;
                self.trouble(why);
            }
        }
    }

    /// A trouble is told once, until another one comes.
    fn trouble(&mut self, why: String) {
        if self.last_trouble.as_ref() != Some(&why) {
            tracing::warn!(why, "feeding does not go on");
            self.reporter.note(why.clone());
            self.last_trouble = Some(why);
        }
    }

    fn otherwise(&self, earliest: u64) -> Failure {
        Failure::new(
            FailureCode::Failed,
            format!(
                "the node follows the chain with blocks from {earliest} on, so it did not start \
                 from the snapshot of height {}",
                self.manifest.height()
            ),
        )
        .hint(
            "it synced from other peers, or restored another snapshot; to restore this one, empty \
             the node and feed it again",
        )
    }

    fn refused(&self) -> Failure {
        let all = self.sent.len();
        let sent = self.sent.iter().filter(|sent| **sent).count();
        Failure::new(
            FailureCode::Failed,
            format!(
                "the node does not take the snapshot of height {}: it was offered {} times, and \
                 after {sent} of {all} chunks the node looks for another one",
                self.manifest.height(),
                self.offers
            ),
        )
        .hint(
            "its application or its light client has refused it, and a running node tries it no \
             more: look for 'statesync' in the node's log",
        )
    }

    fn other_state(&self, app_hash: &Bytes) -> Failure {
        Failure::new(
            FailureCode::Verification,
            format!(
                "the node's application restored height {} to application hash {}, but the chain \
                 has {}",
                self.manifest.height(),
                hex::encode_upper(app_hash),
                hex::encode_upper(self.app_hash)
            ),
        )
        .hint(
            "the node does not go on with this state: empty it and its application, and take \
             another snapshot; is the application of the version that made this one?",
        )
    }

    fn never_done(&self) -> Failure {
        Failure::new(
            FailureCode::Failed,
            format!(
                "the node has had all chunks of height {} for {} seconds, and its application has \
                 not restored it",
                self.manifest.height(),
                work_limit(self.patience).as_secs()
            ),
        )
        .hint(
            "look for \"State sync failed\" in the node's log: such a node has given up, stays \
             at height 0 and must be emptied and started again. Without that line it may still be \
             at work; it has all it needs from here, and a larger --timeout waits longer",
        )
    }

    fn stuck(&self) -> Failure {
        let all = self.sent.len();
        let sent = self.sent.iter().filter(|sent| **sent).count();
        let why = self
            .last_trouble
            .as_ref()
            .map_or_else(String::new, |why| format!("; last trouble: {why}"));
        let hint = if sent == 0 {
            "the node asked for no chunk: is [statesync] enabled in its config.toml, is it at \
             height 0, do its rpc_servers answer, and does it let this peer in (see its log for \
             'statesync')?"
        } else {
            "look for 'statesync' in the node's log: it says why the snapshot was not taken"
        };
        Failure::new(
            FailureCode::Failed,
            format!(
                "the node has not restored height {} ({sent} of {all} chunks sent), and for {} \
                 seconds nothing moved{why}",
                self.manifest.height(),
                self.patience.as_secs()
            ),
        )
        .hint(hint)
    }
}

/// What the node's RPC says, while its application answers.
async fn see(rpc: &Rpc, height: u64, app_hash: &Bytes) -> Result<Seen, RpcError> {
    Ok(match rpc.restored(height, app_hash).await? {
        Restored::NotYet => seen_of(rpc.app_state().await?, height, app_hash),
        Restored::State => Seen::State,
        Restored::Following { .. } => Seen::Following {
            earliest: rpc.status().await?.earliest_height,
        },
    })
}

/// A node that restored a snapshot stores its first block right above it. It may
/// have pruned that one since; then only the chunks that it had from here tell
/// this restore from one of a newer snapshot.
fn verdict(height: u64, earliest: u64, all_sent: bool) -> Verdict {
    let first_block = height.saturating_add(1);
    if earliest == 0 || earliest == first_block || (earliest > first_block && all_sent) {
        Verdict::Restored
    } else {
        Verdict::Otherwise
    }
}

/// What an application shows that does not hold the snapshot's state. It may
/// have come there since it was looked at before.
fn seen_of(app: AppState, height: u64, app_hash: &Bytes) -> Seen {
    if app.height != height {
        Seen::NotYet
    } else if app.app_hash == *app_hash {
        Seen::State
    } else {
        Seen::OtherState {
            app_hash: app.app_hash,
        }
    }
}

/// Ends when an adapter is there that has the snapshot; never otherwise.
async fn allowed(asking: &mut Option<Asking>) -> Connection {
    let is_there = match asking {
        Some(question) => question.await,
        None => std::future::pending().await,
    };
    *asking = None;
    match is_there {
        Some(connection) => connection,
        None => std::future::pending().await,
    }
}

/// The answer to the question under way; never, when there is none.
async fn answer(question: &mut Option<Question>) -> Result<Seen, RpcError> {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
