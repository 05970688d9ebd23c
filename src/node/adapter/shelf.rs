//! What the adapter tells CometBFT of the home's snapshots.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::abci::{Chain, Restoring, Snapshots, Verdict, Verified};
use crate::comet::rpc::Rpc;
use crate::config::OfferPolicy;
use crate::node::command::{Command, DownloadStatus, Outcome, Status};
use crate::node::remote;
use crate::node::services::lock;
use crate::snapshot::{ChunkId, Manifest, Offer};
use crate::store::{Archive, Store, StoreSettings, Stored};

/// The home is looked through again after so long: peers that sync ask several
/// times a minute.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The daemon answers at once, or is not to be waited for.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(2);
/// The chain's RPC is asked within CometBFT's own patience.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// `prefer-swarm` rejects what peers of CometBFT offer for at most so long after
/// the first one.
const PREFER_FOR: Duration = Duration::from_secs(30 * 60);
/// A download that has brought nothing for so long makes no progress.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// The snapshots of a home.
pub(super) struct OwnSnapshots {
    home: PathBuf,
    settings: StoreSettings,
    policy: OfferPolicy,
    rpc: Option<Rpc>,
    runtime: Handle,
    looked: Mutex<Option<Looked>>,
    preferring: Mutex<Preferring>,
}

/// The home, as it was a moment ago.
#[derive(Clone)]
struct Looked {
    at: Instant,
    store: Store,
}

/// Since when the swarm is preferred, and how far it is.
#[derive(Default)]
struct Preferring {
    since: Option<Instant>,
    /// Bytes that the downloads had, and when they had other ones.
    done: Option<(u64, Instant)>,
}

impl OwnSnapshots {
    /// Must be called on the runtime that carries the adapter.
    pub(super) fn new(
        home: &Path,
        settings: StoreSettings,
        policy: OfferPolicy,
        rpc: Option<Rpc>,
    ) -> Self {
        Self {
            home: home.to_owned(),
            settings,
            policy,
            rpc,
            runtime: Handle::current(),
            looked: Mutex::default(),
            preferring: Mutex::default(),
        }
    }

    /// The home, looked through again when that was long ago.
    fn store(&self, fresh: bool) -> Option<Store> {
        let looked = lock(&self.looked).clone();
        if let Some(looked) = looked
            && !fresh
            && looked.at.elapsed() < LOOK_AGAIN
        {
            return Some(looked.store);
        }
        match Store::open_for_reading(&self.home, self.settings.clone()) {
            Ok(store) => {
                let at = Instant::now();
                *lock(&self.looked) = Some(Looked {
                    at,
                    store: store.clone(),
                });
                Some(store)
            }
            Err(error) => {
                tracing::error!(home = %self.home.display(), %error, "the home cannot be looked through");
                None
            }
        }
    }

    /// Complete snapshots of the chain, newest first.
    fn complete(&self, chain: &Chain, fresh: bool) -> Vec<(Store, Stored)> {
        let Some(store) = self.store(fresh) else {
            return Vec::new();
        };
        let mut all = store.list();
        all.retain(|stored| stored.complete);
        let chain_id = chain.id.clone().or_else(|| only_chain(&all));
        all.retain(|stored| Some(stored.manifest.chain_id()) == chain_id.as_deref());
        all.into_iter().map(|one| (store.clone(), one)).collect()
    }

    /// Those that peers may have: what the chain confirmed, two blocks behind it,
    /// one for each height and format, because a chunk is asked for by these.
    fn offerable(&self, chain: &Chain, fresh: bool) -> Vec<(Store, Stored)> {
        let mut found = self.complete(chain, fresh);
        found.retain(|(_, stored)| {
            stored.proven && stored.manifest.height().saturating_add(2) <= chain.tip
        });
        let name = |stored: &Stored| (stored.manifest.height(), stored.manifest.format());
        found.sort_by_key(|(_, stored)| (std::cmp::Reverse(name(stored)), stored.manifest.id()));
        found.dedup_by_key(|(_, stored)| name(stored));
        found
    }

    /// Asks the daemon how it does.
    fn daemon(&self) -> Option<Status> {
        let (progress, _) = mpsc::channel(1);
        let asked = remote::ask(
            &self.home,
            &Command::Status,
            progress,
            CancellationToken::new(),
        );
        let asked = async { tokio::time::timeout(DAEMON_TIMEOUT, asked).await };
        match self.runtime.block_on(asked) {
            Ok(Some(Ok(Outcome::Status(status)))) => Some(*status),
            _ => None,
        }
    }

    /// Whether the swarm brings a snapshot of the chain, and more of it than a while
    /// ago.
    fn is_coming(&self) -> bool {
        let now = Instant::now();
        let downloads = self
            .daemon()
            .map_or_else(Vec::new, |status| status.downloads);
        let mut preferring = lock(&self.preferring);
        let since = *preferring.since.get_or_insert(now);
        if downloads.is_empty() || now - since > PREFER_FOR {
            return false;
        }
        let done = downloads
            .iter()
            .map(|download: &DownloadStatus| download.done)
            .sum();
        let moved = match preferring.done {
            Some((before, at)) if before == done => at,
            _ => now,
        };
        preferring.done = Some((done, moved));
        now - moved <= STALLED_AFTER
    }
}

/// The chain of a home that has snapshots of one only.
fn only_chain(all: &[Stored]) -> Option<String> {
    let first = all.first()?.manifest.chain_id();
    let is_alone = all.iter().all(|stored| stored.manifest.chain_id() == first);
    is_alone.then(|| first.to_owned())
}

fn offer_of(manifest: &Manifest) -> Offer {
    Offer {
        height: manifest.height(),
        format: manifest.format(),
        chunks: manifest.chunk_count(),
        hash: manifest.hash().clone(),
        metadata: manifest.metadata().clone(),
    }
}

impl Snapshots for OwnSnapshots {
    fn list(&self, chain: &Chain) -> Vec<Offer> {
        let found = self.offerable(chain, false);
        found
            .iter()
            .map(|(_, stored)| offer_of(&stored.manifest))
            .collect()
    }

    fn chunk(&self, chain: &Chain, height: u64, format: u32, chunk: u32) -> Option<Bytes> {
        let is_it = |stored: &Stored| {
            stored.manifest.height() == height && stored.manifest.format() == format
        };
        let found = self.offerable(chain, false);
        let (store, stored) = found.into_iter().find(|(_, stored)| is_it(stored))?;
        let archive = store.archive(&stored.manifest.id()).ok()?;
        match OwnArchive(archive).chunk(chunk) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!(height, format, chunk, %error, "a chunk cannot be read");
                None
            }
        }
    }

    fn offered(&self, chain: &Chain, offer: &Offer, app_hash: &Bytes) -> Verdict {
        let is_it = |stored: &Stored| {
            offer_of(&stored.manifest) == *offer && stored.manifest.app_hash() == Some(app_hash)
        };
        let found = self.complete(chain, true);
        if let Some((store, stored)) = found.into_iter().find(|(_, stored)| is_it(stored))
            && let Ok(archive) = store.archive(&stored.manifest.id())
        {
            return Verdict::Checked(Arc::new(OwnArchive(archive)));
        }
        match self.policy {
            OfferPolicy::Any => Verdict::Unchecked,
            OfferPolicy::SwarmOnly => {
                Verdict::Reject("it is not here, and adapter.offers is swarm-only".to_owned())
            }
            OfferPolicy::PreferSwarm if self.is_coming() => {
                Verdict::Reject("it is not here, and the swarm brings another one".to_owned())
            }
            OfferPolicy::PreferSwarm => Verdict::Unchecked,
        }
    }

    fn app_version(&self, _chain: &Chain, height: u64) -> Option<u64> {
        let rpc = self.rpc.as_ref()?;
        let asked = async { tokio::time::timeout(RPC_TIMEOUT, rpc.header_after(height)).await };
        match self.runtime.block_on(asked).ok()? {
            Ok(header) => Some(header.app_version),
            Err(error) => {
                tracing::warn!(%error, "the chain does not tell the application's version");
                None
            }
        }
    }

    fn snapshots(&self, chain: &Chain) -> Vec<u8> {
        let line = |stored: &Stored| {
            let manifest = &stored.manifest;
            json!({
                "manifest": manifest.id().to_string(),
                "chain_id": manifest.chain_id(),
                "height": manifest.height(),
                "format": manifest.format(),
                "chunks": manifest.chunk_count(),
                "bytes": manifest.total_bytes(),
                "hash": hex::encode(manifest.hash()),
                "proven": stored.proven,
            })
        };
        let found = self.complete(chain, false);
        let lines: Vec<_> = found.iter().map(|(_, stored)| line(stored)).collect();
        json!({ "snapshots": lines }).to_string().into_bytes()
    }

    fn sync_status(&self, chain: &Chain, restoring: Option<&Restoring>) -> Vec<u8> {
        let daemon = self.daemon();
        let restoring = restoring.map(|restoring| {
            json!({
                "height": restoring.offer.height,
                "format": restoring.offer.format,
                "chunks": restoring.offer.chunks,
                "applied": restoring.applied,
                "replaced": restoring.replaced,
                "checked": restoring.checked,
            })
        });
        json!({
            "adapter": env!("CARGO_PKG_VERSION"),
            "chain_id": chain.id,
            "height": chain.tip,
            "restoring": restoring,
            "daemon": daemon.is_some(),
            "downloads": daemon.map(|status| status.downloads),
        })
        .to_string()
        .into_bytes()
    }
}

/// An archive behind a restore.
struct OwnArchive(Archive);

impl Verified for OwnArchive {
    fn id(&self, chunk: u32) -> Option<ChunkId> {
        let manifest = self.0.manifest();
        let index = manifest.chunk_index(chunk)?;
        Some(manifest.unique_chunk(manifest.unique_at(index)).id)
    }

    fn chunk(&self, chunk: u32) -> io::Result<Bytes> {
        let index = self.0.manifest().chunk_index(chunk);
        let index = index.ok_or_else(|| io::Error::other("there is no such chunk"))?;
        self.0.read_chunk(index).map_err(io::Error::other)
    }
}
