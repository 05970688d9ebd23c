//! The writer of a served stream.
//!
//! Frames are put together so that they fill whole frames of the multiplexer
//! below (16 KiB): each of those costs two TLS records and two system calls, the
//! small ones as much as the full ones. Control frames, and what is left of a
//! piece, travel in front of the data in the first of them; the rest of the data
//! is written from where it was read to.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::limiter::{MUXER_PAYLOAD_BYTES, Turn};
use super::link::{Errand, Link, Work};
use super::ordering::Message;
use super::server::House;
use super::{Closed, STALL_TIMEOUT};
use crate::snapshot::PIECE_BYTES;
use crate::wire::{
    Answer, FRAME_HEADER_BYTES, FrameHeader, FrameKind, MAX_DATA_BYTES, Refusal, RequestId,
};

/// The next piece is chosen and read while so much time of the one under way is
/// left: a round through the ordering task and the disk.
const READ_AHEAD: Duration = Duration::from_millis(20);

/// And not before the one under way has begun, so that choosing stays late.
const MAX_READ_AHEAD_BYTES: u32 = PIECE_BYTES;

/// A stream that moves so much in [`READ_AHEAD`] has room again before the next
/// piece is read.
const FAST_BYTES: u32 = 256 << 10;

/// Pause between two reports of progress to the ordering task.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Sending<W> {
    io: W,
    link: Arc<Link>,
    house: Arc<House>,
    current: Option<Current>,
    ahead: VecDeque<Ahead>,
    turn: Option<Turn>,
    /// Control frames and small data, written first.
    head: Vec<u8>,
    /// Data written from where it lies, after the head.
    body: Bytes,
    blocked: bool,
    unreported_bytes: u32,
    reported_at: Instant,
}

/// Bytes of a piece, and their place in the memory for served pieces.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    pub(super) _place: OwnedSemaphorePermit,
}

/// The piece under way.
struct Current {
    id: RequestId,
    held: Held,
    sent: usize,
    /// The ordering task knows that it ends.
    told: bool,
}

impl Current {
    fn left(&self) -> usize {
        self.held.bytes.len() - self.sent
    }
}

/// A piece that is being read.
struct Ahead {
    id: RequestId,
    reading: JoinHandle<Option<Held>>,
    read: Option<Option<Held>>,
}

/// Why no data is written now.
enum Pause {
    /// Nothing to write.
    Idle,
    /// Too much is unacknowledged.
    Credit,
    /// The rate limit.
    Until(Instant),
}

impl<W: AsyncWrite + Unpin> Sending<W> {
    pub(super) fn new(io: W, link: Arc<Link>, house: Arc<House>) -> Self {
        Self {
            io,
            link,
            house,
            current: None,
            ahead: VecDeque::new(),
            turn: None,
            head: Vec::with_capacity(MUXER_PAYLOAD_BYTES),
            body: Bytes::new(),
            blocked: false,
            unreported_bytes: 0,
            reported_at: Instant::now(),
        }
    }

    pub(super) async fn run(&mut self) -> Closed {
        loop {
            if let Err(closed) = self.step().await {
                return closed;
            }
        }
    }

    async fn step(&mut self) -> Result<(), Closed> {
        let errand = self.link.errand();
        self.take(errand);
        let pause = self.compose().await?;
        if !self.head.is_empty() || !self.body.is_empty() {
            self.write().await?;
            return self.report().await;
        }
        self.wait(pause).await
    }

    fn take(&mut self, errand: Errand) {
        if !errand.frames.is_empty() {
            let bytes = errand.frames.len() as u64;
            self.house.limiter.charge(bytes, Instant::now());
            self.head.extend_from_slice(&errand.frames);
        }
        // What was taken back is older than all work here: a request with the same
        // number may have come after it.
        for id in errand.aborts {
            if self
                .current
                .as_ref()
                .is_some_and(|current| current.id == id)
            {
                self.current = None;
                self.link.set_started(None);
                self.house.aborted();
                self.head.extend_from_slice(&Answer::Aborted(id).to_frame());
            }
            self.ahead.retain(|ahead| ahead.id != id);
        }
        for Work { id, chunk, piece } in errand.work {
            self.ahead.push_back(Ahead {
                id,
                reading: self.house.read(chunk, piece),
                read: None,
            });
        }
    }

    /// Puts together what is written next: everything that is small, and at most
    /// one slice of a piece.
    async fn compose(&mut self) -> Result<Pause, Closed> {
        loop {
            if !self.begin().await? {
                return Ok(Pause::Idle);
            }
            let Some(current) = &self.current else {
                return Ok(Pause::Idle);
            };
            let left = current.left();
            let used = self.head.len() % MUXER_PAYLOAD_BYTES + FRAME_HEADER_BYTES;
            let whole_frames = MAX_DATA_BYTES as usize - used;
            let wanted = left.min(whole_frames);
            if self.link.credit(|credit| credit.room()) < wanted as u64 {
                return Ok(Pause::Credit);
            }
            let now = Instant::now();
            let turn = match self.turn.take() {
                Some(turn) if !self.house.limiter.is_void(&turn) => turn,
                _ => self.house.limiter.turn(wanted as u32, now),
            };
            if let Some(at) = turn.at
                && at > now
            {
                self.turn = Some(turn);
                return Ok(Pause::Until(at));
            }
            let len = wanted.min(turn.bytes as usize);
            let fits = used + len <= MUXER_PAYLOAD_BYTES && self.head.len() < MUXER_PAYLOAD_BYTES;
            if self.append(len, fits).await? {
                return Ok(Pause::Idle);
            }
        }
    }

    /// Makes the next piece that was read the one under way, if there is none.
    /// False: there is no piece to send.
    async fn begin(&mut self) -> Result<bool, Closed> {
        while self.current.is_none() {
            let Some(ahead) = self.ahead.front_mut() else {
                return Ok(false);
            };
            if ahead.read.is_none() {
                if !ahead.reading.is_finished() {
                    return Ok(false);
                }
                ahead.read = Some((&mut ahead.reading).await.ok().flatten());
            }
            let Some(Ahead { id, read, .. }) = self.ahead.pop_front() else {
                return Ok(false);
            };
            let Some(held) = read.flatten() else {
                self.house.refuse(&self.link, id, Refusal::Gone);
                let conn = self.link.conn;
                self.tell(Message::Failed { conn, id }).await?;
                continue;
            };
            let size = held.bytes.len() as u32;
            self.head
                .extend_from_slice(&Answer::Started { id, size }.to_frame());
            self.link.set_started(Some(id));
            self.current = Some(Current {
                id,
                held,
                sent: 0,
                told: false,
            });
        }
        Ok(true)
    }

    /// Appends one data frame of `len` bytes; true when what is composed is full.
    async fn append(&mut self, len: usize, fits: bool) -> Result<bool, Closed> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        let header = FrameHeader {
            kind: FrameKind::Data,
            len: len as u32,
        };
        self.head.extend_from_slice(&header.encode());
        let data = current.held.bytes.slice(current.sent..current.sent + len);
        current.sent += len;
        // Counted ahead of writing: the peer may acknowledge the first bytes
        // before the last are written.
        let now = Instant::now();
        self.link.credit(|credit| credit.sent(len as u64, now));
        self.link
            .sent_bytes
            .fetch_add(len as u64, Ordering::Relaxed);
        self.house.sent(len as u64);
        self.unreported_bytes += len as u32;
        if fits {
            self.head.extend_from_slice(&data);
        } else {
            // Completes the multiplexer's frame that the head has begun.
            let filled = self.head.len() % MUXER_PAYLOAD_BYTES;
            let begun = data.len().min(MUXER_PAYLOAD_BYTES - filled);
            self.head.extend_from_slice(&data[..begun]);
            self.body = data.slice(begun..);
        }
        self.ending().await?;
        Ok(!fits)
    }

    /// Lets the next piece be chosen when the one under way is nearly written,
    /// and forgets this one when it is.
    async fn ending(&mut self) -> Result<(), Closed> {
        let conn = self.link.conn;
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        let (id, left) = (current.id, current.left());
        let (rate, room) = self.link.credit(|credit| (credit.rate(), credit.room()));
        let ahead = (rate * READ_AHEAD.as_secs_f64()).min(f64::from(MAX_READ_AHEAD_BYTES)) as u32;
        if left <= ahead as usize && !current.told {
            current.told = true;
            self.blocked = ahead < FAST_BYTES && room < u64::from(MAX_DATA_BYTES);
            if self.blocked {
                self.tell(Message::Blocked(conn)).await?;
            }
            self.report_bytes().await?;
            self.tell(Message::Ended { conn, id }).await?;
        }
        if left == 0 {
            self.current = None;
            self.link.finished(id);
            self.house.finished();
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Closed> {
        let write = async {
            self.io.write_all(&self.head).await?;
            self.io.write_all(&self.body).await?;
            self.io.flush().await
        };
        let written = timeout(STALL_TIMEOUT, write).await;
        self.head.clear();
        self.body = Bytes::new();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Closed::Lost(error)),
            Err(_) => Err(Closed::Stalled),
        }
    }

    async fn report(&mut self) -> Result<(), Closed> {
        if self.unreported_bytes > 0 && self.reported_at.elapsed() >= REPORT_INTERVAL {
            self.report_bytes().await?;
        }
        Ok(())
    }

    async fn report_bytes(&mut self) -> Result<(), Closed> {
        self.reported_at = Instant::now();
        let bytes = std::mem::take(&mut self.unreported_bytes);
        let conn = self.link.conn;
        self.tell(Message::Progress { conn, bytes }).await
    }

    /// Waits until something can have changed.
    async fn wait(&mut self, pause: Pause) -> Result<(), Closed> {
        let (room, owed) = self.link.credit(|credit| (credit.room(), credit.owed()));
        if self.blocked && room >= u64::from(MAX_DATA_BYTES) {
            self.blocked = false;
            self.tell(Message::Unblocked(self.link.conn)).await?;
        }
        let stalls = owed && (self.blocked || matches!(pause, Pause::Credit));
        let until = match pause {
            Pause::Until(at) => Some(at),
            Pause::Credit | Pause::Idle => stalls.then(|| Instant::now() + STALL_TIMEOUT),
        };
        let timer = async {
            match until {
                Some(at) => sleep_until(at).await,
                None => pending().await,
            }
        };
        let reading = self.current.is_none();
        let read = async {
            match self.ahead.front_mut() {
                Some(ahead) if reading && ahead.read.is_none() => {
                    ahead.read = Some((&mut ahead.reading).await.ok().flatten());
                }
                _ => pending().await,
            }
        };
        tokio::select! {
            () = self.link.wake.notified() => Ok(()),
            () = read => Ok(()),
            () = timer => if stalls { Err(Closed::Stalled) } else { Ok(()) },
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Closed> {
        self.house
            .orders
            .send(message)
            .await
            .map_err(|_| Closed::Here)
    }
}

/// Whether a piece that the library gave can be one.
pub(super) fn is_piece(bytes: &Bytes) -> bool {
    !bytes.is_empty() && bytes.len() <= PIECE_BYTES as usize
}
