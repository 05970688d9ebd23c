//! What CometBFT offers the application, and what it brings of that, is judged here:
//! whether an offer goes on, whether a chunk has its bytes, and whether the
//! application has the trusted state in the end.

use std::time::Duration;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{RequestApplySnapshotChunk, ResponseApplySnapshotChunk};
use tokio::time::Instant;

use super::client::{AppInfo, app_info};
use super::message::{self, apply_result};
use super::restore::{Checked, Problem, Proposal, Restore, Step, check};
use super::session::{Session, count};
use super::work::Purpose;
use super::{AbciError, Offered, Snapshots, Verdict};
use crate::snapshot::Offer;

/// The application's Info after a restore is asked for so often: it may be busy with
/// what it has just taken.
const INFO_TRIES: u32 = 2;

/// What becomes of an OfferSnapshot.
pub(super) enum Decision {
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
    /// Decides about an offer of CometBFT, which waits as long. `since_first` is the
    /// time since the first offer on this connection: CometBFT syncs once in its life.
    pub(super) async fn offered(
        &self,
        offer: Offer,
        app_hash: Bytes,
        since_first: Duration,
    ) -> Decision {
        let (height, format) = (offer.height, offer.format);
        let start = Instant::now();
        let mut is_told = false;
        let reason = loop {
            let offered = Offered {
                offer: offer.clone(),
                app_hash: app_hash.clone(),
                may_wait: start.elapsed() < self.times.hold,
                since_first: since_first + start.elapsed(),
            };
            let chain = self.chain();
            let ask = move |snapshots: &dyn Snapshots| snapshots.offered(&chain, &offered);
            let verified = match self.ask(Purpose::Offer, self.times.decide, ask).await {
                Some(Verdict::Checked(verified)) => Some(verified),
                Some(Verdict::Unchecked) => None,
                Some(Verdict::Wait(reason)) if start.elapsed() < self.times.hold => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::info!(
                            height,
                            format,
                            reason,
                            "a snapshot that CometBFT offers waits"
                        );
                    }
                    tokio::time::sleep(self.times.ask_again).await;
                    continue;
                }
                Some(Verdict::Wait(reason) | Verdict::Reject(reason)) => break reason,
                None => break "nothing can be found out about it".to_owned(),
            };
            let is_checked = verified.is_some();
            tracing::info!(
                height,
                format,
                is_checked,
                "CometBFT offers a snapshot; it goes on"
            );
            return Decision::Forward(Proposal {
                offer,
                app_hash,
                verified,
            });
        };
        self.reject(height, format, reason);
        Decision::Reject
    }

    /// Whatever an earlier offer left is over with this one.
    pub(super) fn reject(&self, height: u64, format: u32, reason: String) {
        let mut state = self.state();
        state.restore = None;
        if state.rejected.as_ref() == Some(&reason) {
            tracing::debug!(height, format, reason, "an offered snapshot is rejected");
        } else {
            tracing::info!(
                height,
                format,
                reason,
                "a snapshot that CometBFT offers is rejected; more for this reason are not told"
            );
            state.rejected = Some(reason);
        }
    }

    /// The application answered an offer, and accepted this, or nothing. Whatever an
    /// earlier offer left is forgotten.
    pub(super) fn begin_restore(&self, connection: u32, accepted: Option<Proposal>) {
        self.state().restore = accepted.map(|proposal| Restore::new(connection, proposal));
    }

    /// A connection ended, and a restore that was led over it.
    pub(super) fn ended(&self, connection: u32) {
        let mut state = self.state();
        if (state.restore.as_ref()).is_some_and(|restore| restore.connection == connection) {
            state.restore = None;
        }
    }

    /// Checks a chunk that CometBFT has for the application.
    pub(super) async fn check_chunk(&self, request: &RequestApplySnapshotChunk) -> Apply {
        let verified = (self.state().restore.as_ref()).and_then(Restore::verified);
        let Some(verified) = verified else {
            return unchecked(request);
        };
        let (index, chunk) = (request.index, request.chunk.clone());
        let work = move || check(&*verified, index, &chunk);
        let checked = self.crew.run(Purpose::Check, self.times.read, work).await;
        let Some(checked) = checked else {
            return self.unreadable(index).await;
        };
        if !matches!(checked, Checked::WrongAndUnreadable(_))
            && let Some(restore) = &mut self.state().restore
        {
            restore.unreadable = 0;
        }
        match checked {
            Checked::Right => Apply::Forward(None, None),
            Checked::Stub(bytes) => {
                self.count_replaced();
                Apply::Forward(Some(bytes), None)
            }
            Checked::Wrong(bytes) => {
                let sender = request.sender.clone();
                match self.count_replaced() {
                    1 => tracing::warn!(
                        index,
                        sender,
                        "a peer gave wrong bytes for a chunk; ours are used, for all that are wrong"
                    ),
                    _ => tracing::debug!(index, sender, "wrong bytes; ours are used"),
                }
                Apply::Forward(Some(bytes), Some(sender))
            }
            Checked::WrongAndUnreadable(error) => {
                tracing::error!(index, %error, "a chunk of ours cannot be read");
                match message::is_stub(&request.chunk) {
                    true => self.unreadable(index).await,
                    false => from_another(request),
                }
            }
        }
    }

    /// Counts a chunk that was replaced; gives how many there are by now.
    fn count_replaced(&self) -> u32 {
        let mut state = self.state();
        state.restore.as_mut().map_or(0, |restore| {
            restore.replaced += 1;
            restore.replaced
        })
    }

    /// A chunk can be neither checked nor read: it is tried again a few times, later
    /// each time.
    async fn unreadable(&self, index: u32) -> Apply {
        let tried = self.state().restore.as_mut().map(|restore| {
            restore.unreadable += 1;
            restore.unreadable - 1
        });
        let pause = tried.and_then(|tried| self.times.unreadable.get(tried));
        Apply::Answer(if let Some(pause) = pause {
            tokio::time::sleep(*pause).await;
            message::answer_apply(apply_result::RETRY, vec![index], Vec::new())
        } else {
            self.state().restore = None;
            message::answer_apply(apply_result::REJECT_SNAPSHOT, Vec::new(), Vec::new())
        })
    }

    /// The application answered about a chunk; whether the restore is complete by
    /// that.
    pub(super) fn answered(&self, index: u32, answer: &ResponseApplySnapshotChunk) -> bool {
        let mut state = self.state();
        let Some(restore) = &mut state.restore else {
            return false;
        };
        match restore.answered(index, answer) {
            Step::More => false,
            Step::Complete => true,
            Step::Over => {
                state.restore = None;
                false
            }
        }
    }

    /// What is wrong where the application does not have the state that was trusted. CometBFT
    /// looks at once, and takes a difference for fatal; told here, it takes another
    /// snapshot. An application that cannot be asked has the benefit of the doubt:
    /// CometBFT asks it, too.
    pub(super) async fn check_restored(&self) -> Result<(), Problem> {
        let restore = self.state().restore.take();
        let Some(restore) = restore else {
            return Ok(());
        };
        let height = restore.height();
        for _ in 0..INFO_TRIES {
            let (app, time, chain) = (self.app.clone(), self.times.info, self.chain());
            let snapshots = self.snapshots.clone();
            let work = move || {
                let info = app_info(&app, time)?;
                Ok::<_, AbciError>((info, snapshots.app_version(&chain, height)))
            };
            match self.crew.run(Purpose::Info, time * 2, work).await {
                Some(Ok((info, version))) => return judge(&restore, &info, version),
                Some(Err(error)) => {
                    tracing::warn!(%error, "the application does not tell what it restored");
                }
                None => {}
            }
        }
        count(&self.counts.unconfirmed);
        tracing::warn!(height, "what was restored is left to CometBFT to check");
        Ok(())
    }
}

/// A chunk of a snapshot that is not here passes as it is; a stub stands for bytes
/// that nobody here has, and is asked for from another.
fn unchecked(request: &RequestApplySnapshotChunk) -> Apply {
    match message::is_stub(&request.chunk) {
        false => Apply::Forward(None, None),
        true => {
            tracing::debug!(
                index = request.index,
                sender = request.sender,
                "a peer gave a stub of a snapshot that is not here"
            );
            from_another(request)
        }
    }
}

/// The chunk is to come from another peer.
fn from_another(request: &RequestApplySnapshotChunk) -> Apply {
    let (chunks, senders) = (vec![request.index], vec![request.sender.clone()]);
    Apply::Answer(message::answer_apply(apply_result::RETRY, chunks, senders))
}

/// Holds what an application says after a restore against what was trusted, and logs it.
fn judge(restore: &Restore, info: &AppInfo, version: Option<u64>) -> Result<(), Problem> {
    let (height, replaced) = (restore.height(), restore.replaced);
    match restore.problem(info, version) {
        None => {
            tracing::info!(
                height,
                replaced,
                "the application restored the snapshot and has the trusted application hash"
            );
            Ok(())
        }
        Some(problem) => {
            tracing::error!(
                height,
                %problem,
                "the application restored the snapshot, and its state is not the chain's: rejected"
            );
            Err(problem)
        }
    }
}
