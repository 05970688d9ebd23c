//! The handle that everyone else holds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::actor::{Actor, Parts};
use super::announce::Announcement;
use super::book_file;
use super::commands::{Command, MAX_COMMANDS, Reply};
use super::error::NetError;
use super::exchange::{self, CatalogueAnswer, ExchangeError, Providers};
use super::finds::MAX_FOUND;
use super::identity::Identity;
use super::keys::Key;
use super::library::Library;
use super::listen;
use super::pieces;
use super::resolve;
use super::serve::{self, Host, Served};
use super::settings::{NetLimits, NetSettings};
use super::streams::{Control, OpenStreamError};
use super::view::{NetEvent, NetStats, PeerInfo, Reachability, RememberedPeer, View};
use crate::snapshot::ManifestId;
use crate::sync::UploadLimits;
use crate::wire::{CATALOGUE_PROTOCOL, MANIFEST_PROTOCOL, PIECES_PROTOCOL};

/// Events kept for a receiver that lags.
const MAX_EVENTS: usize = 1024;
/// Wait for a connection to a peer: a handshake with each of its addresses.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// The network of this node. Clones are the same network; it ends with
/// [`Net::shutdown`] or when the last clone is dropped.
#[derive(Clone)]
pub struct Net {
    inner: Arc<Inner>,
}

struct Inner {
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<NetEvent>,
    view: Arc<View>,
    control: Control,
    pieces: pieces::Server,
    budget: pieces::Budget,
    served: Arc<Served>,
    limits: NetLimits,
    stop: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    _stop_when_dropped: DropGuard,
}

impl Net {
    /// Starts the network. When it returns, every listener is bound, and the
    /// bootstrap and remembered peers are being dialled.
    pub async fn start(
        settings: NetSettings,
        identity: &Identity,
        library: Arc<dyn Library>,
    ) -> Result<Self, NetError> {
        settings.check()?;
        for address in &settings.listen {
            listen::probe(address)?;
        }
        let remembered = match settings.peers_file.clone() {
            Some(path) => tokio::task::spawn_blocking(move || book_file::load(&path))
                .await
                .unwrap_or_default(),
            None => Vec::new(),
        };
        let (commands, command_queue) = mpsc::channel(MAX_COMMANDS);
        let (events, _) = broadcast::channel(MAX_EVENTS);
        let view = Arc::new(View::default());
        let stop = CancellationToken::new();
        let parts = Parts {
            commands: command_queue,
            events: events.clone(),
            view: Arc::clone(&view),
            stop: stop.clone(),
        };
        let mut actor = Actor::new(&settings, identity, remembered, parts)?;
        let control = actor.control();
        let accept = |protocol| control.accept(StreamProtocol::new(protocol));
        let (catalogues, manifests, piece_streams) = (
            accept(CATALOGUE_PROTOCOL),
            accept(MANIFEST_PROTOCOL),
            accept(PIECES_PROTOCOL),
        );
        actor.bind(&settings.listen).await?;

        let served = Arc::new(Served::default());
        let host = Host {
            library: Arc::clone(&library),
            commands: commands.clone(),
            served: Arc::clone(&served),
            limits: settings.limits.clone(),
        };
        let (pieces, faults) = pieces::Server::start(library, settings.upload, rand::random());
        let piece_server = pieces.clone();
        let piece_stop = stop.clone();
        let tasks = vec![
            tokio::spawn(actor.run()),
            tokio::spawn(serve::run(host, catalogues, manifests, stop.clone())),
            tokio::spawn(async move {
                tokio::select! {
                    () = piece_server.run(piece_streams) => {}
                    () = piece_stop.cancelled() => {}
                }
                piece_server.shutdown();
            }),
            tokio::spawn(report_faults(faults, events.clone(), stop.clone())),
        ];
        Ok(Self {
            inner: Arc::new(Inner {
                peer_id: identity.peer_id(),
                commands,
                events,
                view,
                control,
                pieces,
                budget: pieces::Budget::default(),
                served,
                limits: settings.limits,
                _stop_when_dropped: stop.clone().drop_guard(),
                stop,
                tasks: Mutex::new(tasks),
            }),
        })
    }

    /// The name of this node.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// The addresses that are bound, each with `/p2p/` and the peer id at its end.
    pub fn listeners(&self) -> Vec<Multiaddr> {
        self.inner.view.board().listeners.clone()
    }

    /// The peers that are connected now.
    pub fn connected(&self) -> Vec<PeerInfo> {
        self.inner.view.board().peers.values().cloned().collect()
    }

    /// The peers that this node was connected to, those seen last first; at most
    /// a second old.
    pub fn remembered(&self) -> Vec<RememberedPeer> {
        self.inner.view.board().remembered.clone()
    }

    /// What is known of the ways in from outside; at most a second old.
    pub fn reachability(&self) -> Reachability {
        self.inner.view.board().reachability.clone()
    }

    /// Figures; those of the DHT are at most a second old.
    pub fn stats(&self) -> NetStats {
        let mut stats = self.inner.view.board().stats.clone();
        let served = &self.inner.served;
        stats.catalogues_served = served.catalogues.load(Ordering::Relaxed);
        stats.manifests_served = served.manifests.load(Ordering::Relaxed);
        stats.requests_dropped = served.dropped.load(Ordering::Relaxed);
        stats
    }

    /// What happens from now on.
    pub fn events(&self) -> broadcast::Receiver<NetEvent> {
        self.inner.events.subscribe()
    }

    /// Connects to whoever is at an address; gives its peer id.
    pub async fn dial(&self, address: Multiaddr) -> Result<PeerId, NetError> {
        let addresses = resolve::resolve(&address).await;
        let asked = address.clone();
        let dialled = self.ask(|reply| Command::Dial {
            asked,
            addresses,
            reply,
        });
        match tokio::time::timeout(CONNECT_TIMEOUT, dialled).await {
            Ok(result) => result?,
            Err(_) => Err(NetError::DialFailed {
                address,
                problem: "nobody answered in time".to_owned(),
            }),
        }
    }

    /// Connects to a peer at the addresses that are known of it; does nothing
    /// when it is connected.
    pub async fn connect(&self, peer: PeerId) -> Result<(), NetError> {
        let connected = self.ask(|reply| Command::Connect { peer, reply });
        match tokio::time::timeout(CONNECT_TIMEOUT, connected).await {
            Ok(result) => result?,
            Err(_) => Err(NetError::Timeout {
                peer,
                what: "handshake",
            }),
        }
    }

    /// Dials bootstrap and remembered peers that are lost without waiting for
    /// their turn. Not to be called every second.
    pub async fn redial_now(&self) -> Result<(), NetError> {
        self.tell(Command::Hurry).await
    }

    /// Replaces what this node announces. The network publishes at its pace,
    /// renews, and withdraws what is not named any more.
    pub async fn announce(&self, wanted: Announcement) -> Result<(), NetError> {
        self.tell(Command::Announce(wanted)).await
    }

    /// Looks for providers of a key. The look-up waits for a first DHT peer, so
    /// the caller sets the deadline. Own records are not found.
    pub async fn find(&self, key: Key) -> Result<Providers, NetError> {
        let (sink, found) = mpsc::channel(MAX_FOUND);
        self.ask(|reply| Command::Find { key, sink, reply })
            .await??;
        Ok(Providers { found })
    }

    /// Asks a peer what it has: of one chain, or of all.
    pub async fn catalogue(
        &self,
        peer: PeerId,
        chain_id: Option<&str>,
    ) -> Result<CatalogueAnswer, NetError> {
        let stream = self.open(peer, CATALOGUE_PROTOCOL).await?;
        let exchange = exchange::catalogue(stream, chain_id);
        let limit = self.inner.limits.answer_timeout;
        let answer = finished(peer, "catalogue", limit, exchange).await?;
        let mut chains: Vec<String> = Vec::new();
        for entry in &answer.entries {
            if !chains.contains(&entry.chain_id) {
                chains.push(entry.chain_id.clone());
            }
        }
        let peers = self
            .ask(|reply| Command::Learned {
                peer,
                asked: chain_id.map(str::to_owned),
                chains,
                hints: answer.peers,
                reply,
            })
            .await?;
        Ok(CatalogueAnswer {
            entries: answer.entries,
            peers,
        })
    }

    /// Asks a peer for the bytes of a manifest: as many as it announces. Who announces more
    /// than `limit` breaks the protocol, and none of them is read. They are not checked
    /// otherwise.
    pub async fn manifest(
        &self,
        peer: PeerId,
        id: &ManifestId,
        limit: u32,
    ) -> Result<Bytes, NetError> {
        let stream = self.open(peer, MANIFEST_PROTOCOL).await?;
        let exchange = exchange::manifest(stream, id, limit);
        let limit = self.inner.limits.manifest_timeout;
        finished(peer, "manifest", limit, exchange).await
    }

    /// Opens a long-lived piece stream on a peer.
    pub async fn pieces(&self, peer: PeerId) -> Result<pieces::Client, NetError> {
        self.connect(peer).await?;
        let opening = pieces::Client::open(&self.inner.control, peer, &self.inner.budget);
        match tokio::time::timeout(self.inner.limits.answer_timeout, opening).await {
            Err(_) | Ok(Err(pieces::OpenError::Timeout { .. })) => Err(NetError::Timeout {
                peer,
                what: "piece stream",
            }),
            Ok(Ok(client)) => Ok(client),
            Ok(Err(pieces::OpenError::Budget(_))) => Err(NetError::Busy {
                what: "piece streams",
            }),
            Ok(Err(pieces::OpenError::Stream { peer, source })) => {
                Err(open_error(peer, PIECES_PROTOCOL, source))
            }
        }
    }

    /// The room that received pieces share.
    pub fn piece_budget(&self) -> &pieces::Budget {
        &self.inner.budget
    }

    /// Tells every peer that opened this snapshot on us which pieces are here now.
    pub fn publish_have(&self, manifest: &ManifestId, pieces: &[u32]) {
        self.inner.pieces.publish_have(manifest, pieces);
    }

    /// Changes how much is given, at once.
    pub async fn set_upload_limits(&self, limits: UploadLimits) {
        self.inner.pieces.set_limits(limits).await;
    }

    /// What is being served.
    pub fn upload_stats(&self) -> pieces::ServerStats {
        self.inner.pieces.stats()
    }

    /// Disconnects a peer and keeps it out for `term`, and its IP addresses where
    /// they are public. A ban in force is lengthened, never shortened.
    pub async fn ban(&self, peer: PeerId, term: Duration, reason: &str) -> Result<(), NetError> {
        self.inner.pieces.drop_peer(&peer);
        let reason = reason.to_owned();
        self.tell(Command::Ban { peer, term, reason }).await
    }

    /// Ends a ban.
    pub async fn lift(&self, peer: PeerId) -> Result<(), NetError> {
        self.tell(Command::Lift { peer }).await
    }

    /// Ends all streams and connections, writes the remembered peers, and
    /// returns when everything is closed.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.pieces.shutdown();
        let tasks = {
            let mut tasks = self.inner.tasks.lock().unwrap_or_else(|p| p.into_inner());
            std::mem::take(&mut *tasks)
        };
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "A task of the network failed");
            }
        }
    }

    async fn open(&self, peer: PeerId, protocol: &'static str) -> Result<Stream, NetError> {
        self.connect(peer).await?;
        let opening = self
            .inner
            .control
            .open_stream(peer, StreamProtocol::new(protocol));
        match tokio::time::timeout(self.inner.limits.answer_timeout, opening).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(open_error(peer, protocol, error)),
            Err(_) => Err(NetError::Timeout {
                peer,
                what: "stream",
            }),
        }
    }

    async fn tell(&self, command: Command) -> Result<(), NetError> {
        let sent = self.inner.commands.send(command).await;
        sent.map_err(|_| NetError::Stopped)
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NetError> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| NetError::Stopped)
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Net({})", self.inner.peer_id)
    }
}

/// Tells of peers that broke the protocol on a piece stream that they opened.
async fn report_faults(
    mut faults: mpsc::Receiver<pieces::PeerFault>,
    events: broadcast::Sender<NetEvent>,
    stop: CancellationToken,
) {
    loop {
        let fault = tokio::select! {
            fault = faults.recv() => fault,
            () = stop.cancelled() => None,
        };
        let Some(pieces::PeerFault { peer, fault }) = fault else {
            return;
        };
        // No receiver is no error.
        let _ = events.send(NetEvent::Fault {
            peer,
            fault: fault.to_string(),
        });
    }
}

fn open_error(peer: PeerId, protocol: &'static str, error: OpenStreamError) -> NetError {
    match error {
        OpenStreamError::Unsupported(_) => NetError::Unsupported { peer, protocol },
        OpenStreamError::Io(source) => NetError::Stream { peer, source },
        OpenStreamError::Busy(_) => NetError::Busy {
            what: "streams to a peer",
        },
        OpenStreamError::NotConnected(_) => NetError::Stream {
            peer,
            source: std::io::ErrorKind::NotConnected.into(),
        },
    }
}

async fn finished<T>(
    peer: PeerId,
    what: &'static str,
    limit: Duration,
    exchange: impl Future<Output = Result<T, ExchangeError>>,
) -> Result<T, NetError> {
    match tokio::time::timeout(limit, exchange).await {
        Ok(result) => result.map_err(|error| error.with(peer)),
        Err(_) => Err(NetError::Timeout { peer, what }),
    }
}
