//! What the adapter tells CometBFT of the home's snapshots.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde_json::json;
use tokio::runtime::Handle;

use super::daemon::{Daemon, Watch};
use super::prefer::{Advice, Situation, advise};
use crate::abci::{Chain, Offered, Snapshots, Standing, Verdict, Verified};
use crate::comet::rpc::Rpc;
use crate::config::OfferPolicy;
use crate::node::services::lock;
use crate::snapshot::{ChunkId, Manifest, ManifestId, Offer};
use crate::store::{Archive, Stamp, Store, StoreSettings, Stored};

/// The home is looked at again after so long: peers that sync ask several times a
/// minute.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The chain's RPC is asked within CometBFT's own patience.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// A download whose file was not written for so long makes no progress.
const STALLED_AFTER: Duration = Duration::from_secs(120);
/// Snapshots with a chunk that cannot be read are told once each; more than a home
/// has.
const MAX_UNREADABLE: usize = 256;

/// The snapshots of a home.
pub(super) struct OwnSnapshots {
    home: PathBuf,
    settings: StoreSettings,
    policy: OfferPolicy,
    rpc: Option<Rpc>,
    runtime: Handle,
    daemon: Watch,
    looked: Mutex<Option<Looked>>,
    /// Snapshots of which it was told that a chunk cannot be read.
    unreadable: Mutex<BTreeSet<ManifestId>>,
}

/// The home, as it was a moment ago.
struct Looked {
    at: Instant,
    /// While this is the home's, it is as it was.
    stamp: Option<Stamp>,
    /// Nothing when it could not be looked through, for this reason.
    store: Result<Store, String>,
}

impl OwnSnapshots {
    /// Must be called on the runtime that carries the adapter.
    pub(super) fn new(
        home: &Path,
        settings: StoreSettings,
        policy: OfferPolicy,
        rpc: Option<Rpc>,
    ) -> Self {
        let runtime = Handle::current();
        Self {
            home: home.to_owned(),
            settings,
            policy,
            rpc,
            daemon: Watch::new(home, runtime.clone()),
            runtime,
            looked: Mutex::default(),
            unreadable: Mutex::default(),
        }
    }

    /// The home, looked at again when that was long ago; looked through only when it
    /// changed, so that what is open stays so. Whoever comes meanwhile waits.
    fn store(&self, fresh: bool) -> Option<Store> {
        let mut looked = lock(&self.looked);
        let now = Instant::now();
        if let Some(looked) = &*looked
            && !fresh
            && now.duration_since(looked.at) < LOOK_AGAIN
        {
            return looked.store.clone().ok();
        }
        let stamp = Store::stamp(&self.home).filter(|stamp| stamp.is_settled(SystemTime::now()));
        if let Some(looked) = &mut *looked
            && stamp.is_some()
            && looked.stamp == stamp
            && looked.store.is_ok()
        {
            looked.at = now;
            return looked.store.clone().ok();
        }
        let opened = Store::open_for_reading(&self.home, self.settings.clone());
        let store = opened.map_err(|error| error.to_string());
        let before = looked
            .as_ref()
            .and_then(|looked| looked.store.as_ref().err());
        let home = self.home.display();
        match (&store, before) {
            (Err(error), before) if before != Some(error) => {
                tracing::error!(%home, error, "the home cannot be looked through");
            }
            (Ok(_), Some(_)) => tracing::info!(%home, "the home can be looked through again"),
            _ => {}
        }
        let found = store.clone().ok();
        let at = now;
        *looked = Some(Looked { at, stamp, store });
        found
    }

    /// All of the home.
    fn all(&self, fresh: bool) -> Option<(Store, Vec<Stored>)> {
        let store = self.store(fresh)?;
        let all = store.list();
        Some((store, all))
    }

    /// Complete snapshots of the chain, newest first; no deltas, which say nothing to
    /// who does not have their base.
    fn complete(&self, chain: &Chain) -> Option<(Store, Vec<Stored>)> {
        let (store, mut all) = self.all(false)?;
        all.retain(|stored| stored.complete && stored.manifest.base().is_none());
        let chain_id = chain.id.clone().or_else(|| only_chain(&all));
        all.retain(|stored| Some(stored.manifest.chain_id()) == chain_id.as_deref());
        Some((store, all))
    }

    /// Those that peers may have: what the chain confirmed, two blocks behind it,
    /// one for each height and format, because a chunk is asked for by these.
    fn offerable(&self, chain: &Chain) -> Option<(Store, Vec<Stored>)> {
        let (store, mut found) = self.complete(chain)?;
        found.retain(|stored| {
            let manifest = &stored.manifest;
            // Applications of peers do not know our own format, and some take any.
            let is_theirs = manifest.state().is_none();
            is_theirs && stored.proven && manifest.height().saturating_add(2) <= chain.tip
        });
        let name = |stored: &Stored| (stored.manifest.height(), stored.manifest.format());
        found.sort_by_key(|stored| (std::cmp::Reverse(name(stored)), stored.manifest.id()));
        found.dedup_by_key(|stored| name(stored));
        Some((store, found))
    }

    /// The application's version after a height, in the header that proved a snapshot
    /// of the home.
    fn proven_version(&self, chain: &Chain, height: u64) -> Option<u64> {
        let (_, found) = self.complete(chain)?;
        let mut there = found
            .iter()
            .filter(|stored| stored.manifest.height() == height);
        there.find_map(|stored| stored.app_version)
    }

    /// The same, as the chain's RPC tells it.
    fn told_version(&self, height: u64) -> Option<u64> {
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

    fn tell_unreadable(&self, manifest: &Manifest, chunk: u32, error: &io::Error) {
        let (height, format) = (manifest.height(), manifest.format());
        let mut told = lock(&self.unreadable);
        if told.len() < MAX_UNREADABLE && told.insert(manifest.id()) {
            tracing::error!(
                height, format, chunk, %error,
                "a chunk that a peer asks for cannot be read; `snapswarm verify` tells more"
            );
        } else {
            tracing::debug!(height, format, chunk, %error, "a chunk cannot be read");
        }
    }
}

/// Whether this is the snapshot that CometBFT offers, byte for byte, with the state
/// that it trusts.
fn is_it(stored: &Stored, offered: &Offered) -> bool {
    Offer::of(&stored.manifest) == offered.offer
        && stored.manifest.app_hash() == Some(&offered.app_hash)
}

/// What is known when an offer comes that is not here.
fn situation(chain: &Chain, offered: &Offered, all: &[Stored]) -> Situation {
    let chain_id = chain.id.clone().or_else(|| only_chain(all));
    let of_chain = |stored: &&Stored| Some(stored.manifest.chain_id()) == chain_id.as_deref();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default().as_secs();
    let came = |stored: &Stored| {
        let usable = stored.complete && stored.manifest.app_hash().is_some();
        usable.then(|| Duration::from_secs(now.saturating_sub(stored.added_unix_s)))
    };
    Situation {
        is_coming: all.iter().any(|one| is_moving(one) && is_it(one, offered)),
        another_is_coming: all.iter().filter(of_chain).any(is_moving),
        another_is_here: all.iter().filter(of_chain).filter_map(came).min(),
        since_first: offered.since_first,
        may_wait: offered.may_wait,
    }
}

/// Whether somebody is bringing the rest of a snapshot: a daemon of any version, or a
/// `fetch` without one. The file tells it best.
fn is_moving(stored: &Stored) -> bool {
    let written = || std::fs::metadata(&stored.file)?.modified();
    // A time to come is one of another clock, and now.
    let age = |time: SystemTime| SystemTime::now().duration_since(time).unwrap_or_default();
    !stored.complete && written().is_ok_and(|time| age(time) <= STALLED_AFTER)
}

/// The chain of a home that has snapshots of one only.
fn only_chain(all: &[Stored]) -> Option<String> {
    let first = all.first()?.manifest.chain_id();
    let is_alone = all.iter().all(|stored| stored.manifest.chain_id() == first);
    is_alone.then(|| first.to_owned())
}

impl Snapshots for OwnSnapshots {
    fn list(&self, chain: &Chain) -> Vec<Offer> {
        let found = self
            .offerable(chain)
            .map_or_else(Vec::new, |(_, found)| found);
        let offers = found.iter().map(|stored| Offer::of(&stored.manifest));
        offers.collect()
    }

    fn chunk(&self, chain: &Chain, height: u64, format: u32, chunk: u32) -> Option<Bytes> {
        let asked_for = |stored: &Stored| {
            stored.manifest.height() == height && stored.manifest.format() == format
        };
        let (store, found) = self.offerable(chain)?;
        let stored = found.into_iter().find(asked_for)?;
        let manifest = &stored.manifest;
        manifest.chunk_index(chunk)?;
        let read = match store.archive(&manifest.id()) {
            Ok(archive) => OwnArchive(archive).chunk(chunk),
            Err(error) => Err(io::Error::other(error)),
        };
        read.inspect_err(|error| self.tell_unreadable(manifest, chunk, error))
            .ok()
    }

    fn offered(&self, chain: &Chain, offered: &Offered) -> Verdict {
        let (store, all) = match self.all(true) {
            Some((store, all)) => (Some(store), all),
            None => (None, Vec::new()),
        };
        let is_here = |stored: &&Stored| stored.complete && is_it(stored, offered);
        if let (Some(store), Some(stored)) = (store, all.iter().find(is_here)) {
            match store.archive(&stored.manifest.id()) {
                Ok(archive) => return Verdict::Checked(Arc::new(OwnArchive(archive))),
                Err(error) => tracing::error!(%error, "an offered snapshot cannot be read here"),
            }
        }
        if self.policy == OfferPolicy::Any {
            return Verdict::Unchecked;
        }
        match advise(self.policy, &situation(chain, offered, &all)) {
            Advice::Pass => Verdict::Unchecked,
            Advice::Wait(reason) => Verdict::Wait(reason.to_owned()),
            Advice::Reject(reason) => Verdict::Reject(reason.to_owned()),
        }
    }

    fn app_version(&self, chain: &Chain, height: u64) -> Option<u64> {
        self.proven_version(chain, height)
            .or_else(|| self.told_version(height))
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
        let found = self
            .complete(chain)
            .map_or_else(Vec::new, |(_, found)| found);
        let lines: Vec<_> = found.iter().map(line).collect();
        json!({ "snapshots": lines }).to_string().into_bytes()
    }

    fn sync_status(&self, chain: &Chain, standing: &Standing) -> Vec<u8> {
        let daemon = self.daemon.look();
        let served = &standing.served;
        let restoring = standing.restoring.as_ref().map(|restoring| {
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
            "contradicted_by": chain.contradicted_by,
            "height": chain.tip,
            "restoring": restoring,
            "served": {
                "lists": served.lists,
                "chunks": served.chunks,
                "missing_chunks": served.missing_chunks,
            },
            "refused": served.refused,
            "unconfirmed_restores": served.unconfirmed_restores,
            "daemon": matches!(daemon, Daemon::Running(_)),
            "daemon_problem": daemon.problem(),
            "downloads": match &daemon {
                Daemon::Running(running) => Some(&running.downloads),
                Daemon::Silent(_) | Daemon::Strange(_) => None,
            },
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

    fn manifest(&self) -> Option<Arc<Manifest>> {
        Some(self.0.manifest().clone())
    }

    fn chunk(&self, chunk: u32) -> io::Result<Bytes> {
        let index = self.0.manifest().chunk_index(chunk);
        let index = index.ok_or_else(|| io::Error::other("there is no such chunk"))?;
        self.0.read_chunk(index).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests;
