//! The pump from the application to CometBFT. Answers of ours are put in where their
//! turn is.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::response;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::MAX_HELD_BYTES;
use super::frame::{Frame, FrameReader, FrameWriter, Head};
use super::message::{self, EXCEPTION, apply_result, field, offer_result};
use super::relay::{End, Expected, executed};
use super::session::{Question, Session};
use super::walk::{Value, Walker};

/// From the application to CometBFT.
pub(super) struct Answers {
    session: Arc<Session>,
    connection: u32,
    from: FrameReader,
    to: FrameWriter,
    expected: mpsc::Receiver<Expected>,
    /// What was taken from `expected` before its turn.
    ahead: Option<Next>,
}

/// What is to be answered next.
enum Next {
    Expected(Expected),
    Begun(Making),
}

/// An answer that is being made; it ends with the connection.
struct Making(Question, JoinHandle<Bytes>);

impl Drop for Making {
    fn drop(&mut self) {
        self.1.abort();
    }
}

impl Answers {
    pub(super) fn new(
        session: Arc<Session>,
        connection: u32,
        from: FrameReader,
        to: FrameWriter,
        expected: mpsc::Receiver<Expected>,
    ) -> Self {
        Self {
            session,
            connection,
            from,
            to,
            expected,
            ahead: None,
        }
    }

    /// Moves answers until one side ends.
    pub(super) async fn pump(&mut self) -> End {
        match self.run().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn run(&mut self) -> Result<Infallible, End> {
        loop {
            let expected = match self.next().await? {
                Next::Begun(making) => {
                    self.ours(making).await?;
                    continue;
                }
                Next::Expected(Expected::Ours(question)) => {
                    let making = self.begin(question);
                    self.ours(making).await?;
                    continue;
                }
                Next::Expected(Expected::Ready(bytes)) => {
                    self.to.push(&bytes).await?;
                    continue;
                }
                Next::Expected(expected) => expected,
            };
            match self.from.head(&mut self.to).await {
                Ok(Some(head)) => self.one(head, expected).await?,
                Ok(None) => return Err(End::App),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "answers are not understood, and pass as they are");
                    self.from.forward_all(&mut self.to).await?;
                    return Err(End::App);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn next(&mut self) -> Result<Next, End> {
        if let Some(next) = self.ahead.take() {
            return Ok(next);
        }
        loop {
            if self.from.is_empty() {
                self.to.flush().await?;
            }
            // In this order: an answer that is here belongs to what is expected, if
            // anything is. `recv` finds nothing only when the list is empty: `select!`
            // looks at the task's budget before all branches, so that none is passed
            // over for it alone (a tokio from before 1.44 does not).
            let expected = tokio::select! {
                biased;
                expected = self.expected.recv() => expected,
                // What came before anything was asked: nobody waits for it here.
                more = self.from.fill(), if self.from.is_empty() => match more? {
                    true => continue,
                    false => return Err(End::App),
                },
                () = std::future::ready(()), if !self.from.is_empty() => Some(Expected::App),
            };
            return match expected {
                Some(expected) => Ok(Next::Expected(expected)),
                None => Err(End::Node),
            };
        }
    }

    fn begin(&self, question: Question) -> Making {
        let session = self.session.clone();
        let work = async move { session.answer(question).await };
        Making(question, tokio::spawn(work))
    }

    /// Writes an answer of ours. The next one is begun meanwhile, so that a disk and a
    /// socket work at the same time; not more, because each may have a chunk.
    async fn ours(&mut self, mut making: Making) -> io::Result<()> {
        self.to.flush().await?;
        let bytes = match (&mut making.1).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a defect of snapswarm; please report it with the log");
                making.0.harmless()
            }
        };
        if let Ok(next) = self.expected.try_recv() {
            self.ahead = Some(match next {
                Expected::Ours(question) => Next::Begun(self.begin(question)),
                other => Next::Expected(other),
            });
        }
        self.to.push(&bytes).await
    }

    async fn one(&mut self, head: Head, expected: Expected) -> io::Result<()> {
        if head.call == EXCEPTION {
            return self.from.forward(head, &mut self.to, None).await;
        }
        match expected {
            Expected::Watched(field, then) => self.watch(head, field, then).await,
            Expected::Commit => {
                if self.session.is_held() {
                    self.to.flush().await?;
                    self.session.hold_commit().await;
                }
                // Before 0.38 it has the application hash.
                self.watch(head, field::COMMIT_DATA, executed).await?;
                self.session.committed();
                Ok(())
            }
            Expected::Offer(proposal) if head.body <= MAX_HELD_BYTES => {
                let frame = self.from.take(head, &mut self.to).await?;
                let accepted = matches!(
                    message::response(&frame.body),
                    Some(response::Value::OfferSnapshot(answer))
                        if answer.result == offer_result::ACCEPT
                );
                self.session
                    .begin_restore(self.connection, accepted.then_some(*proposal));
                self.to.push(&frame.bytes).await
            }
            Expected::Apply(index, sender) if head.body <= MAX_HELD_BYTES => {
                let frame = self.from.take(head, &mut self.to).await?;
                let bytes = self.applied(&frame, index, sender).await?;
                self.to.push(&bytes).await
            }
            _ => self.from.forward(head, &mut self.to, None).await,
        }
    }

    async fn watch(&mut self, head: Head, field: u64, then: fn(&Session, Value)) -> io::Result<()> {
        let mut walker = Walker::new(field);
        self.from
            .forward(head, &mut self.to, Some(&mut walker))
            .await?;
        if let Some(value) = walker.found() {
            then(&self.session, value);
        }
        Ok(())
    }

    /// What CometBFT is told about a chunk.
    async fn applied(
        &mut self,
        frame: &Frame,
        index: u32,
        sender: Option<String>,
    ) -> io::Result<Bytes> {
        let Some(response::Value::ApplySnapshotChunk(mut answer)) = message::response(&frame.body)
        else {
            return Ok(frame.bytes.clone());
        };
        let mut is_ours = false;
        if self.session.answered(index, &answer) {
            self.to.flush().await?;
            if self.session.check_restored().await.is_err() {
                answer.result = apply_result::REJECT_SNAPSHOT;
                is_ours = true;
            }
        }
        if let Some(sender) = sender.filter(|sender| !answer.reject_senders.contains(sender)) {
            answer.reject_senders.push(sender);
            is_ours = true;
        }
        Ok(match is_ours {
            true => message::answer(response::Value::ApplySnapshotChunk(answer)),
            false => frame.bytes.clone(),
        })
    }
}
