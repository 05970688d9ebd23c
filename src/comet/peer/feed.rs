//! Giving one snapshot to a joining node.
//!
//! The node asks for snapshots when it meets us and once each discovery cycle,
//! then for chunks, four at a time, each again after 10 s. One snapshot is all
//! we have: it is offered right after connecting, unasked, and at each request.
//! A chunk is in one of three states: asked for, in hand (read, and waiting or
//! being written), or neither. What is asked for is answered in order of index,
//! because the node applies chunks in that order and gives up when the next one
//! is two minutes late. At most [`MAX_IN_HAND`] chunks are in memory.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::backoff::Backoff;
use super::connection::{Connection, Inbox};
use super::handshake::{Expected, secure};
use super::message::{SERVING_LIMITS, chunk_head, snapshot};
use super::packet::{Channel, Outgoing, Receipt};
use super::socket::{dial, place};
use super::{ChunkKey, Identity, Message, NodeAddress, PeerError, Stop};
use crate::snapshot::Offer;

/// One chunk is being written while the next is read: 32 MB at the most.
const MAX_IN_HAND: usize = 2;
/// A node asks again after 10 s even when the answer is already in its own
/// receive buffer. A request that comes so soon after we wrote the last byte is
/// taken for such a repeat; a chunk that it really wants again (its app said
/// RETRY) it asks for once more 10 s later.
const REPEAT_GRACE: Duration = Duration::from_secs(2);
/// How often a waiting thread looks whether it should stop.
const STOP_TICK: Duration = Duration::from_millis(100);
/// How often the listener is looked at.
const ACCEPT_TICK: Duration = Duration::from_millis(50);

/// The chunks of the snapshot that is fed. Read one at a time, by one thread.
pub trait ChunkSource: Send + Sync {
    /// The bytes of the chunk at this ABCI index.
    fn chunk(&self, index: u32) -> io::Result<Bytes>;
}

/// Whom to feed, and how to meet it.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The joining node. Its id is always proven; its host and port are used
    /// only when we dial.
    pub node: NodeAddress,
    /// Where we wait for the node, which has us in `persistent_peers` (port 0:
    /// any, told by [`FeedEvent::Listening`]). Without it we dial the node,
    /// which should have us in `unconditional_peer_ids`.
    pub listen: Option<SocketAddr>,
    /// Refuse a node of another chain.
    pub chain_id: Option<String>,
}

/// What happens while feeding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedEvent {
    /// We wait for the node here.
    Listening {
        /// The bound address.
        addr: SocketAddr,
    },
    /// The node is connected, by proof the right one.
    Connected {
        /// Its version of CometBFT.
        version: String,
        /// Its chain.
        chain_id: String,
    },
    /// The snapshot was offered: unasked after connecting, and each time the
    /// node asks for snapshots.
    Offered,
    /// A chunk was sent, in full. One chunk may be sent more than once.
    ChunkSent {
        /// ABCI index.
        index: u32,
        /// Its size.
        bytes: u64,
    },
    /// There is no connection (any more); another try follows.
    Disconnected {
        /// Why, as a sentence.
        why: String,
    },
}

/// What was done while feeding.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FedStats {
    /// Connections that came to stand.
    pub connections: u32,
    /// Chunks sent in full, repeats counted.
    pub chunks_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
}

/// Offers one snapshot to one node and serves its chunks until `stop`, through
/// lost connections. Blocking. It ends early only for a reason that trying
/// again does not mend. Whether the node took the snapshot is not told here:
/// ask [`Rpc::restored`](crate::comet::rpc::Rpc::restored).
///
/// Offer only what is complete: a chunk that [`ChunkSource`] cannot give ends
/// the feeding with an error.
pub fn feed(
    settings: &FeedSettings,
    identity: &Identity,
    offer: &Offer,
    chunks: &dyn ChunkSource,
    events: &mut dyn FnMut(FeedEvent),
    stop: &Stop,
) -> Result<FedStats, PeerError> {
    let mut feeder = Feeder {
        settings,
        identity,
        offer,
        offer_message: snapshot(offer)?,
        chunks,
        events,
        stop,
        stats: FedStats::default(),
    };
    match feeder.run() {
        Err(PeerError::Stopped) => Ok(feeder.stats),
        Err(error) => Err(error),
        Ok(never) => match never {},
    }
}

struct Feeder<'a> {
    settings: &'a FeedSettings,
    identity: &'a Identity,
    offer: &'a Offer,
    offer_message: Bytes,
    chunks: &'a dyn ChunkSource,
    events: &'a mut dyn FnMut(FeedEvent),
    stop: &'a Stop,
    stats: FedStats,
}

impl Feeder<'_> {
    fn run(&mut self) -> Result<std::convert::Infallible, PeerError> {
        let listener = self.settings.listen.map(listen).transpose()?;
        if let Some((_, addr)) = &listener {
            (self.events)(FeedEvent::Listening { addr: *addr });
        }
        let mut backoff = Backoff::new();
        let mut last_told = String::new();
        loop {
            if backoff.wait(self.stop) {
                return Err(PeerError::Stopped);
            }
            let (why, served) = match self.meet(listener.as_ref().map(|(listener, _)| listener)) {
                Ok((connection, desk)) => {
                    last_told.clear();
                    self.serve(&connection, &desk)
                }
                Err(why) => (why, false),
            };
            // Whoever finds the listener may be a stranger: no reason to end.
            let stranger = listener.is_some() && matches!(why, PeerError::WrongNode { .. });
            if why.is_fatal() && !stranger {
                return Err(why);
            }
            if served {
                backoff.worked();
            }
            backoff.failed();
            let why = why_chain(&why);
            if why != last_told {
                (self.events)(FeedEvent::Disconnected { why: why.clone() });
                last_told = why;
            }
        }
    }

    /// Waits for the node, or dials it, once.
    fn meet(
        &mut self,
        listener: Option<&TcpListener>,
    ) -> Result<(Connection, Arc<Desk>), PeerError> {
        let (socket, place) = match listener {
            Some(listener) => accept(listener, self.stop)?,
            None => {
                let node = &self.settings.node;
                (dial(node, self.identity.id())?, place(node))
            }
        };
        let expected = Expected {
            place: &place,
            id: self.settings.node.id,
            chain_id: self.settings.chain_id.as_deref(),
        };
        let secured = secure(socket, self.identity, &expected)?;
        let desk = Arc::new(Desk::new(self.offer));
        let connection = Connection::start(secured, &place, SERVING_LIMITS, desk.clone())?;
        self.stats.connections += 1;
        (self.events)(FeedEvent::Connected {
            version: connection.info().version.clone(),
            chain_id: connection.info().chain_id.clone(),
        });
        Ok((connection, desk))
    }

    /// Serves until the connection ends; tells why it did and whether a chunk
    /// was sent.
    fn serve(&mut self, connection: &Connection, desk: &Desk) -> (PeerError, bool) {
        let mut served = false;
        self.announce(connection);
        loop {
            match desk.next(self.stop) {
                Todo::End(why) => return (why, served),
                Todo::Announce => self.announce(connection),
                Todo::Sent(Receipt { index, bytes }) => {
                    served = true;
                    self.stats.chunks_sent += 1;
                    self.stats.bytes_sent += bytes;
                    (self.events)(FeedEvent::ChunkSent { index, bytes });
                }
                Todo::Send(index) => match self.chunk(index) {
                    // A connection that is over tells so at the desk.
                    Ok(message) => {
                        connection.send(message);
                    }
                    Err(error) => return (error, served),
                },
            }
        }
    }

    fn announce(&mut self, connection: &Connection) {
        let message = Outgoing::new(Channel::Snapshots, self.offer_message.clone());
        if connection.send(message) {
            (self.events)(FeedEvent::Offered);
        }
    }

    fn chunk(&self, index: u32) -> Result<Outgoing, PeerError> {
        let bytes = self
            .chunks
            .chunk(index)
            .map_err(|source| PeerError::Chunk { index, source })?;
        let key = ChunkKey {
            height: self.offer.height,
            format: self.offer.format,
            index,
        };
        let head = chunk_head(key, bytes.len())?;
        let receipt = Receipt {
            index,
            bytes: bytes.len() as u64,
        };
        Ok(Outgoing::chunk(head, bytes, receipt))
    }
}

/// An error with its causes, in one line.
fn why_chain(error: &PeerError) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

fn listen(addr: SocketAddr) -> Result<(TcpListener, SocketAddr), PeerError> {
    let failed = |source| PeerError::Listen { addr, source };
    let listener = TcpListener::bind(addr).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// The next connection that someone makes to us.
fn accept(listener: &TcpListener, stop: &Stop) -> Result<(TcpStream, String), PeerError> {
    loop {
        match listener.accept() {
            Ok((socket, from)) => return Ok((socket, from.to_string())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.wait(ACCEPT_TICK) {
                    return Err(PeerError::Stopped);
                }
            }
            Err(source) => {
                return Err(PeerError::Connect {
                    place: "our listener".to_owned(),
                    source,
                });
            }
        }
    }
}

/// Where the connection lays down what the node wants and the feeder picks it
/// up.
struct Desk {
    height: u64,
    format: u32,
    chunks: u32,
    state: Mutex<DeskState>,
    wake: Condvar,
}

/// Bounded by the number of chunks: an index is in each set once.
#[derive(Default)]
struct DeskState {
    announce: bool,
    asked: BTreeSet<u32>,
    in_hand: BTreeSet<u32>,
    sent: VecDeque<Receipt>,
    sent_lately: BTreeMap<u32, Instant>,
    closed: Option<PeerError>,
}

enum Todo {
    Announce,
    Send(u32),
    Sent(Receipt),
    End(PeerError),
}

impl Desk {
    fn new(offer: &Offer) -> Self {
        Self {
            height: offer.height,
            format: offer.format,
            chunks: offer.chunks,
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, DeskState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, stop: &Stop) -> Todo {
        let mut state = self.lock();
        loop {
            if stop.is_stopped() {
                return Todo::End(PeerError::Stopped);
            }
            if let Some(todo) = state.next() {
                return todo;
            }
            state = self
                .wake
                .wait_timeout(state, STOP_TICK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn change(&self, change: impl FnOnce(&mut DeskState)) {
        change(&mut self.lock());
        self.wake.notify_all();
    }
}

impl DeskState {
    fn next(&mut self) -> Option<Todo> {
        if let Some(receipt) = self.sent.pop_front() {
            return Some(Todo::Sent(receipt));
        }
        if let Some(why) = self.closed.take() {
            return Some(Todo::End(why));
        }
        if std::mem::take(&mut self.announce) {
            return Some(Todo::Announce);
        }
        if self.in_hand.len() >= MAX_IN_HAND {
            return None;
        }
        let index = self.asked.pop_first()?;
        self.in_hand.insert(index);
        Some(Todo::Send(index))
    }

    fn ask(&mut self, index: u32, now: Instant) {
        self.sent_lately
            .retain(|_, sent| now.duration_since(*sent) < REPEAT_GRACE);
        if !self.in_hand.contains(&index) && !self.sent_lately.contains_key(&index) {
            self.asked.insert(index);
        }
    }

    fn sent(&mut self, receipt: Receipt, now: Instant) {
        self.in_hand.remove(&receipt.index);
        self.sent_lately.insert(receipt.index, now);
        self.sent.push_back(receipt);
    }
}

impl Inbox for Desk {
    fn message(&self, message: Message) {
        match message {
            Message::SnapshotsRequest => self.change(|state| state.announce = true),
            Message::ChunkRequest(key)
                if key.height == self.height
                    && key.format == self.format
                    && key.index < self.chunks =>
            {
                self.change(|state| state.ask(key.index, Instant::now()));
            }
            // Requests for what we never offered, and answers to questions that
            // we never asked.
            Message::ChunkRequest(_) | Message::Snapshot(_) | Message::Chunk(..) => {}
        }
    }

    fn progress(&self) {}

    fn sent(&self, receipt: Receipt) {
        self.change(|state| state.sent(receipt, Instant::now()));
    }

    fn closed(&self, why: PeerError) {
        self.change(|state| {
            state.closed.get_or_insert(why);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sends(state: &mut DeskState) -> Vec<u32> {
        std::iter::from_fn(|| state.next())
            .filter_map(|todo| match todo {
                Todo::Send(index) => Some(index),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn chunks_are_sent_in_order_and_only_two_are_in_hand() {
        let mut state = DeskState::default();
        let now = Instant::now();
        for index in [3, 0, 2, 1, 0] {
            state.ask(index, now);
        }
        assert_eq!(sends(&mut state), [0, 1]);
        state.sent(Receipt { index: 0, bytes: 9 }, now);
        assert_eq!(sends(&mut state), [2]);
    }

    #[test]
    fn a_repeat_is_ignored_while_its_answer_is_on_the_way_and_served_later() {
        let mut state = DeskState::default();
        let start = Instant::now();
        state.ask(5, start);
        assert_eq!(sends(&mut state), [5]);
        state.ask(5, start + Duration::from_secs(10));
        assert_eq!(sends(&mut state), [0u32; 0], "it is in hand");
        let done = start + Duration::from_secs(11);
        state.sent(Receipt { index: 5, bytes: 9 }, done);
        state.ask(5, done + REPEAT_GRACE / 2);
        assert_eq!(sends(&mut state), [0u32; 0], "it was sent just now");
        state.ask(5, done + REPEAT_GRACE);
        assert_eq!(sends(&mut state), [5]);
    }

    #[test]
    fn only_chunks_of_the_offer_are_taken_down() {
        let offer = Offer {
            height: 10,
            format: 1,
            chunks: 4,
            hash: Bytes::from_static(b"h"),
            metadata: Bytes::new(),
        };
        let desk = Desk::new(&offer);
        let ask = |height, format, index| {
            desk.message(Message::ChunkRequest(ChunkKey {
                height,
                format,
                index,
            }));
        };
        ask(9, 1, 0);
        ask(10, 2, 0);
        ask(10, 1, 4);
        assert!(desk.lock().asked.is_empty());
        ask(10, 1, 3);
        assert_eq!(desk.lock().asked.len(), 1);
    }
}
