//! The answering side: the handle, and what all its streams share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, StreamExt};
use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answering::{Answering, OpenedSnapshot};
use super::frames::Frames;
use super::limiter::Limiter;
use super::link::Link;
use super::ordering::{Message, ORDER_QUEUE, Ordering as Order};
use super::pace::Pace;
use super::sending::{Held, Sending, is_piece};
use super::{Closed, Fault, MAX_STREAMS, MAX_STREAMS_PER_PEER};
use crate::net::Library;
use crate::net::streams::Incoming;
use crate::snapshot::{ChunkId, Manifest, ManifestId};
use crate::sync::{ConnKey, UploadLimits};
use crate::wire::{Refusal, RequestId};

/// Pieces that are in memory to be served, over all streams: for each of the
/// usual eight slots the one under way and the next, and half as many more;
/// 24 MiB.
const MAX_SERVED_PIECES: usize = 24;

/// Questions to the library at the same time, beside the reading of pieces.
const MAX_LOOK_UPS: usize = 8;

/// Faults of peers that wait to be judged; more are only logged.
const FAULT_QUEUE: usize = 64;

/// A peer that broke the protocol on a stream that it opened here.
#[derive(Debug)]
pub struct PeerFault {
    /// Who.
    pub peer: PeerId,
    /// What it did.
    pub fault: Fault,
}

/// What a server did and does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ServerStats {
    /// Bytes of pieces sent, those of aborted ones included.
    pub sent_bytes: u64,
    /// Pieces sent whole.
    pub sent_pieces: u64,
    /// Pieces that were taken back while they were sent.
    pub aborted_pieces: u64,
    /// Requests refused.
    pub refused: u64,
    /// Pieces under way.
    pub active: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Each open stream.
    pub peers: Vec<PeerStats>,
}

/// What goes to one peer, over one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStats {
    /// Whom.
    pub peer: PeerId,
    /// Bytes of pieces sent on this stream.
    pub sent_bytes: u64,
    /// Requests open on it, waiting or under way.
    pub open_requests: usize,
    /// Whether a piece is under way on it.
    pub active: bool,
    /// The shortest round trip measured on it.
    pub round_trip: Option<Duration>,
}

/// Serves pieces to peers. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    house: Arc<House>,
}

impl Server {
    /// Starts the task that orders the uploads. Must be called inside a tokio
    /// runtime; `seed` decides ties. A limit of zero bytes per second serves
    /// nobody, and so does one of no slots. Peers that break the protocol are named on the channel.
    pub fn start(
        library: Arc<dyn Library>,
        limits: UploadLimits,
        seed: u64,
    ) -> (Self, mpsc::Receiver<PeerFault>) {
        let (orders, messages) = mpsc::channel(ORDER_QUEUE);
        let (faults, faults_seen) = mpsc::channel(FAULT_QUEUE);
        let house = Arc::new(House {
            library,
            orders,
            faults,
            limiter: Limiter::new(limits.bytes_per_second, Instant::now()),
            closed: AtomicBool::new(serves_nobody(&limits)),
            stop: CancellationToken::new(),
            served_pieces: Arc::new(Semaphore::new(MAX_SERVED_PIECES)),
            look_ups: Semaphore::new(MAX_LOOK_UPS),
            manifests: Mutex::default(),
            streams: Mutex::default(),
            counters: Counters::default(),
        });
        tokio::spawn(Order::new(Arc::clone(&house), limits, seed).run(messages));
        (Self { house }, faults_seen)
    }

    /// Serves every stream that peers open, until the listening side ends.
    pub async fn run(&self, incoming: Incoming) {
        let mut incoming = std::pin::pin!(incoming.take_until(self.house.stop.cancelled()));
        while let Some((peer, stream)) = incoming.next().await {
            self.serve(peer, stream);
        }
    }

    /// Serves one stream, in a task of its own. Of one peer's streams beyond
    /// [`MAX_STREAMS_PER_PEER`] the oldest ends; beyond [`MAX_STREAMS`] in all
    /// the new one is not served.
    pub fn serve<S>(&self, peer: PeerId, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        match self.house.enter(peer) {
            Some(link) => drop(tokio::spawn(serve(Arc::clone(&self.house), link, stream))),
            None => tracing::debug!(%peer, "no room for another piece stream"),
        }
    }

    /// Tells every peer that opened this snapshot which pieces are here now.
    pub fn publish_have(&self, manifest: &ManifestId, pieces: &[u32]) {
        for link in self.house.streams().links.values() {
            link.publish(manifest, pieces);
        }
    }

    /// Changes the limits of what runs already.
    pub async fn set_limits(&self, limits: UploadLimits) {
        let house = &self.house;
        let closed = serves_nobody(&limits);
        house.closed.store(closed, Ordering::Relaxed);
        house.limiter.set(limits.bytes_per_second, Instant::now());
        for link in house.streams().links.values() {
            if closed {
                link.stop.cancel();
            }
            link.wake.notify_one();
        }
        // The task ends only with the server.
        let _ = house.orders.send(Message::Limits(limits)).await;
    }

    /// Ends the streams of a peer that is not served any more.
    pub fn drop_peer(&self, peer: &PeerId) {
        for link in self.house.streams().links.values() {
            if link.peer == *peer {
                link.stop.cancel();
            }
        }
    }

    /// What is being served.
    pub fn stats(&self) -> ServerStats {
        let counters = &self.house.counters;
        let peers: Vec<PeerStats> = {
            let streams = self.house.streams();
            streams.links.values().map(|link| link.stats()).collect()
        };
        let active = peers.iter().filter(|peer| peer.active).count();
        let open: usize = peers.iter().map(|peer| peer.open_requests).sum();
        ServerStats {
            sent_bytes: counters.sent_bytes.load(Ordering::Relaxed),
            sent_pieces: counters.sent_pieces.load(Ordering::Relaxed),
            aborted_pieces: counters.aborted_pieces.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            active,
            queued: open.saturating_sub(active),
            peers,
        }
    }

    /// Ends all streams and the ordering task.
    pub fn shutdown(&self) {
        self.house.stop.cancel();
    }
}

fn serves_nobody(limits: &UploadLimits) -> bool {
    limits.bytes_per_second == Some(0) || limits.slots == 0
}

async fn serve<S>(house: Arc<House>, link: Arc<Link>, stream: S)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (read, write) = stream.split();
    let mut answering = Answering {
        frames: Frames::new(read),
        link: Arc::clone(&link),
        house: Arc::clone(&house),
        pace: Pace::new(Instant::now()),
        opened: BTreeMap::new(),
        acknowledged: 0,
    };
    let mut sending = Sending::new(write, Arc::clone(&link), Arc::clone(&house));
    let joined = house.orders.send(Message::Joined(Arc::clone(&link))).await;
    let closed = tokio::select! {
        closed = answering.run() => closed,
        closed = sending.run() => closed,
        () = link.stop.cancelled() => Closed::Here,
    };
    house.streams().links.remove(&link.conn);
    if joined.is_ok() {
        let _ = house.orders.send(Message::Left(link.conn)).await;
    }
    tracing::debug!(peer = %link.peer, reason = %closed, "served piece stream ended");
    if let Closed::Fault(fault) = closed {
        let peer = link.peer;
        tracing::debug!(%peer, %fault, "a peer broke the piece protocol");
        let _ = house.faults.try_send(PeerFault { peer, fault });
    }
}

/// What all streams of a server share.
pub(super) struct House {
    pub(super) library: Arc<dyn Library>,
    pub(super) orders: mpsc::Sender<Message>,
    pub(super) limiter: Limiter,
    pub(super) stop: CancellationToken,
    faults: mpsc::Sender<PeerFault>,
    closed: AtomicBool,
    served_pieces: Arc<Semaphore>,
    look_ups: Semaphore,
    /// Manifests of the snapshots that someone has open.
    manifests: Mutex<BTreeMap<ManifestId, Weak<Manifest>>>,
    streams: Mutex<Streams>,
    counters: Counters,
}

#[derive(Default)]
struct Streams {
    links: BTreeMap<ConnKey, Arc<Link>>,
    last: u64,
}

#[derive(Default)]
struct Counters {
    sent_bytes: AtomicU64,
    sent_pieces: AtomicU64,
    aborted_pieces: AtomicU64,
    refused: AtomicU64,
}

impl House {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a new stream, unless there are too many.
    fn enter(&self, peer: PeerId) -> Option<Arc<Link>> {
        let mut streams = self.streams();
        let of_peer: Vec<&Arc<Link>> = streams
            .links
            .values()
            .filter(|link| link.peer == peer && !link.stop.is_cancelled())
            .collect();
        if of_peer.len() >= MAX_STREAMS_PER_PEER {
            of_peer[0].stop.cancel();
        }
        if streams.links.len() >= MAX_STREAMS {
            return None;
        }
        streams.last += 1;
        let conn = ConnKey(streams.last);
        let link = Arc::new(Link::new(conn, peer, self.stop.child_token()));
        streams.links.insert(conn, Arc::clone(&link));
        Some(link)
    }

    /// Whether the operator has turned serving off.
    pub(super) fn serves_nobody(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Asks the library something on the blocking pool.
    pub(super) async fn look_up<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let _turn = self.look_ups.acquire().await.ok()?;
        spawn_blocking(question).await.ok()
    }

    /// A snapshot that is here, for a peer that opens it.
    pub(super) async fn snapshot(
        self: &Arc<Self>,
        id: ManifestId,
        peer: PeerId,
    ) -> Option<OpenedSnapshot> {
        let house = Arc::clone(self);
        self.look_up(move || {
            let (holding, _) = house.library.holding(&id)?;
            let manifest = house.manifest(&id)?;
            house.library.in_use(&id, &peer);
            Some(OpenedSnapshot { manifest, holding })
        })
        .await
        .flatten()
    }

    /// A manifest that is here, decoded once for all who have it open. Others
    /// wait meanwhile rather than decode it as well.
    fn manifest(&self, id: &ManifestId) -> Option<Arc<Manifest>> {
        let mut manifests = self
            .manifests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(manifest) = manifests.get(id).and_then(Weak::upgrade) {
            return Some(manifest);
        }
        let bytes = self.library.manifest(id)?;
        let manifest = match Manifest::decode_as(id, bytes) {
            Ok(manifest) => Arc::new(manifest),
            Err(error) => {
                tracing::warn!(%id, %error, "a manifest of our own does not decode");
                return None;
            }
        };
        manifests.retain(|_, manifest| manifest.strong_count() > 0);
        manifests.insert(*id, Arc::downgrade(&manifest));
        Some(manifest)
    }

    /// Begins to read a piece; nothing comes of it when it is not here.
    pub(super) fn read(&self, chunk: ChunkId, piece: u32) -> JoinHandle<Option<Held>> {
        let library = Arc::clone(&self.library);
        let read = move || match library.read_piece(&chunk, piece) {
            Ok(bytes) => bytes.filter(is_piece),
            Err(error) => {
                // Who keeps the chunks has told it once.
                tracing::debug!(%chunk, piece, %error, "a piece of ours cannot be read");
                None
            }
        };
        let places = Arc::clone(&self.served_pieces);
        match Arc::clone(&places).try_acquire_owned() {
            Ok(place) => spawn_blocking(move || {
                Some(Held {
                    bytes: read()?,
                    _place: place,
                })
            }),
            Err(_) => tokio::spawn(async move {
                let place = places.acquire_owned().await.ok()?;
                let bytes = spawn_blocking(read).await.ok()??;
                Some(Held {
                    bytes,
                    _place: place,
                })
            }),
        }
    }

    /// Refuses a request that is still open.
    pub(super) fn refuse(&self, link: &Link, id: RequestId, refusal: Refusal) {
        if link.refuse(id, refusal) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn sent(&self, bytes: u64) {
        self.counters.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn finished(&self) {
        self.counters.sent_pieces.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn aborted(&self) {
        self.counters.aborted_pieces.fetch_add(1, Ordering::Relaxed);
    }
}
