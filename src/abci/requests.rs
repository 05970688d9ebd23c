//! The pump from CometBFT to the application.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tendermint_proto::v0_38::abci::{RequestApplySnapshotChunk, RequestOfferSnapshot, request};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::MAX_HELD_BYTES;
use super::frame::{Frame, FrameReader, FrameWriter, Head};
use super::judge::{Apply, Decision};
use super::message::{self, call, field};
use super::relay::{End, Expected, began, decided, executed, informed};
use super::session::{Question, Session};
use super::walk::{Value, Walker};
use crate::snapshot::STATE_FORMAT;

/// From CometBFT to the application.
pub(super) struct Requests {
    session: Arc<Session>,
    from: FrameReader,
    to: FrameWriter,
    expect: mpsc::Sender<Expected>,
    /// When CometBFT offered something first.
    first_offer: Option<Instant>,
}

impl Requests {
    pub(super) fn new(
        session: Arc<Session>,
        from: FrameReader,
        to: FrameWriter,
        expect: mpsc::Sender<Expected>,
    ) -> Self {
        Self {
            session,
            from,
            to,
            expect,
            first_offer: None,
        }
    }

    /// Moves requests until one side ends.
    pub(super) async fn pump(&mut self) -> End {
        match self.run().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn run(&mut self) -> Result<Infallible, End> {
        loop {
            match self.from.head(&mut self.to).await {
                Ok(Some(head)) => self.one(head).await?,
                Ok(None) => return Err(End::Node),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::error!(%error, "requests are not understood, and pass as they are");
                    self.from.forward_all(&mut self.to).await?;
                    return Err(End::Node);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn one(&mut self, head: Head) -> Result<(), End> {
        let may_hold = head.body <= MAX_HELD_BYTES;
        match head.call {
            call::LIST_SNAPSHOTS
            | call::LOAD_SNAPSHOT_CHUNK
            | call::OFFER_SNAPSHOT
            | call::APPLY_SNAPSHOT_CHUNK
            | call::QUERY
                if may_hold =>
            {
                let frame = self.from.take(head, &mut self.to).await?;
                return self.held(frame).await;
            }
            call::INIT_CHAIN => {
                let field = field::INIT_CHAIN_CHAIN_ID;
                self.watch(head, field, Expected::App, began).await?;
            }
            call::FINALIZE_BLOCK => {
                let expected = Expected::Watched(field::FINALIZE_BLOCK_APP_HASH, executed);
                let field = field::FINALIZE_BLOCK_HEIGHT;
                self.watch(head, field, expected, decided).await?;
            }
            call::END_BLOCK => {
                let field = field::END_BLOCK_HEIGHT;
                self.watch(head, field, Expected::App, decided).await?;
            }
            call::INFO => {
                let expected = Expected::Watched(field::INFO_LAST_BLOCK_HEIGHT, informed);
                self.pass(head, expected).await?;
            }
            call::COMMIT => self.pass(head, Expected::Commit).await?,
            _ => self.pass(head, Expected::App).await?,
        }
        Ok(())
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
    async fn held(&mut self, frame: Frame) -> Result<(), End> {
        let question = match message::request(&frame.body) {
            Some(request::Value::ListSnapshots(_)) => Some(Question::List),
            Some(request::Value::LoadSnapshotChunk(asked)) => Some(Question::Chunk {
                height: asked.height,
                format: asked.format,
                chunk: asked.chunk,
            }),
            Some(request::Value::Query(query)) => Question::of_path(&query.path),
            Some(request::Value::OfferSnapshot(request)) => {
                return self.offer(frame.bytes, request).await;
            }
            Some(request::Value::ApplySnapshotChunk(request)) => {
                return self.apply(frame.bytes, request).await;
            }
            _ => None,
        };
        match question {
            Some(question) => self.expect(Expected::Ours(question)).await?,
            None => {
                let session = self.session.clone();
                self.hold(session.quiet()).await?;
                self.send(&frame.bytes, Expected::App).await?;
            }
        }
        Ok(())
    }

    async fn offer(&mut self, frame: Bytes, request: RequestOfferSnapshot) -> Result<(), End> {
        let Some((offer, app_hash)) = message::offered(request) else {
            return Ok(self.send(&frame, Expected::App).await?);
        };
        if offer.format == STATE_FORMAT {
            let why = "the application runs already, and none understands state content";
            let (height, format) = (offer.height, offer.format);
            self.session.reject(height, format, why.to_owned());
            let answer = Expected::Ready(message::answer_reject());
            return Ok(self.expect(answer).await?);
        }
        let since_first = self.first_offer.get_or_insert_with(Instant::now).elapsed();
        let session = self.session.clone();
        match self
            .hold(session.offered(offer, app_hash, since_first))
            .await?
        {
            Decision::Reject => {
                let answer = Expected::Ready(message::answer_reject());
                self.expect(answer).await?;
            }
            Decision::Forward(proposal) => {
                let expected = Expected::Offer(Box::new(proposal));
                self.send(&frame, expected).await?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, frame: Bytes, request: RequestApplySnapshotChunk) -> Result<(), End> {
        let session = self.session.clone();
        match self.hold(session.check_chunk(&request)).await? {
            Apply::Answer(bytes) => self.expect(Expected::Ready(bytes)).await?,
            Apply::Forward(other, sender) => {
                let bytes = match other {
                    Some(chunk) => message::ask_apply(&request, chunk),
                    None => frame,
                };
                let expected = Expected::Apply(request.index, sender);
                self.send(&bytes, expected).await?;
            }
        }
        Ok(())
    }

    /// Waits for a decision, as long as CometBFT waits for it.
    async fn hold<T>(&mut self, decision: impl Future<Output = T>) -> Result<T, End> {
        self.to.flush().await?;
        tokio::select! {
            decided = decision => Ok(decided),
            () = self.from.closed() => Err(End::Node),
        }
    }

    async fn send(&mut self, frame: &[u8], expected: Expected) -> io::Result<()> {
        self.expect(expected).await?;
        self.to.push(frame).await
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
