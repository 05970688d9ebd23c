//! One connection of CometBFT, and the one to the application that stands behind
//! it: two pumps and the list of answers that are awaited.
//!
//! The pump of requests enters what it expects into the list *before* the request
//! leaves, so an answer that comes while the list is empty was not asked for
//! (an Exception), and passes at once.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{request, response};
use tokio::sync::mpsc;

use super::MAX_HELD_BYTES;
use super::address::{ReadSide, WriteSide};
use super::frame::{Frame, FrameReader, FrameWriter, Head};
use super::message::{self, EXCEPTION, applied, call, field};
use super::session::{Apply, Offered, Proposal, Session};
use super::walk::{Value, Walker};

/// Answers awaited at once. CometBFT sends a Flush at least every 20 ms, so even
/// a flood of transactions stays far below. About 5 MB at most.
const MAX_AWAITED: usize = 65_536;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// CometBFT closed it.
    Node,
    /// The application closed it.
    App,
    /// One of the two sockets broke.
    Broken(io::Error),
}

/// What is to come next on the way back.
enum Expected {
    /// The application's answer, as it comes.
    App,
    /// The same, in which a field is read as it goes by.
    Watched(u64, fn(&Session, Value)),
    /// The answer to Commit.
    Commit,
    /// The answer to an offer.
    Offer(Box<Proposal>),
    /// The answer to a chunk; the sender, when its bytes were wrong.
    Apply(u32, Option<String>),
    /// An answer of ours.
    Ours(Answer),
}

/// An answer that is being made; it ends with the connection.
struct Answer(tokio::task::JoinHandle<Bytes>, fn() -> Bytes);

impl Drop for Answer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Moves frames until one side closes.
pub(super) async fn relay(
    session: Arc<Session>,
    node: (ReadSide, WriteSide),
    app: (ReadSide, WriteSide),
) -> End {
    let (expect, expected) = mpsc::channel(MAX_AWAITED);
    let mut requests = Requests {
        session: session.clone(),
        from: FrameReader::new(node.0),
        to: FrameWriter::new(app.1),
        expect,
    };
    let mut answers = Answers {
        session,
        from: FrameReader::new(app.0),
        to: FrameWriter::new(node.1),
        expected,
    };
    tokio::select! {
        ended = requests.pump() => ended.map_or_else(End::Broken, |()| End::Node),
        ended = answers.pump() => ended.map_or_else(End::Broken, |()| End::App),
    }
}

/// From CometBFT to the application.
struct Requests {
    session: Arc<Session>,
    from: FrameReader,
    to: FrameWriter,
    expect: mpsc::Sender<Expected>,
}

impl Requests {
    async fn pump(&mut self) -> io::Result<()> {
        loop {
            if self.from.is_empty() {
                self.to.flush().await?;
            }
            match self.from.head().await {
                Ok(Some(head)) => self.one(head).await?,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "requests are not understood, and pass as they are");
                    return self.from.forward_all(&mut self.to).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn one(&mut self, head: Head) -> io::Result<()> {
        let may_hold = head.body <= MAX_HELD_BYTES;
        match head.call {
            call::LIST_SNAPSHOTS
            | call::LOAD_SNAPSHOT_CHUNK
            | call::OFFER_SNAPSHOT
            | call::APPLY_SNAPSHOT_CHUNK
            | call::QUERY
                if may_hold =>
            {
                let frame = self.from.take(head).await?;
                self.held(frame).await
            }
            call::INIT_CHAIN => {
                self.watch(
                    head,
                    field::INIT_CHAIN_CHAIN_ID,
                    Expected::App,
                    |session, value| {
                        if let Value::Bytes(id) = value {
                            let id = String::from_utf8_lossy(&id).into_owned();
                            session.learn(|memory| memory.genesis(id));
                        }
                    },
                )
                .await
            }
            call::FINALIZE_BLOCK => {
                let expected = Expected::Watched(field::FINALIZE_BLOCK_APP_HASH, executed);
                self.watch(head, field::FINALIZE_BLOCK_HEIGHT, expected, decided)
                    .await
            }
            call::END_BLOCK => {
                self.watch(head, field::END_BLOCK_HEIGHT, Expected::App, decided)
                    .await
            }
            call::INFO => {
                let expected =
                    Expected::Watched(field::INFO_LAST_BLOCK_HEIGHT, |session, value| {
                        if let Value::Number(height) = value {
                            session.learn(|memory| memory.informed(height));
                        }
                    });
                self.pass(head, expected).await
            }
            call::COMMIT => self.pass(head, Expected::Commit).await,
            _ => self.pass(head, Expected::App).await,
        }
    }

    async fn pass(&mut self, head: Head, expected: Expected) -> io::Result<()> {
        self.expect(expected).await?;
        self.from.forward(head, &mut self.to, None).await
    }

    /// Passes a frame and reads a field of it.
    async fn watch(
        &mut self,
        head: Head,
        field: u64,
        expected: Expected,
        then: fn(&Session, Value),
    ) -> io::Result<()> {
        let mut walker = Walker::new(field);
        self.expect(expected).await?;
        self.from
            .forward(head, &mut self.to, Some(&mut walker))
            .await?;
        if let Some(value) = walker.found() {
            then(&self.session, value);
        }
        Ok(())
    }

    /// A call that is looked at as a whole.
    async fn held(&mut self, frame: Frame) -> io::Result<()> {
        let session = self.session.clone();
        match message::request(&frame.body) {
            Some(request::Value::ListSnapshots(_)) => {
                let work = async move { session.list().await };
                self.answer(work, || message::answer_list(Vec::new())).await
            }
            Some(request::Value::LoadSnapshotChunk(asked)) => {
                let work =
                    async move { session.load(asked.height, asked.format, asked.chunk).await };
                self.answer(work, || message::answer_load(None)).await
            }
            Some(request::Value::Query(query)) if is_ours(&query.path) => {
                let work = async move { session.query(&query.path).await.unwrap_or_default() };
                self.answer(work, || message::answer_query(b"{}".to_vec(), 0))
                    .await
            }
            Some(request::Value::OfferSnapshot(request)) => {
                let Some((offer, app_hash)) = message::offered(request) else {
                    return self.send(frame.bytes, Expected::App).await;
                };
                match self.hold(session.offered(offer, app_hash)).await? {
                    Offered::Reject => self.ours(message::answer_reject()).await,
                    Offered::Forward(proposal) => {
                        self.send(frame.bytes, Expected::Offer(Box::new(proposal)))
                            .await
                    }
                }
            }
            Some(request::Value::ApplySnapshotChunk(request)) => {
                match self.hold(session.check_chunk(&request)).await? {
                    Apply::Answer(bytes) => self.ours(bytes).await,
                    Apply::Forward(other, sender) => {
                        let bytes = match other {
                            Some(chunk) => message::ask_apply(&request, chunk),
                            None => frame.bytes,
                        };
                        self.send(bytes, Expected::Apply(request.index, sender))
                            .await
                    }
                }
            }
            _ => self.send(frame.bytes, Expected::App).await,
        }
    }

    /// Waits for a decision, as long as CometBFT waits for it.
    async fn hold<T>(&mut self, decision: impl Future<Output = T>) -> io::Result<T> {
        self.to.flush().await?;
        tokio::select! {
            decided = decision => Ok(decided),
            () = self.from.closed() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    async fn send(&mut self, bytes: Bytes, expected: Expected) -> io::Result<()> {
        self.expect(expected).await?;
        self.to.push(&bytes).await
    }

    /// Answers with what is ready.
    async fn ours(&mut self, bytes: Bytes) -> io::Result<()> {
        self.answer(std::future::ready(bytes), Bytes::new).await
    }

    /// Answers with what comes of the work, or, if it panics, with `harmless`.
    async fn answer(
        &mut self,
        work: impl Future<Output = Bytes> + Send + 'static,
        harmless: fn() -> Bytes,
    ) -> io::Result<()> {
        let answer = Answer(tokio::spawn(work), harmless);
        self.expect(Expected::Ours(answer)).await
    }

    async fn expect(&mut self, expected: Expected) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        match self.expect.try_send(expected) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(expected)) => {
                // What is awaited stands in requests that wait here for their turn.
                self.to.flush().await?;
                self.expect.send(expected).await.map_err(gone)
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

fn is_ours(path: &str) -> bool {
    matches!(path, "/snapshots" | "/sync_status")
}

fn decided(session: &Session, value: Value) {
    if let Value::Number(height) = value {
        session.learn(|memory| memory.decided(height));
    }
}

fn executed(session: &Session, value: Value) {
    if let Value::Bytes(app_hash) = value {
        session.learn(|memory| memory.executed(app_hash));
    }
}

/// From the application to CometBFT.
struct Answers {
    session: Arc<Session>,
    from: FrameReader,
    to: FrameWriter,
    expected: mpsc::Receiver<Expected>,
}

impl Answers {
    async fn pump(&mut self) -> io::Result<()> {
        loop {
            if self.from.is_empty() {
                self.to.flush().await?;
            }
            let expected = tokio::select! {
                biased;
                expected = self.expected.recv() => expected,
                // What came before anything was asked: nobody waits for it here.
                more = self.from.fill(), if self.from.is_empty() => match more? {
                    true => continue,
                    false => return Ok(()),
                },
                () = std::future::ready(()), if !self.from.is_empty() => Some(Expected::App),
            };
            let Some(expected) = expected else {
                return Ok(());
            };
            if let Expected::Ours(answer) = expected {
                self.ours(answer).await?;
                continue;
            }
            match self.from.head().await {
                Ok(Some(head)) => self.one(head, expected).await?,
                Ok(None) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "answers are not understood, and pass as they are");
                    return self.from.forward_all(&mut self.to).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn ours(&mut self, mut answer: Answer) -> io::Result<()> {
        self.to.flush().await?;
        let bytes = match (&mut answer.0).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a defect of snapswarm; please report it with the log");
                (answer.1)()
            }
        };
        self.to.push(&bytes).await
    }

    async fn one(&mut self, head: Head, expected: Expected) -> io::Result<()> {
        if head.call == EXCEPTION {
            return self.from.forward(head, &mut self.to, None).await;
        }
        match expected {
            Expected::App | Expected::Ours(_) => self.from.forward(head, &mut self.to, None).await,
            Expected::Watched(field, then) => self.watch(head, field, then).await,
            Expected::Commit => {
                // Before 0.38 it has the application hash.
                self.watch(head, field::COMMIT_DATA, executed).await?;
                self.session.committed();
                Ok(())
            }
            Expected::Offer(proposal) if head.body <= MAX_HELD_BYTES => {
                let frame = self.from.take(head).await?;
                let accepted = matches!(
                    message::response(&frame.body),
                    Some(response::Value::OfferSnapshot(answer)) if answer.result == applied::ACCEPT
                );
                self.session.begin_restore(accepted.then_some(*proposal));
                self.to.push(&frame.bytes).await
            }
            Expected::Apply(index, sender) if head.body <= MAX_HELD_BYTES => {
                let frame = self.from.take(head).await?;
                let bytes = self.applied(&frame, index, sender).await?;
                self.to.push(&bytes).await
            }
            Expected::Offer(_) | Expected::Apply(..) => {
                self.from.forward(head, &mut self.to, None).await
            }
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
        if answer.result == applied::ACCEPT && self.session.accepted(index) {
            self.to.flush().await?;
            if !self.session.is_restored().await {
                let result = applied::REJECT_SNAPSHOT;
                return Ok(message::answer_apply(result, Vec::new(), Vec::new()));
            }
        }
        let Some(sender) = sender else {
            return Ok(frame.bytes.clone());
        };
        if !answer.reject_senders.contains(&sender) {
            answer.reject_senders.push(sender);
        }
        Ok(message::answer(response::Value::ApplySnapshotChunk(answer)))
    }
}
