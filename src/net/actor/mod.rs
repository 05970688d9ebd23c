//! The task that owns the swarm.
//!
//! Select an action, apply it, then carry out what the pure parts want by now
//! (`drive`). Nothing awaits while an action is applied; what takes time
//! (resolving names, writing the peer file) runs in tasks whose results come back
//! as actions.

mod asked;
mod drive;
mod happened;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::{FutureExt, StreamExt};
use libp2p::core::transport::ListenerId;
use libp2p::kad::{Mode, QueryId};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::announce::Announcer;
use super::bans::Bans;
use super::behaviour::{Behaviour, BehaviourEvent};
use super::book::PeerBook;
use super::book_file;
use super::clock::Clock;
use super::commands::{Command, Reply};
use super::connections::Connections;
use super::door::Door;
use super::error::NetError;
use super::finds::Finds;
use super::identity::Identity;
use super::keys::DhtKey;
use super::listen;
use super::reach::Reach;
use super::redial::{Place, Redial, TargetId};
use super::settings::{NetSettings, peer_of};
use super::streams::Control;
use super::transport;
use super::view::{NetEvent, NetStats, RememberedPeer, View};

/// The longest sleep: figures that others read are so old at most.
const TICK: Duration = Duration::from_secs(1);
/// Pause between two writes of the remembered peers, and two sweeps of records.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// Listening begins within this time or something is wrong.
const BIND_TIMEOUT: Duration = Duration::from_secs(15);
/// Events taken in once all listeners are bound: the addresses of a machine with
/// many interfaces.
const MAX_LISTEN_EVENTS: usize = 256;
/// Time that connections get to close at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Remembered peers dialled at the start.
const MAX_REMEMBERED_DIALS: usize = 32;
/// Callers that wait for a connection to a peer.
const MAX_WAITING_FOR_PEERS: usize = 1024;

/// Who waits for a dial.
enum Dialling {
    Asked {
        asked: Multiaddr,
        reply: Reply<Result<PeerId, NetError>>,
    },
    Target(TargetId),
}

enum Action {
    Command(Command),
    Swarm(Box<SwarmEvent<BehaviourEvent>>),
    Resolved(TargetId, Vec<Multiaddr>),
    Tick,
    Stop,
}

/// What the task works with from outside.
pub(super) struct Parts {
    pub commands: mpsc::Receiver<Command>,
    pub events: broadcast::Sender<NetEvent>,
    pub view: Arc<View>,
    pub stop: CancellationToken,
}

/// The task's state.
pub(super) struct Actor {
    swarm: Swarm<Behaviour>,
    own_id: PeerId,
    parts: Parts,
    /// What identify must say of a peer of our network.
    identify_protocol: String,
    dht_protocol: StreamProtocol,
    connections: Connections,
    announcer: Announcer,
    publishing: HashMap<QueryId, DhtKey>,
    finds: Finds,
    bans: Bans,
    redial: Redial,
    reach: Reach,
    mode: Mode,
    dials: HashMap<ConnectionId, Dialling>,
    waiting: BTreeMap<PeerId, Vec<Reply<Result<(), NetError>>>>,
    resolving: JoinSet<(TargetId, Vec<Multiaddr>)>,
    peers_file: Option<PathBuf>,
    saved: Vec<RememberedPeer>,
    saving: Option<JoinHandle<()>>,
    next_housekeeping: Instant,
    clock: Clock,
    /// Counters; gauges are filled in when shown.
    stats: NetStats,
}

impl Actor {
    /// Sets everything up; nothing listens or dials yet. `remembered` are the
    /// peers of the last run.
    pub fn new(
        settings: &NetSettings,
        identity: &Identity,
        remembered: Vec<RememberedPeer>,
        parts: Parts,
    ) -> Result<Self, NetError> {
        let own_id = identity.peer_id();
        let now = Instant::now();
        let mut book = PeerBook::new(own_id);
        for peer in remembered.iter().rev() {
            book.remember(peer);
        }
        let behaviour = Behaviour::new(identity.keypair(), settings, Door::new(book))?;
        let transport = transport::build(identity.keypair(), settings)?;
        let config = libp2p::swarm::Config::with_tokio_executor()
            .with_idle_connection_timeout(settings.limits.idle_timeout);
        let mut swarm = Swarm::new(transport, behaviour, own_id, config);
        for address in &settings.external {
            swarm.add_external_address(address.clone());
        }
        let mut redial = Redial::default();
        for address in &settings.bootstrap {
            let peer = peer_of(address);
            if peer != Some(own_id) {
                redial.add(Place::Address(address.clone()), peer, now);
            }
        }
        for peer in remembered.iter().take(MAX_REMEMBERED_DIALS) {
            redial.add(Place::Peer(peer.peer), Some(peer.peer), now);
        }
        let dht_protocol = StreamProtocol::try_from_owned(settings.network.dht_protocol())
            .map_err(|error| NetError::Transport(error.to_string()))?;
        let mut actor = Self {
            swarm,
            own_id,
            parts,
            identify_protocol: settings.network.identify_protocol(),
            dht_protocol,
            connections: Connections::default(),
            announcer: Announcer::new(settings.pacing.clone(), rand::random(), now),
            publishing: HashMap::new(),
            finds: Finds::default(),
            bans: Bans::default(),
            redial,
            reach: Reach::new(settings.mode, !settings.external.is_empty()),
            mode: Mode::Client,
            dials: HashMap::new(),
            waiting: BTreeMap::new(),
            resolving: JoinSet::new(),
            peers_file: settings.peers_file.clone(),
            saved: remembered,
            saving: None,
            next_housekeeping: now + HOUSEKEEPING,
            clock: Clock::new(SystemTime::now(), now),
            stats: NetStats::default(),
        };
        // Kademlia would switch by its own rule otherwise.
        actor
            .swarm
            .behaviour_mut()
            .dht
            .kad()
            .set_mode(Some(Mode::Client));
        actor.update_mode();
        Ok(actor)
    }

    /// Opens streams of any protocol.
    pub fn control(&self) -> Control {
        self.swarm.behaviour().streams.new_control()
    }

    /// Listens on all addresses; returns when every listener is bound.
    pub async fn bind(&mut self, addresses: &[Multiaddr]) -> Result<(), NetError> {
        let mut unbound: HashMap<ListenerId, Multiaddr> = HashMap::new();
        for address in addresses {
            let id = self.swarm.listen_on(address.clone()).map_err(|error| {
                let source = match error {
                    libp2p::TransportError::Other(source) => source,
                    libp2p::TransportError::MultiaddrNotSupported(_) => {
                        std::io::ErrorKind::Unsupported.into()
                    }
                };
                listen::listen_error(address, source)
            })?;
            unbound.insert(id, address.clone());
        }
        let deadline = tokio::time::sleep(BIND_TIMEOUT);
        tokio::pin!(deadline);
        while let Some((_, first)) = unbound.iter().next() {
            let event = tokio::select! {
                event = self.swarm.select_next_some() => event,
                () = &mut deadline => {
                    return Err(listen::listen_error(first, std::io::ErrorKind::TimedOut.into()));
                }
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    unbound.remove(listener_id);
                }
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason,
                    ..
                } => {
                    if let Some(address) = unbound.get(listener_id) {
                        let source = match reason {
                            Ok(()) => std::io::ErrorKind::Other.into(),
                            Err(error) => std::io::Error::new(error.kind(), error.to_string()),
                        };
                        return Err(listen::listen_error(address, source));
                    }
                }
                _ => {}
            }
            self.apply(Action::Swarm(Box::new(event)));
        }
        // A listener on all addresses of the machine names each of them in an
        // event of its own; those that are known already belong to the answer.
        for _ in 0..MAX_LISTEN_EVENTS {
            let Some(event) = self.swarm.select_next_some().now_or_never() else {
                break;
            };
            self.apply(Action::Swarm(Box::new(event)));
        }
        self.show_all();
        Ok(())
    }

    /// Works until it is told to stop.
    pub async fn run(mut self) {
        loop {
            let action = self.select().await;
            if matches!(action, Action::Stop) {
                break;
            }
            self.apply(action);
            self.drive(Instant::now());
        }
        self.close().await;
    }

    async fn select(&mut self) -> Action {
        let wake = self.wake_at(Instant::now());
        tokio::select! {
            () = self.parts.stop.cancelled() => Action::Stop,
            command = self.parts.commands.recv() => command.map_or(Action::Stop, Action::Command),
            event = self.swarm.select_next_some() => Action::Swarm(Box::new(event)),
            Some(done) = self.resolving.join_next() => match done {
                Ok((target, addresses)) => Action::Resolved(target, addresses),
                // A task that panicked has said so; its target is tried no more.
                Err(_) => Action::Tick,
            },
            () = tokio::time::sleep_until(wake.into()) => Action::Tick,
        }
    }

    fn apply(&mut self, action: Action) {
        match action {
            Action::Command(command) => self.handle_command(command),
            Action::Swarm(event) => self.handle_swarm(*event),
            Action::Resolved(target, addresses) => self.dial_target(target, &addresses),
            Action::Tick => self.tick(Instant::now()),
            Action::Stop => {}
        }
        self.show();
    }

    /// The end: say good-bye, write down who was met.
    async fn close(mut self) {
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let swarm = &mut self.swarm;
        let drain = async {
            while swarm.connected_peers().next().is_some() {
                swarm.select_next_some().await;
            }
        };
        // A peer that does not answer is left behind.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, drain).await;
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
        self.save_peers();
        if let Some(saving) = self.saving.take() {
            let _ = saving.await;
        }
    }

    fn save_peers(&mut self) {
        let Some(path) = self.peers_file.clone() else {
            return;
        };
        if self
            .saving
            .as_ref()
            .is_some_and(|saving| !saving.is_finished())
        {
            return;
        }
        let peers = self.book().remembered(book_file::MAX_REMEMBERED_PEERS);
        if peers == self.saved {
            return;
        }
        self.saved.clone_from(&peers);
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = book_file::save(&path, &peers) {
                tracing::warn!(path = %path.display(), %error, "Remembered peers cannot be written");
            }
        }));
    }

    fn book(&mut self) -> &mut PeerBook {
        &mut self.swarm.behaviour_mut().door.book
    }

    fn emit(&self, event: NetEvent) {
        // No receiver is no error.
        let _ = self.parts.events.send(event);
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn unix_now_s() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A random number below 1, for pauses.
fn chance() -> f64 {
    rand::random()
}
