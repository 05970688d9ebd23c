//! What the four connections of one application share: what is known of the
//! chain, and the restore under way. Calls of [`Snapshots`] leave from here, each
//! with its time and its harmless answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::RequestApplySnapshotChunk;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::client::{self, AppInfo};
use super::memory::Memory;
use super::message::{self, applied, stub};
use super::{Address, Chain, MAX_LISTED, Restoring, Snapshots, Verdict, Verified};
use crate::snapshot::hash::sha256;
use crate::snapshot::{ChunkId, Offer};

/// A peer waits 10 s for a list or a chunk, and there are others to ask.
const SERVE_TIMEOUT: Duration = Duration::from_secs(8);
/// What CometBFT offers waits for a decision so long. It has no limit of its own,
/// but with nodes that prune, blocks vanish meanwhile.
const OFFER_TIMEOUT: Duration = Duration::from_secs(10);
/// A chunk of ours is read from a disk.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The application's Info after a restore.
const INFO_TIMEOUT: Duration = Duration::from_secs(30);
/// An own chunk that cannot be read is tried again so often before the snapshot is
/// given up.
const MAX_UNREADABLE: u32 = 3;

/// One application under the adapter.
pub(super) struct Session {
    pub(super) app: Address,
    snapshots: Arc<dyn Snapshots>,
    state: Mutex<State>,
    committed: watch::Sender<u64>,
}

struct State {
    memory: Memory,
    restore: Option<Restore>,
}

/// A restore under way.
struct Restore {
    proposal: Proposal,
    applied: u32,
    replaced: u32,
    unreadable: u32,
}

/// What the application is asked to restore.
pub(super) struct Proposal {
    offer: Offer,
    app_hash: Bytes,
    verified: Option<Arc<dyn Verified>>,
}

/// What becomes of an OfferSnapshot.
pub(super) enum Offered {
    /// It goes on to the application.
    Forward(Proposal),
    /// It is rejected.
    Reject,
}

/// What becomes of an ApplySnapshotChunk.
pub(super) enum Apply {
    /// It goes on as it is, or with these bytes instead; the sender, when the bytes
    /// were wrong.
    Forward(Option<Bytes>, Option<String>),
    /// It is answered here.
    Answer(Bytes),
}

impl Session {
    pub(super) fn new(
        app: Address,
        chain_id: Option<String>,
        snapshots: Arc<dyn Snapshots>,
    ) -> Self {
        Self {
            app,
            snapshots,
            state: Mutex::new(State {
                memory: Memory::of(chain_id),
                restore: None,
            }),
            committed: watch::Sender::new(0),
        }
    }

    /// Plain data stays whole even if a holder panicked.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of the chain.
    pub(super) fn learn(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.state().memory);
    }

    pub(super) fn chain(&self) -> Chain {
        self.state().memory.chain.clone()
    }

    pub(super) fn app_hash(&self, height: u64) -> Option<Bytes> {
        self.state().memory.app_hash(height)
    }

    /// A block was committed.
    pub(super) fn committed(&self) {
        let tip = self.chain().tip;
        self.committed.send_replace(tip);
    }

    /// The heights of commits.
    pub(super) fn commits(&self) -> watch::Receiver<u64> {
        self.committed.subscribe()
    }

    pub(super) fn restoring(&self) -> Option<Restoring> {
        self.state().restore.as_ref().map(|restore| Restoring {
            offer: restore.proposal.offer.clone(),
            checked: restore.proposal.verified.is_some(),
            applied: restore.applied,
            replaced: restore.replaced,
        })
    }

    /// Answers ListSnapshots.
    pub(super) async fn list(&self) -> Bytes {
        let chain = self.chain();
        let ask = move |snapshots: &dyn Snapshots| snapshots.list(&chain);
        let mut offers = self.ask("a list of snapshots", SERVE_TIMEOUT, ask).await;
        let offers = offers.get_or_insert_default();
        offers.truncate(MAX_LISTED);
        message::answer_list(std::mem::take(offers))
    }

    /// Answers LoadSnapshotChunk.
    pub(super) async fn load(&self, height: u64, format: u32, chunk: u32) -> Bytes {
        let chain = self.chain();
        let ask = move |snapshots: &dyn Snapshots| snapshots.chunk(&chain, height, format, chunk);
        let found = self.ask("a chunk", SERVE_TIMEOUT, ask).await.flatten();
        if found.is_none() {
            tracing::warn!(
                height,
                format,
                chunk,
                "a peer asks for a chunk that is not here"
            );
        }
        message::answer_load(found)
    }

    /// Answers a query of ours; nothing for any other path.
    pub(super) async fn query(&self, path: &str) -> Option<Bytes> {
        let chain = self.chain();
        let height = chain.tip;
        let json = match path {
            "/snapshots" => {
                let ask = move |snapshots: &dyn Snapshots| snapshots.snapshots(&chain);
                self.ask("a query", SERVE_TIMEOUT, ask).await
            }
            "/sync_status" => {
                let restoring = self.restoring();
                let ask = move |snapshots: &dyn Snapshots| {
                    snapshots.sync_status(&chain, restoring.as_ref())
                };
                self.ask("a query", SERVE_TIMEOUT, ask).await
            }
            _ => return None,
        };
        Some(message::answer_query(
            json.unwrap_or_else(|| b"{}".to_vec()),
            height,
        ))
    }

    /// Decides about an offer of CometBFT.
    pub(super) async fn offered(&self, offer: Offer, app_hash: Bytes) -> Offered {
        let (height, format) = (offer.height, offer.format);
        let chain = self.chain();
        let (asked, hash) = (offer.clone(), app_hash.clone());
        let ask = move |snapshots: &dyn Snapshots| snapshots.offered(&chain, &asked, &hash);
        let verdict = self.ask("an offered snapshot", OFFER_TIMEOUT, ask).await;
        match verdict {
            Some(Verdict::Checked(verified)) => {
                tracing::info!(
                    height,
                    format,
                    "CometBFT offers a snapshot that is here, verified"
                );
                let verified = Some(verified);
                Offered::Forward(Proposal {
                    offer,
                    app_hash,
                    verified,
                })
            }
            Some(Verdict::Unchecked) => {
                tracing::info!(
                    height,
                    format,
                    "CometBFT offers a snapshot of its peers' own"
                );
                let verified = None;
                Offered::Forward(Proposal {
                    offer,
                    app_hash,
                    verified,
                })
            }
            Some(Verdict::Reject(reason)) => {
                tracing::info!(
                    height,
                    format,
                    reason,
                    "a snapshot that CometBFT offers is rejected"
                );
                Offered::Reject
            }
            None => Offered::Reject,
        }
    }

    /// The application answered an offer, and accepted this, or nothing. Whatever an
    /// earlier offer left is forgotten.
    pub(super) fn begin_restore(&self, accepted: Option<Proposal>) {
        self.state().restore = accepted.map(|proposal| Restore {
            proposal,
            applied: 0,
            replaced: 0,
            unreadable: 0,
        });
    }

    /// Checks a chunk that CometBFT has for the application.
    pub(super) async fn check_chunk(&self, request: &RequestApplySnapshotChunk) -> Apply {
        let verified = match &self.state().restore {
            Some(restore) => restore.proposal.verified.clone(),
            None => None,
        };
        let Some(verified) = verified else {
            return Apply::Forward(None, None);
        };
        let (index, chunk) = (request.index, request.chunk.clone());
        let work = move || check(&*verified, index, &chunk);
        let Some(checked) =
            bounded("a chunk", READ_TIMEOUT, tokio::task::spawn_blocking(work)).await
        else {
            return self.unreadable(index);
        };
        match checked {
            Checked::Right => Apply::Forward(None, None),
            Checked::Stub(bytes) => {
                self.count_replaced();
                Apply::Forward(Some(bytes), None)
            }
            Checked::Wrong(bytes) => {
                let sender = request.sender.clone();
                tracing::warn!(
                    index,
                    sender,
                    "a peer gave wrong bytes for a chunk; ours are used"
                );
                self.count_replaced();
                Apply::Forward(Some(bytes), Some(sender))
            }
            Checked::WrongAndUnreadable(error) => {
                tracing::error!(index, %error, "a chunk of ours cannot be read");
                match is_stub(&request.chunk) {
                    true => self.unreadable(index),
                    false => {
                        let senders = vec![request.sender.clone()];
                        Apply::Answer(message::answer_apply(applied::RETRY, vec![index], senders))
                    }
                }
            }
        }
    }

    fn count_replaced(&self) {
        if let Some(restore) = &mut self.state().restore {
            restore.replaced += 1;
        }
    }

    /// A chunk can be neither checked nor read: it is tried again a few times.
    fn unreadable(&self, index: u32) -> Apply {
        let mut state = self.state();
        let tries = state.restore.as_mut().map_or(u32::MAX, |restore| {
            restore.unreadable += 1;
            restore.unreadable
        });
        Apply::Answer(if tries < MAX_UNREADABLE {
            message::answer_apply(applied::RETRY, vec![index], Vec::new())
        } else {
            state.restore = None;
            message::answer_apply(applied::REJECT_SNAPSHOT, Vec::new(), Vec::new())
        })
    }

    /// The application accepted a chunk; whether it was the last.
    pub(super) fn accepted(&self, index: u32) -> bool {
        let mut state = self.state();
        let Some(restore) = &mut state.restore else {
            return false;
        };
        restore.applied = restore.applied.max(index.saturating_add(1));
        restore.applied >= restore.proposal.offer.chunks
    }

    /// Whether the application has the state that was trusted. CometBFT looks at
    /// once, and takes a difference for fatal; told here, it takes another
    /// snapshot. An application that cannot be asked has the benefit of the doubt:
    /// CometBFT asks it, too.
    pub(super) async fn is_restored(&self) -> bool {
        let restore = self.state().restore.take();
        let Some(restore) = restore else {
            return true;
        };
        let (app, chain, height) = (
            self.app.clone(),
            self.chain(),
            restore.proposal.offer.height,
        );
        let snapshots = self.snapshots.clone();
        let work = move || {
            let info = client::info(&app, INFO_TIMEOUT)?;
            Ok::<_, super::AbciError>((info, snapshots.app_version(&chain, height)))
        };
        let asked = bounded(
            "the application's Info",
            INFO_TIMEOUT * 2,
            tokio::task::spawn_blocking(work),
        );
        match asked.await {
            None => true,
            Some(Err(error)) => {
                tracing::warn!(%error, "what was restored is left to CometBFT to check");
                true
            }
            Some(Ok((info, version))) => is_right(&restore, &info, version),
        }
    }

    async fn ask<T, F>(&self, what: &str, time: Duration, ask: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Snapshots) -> T + Send + 'static,
    {
        let snapshots = self.snapshots.clone();
        bounded(
            what,
            time,
            tokio::task::spawn_blocking(move || ask(&*snapshots)),
        )
        .await
    }
}

/// What the work brings; nothing when it panics or takes too long, which is told.
async fn bounded<T>(what: &str, time: Duration, work: JoinHandle<T>) -> Option<T> {
    match tokio::time::timeout(time, work).await {
        Ok(Ok(done)) => Some(done),
        Ok(Err(error)) => {
            tracing::error!(what, %error, "a defect of snapswarm; please report it with the log");
            None
        }
        Err(_) => {
            tracing::error!(what, seconds = time.as_secs(), "nothing came in time");
            None
        }
    }
}

enum Checked {
    Right,
    /// The bytes for which the stub stands.
    Stub(Bytes),
    /// The right bytes.
    Wrong(Bytes),
    WrongAndUnreadable(std::io::Error),
}

fn check(verified: &dyn Verified, index: u32, chunk: &Bytes) -> Checked {
    let Some(id) = verified.id(index) else {
        let error = std::io::Error::other("the snapshot has no such chunk");
        return Checked::WrongAndUnreadable(error);
    };
    if sha256(chunk) == id.0 {
        return Checked::Right;
    }
    match verified.chunk(index) {
        Ok(bytes) if *chunk == stub(&id) => Checked::Stub(bytes),
        Ok(bytes) => Checked::Wrong(bytes),
        Err(error) => Checked::WrongAndUnreadable(error),
    }
}

/// Whether bytes stand for some chunk.
fn is_stub(chunk: &[u8]) -> bool {
    chunk.len() == message::STUB_BYTES
        && chunk.starts_with(&stub(&ChunkId(sha256(&[])))[..message::STUB_BYTES - 32])
}

fn is_right(restore: &Restore, info: &AppInfo, version: Option<u64>) -> bool {
    let Proposal {
        offer, app_hash, ..
    } = &restore.proposal;
    let height = offer.height;
    let problem = if info.height != height {
        format!("it says that it is at height {}", info.height)
    } else if info.app_hash != *app_hash {
        format!(
            "its application hash is {}, and the chain has {}",
            hex::encode_upper(&info.app_hash),
            hex::encode_upper(app_hash)
        )
    } else if let Some(version) = version.filter(|version| *version != info.app_version) {
        format!(
            "its application version is {}, and the chain has {version}: run the application of \
             that height",
            info.app_version
        )
    } else {
        tracing::info!(
            height,
            replaced = restore.replaced,
            "the application restored the snapshot and has the trusted application hash"
        );
        return true;
    };
    tracing::error!(
        height,
        problem,
        "the application restored the snapshot, and its state is not the chain's: rejected"
    );
    false
}
