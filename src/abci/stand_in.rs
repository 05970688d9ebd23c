//! What stands in for an application that has nothing yet, and is not to be started before
//! a snapshot was restored into its storage.
//!
//! # The model
//!
//! As long as somebody stands in, a connection of CometBFT leads nowhere: what comes over
//! it is answered here, one call after the other. When the application is needed, or a
//! restore has ended well, nobody stands in any more, for good: each connection then gets
//! one to the application and is as any other, and the call that waits goes on to it.
//!
//! | call | while somebody stands in |
//! |---|---|
//! | Echo, Flush, ListSnapshots, LoadSnapshotChunk, Query of ours | as ever |
//! | Info | what the application says with nothing in its storage, see [`StandIn::info`] |
//! | OfferSnapshot of a state that is here | restored here |
//! | OfferSnapshot of anything else | the application is needed, where [`Snapshots`](super::Snapshots) lets it pass |
//! | ApplySnapshotChunk | its bytes are checked as ever, and go into the restore |
//! | CheckTx, other Query | refused: a node that state syncs is sent transactions before it has anything to hold them against |
//! | InitChain, anything else | the application is needed |
//!
//! # The laws
//!
//! - Those of the room. What is asked of a [`StandIn`] runs apart, each call for a bounded
//!   time.
//! - The last chunk is accepted only when the application runs with the restored state and
//!   names the trusted application hash. Until then the restore can be taken back, and is,
//!   when it fails or its connection ends.
//! - While a restore is under way the application does not run, whoever needs it: that call
//!   waits.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{
    RequestApplySnapshotChunk, RequestOfferSnapshot, ResponseApplySnapshotChunk, request,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::MAX_HELD_BYTES;
use super::client::AppInfo;
use super::frame::{FrameReader, FrameWriter, Head};
use super::judge::{Apply, Decision};
use super::message::{self, apply_result, call};
use super::relay::End;
use super::restore::{Problem, Proposal};
use super::session::{Question, Session};
use super::work::Purpose;
use crate::snapshot::{Manifest, STATE_FORMAT};

/// What is logged as an error of a restore that failed, with the snapshot's `height` before
/// and the reason as `why` behind it.
pub const RESTORE_FAILED: &str = "the restore failed, and the snapshot is rejected";

/// Stands in for an application. The calls block, on threads of their own, and may take
/// long; one at a time comes from each connection. An error says why, to a person.
///
/// `lead` is the connection that leads a restore. CometBFT has one that does: the newest
/// counts, and what is still under way for one of before is of no effect.
pub trait StandIn: Send + Sync + 'static {
    /// Whether somebody stands in. False is for good.
    fn stands(&self) -> watch::Receiver<bool>;

    /// What the application says of itself with nothing in its storage. CometBFT takes its
    /// version for that of the whole chain's beginning, so it must be the application's own.
    fn info(&self) -> Result<AppInfo, String>;

    /// The application is needed: nobody stands in any more, and it is started. An error
    /// while a restore is under way.
    fn need(&self) -> Result<(), String>;

    /// Begins to restore a snapshot of state content; an earlier restore is given up.
    fn begin(&self, lead: u32, manifest: Arc<Manifest>) -> Result<(), String>;

    /// Takes the next chunk, whose bytes were checked.
    fn chunk(&self, lead: u32, index: u32, bytes: &Bytes) -> Result<(), String>;

    /// All chunks are there: puts the state into place and starts the application, which
    /// answers when this returns.
    fn finish(&self, lead: u32) -> Result<(), String>;

    /// The application has the trusted state: nobody stands in any more.
    fn accept(&self, lead: u32) -> Result<(), String>;

    /// Stops the application and takes back what [`Self::begin`] and all after it did.
    fn give_up(&self, lead: u32);
}

/// One connection of CometBFT, while somebody stands in.
struct Stand<'a> {
    session: Arc<Session>,
    stand_in: Arc<dyn StandIn>,
    connection: u32,
    from: &'a mut FrameReader,
    to: &'a mut FrameWriter,
    /// When CometBFT offered something first.
    first_offer: Option<Instant>,
    /// Whether a restore that is led over this connection is under way.
    restores: bool,
}

/// Answers CometBFT until the application is there for it, or CometBFT has gone.
pub(super) async fn stand(
    session: Arc<Session>,
    stand_in: Arc<dyn StandIn>,
    connection: u32,
    from: &mut FrameReader,
    to: &mut FrameWriter,
) -> Result<(), End> {
    let mut stand = Stand {
        session: session.clone(),
        stand_in,
        connection,
        from,
        to,
        first_offer: None,
        restores: false,
    };
    let ended = stand.run().await;
    stand.give_up().await;
    if ended.is_err() {
        session.ended(connection);
    }
    ended
}

impl Stand<'_> {
    async fn run(&mut self) -> Result<(), End> {
        let mut stands = self.stand_in.stands();
        loop {
            self.to.flush().await?;
            let head = tokio::select! {
                biased;
                _ = stands.wait_for(|stands| !stands) => return Ok(()),
                // Nothing waits to leave, so that nothing is lost when it is dropped.
                head = self.from.head(self.to) => head,
            };
            let call = match head {
                Ok(Some(head)) if self.one(head).await? => continue,
                Ok(Some(head)) => head.call,
                Ok(None) => return Err(End::Node),
                // What is not understood is for the application.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => 0,
                Err(error) => return Err(error.into()),
            };
            return self.need(call).await;
        }
    }

    /// Answers a call; or leaves it where it is, for the application.
    async fn one(&mut self, head: Head) -> Result<bool, End> {
        let is_known = matches!(
            head.call,
            call::ECHO
                | call::FLUSH
                | call::INFO
                | call::QUERY
                | call::CHECK_TX
                | call::LIST_SNAPSHOTS
                | call::OFFER_SNAPSHOT
                | call::LOAD_SNAPSHOT_CHUNK
                | call::APPLY_SNAPSHOT_CHUNK
        );
        if !is_known || head.body > MAX_HELD_BYTES {
            return Ok(false);
        }
        let frame = self.from.take(head, self.to).await?;
        let answer = match message::request(&frame.body) {
            Some(request::Value::Echo(echo)) => message::answer_echo(echo),
            Some(request::Value::Flush(_)) => message::answer_flush(),
            Some(request::Value::Info(_)) => self.info().await?,
            Some(request::Value::CheckTx(_)) => message::answer_check_tx(NO_STATE),
            Some(request::Value::ListSnapshots(_)) => self.session.answer(Question::List).await,
            Some(request::Value::LoadSnapshotChunk(asked)) => {
                let question = Question::Chunk {
                    height: asked.height,
                    format: asked.format,
                    chunk: asked.chunk,
                };
                self.session.answer(question).await
            }
            Some(request::Value::Query(query)) => match Question::of_path(&query.path) {
                Some(question) => self.session.answer(question).await,
                None => message::answer_no_query(NO_STATE),
            },
            Some(request::Value::OfferSnapshot(request)) => match self.offer(request).await? {
                Some(answer) => answer,
                None => {
                    self.from.put_back(&frame);
                    return Ok(false);
                }
            },
            Some(request::Value::ApplySnapshotChunk(request)) => self.apply(request).await?,
            _ => {
                self.from.put_back(&frame);
                return Ok(false);
            }
        };
        self.to.push(&answer).await?;
        Ok(true)
    }

    /// Waits until the application has told what it is: CometBFT would wait as long for it.
    async fn info(&mut self) -> Result<Bytes, End> {
        let mut told = Told::default();
        loop {
            match self.work(|stand_in| stand_in.info()).await? {
                Ok(info) => return Ok(message::answer_info(info)),
                Err(why) => told.once(&why, "the application does not tell what it is yet"),
            }
            self.pause().await?;
        }
    }

    /// Waits until the application may be started, and has it started.
    async fn need(&mut self, call: u32) -> Result<(), End> {
        let mut told = Told::default();
        loop {
            match self.work(|stand_in| stand_in.need()).await? {
                Ok(()) => {
                    tracing::info!(
                        call,
                        "CometBFT needs the application; nothing is restored here"
                    );
                    return Ok(());
                }
                Err(why) => told.once(&why, "CometBFT needs the application and waits for it"),
            }
            self.pause().await?;
        }
    }

    /// An answer to an offer; none where it is for the application.
    async fn offer(&mut self, request: RequestOfferSnapshot) -> Result<Option<Bytes>, End> {
        let Some((offer, app_hash)) = message::offered(request) else {
            return Ok(None);
        };
        // Whatever an earlier offer left is over with this one.
        self.give_up().await;
        let since_first = self.first_offer.get_or_insert_with(Instant::now).elapsed();
        let (height, format) = (offer.height, offer.format);
        let session = self.session.clone();
        let decision = self
            .hold(session.offered(offer, app_hash, since_first))
            .await?;
        let Decision::Forward(proposal) = decision else {
            return Ok(Some(message::answer_reject()));
        };
        let manifest = (proposal.verified.as_ref()).and_then(|verified| verified.manifest());
        match manifest {
            Some(manifest) if manifest.state().is_some() => self.begin(proposal, manifest).await,
            // The application would not understand a format of ours.
            _ if format == STATE_FORMAT => {
                let why = "its state is not here, complete and checked".to_owned();
                session.reject(height, format, why);
                Ok(Some(message::answer_reject()))
            }
            _ => Ok(None),
        }
    }

    async fn begin(
        &mut self,
        proposal: Proposal,
        manifest: Arc<Manifest>,
    ) -> Result<Option<Bytes>, End> {
        let (height, format) = (manifest.height(), manifest.format());
        self.restores = true;
        let lead = self.connection;
        let begun = self.work(move |stand_in| stand_in.begin(lead, manifest));
        match begun.await? {
            Ok(()) => {
                self.session.begin_restore(self.connection, Some(proposal));
                Ok(Some(message::answer_accept()))
            }
            Err(why) => {
                self.give_up().await;
                self.session.reject(height, format, why);
                Ok(Some(message::answer_reject()))
            }
        }
    }

    async fn apply(&mut self, request: RequestApplySnapshotChunk) -> Result<Bytes, End> {
        if !self.restores {
            return Ok(rejected());
        }
        let session = self.session.clone();
        let (lead, index) = (self.connection, request.index);
        let height = session.restoring().map_or(0, |it| it.offer.height);
        let (bytes, sender) = match self.hold(session.check_chunk(&request)).await? {
            Apply::Answer(answer) => {
                if session.restoring().is_none() {
                    self.give_up().await;
                }
                return Ok(answer);
            }
            Apply::Forward(other, sender) => (other.unwrap_or(request.chunk), sender),
        };
        let senders = Vec::from_iter(sender);
        let taken = self
            .work(move |stand_in| stand_in.chunk(lead, index, &bytes))
            .await?;
        let accepted = ResponseApplySnapshotChunk {
            result: apply_result::ACCEPT,
            ..Default::default()
        };
        let done = match taken {
            Ok(()) if session.answered(index, &accepted) => self.finish().await?,
            other => other,
        };
        if let Err(why) = done {
            tracing::error!(height, index, why, "{RESTORE_FAILED}");
            self.give_up().await;
            let result = apply_result::REJECT_SNAPSHOT;
            return Ok(message::answer_apply(result, Vec::new(), senders));
        }
        Ok(message::answer_apply(
            apply_result::ACCEPT,
            Vec::new(),
            senders,
        ))
    }

    /// Puts the state into place, and has the application say that it is the trusted one.
    async fn finish(&mut self) -> Result<Result<(), String>, End> {
        let lead = self.connection;
        if let Err(why) = self.work(move |stand_in| stand_in.finish(lead)).await? {
            return Ok(Err(why));
        }
        let session = self.session.clone();
        if let Err(problem) = self.hold(session.check_restored()).await? {
            let question = match problem {
                Problem::Height(_) | Problem::Hash { .. } => {
                    "; does it keep its state in the storage that was restored?"
                }
                Problem::Version { .. } => "",
            };
            return Ok(Err(format!(
                "the application has another state than the chain: {problem}{question}"
            )));
        }
        let accepted = self.work(move |stand_in| stand_in.accept(lead)).await?;
        self.restores = accepted.is_err();
        Ok(accepted)
    }

    /// Takes a restore back that did not come to its end.
    async fn give_up(&mut self) {
        if std::mem::take(&mut self.restores) {
            self.session.begin_restore(self.connection, None);
            let (stand_in, time) = (self.stand_in.clone(), self.session.times.restore);
            let lead = self.connection;
            let work = move || stand_in.give_up(lead);
            self.session.crew.run(Purpose::Restore, time, work).await;
        }
    }

    /// Has the stand-in do something, as long as CometBFT waits for it.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&dyn StandIn) -> Result<T, String> + Send + 'static,
    ) -> Result<Result<T, String>, End> {
        let (stand_in, session) = (self.stand_in.clone(), self.session.clone());
        let work = move || work(&*stand_in);
        let run = session
            .crew
            .run(Purpose::Restore, session.times.restore, work);
        let done = self.hold(run).await?;
        Ok(done.unwrap_or_else(|| Err("it comes to no end".to_owned())))
    }

    async fn pause(&mut self) -> Result<(), End> {
        self.hold(tokio::time::sleep(self.session.times.ask_again))
            .await
    }

    async fn hold<T>(&mut self, work: impl Future<Output = T>) -> Result<T, End> {
        self.to.flush().await?;
        tokio::select! {
            done = work => Ok(done),
            () = self.from.closed() => Err(End::Node),
        }
    }
}

/// What a person is told who asks for what nobody has.
const NO_STATE: &str = "the application has no state yet: a snapshot is to be restored";

fn rejected() -> Bytes {
    message::answer_apply(apply_result::REJECT_SNAPSHOT, Vec::new(), Vec::new())
}

/// Tells a reason when it is a new one.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn once(&mut self, why: &str, what: &'static str) {
        if self.0.as_deref() != Some(why) {
            tracing::warn!(why, "{what}");
            self.0 = Some(why.to_owned());
        }
    }
}
