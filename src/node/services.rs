//! What every path needs at hand: the store, the network, the referee, and the
//! numbers that status and metrics show.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::command::{
    DownloadStatus, Failure, FolderStatus, HarvestStatus, JoinStatus, LimitsNow, XianStatus,
};
use super::failure::blocking;
use super::harvest::Intake;
use super::identity;
use super::library::StoreLibrary;
use super::progress::Reporter;
use super::referee::Referee;
use super::trust::{self, Trust};
use super::xian::DeltaOrder;
use crate::config::{ANY_LISTEN, AnnounceWhat, Config, DhtMode as ConfiguredMode};
use crate::net::{
    AnnouncePolicy, Announcement, DhtMode, Identity, Net, NetError, NetEvent, NetSettings,
    NetworkName, PreSharedKey,
};
use crate::snapshot::{EndorserKey, Manifest, ManifestId};
use crate::store::{Origin, Store, StoreSettings};
use crate::sync::{Offence, UploadLimits};

/// File of remembered peers in the home.
pub(super) const PEERS_FILE: &str = "peers.json";

/// The rooms of one running process, for one home.
pub(super) struct Services {
    pub(super) home: PathBuf,
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) net: Net,
    pub(super) identity: Identity,
    pub(super) trust: Trust,
    pub(super) referee: Arc<Referee>,
    pub(super) counters: Counters,
    limits: Mutex<LimitsNow>,
    downloads: Mutex<BTreeMap<ManifestId, DownloadStatus>>,
    harvest: Mutex<Option<HarvestStatus>>,
    join: Mutex<Option<JoinStatus>>,
    sdk_snapshots: Mutex<Option<FolderStatus>>,
    xian: Mutex<Option<XianStatus>>,
    /// The height whose state is being read out of a copy.
    making: Mutex<Option<u64>>,
    /// What is taken from nodes and applications, one at a time.
    pub(super) intake: tokio::sync::Mutex<Intake>,
    /// The delta that is to be made next.
    delta: Mutex<Option<DeltaOrder>>,
    delta_ordered: Notify,
    shelf_changed: Notify,
    /// Held while the network is told what is here: an older list never follows
    /// a newer one.
    announcing: tokio::sync::Mutex<()>,
    /// One download takes all of the link and of the memory that there is.
    downloading: tokio::sync::Mutex<()>,
    /// Ends what judges peers, which would hold the network, and that the store.
    _judging: DropGuard,
    /// One snapshot at a time is made of deltas: what is a step of one is left over to
    /// none.
    pub(super) shortcut: tokio::sync::Mutex<()>,
}

/// What was counted since the process started.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) downloaded_bytes: AtomicU64,
    pub(super) wasted_bytes: AtomicU64,
    pub(super) fetches_done: AtomicU64,
    pub(super) fetches_failed: AtomicU64,
    pub(super) feeds_done: AtomicU64,
    pub(super) harvests_done: AtomicU64,
    pub(super) harvests_failed: AtomicU64,
    pub(super) states_made: AtomicU64,
    pub(super) storage_faults: AtomicU64,
}

/// One more.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// So many more.
pub(super) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// How many so far.
pub(super) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// How a process takes part in the swarm.
pub(super) struct Presence {
    /// Addresses to listen on.
    pub(super) listen: Vec<Multiaddr>,
    /// Addresses at which others reach us.
    pub(super) external: Vec<Multiaddr>,
    /// Peers to begin with, beside the configured ones.
    pub(super) bootstrap: Vec<Multiaddr>,
}

impl Presence {
    /// Of a verb that fetches and leaves.
    pub(super) fn passing() -> Self {
        Self {
            listen: any_listen(),
            external: Vec::new(),
            bootstrap: Vec::new(),
        }
    }
}

/// Any free port, both transports.
pub(super) fn any_listen() -> Vec<Multiaddr> {
    ANY_LISTEN
        .iter()
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Opens the store of a home.
pub(super) async fn open_store(home: &Path, config: &Config) -> Result<Store, Failure> {
    let (home, settings) = (home.to_owned(), store_settings(config));
    blocking(move || Ok(Store::open(&home, settings)?)).await
}

/// Opens the store of a home for verbs that only look.
pub(super) async fn look_at_store(home: &Path, config: &Config) -> Result<Store, Failure> {
    let (home, settings) = (home.to_owned(), store_settings(config));
    blocking(move || Ok(Store::open_for_reading(&home, settings)?)).await
}

pub(super) fn store_settings(config: &Config) -> StoreSettings {
    StoreSettings {
        quota_bytes: config.store.disk_quota.map(|quota| quota.0),
        max_snapshots: config.store.max_snapshots,
        lease: config.store.lease(),
    }
}

impl Services {
    /// Opens the home and joins the swarm.
    pub(super) async fn start(
        home: &Path,
        config: Config,
        presence: Presence,
    ) -> Result<Arc<Self>, Failure> {
        Ok(Self::try_start(home, config, presence).await??)
    }

    /// The same, with the network's own error told apart: a taken port has
    /// another answer than the person's.
    pub(super) async fn try_start(
        home: &Path,
        config: Config,
        presence: Presence,
    ) -> Result<Result<Arc<Self>, NetError>, Failure> {
        let store = open_store(home, &config).await?;
        let identity = identity::of_home(home).await?;
        let settings = net_settings(home, &config, presence)?;
        let own = EndorserKey(identity.public_key());
        let trust = Trust::of(&config.trust).with_own(own);
        let (shelf, signer, policy) = (store.clone(), identity.clone(), trust.clone());
        blocking(move || {
            trust::endorse_own(&shelf, &signer, &policy);
            Ok(())
        })
        .await?;
        let library = Arc::new(StoreLibrary::new(store.clone(), trust.clone()));
        let net = match Net::start(settings, &identity, library).await {
            Ok(net) => net,
            Err(error) => return Ok(Err(error)),
        };
        let limits = LimitsNow {
            upload_bytes_per_s: config.upload.bytes_per_s(),
            upload_slots: config.upload.slots(),
        };
        net.set_upload_limits(upload_limits(&limits)).await;
        let judging = CancellationToken::new();
        let services = Arc::new(Self {
            home: home.to_owned(),
            config,
            store,
            referee: Arc::new(Referee::new(net.clone())),
            net,
            identity,
            trust,
            counters: Counters::default(),
            limits: Mutex::new(limits),
            downloads: Mutex::default(),
            harvest: Mutex::default(),
            join: Mutex::default(),
            sdk_snapshots: Mutex::default(),
            xian: Mutex::default(),
            making: Mutex::default(),
            intake: tokio::sync::Mutex::new(Intake::load(home)),
            delta: Mutex::default(),
            delta_ordered: Notify::new(),
            shelf_changed: Notify::new(),
            announcing: tokio::sync::Mutex::default(),
            downloading: tokio::sync::Mutex::default(),
            _judging: judging.clone().drop_guard(),
            shortcut: tokio::sync::Mutex::default(),
        });
        services.announce().await;
        let judge = judge(services.net.events(), services.referee.clone());
        tokio::spawn(async move { judging.run_until_cancelled(judge).await });
        Ok(Ok(services))
    }

    /// Tells the network what is to be found here, after the shelf changed.
    pub(super) async fn shelf_changed(&self) {
        self.announce().await;
        self.shelf_changed.notify_one();
    }

    /// Ends when the shelf changed.
    pub(super) async fn next_shelf_change(&self) {
        self.shelf_changed.notified().await;
    }

    /// Has a delta made. One that waits is left out for it.
    pub(super) fn order_delta(&self, order: DeltaOrder) {
        *lock(&self.delta) = Some(order);
        self.delta_ordered.notify_one();
    }

    /// The next that is ordered.
    pub(super) async fn next_delta(&self) -> DeltaOrder {
        loop {
            if let Some(order) = lock(&self.delta).take() {
                return order;
            }
            self.delta_ordered.notified().await;
        }
    }

    /// Tells the network what is to be found here now.
    pub(super) async fn announce(&self) {
        let _one_at_a_time = self.announcing.lock().await;
        let mut announcement = Announcement {
            policy: match self.config.announce.what {
                AnnounceWhat::ManifestsAndChunks => AnnouncePolicy::ManifestsAndChunks,
                AnnounceWhat::Manifests => AnnouncePolicy::Manifests,
            },
            ..Announcement::default()
        };
        for stored in self.store.list() {
            let manifest = &stored.manifest;
            let chain = manifest.chain_id();
            if announcement.chains.iter().all(|known| known != chain) {
                announcement.chains.push(chain.to_owned());
            }
            announcement.manifests.push(manifest.id());
            if stored.complete {
                announcement.chunks.extend(
                    manifest
                        .unique_indexes()
                        .map(|chunk| manifest.unique_chunk(chunk).id),
                );
            }
        }
        if let Err(error) = self.net.announce(announcement).await {
            tracing::warn!(%error, "the DHT was not told what is here");
        }
    }

    /// Addresses bound, with the peer id.
    pub(super) fn addresses(&self) -> Vec<String> {
        let listeners = self.net.listeners();
        listeners.iter().map(ToString::to_string).collect()
    }

    /// The upload limits in force.
    pub(super) fn limits(&self) -> LimitsNow {
        lock(&self.limits).clone()
    }

    /// Sets upload limits; what is absent stays.
    pub(super) async fn set_limits(
        &self,
        bytes_per_s: Option<u64>,
        slots: Option<u32>,
    ) -> LimitsNow {
        let mut limits = self.limits();
        limits.upload_bytes_per_s = bytes_per_s.unwrap_or(limits.upload_bytes_per_s);
        limits.upload_slots = slots.unwrap_or(limits.upload_slots);
        self.net.set_upload_limits(upload_limits(&limits)).await;
        lock(&self.limits).clone_from(&limits);
        limits
    }

    /// Waits until no other download runs, and keeps others waiting while held.
    pub(super) async fn download_turn(
        &self,
        reporter: &Reporter,
    ) -> tokio::sync::MutexGuard<'_, ()> {
        if let Ok(turn) = self.downloading.try_lock() {
            return turn;
        }
        reporter.phase("waiting for another download of this home (`snapswarm status` shows it)");
        self.downloading.lock().await
    }

    pub(super) async fn download_begins(&self, manifest: &Manifest, done: u64) {
        self.download_progress(manifest, done, 0, 0);
        self.announce().await;
    }

    pub(super) fn download_progress(&self, manifest: &Manifest, done: u64, rate: u64, peers: u32) {
        lock(&self.downloads).insert(
            manifest.id(),
            DownloadStatus {
                manifest: manifest.id().to_string(),
                done,
                total: manifest.unique_bytes(),
                rate,
                peers,
            },
        );
    }

    pub(super) fn download_ends(&self, id: &ManifestId) {
        lock(&self.downloads).remove(id);
    }

    pub(super) fn downloads(&self) -> Vec<DownloadStatus> {
        lock(&self.downloads).values().cloned().collect()
    }

    pub(super) fn harvest(&self) -> Option<HarvestStatus> {
        lock(&self.harvest).clone()
    }

    pub(super) fn join(&self) -> Option<JoinStatus> {
        lock(&self.join).clone()
    }

    pub(super) fn tell_join(&self, status: JoinStatus) {
        *lock(&self.join) = Some(status);
    }

    pub(super) fn set_harvest(&self, status: HarvestStatus) {
        *lock(&self.harvest) = Some(status);
    }

    pub(super) fn sdk_snapshots(&self) -> Option<FolderStatus> {
        lock(&self.sdk_snapshots).clone()
    }

    pub(super) fn set_sdk_snapshots(&self, status: FolderStatus) {
        *lock(&self.sdk_snapshots) = Some(status);
    }

    /// What the adapter of a Xian node told, and what is here of it.
    pub(super) fn xian(&self) -> Option<XianStatus> {
        let told = lock(&self.xian).clone()?;
        let stored = self.store.list().into_iter();
        let made = stored.filter(|stored| {
            let made_here = stored.complete && stored.origin == Origin::Harvested;
            made_here && stored.manifest.state().is_some()
        });
        Some(XianStatus {
            making: *lock(&self.making),
            newest_height: made.map(|stored| stored.manifest.height()).max(),
            ..told
        })
    }

    pub(super) fn tell_xian(&self, status: XianStatus) {
        *lock(&self.xian) = Some(status);
    }

    pub(super) fn set_making(&self, height: Option<u64>) {
        *lock(&self.making) = height;
    }
}

/// Keeps out whoever breaks the protocol while asking us; ends with the network.
async fn judge(mut events: broadcast::Receiver<NetEvent>, referee: Arc<Referee>) {
    use broadcast::error::RecvError;
    loop {
        match events.recv().await {
            Ok(NetEvent::Fault { peer, .. }) => referee.ban(peer, Offence::Protocol),
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Plain data stays whole even if a holder panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn upload_limits(limits: &LimitsNow) -> UploadLimits {
    UploadLimits {
        bytes_per_second: (limits.upload_bytes_per_s > 0).then_some(limits.upload_bytes_per_s),
        slots: match limits.upload_slots {
            0 => UploadLimits::default().slots,
            slots => slots,
        },
    }
}

/// The peer id that an address names.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    address.iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::P2p(peer) => Some(peer),
        _ => None,
    })
}

fn net_settings(home: &Path, config: &Config, presence: Presence) -> Result<NetSettings, Failure> {
    let network = &config.network;
    let mut bootstrap = network.bootstrap.clone();
    bootstrap.extend(presence.bootstrap);
    let mut external = network.external_addresses.clone();
    external.extend(presence.external);
    let pre_shared_key = match config.psk_file(home) {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(|error| {
                let failure = Failure::given_path(&path, &error);
                let message = format!("network.psk_file in config.toml: {}", failure.message);
                Failure { message, ..failure }.hint("give the file's path, from the home on")
            })?;
            Some(text.parse::<PreSharedKey>()?)
        }
    };
    // The settings were checked when they were read.
    let allowed = network
        .allow_peers
        .iter()
        .filter_map(|peer| peer.parse().ok());
    Ok(NetSettings {
        listen: presence.listen,
        external,
        bootstrap,
        network: network.name.parse::<NetworkName>()?,
        pre_shared_key,
        mode: match network.mode {
            ConfiguredMode::Auto => DhtMode::Auto,
            ConfiguredMode::Server => DhtMode::Server,
            ConfiguredMode::Client => DhtMode::Client,
        },
        allow: (!network.allow_peers.is_empty()).then(|| allowed.collect()),
        peers_file: Some(home.join(PEERS_FILE)),
        ..NetSettings::default()
    })
}
