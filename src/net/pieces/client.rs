//! The asking side of a stream.
//!
//! One task polls a reader and a writer together. The reader does all that can
//! wait for others (a buffer, the owner's channel, the allowance of the pace),
//! and by not reading passes the waiting on to the peer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::asker::{Asker, Shared};
use super::budget::PieceBuffer;
use super::frames::Frames;
use super::pace::{NUMBERS_PER_MESSAGE, Pace};
use super::{Budget, Closed, Fault, PROGRESS_INTERVAL, PieceEvent, Reservation, STALL_TIMEOUT};
use crate::net::streams::{Control, OpenStreamError};
use crate::wire::{
    ACK_EVERY_BYTES, Answer, FrameHeader, FrameKind, PIECES_PROTOCOL, Refusal, RequestId,
};

/// Wait for a stream: a peer may leave the negotiation hanging.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Events that wait for the owner. Received pieces among them hold a buffer of
/// the budget; the rest is small but for have-messages (16 KiB each).
const EVENT_QUEUE: usize = 64;

/// Pause between two acknowledgements on a fast stream: each costs a packet, and
/// wakes two tasks on both sides. Well within the turnaround that the other side's
/// credit allows for.
const ACK_PAUSE: Duration = Duration::from_millis(2);

/// Data after which that pause is not kept: 500 MB/s.
const ACK_AT_ONCE_BYTES: u64 = 1 << 20;

/// What is read of data that nobody wants any more.
const SCRAP_BYTES: usize = 16 << 10;

/// A piece stream that this node opened. Dropping the events ends it.
pub struct Client {
    asker: Asker,
    events: mpsc::Receiver<PieceEvent>,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// As many streams are open as the budget has room for.
    #[error("{0} piece streams are open, no more have room")]
    Budget(usize),
    /// The peer gave no stream.
    #[error("peer {peer} gave no piece stream")]
    Stream {
        /// The peer.
        peer: PeerId,
        /// What happened.
        #[source]
        source: OpenStreamError,
    },
    /// Nothing came of it.
    #[error("peer {peer} gave no piece stream within {} seconds", OPEN_TIMEOUT.as_secs())]
    Timeout {
        /// The peer.
        peer: PeerId,
    },
}

impl Client {
    /// Opens a stream on a connected peer.
    pub async fn open(control: &Control, peer: PeerId, budget: &Budget) -> Result<Self, OpenError> {
        let reservation = budget
            .reserve()
            .ok_or_else(|| OpenError::Budget(budget.max_streams()))?;
        let opening = control.open_stream(peer, StreamProtocol::new(PIECES_PROTOCOL));
        match timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(stream)) => Ok(Self::over(stream, peer, reservation)),
            Ok(Err(source)) => Err(OpenError::Stream { peer, source }),
            Err(_) => Err(OpenError::Timeout { peer }),
        }
    }

    /// Speaks the protocol over any stream. Must be called inside a tokio
    /// runtime.
    pub fn over<S>(stream: S, peer: PeerId, reservation: Reservation) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let shared = Arc::new(Shared::new(peer));
        let (sender, events) = mpsc::channel(EVENT_QUEUE);
        let (read, write) = stream.split();
        let reader = Reader {
            frames: Frames::new(read),
            shared: Arc::clone(&shared),
            reservation,
            events: sender,
            pace: Pace::new(Instant::now()),
            current: None,
            scrap: Vec::new(),
            read_bytes: 0,
            acknowledged_bytes: 0,
            acknowledged_at: Instant::now(),
            progress_at: Instant::now(),
        };
        tokio::spawn(run(reader, write, Arc::clone(&shared)));
        Self {
            asker: Asker { shared },
            events,
        }
    }

    /// The two halves: what is asked, and what happens. The last event is
    /// [`PieceEvent::Closed`].
    pub fn split(self) -> (Asker, mpsc::Receiver<PieceEvent>) {
        (self.asker, self.events)
    }
}

async fn run<R, W>(mut reader: Reader<R>, write: W, shared: Arc<Shared>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let events = reader.events.clone();
    let closed = tokio::select! {
        closed = reader.run() => closed,
        closed = write_asks(write, &shared) => closed,
        () = shared.stop.cancelled() => Closed::Here,
        () = events.closed() => Closed::Here,
    };
    shared.close();
    if let Some(fault) = closed.blame() {
        tracing::debug!(peer = %shared.peer, %fault, "piece stream ended");
    }
    // The reader's buffer is free again before its owner is told.
    drop(reader);
    // An owner that has dropped the events does not want to know.
    let _ = events.send(PieceEvent::Closed(closed)).await;
}

/// Writes what is asked, until the peer stops reading.
async fn write_asks(mut write: impl AsyncWrite + Unpin, shared: &Shared) -> Closed {
    let mut frames = Vec::new();
    loop {
        frames.clear();
        shared.drain_outbox(&mut frames);
        if frames.is_empty() {
            shared.wake.notified().await;
            continue;
        }
        let write = async {
            write.write_all(&frames).await?;
            write.flush().await
        };
        match timeout(STALL_TIMEOUT, write).await {
            Ok(Ok(())) => {}
            // The reader knows better how the stream ended, and has first to
            // read what came before the end.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return Closed::Stalled,
        }
    }
}

struct Reader<R> {
    frames: Frames<R>,
    shared: Arc<Shared>,
    reservation: Reservation,
    events: mpsc::Sender<PieceEvent>,
    pace: Pace,
    current: Option<Current>,
    scrap: Vec<u8>,
    read_bytes: u64,
    acknowledged_bytes: u64,
    acknowledged_at: Instant,
    progress_at: Instant,
}

/// The piece under way.
struct Current {
    id: RequestId,
    size: u32,
    received: u32,
    /// Absent when nobody wants the piece any more.
    buffer: Option<PieceBuffer>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.frame().await {
                return closed;
            }
        }
    }

    async fn frame(&mut self) -> Result<(), Closed> {
        let header = self.header().await?;
        match header.kind {
            FrameKind::Data => self.data(header).await,
            FrameKind::Control => {
                let payload = self.frames.payload(header).await?;
                self.answer(payload).await
            }
        }
    }

    /// The next header. What is due is acknowledged meanwhile: there may be no
    /// next one before.
    async fn header(&mut self) -> Result<FrameHeader, Closed> {
        if self.due_bytes() >= ACK_EVERY_BYTES {
            tokio::select! {
                biased;
                header = self.frames.header() => return header,
                () = sleep_until(self.acknowledged_at + ACK_PAUSE) => self.acknowledge(),
            }
        }
        self.frames.header().await
    }

    async fn answer(&mut self, payload: Bytes) -> Result<(), Closed> {
        let answer = Answer::decode(payload).map_err(Fault::Wire)?;
        match answer {
            Answer::Started { id, size } => self.started(id, size).await,
            Answer::Refused { id, refusal } => self.refused(id, refusal).await,
            Answer::Aborted(id) => self.aborted(id).await,
            Answer::Holds { id, chunks } => {
                let chunks = self.shared.state().ledger.held(id, &chunks)?;
                self.tell(PieceEvent::Holds { id, chunks }).await
            }
            Answer::Holdings { manifest, holding } => {
                self.shared.state().ledger.news(&manifest)?;
                self.pace.take(NUMBERS_PER_MESSAGE).await;
                self.tell(PieceEvent::Holdings { manifest, holding }).await
            }
            Answer::Have { manifest, pieces } => {
                self.shared.state().ledger.news(&manifest)?;
                self.pace.take(1 + pieces.len() / NUMBERS_PER_MESSAGE).await;
                self.tell(PieceEvent::Have { manifest, pieces }).await
            }
        }
    }

    async fn started(&mut self, id: RequestId, size: u32) -> Result<(), Closed> {
        let wanted = self.shared.state().ledger.started(id, size)?;
        let mut buffer = None;
        if wanted {
            self.tell(PieceEvent::Started { id }).await?;
            self.progress_at = Instant::now();
            buffer = Some(self.reservation.buffer().await);
        }
        self.current = Some(Current {
            id,
            size,
            received: 0,
            buffer,
        });
        Ok(())
    }

    async fn refused(&mut self, id: RequestId, refusal: Refusal) -> Result<(), Closed> {
        if self.shared.state().ledger.refused(id)? {
            self.tell(PieceEvent::Refused { id, refusal }).await?;
        }
        Ok(())
    }

    async fn aborted(&mut self, id: RequestId) -> Result<(), Closed> {
        let wanted = self.shared.state().ledger.aborted(id)?;
        if let Some(current) = self.current.take() {
            self.discard(current.received);
        }
        if wanted {
            self.tell(PieceEvent::Aborted { id }).await?;
        }
        Ok(())
    }

    async fn data(&mut self, header: FrameHeader) -> Result<(), Closed> {
        let Some(mut current) = self.current.take() else {
            return Err(Fault::DataWithoutStart(header.len).into());
        };
        let (id, size) = (current.id, current.size);
        if header.len > size - current.received {
            return Err(Fault::TooMuchData { id, size }.into());
        }
        if !self.shared.state().ledger.is_open(id) {
            current.buffer = None;
        }
        let mut left = header.len as usize;
        while left > 0 {
            let at = current.received as usize;
            let into = match &mut current.buffer {
                Some(buffer) => &mut buffer[at..at + left],
                None => {
                    self.scrap.resize(SCRAP_BYTES, 0);
                    &mut self.scrap[..left.min(SCRAP_BYTES)]
                }
            };
            let count = self.frames.some(into).await?;
            left -= count;
            current.received += count as u32;
            self.count(count as u64);
        }
        if current.received == size {
            return self.received(current).await;
        }
        if current.buffer.is_some() && self.progress_at.elapsed() >= PROGRESS_INTERVAL {
            self.progress_at = Instant::now();
            let bytes = current.received;
            self.tell(PieceEvent::Progress { id, bytes }).await?;
        }
        self.current = Some(current);
        Ok(())
    }

    async fn received(&mut self, current: Current) -> Result<(), Closed> {
        let Current { id, size, .. } = current;
        let wanted = self.shared.state().ledger.received(id);
        match current.buffer {
            Some(buffer) if wanted => {
                self.shared.received_pieces.fetch_add(1, Ordering::Relaxed);
                let bytes = buffer.into_bytes(size);
                self.tell(PieceEvent::Received { id, bytes }).await
            }
            _ => {
                self.discard(size);
                Ok(())
            }
        }
    }

    /// Counts data that was read, and acknowledges when it is time.
    fn count(&mut self, bytes: u64) {
        self.shared
            .received_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.read_bytes += bytes;
        let due = self.due_bytes();
        if due >= ACK_AT_ONCE_BYTES
            || due >= ACK_EVERY_BYTES && self.acknowledged_at.elapsed() >= ACK_PAUSE
        {
            self.acknowledge();
        }
    }

    /// Bytes that were read since the last acknowledgement.
    fn due_bytes(&self) -> u64 {
        self.read_bytes - self.acknowledged_bytes
    }

    fn acknowledge(&mut self) {
        self.acknowledged_bytes = self.read_bytes;
        self.acknowledged_at = Instant::now();
        self.shared.acknowledge(self.read_bytes);
    }

    fn discard(&self, bytes: u32) {
        self.shared
            .discarded_bytes
            .fetch_add(u64::from(bytes), Ordering::Relaxed);
    }

    async fn tell(&self, event: PieceEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed::Here)
    }
}
