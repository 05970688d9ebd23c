//! A secured connection at work: one thread reads, one writes.

use std::{
    collections::VecDeque,
    io::{self, BufRead, Write},
    net::TcpStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::handshake::{Secured, explain};
use super::packet::{
    Assembler, Channel, MAX_PACKET_BYTES, MessageLimits, Outgoing, Packet, ReadError, Receipt,
    read_delimited, write_pong,
};
use super::socket::{SILENCE, shut};
use super::{Message, NodeId, NodeInfo, PeerError};

/// Bytes of packets that are encrypted and written in one go. A pong waits for
/// as much; less costs system calls.
const BATCH_BYTES: usize = 60 << 10;
/// Messages of a kind that wait to be written. More come only when the node
/// asks faster than it reads: those are left out, as the same lie in line.
const MAX_WAITING: usize = 64;
/// A node that has no room for a peer hangs up at once after the handshake.
const HANG_UP: Duration = Duration::from_secs(3);

/// Takes what a connection brings. Called from the connection's own threads:
/// must return soon and hold no lock that its caller holds.
pub(super) trait Inbox: Send + Sync {
    /// A message came in whole.
    fn message(&self, message: Message);
    /// A part of a chunk message came in.
    fn progress(&self);
    /// A chunk message was handed to the kernel in full.
    fn sent(&self, receipt: Receipt);
    /// The connection is over. Called once or twice; the first reason counts.
    fn closed(&self, why: PeerError);
}

/// Two threads and what they share. Dropping it ends both.
pub(super) struct Connection {
    info: NodeInfo,
    outbox: Arc<Outbox>,
    socket: TcpStream,
    threads: Vec<JoinHandle<()>>,
}

/// What waits to be written.
#[derive(Default)]
struct Outbox {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    pong: bool,
    /// Requests and offers: go ahead of chunks.
    short: VecDeque<Outgoing>,
    chunks: VecDeque<Outgoing>,
    closed: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        !self.pong && self.short.is_empty() && self.chunks.is_empty()
    }
}

impl Connection {
    /// Starts to read and write. `place` is `HOST:PORT`, for messages.
    pub(super) fn start(
        secured: Secured,
        place: &str,
        limits: MessageLimits,
        inbox: Arc<dyn Inbox>,
    ) -> Result<Self, PeerError> {
        let Secured {
            sender,
            receiver,
            socket,
            info,
            own,
        } = secured;
        tracing::debug!(
            place,
            id = %info.id,
            chain_id = info.chain_id,
            version = info.version,
            "connected to a CometBFT node"
        );
        let outbox = Arc::new(Outbox::default());
        let mut connection = Self {
            info,
            outbox: outbox.clone(),
            socket,
            threads: Vec::new(),
        };
        let heard = Arc::new(AtomicBool::new(false));
        let mut reader = Reader {
            from: receiver,
            assembler: Assembler::new(limits),
            inbox: inbox.clone(),
            outbox: outbox.clone(),
            place: place.to_owned(),
            heard: heard.clone(),
        };
        let end = End {
            place: place.to_owned(),
            own,
            heard,
            since: Instant::now(),
            inbox: inbox.clone(),
        };
        connection.spawn("comet-read", end.clone(), move || reader.run())?;
        let place_of_writer = place.to_owned();
        connection.spawn("comet-write", end, move || {
            write_all(sender, &outbox, &*inbox, &place_of_writer)
        })?;
        Ok(connection)
    }

    /// Runs one half on a thread; however it ends, the inbox hears of it and
    /// the other half ends too.
    fn spawn(
        &mut self,
        name: &str,
        end: End,
        half: impl FnOnce() -> PeerError + Send + 'static,
    ) -> Result<(), PeerError> {
        let place = end.place.clone();
        let lost = |error: io::Error| PeerError::Lost {
            place,
            problem: error.to_string(),
        };
        let outbox = self.outbox.clone();
        let socket = match self.socket.try_clone() {
            Ok(socket) => socket,
            Err(error) => return Err(lost(error)),
        };
        let body = move || {
            let why = catch_unwind(AssertUnwindSafe(half)).unwrap_or_else(|_| PeerError::Lost {
                place: end.place.clone(),
                problem: "a fault in this program".to_owned(),
            });
            // First, so that the true reason is the first: closing the outbox
            // gives the other half one of its own.
            end.tell(why);
            outbox.close();
            shut(&socket);
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(lost)?;
        self.threads.push(thread);
        Ok(())
    }

    /// What the node says of itself.
    pub(super) fn info(&self) -> &NodeInfo {
        &self.info
    }

    /// Puts a message in line; false when the connection is over.
    pub(super) fn send(&self, message: Outgoing) -> bool {
        self.outbox.push(message)
    }
}

/// What each half tells when it ends.
#[derive(Clone)]
struct End {
    place: String,
    own: NodeId,
    /// Whether any packet came.
    heard: Arc<AtomicBool>,
    since: Instant,
    inbox: Arc<dyn Inbox>,
}

impl End {
    fn tell(self, why: PeerError) {
        tracing::debug!(place = self.place, %why, "half of a connection to a CometBFT node ended");
        let heard = self.heard.load(Ordering::Relaxed);
        let why = match why {
            PeerError::Lost { place, .. } if !heard && self.since.elapsed() < HANG_UP => {
                PeerError::Unwanted {
                    place,
                    own: self.own,
                }
            }
            why => why,
        };
        self.inbox.closed(why);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.outbox.close();
        shut(&self.socket);
        for thread in self.threads.drain(..) {
            // The thread's panics are caught inside it.
            let _ = thread.join();
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn pong(&self) {
        self.lock().pong = true;
        self.wake.notify_all();
    }

    fn push(&self, message: Outgoing) -> bool {
        let mut waiting = self.lock();
        if waiting.closed {
            return false;
        }
        let line = if message.receipt.is_some() {
            &mut waiting.chunks
        } else {
            &mut waiting.short
        };
        if line.len() < MAX_WAITING {
            line.push_back(message);
        }
        self.wake.notify_all();
        true
    }
}

struct Reader<R> {
    from: R,
    assembler: Assembler,
    inbox: Arc<dyn Inbox>,
    outbox: Arc<Outbox>,
    place: String,
    heard: Arc<AtomicBool>,
}

impl<R: BufRead> Reader<R> {
    fn run(&mut self) -> PeerError {
        let place = self.place.clone();
        match self.read() {
            Ok(never) => match never {},
            Err(ReadError::Protocol(problem)) => PeerError::Protocol { place, problem },
            Err(ReadError::Io(error)) => lost(place, &error),
        }
    }

    fn read(&mut self) -> Result<std::convert::Infallible, ReadError> {
        let mut block = Vec::new();
        loop {
            read_delimited(&mut self.from, &mut block, "packet", MAX_PACKET_BYTES)?;
            self.heard.store(true, Ordering::Relaxed);
            match Packet::decode(&block)? {
                Packet::Ping => self.outbox.pong(),
                Packet::Pong => {}
                Packet::Part {
                    channel,
                    last,
                    data,
                } => {
                    if channel == Channel::Chunks {
                        self.inbox.progress();
                    }
                    if let Some(message) = self.assembler.push(channel, last, &data)? {
                        let message = Message::decode(channel, &message)?;
                        self.inbox.message(message);
                    }
                }
            }
        }
    }
}

fn lost(place: String, error: &io::Error) -> PeerError {
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => PeerError::Silent {
            place,
            seconds: SILENCE.as_secs(),
        },
        _ => PeerError::Lost {
            place,
            problem: explain(error),
        },
    }
}

/// Writes until the outbox is closed. A pong goes first, then short messages,
/// then as much of a chunk as fits the batch.
fn write_all(mut sender: impl Write, outbox: &Outbox, inbox: &dyn Inbox, place: &str) -> PeerError {
    let mut batch = Vec::with_capacity(BATCH_BYTES + 2048);
    let mut begun = Begun::default();
    loop {
        batch.clear();
        if !begun.gather(outbox, &mut batch) {
            return PeerError::Lost {
                place: place.to_owned(),
                problem: "we closed it".to_owned(),
            };
        }
        let receipt = begun.fill(&mut batch);
        if let Err(error) = sender.write_all(&batch).and_then(|()| sender.flush()) {
            return lost(place.to_owned(), &error);
        }
        if let Some(receipt) = receipt {
            inbox.sent(receipt);
        }
    }
}

/// Messages that the writing thread has taken out of the outbox.
#[derive(Default)]
struct Begun {
    short: VecDeque<Outgoing>,
    chunk: Option<Outgoing>,
}

impl Begun {
    fn is_empty(&self) -> bool {
        self.short.is_empty() && self.chunk.is_none()
    }

    /// Waits for something to write and takes it; false when the outbox is
    /// closed.
    fn gather(&mut self, outbox: &Outbox, batch: &mut Vec<u8>) -> bool {
        let mut waiting = outbox.lock();
        while self.is_empty() && waiting.is_empty() && !waiting.closed {
            waiting = outbox
                .wake
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if std::mem::take(&mut waiting.pong) {
            write_pong(batch);
        }
        if self.short.is_empty() {
            self.short = std::mem::take(&mut waiting.short);
        }
        if self.chunk.is_none() {
            self.chunk = waiting.chunks.pop_front();
        }
        !waiting.closed
    }

    /// Fills the batch; tells which chunk ends in it, if one does.
    fn fill(&mut self, batch: &mut Vec<u8>) -> Option<Receipt> {
        while batch.len() < BATCH_BYTES {
            if let Some(message) = self.short.front_mut() {
                if message.write_packet(batch) {
                    self.short.pop_front();
                }
            } else {
                let chunk = self.chunk.as_mut()?;
                if chunk.write_packet(batch) {
                    return self.chunk.take().and_then(|chunk| chunk.receipt);
                }
            }
        }
        None
    }
}
