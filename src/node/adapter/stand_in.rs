//! Stands in for a Xian application until a state was restored into its storage.
//!
//! ```text
//!              need                                  accept
//!   standing ─────────▶ the application runs ◀────────────────── restored
//!      │  ▲                                                        ▲  │
//!      │  └──────────────── give_up: all is as it was ─────────────│──┘
//!      └──▶ begin, chunk, chunk, …, finish ────────────────────────┘
//! ```
//!
//! A storage that holds a state of some height is of a node that runs: then nobody stands
//! in from the beginning.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::watch;

use super::application::Application;
use crate::abci::{AppInfo, StandIn};
use crate::config::TrustConfig;
use crate::node::command::Failure;
use crate::node::patches::compare_patches;
use crate::node::services::lock;
use crate::node::trust::believe;
use crate::node::xian::workers;
use crate::snapshot::{Manifest, Target};
use crate::store::{Store, StoreSettings};
use crate::xian::{KEPT, LatestBlock, XianTarget, accept, is_unaccepted, keeps_old, recover, undo};

/// What a restore into the storage of an application goes by that is started here.
#[derive(Clone, Debug)]
pub struct StandInOptions {
    /// The node's storage.
    pub storage: PathBuf,
    /// Starts the application.
    pub app_cmd: String,
    /// Snapshots (CIDs) that the person named to be restored.
    pub named: BTreeSet<String>,
    /// The chain's `state_patches.json`.
    pub state_patches: Option<PathBuf>,
}

/// The stand-in.
pub(super) struct XianStandIn {
    options: StandInOptions,
    home: Home,
    application: Application,
    stands: watch::Sender<bool>,
    work: Mutex<Work>,
}

/// Where it stands whom to believe, and who speaks for a snapshot.
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) settings: StoreSettings,
    pub(super) trust: TrustConfig,
}

#[derive(Default)]
struct Work {
    /// What the application said of itself with nothing in its storage.
    info: Option<AppInfo>,
    restore: Option<Restore>,
}

/// A restore under way.
struct Restore {
    /// The connection that leads it.
    lead: u32,
    manifest: Arc<Manifest>,
    target: XianTarget,
    next: u32,
}

impl XianStandIn {
    /// Ends what an earlier restore left, and looks whether the storage is empty. The
    /// application is started where it is not. Blocking.
    pub(super) fn open(
        options: StandInOptions,
        home: Home,
        application: Application,
    ) -> Result<Self, Failure> {
        let storage = &options.storage;
        if recover(storage)? {
            tracing::info!(
                storage = %storage.display(),
                "a restore was cut off when its state was complete: it is in place now"
            );
        }
        if is_unaccepted(storage)? {
            undo(storage)?;
            tracing::info!(
                storage = %storage.display(),
                "a restore was cut off before CometBFT had it: what was there before is back"
            );
        }
        let height = LatestBlock::read_or_none(storage)?.height;
        if height > 0 {
            tracing::info!(
                height,
                "the storage holds a state; the application is started"
            );
            if keeps_old(storage)? {
                tracing::info!(
                    kept = %storage.join(KEPT).display(),
                    "it was restored, and what was there before is kept: remove it when the node \
                     has caught up"
                );
            }
            application.want();
        } else {
            tracing::info!(
                storage = %storage.display(),
                "the storage is empty: the application is started when it is needed, or when \
                 a state was restored"
            );
        }
        Ok(Self {
            options,
            home,
            application,
            stands: watch::Sender::new(height == 0),
            work: Mutex::default(),
        })
    }

    fn storage(&self) -> &Path {
        &self.options.storage
    }

    /// Takes back what a restore did.
    fn take_back(&self, restore: Restore) -> Result<(), Failure> {
        self.application.stop();
        let was_finished = restore.target.stats().is_some();
        drop(restore);
        // One that failed in the swap is in place when that is ended.
        if recover(self.storage())? || was_finished {
            undo(self.storage())?;
        }
        Ok(())
    }

    /// Whether the person's policy and the chain's patches allow this snapshot.
    fn judge(&self, manifest: &Manifest) -> Result<(), Failure> {
        let (id, height) = (manifest.id().to_string(), manifest.height());
        let is_named = self.options.named.contains(&id);
        let store = Store::open_for_reading(&self.home.folder, self.home.settings.clone())?;
        let basis = believe(&self.home.trust, &store, manifest, is_named)?;
        let patches = compare_patches(manifest, self.options.state_patches.as_deref())?;
        tracing::info!(manifest = id, height, %basis, %patches, "a state is restored");
        Ok(())
    }
}

impl StandIn for XianStandIn {
    fn stands(&self) -> watch::Receiver<bool> {
        self.stands.subscribe()
    }

    fn info(&self) -> Result<AppInfo, String> {
        let mut work = lock(&self.work);
        if let Some(info) = &work.info {
            return Ok(info.clone());
        }
        if work.restore.is_some() {
            // Somebody is curious; CometBFT asks when a restore is over.
            return Ok(AppInfo {
                app_version: 0,
                height: 0,
                app_hash: Bytes::new(),
            });
        }
        let info = self.application.start()?;
        if *self.stands.borrow() {
            work.info = Some(info.clone());
        }
        Ok(info)
    }

    fn need(&self) -> Result<(), String> {
        let work = lock(&self.work);
        if work.restore.is_some() {
            return Err("a snapshot is being restored".to_owned());
        }
        self.application.want();
        self.stands.send_replace(false);
        Ok(())
    }

    fn begin(&self, lead: u32, manifest: Arc<Manifest>) -> Result<(), String> {
        let mut work = lock(&self.work);
        if let Some(restore) = work.restore.take() {
            self.take_back(restore).map_err(told)?;
        }
        self.judge(&manifest).map_err(told)?;
        if !*self.stands.borrow() {
            return Err("the application runs already".to_owned());
        }
        self.application.stop();
        let latest = LatestBlock::read_or_none(self.storage());
        let height = latest.map_err(|error| error.to_string())?.height;
        if height > 0 {
            return Err(format!(
                "the storage holds the state of height {height} by now"
            ));
        }
        let mut target = XianTarget::new(self.storage(), &workers());
        target
            .begin(&manifest)
            .map_err(|error| told(error.into()))?;
        work.restore = Some(Restore {
            lead,
            manifest,
            target,
            next: 0,
        });
        Ok(())
    }

    fn chunk(&self, lead: u32, index: u32, bytes: &Bytes) -> Result<(), String> {
        let mut work = lock(&self.work);
        let restore = work.led_by(lead)?;
        if index != restore.next {
            return Err(format!(
                "chunk {index} came where {} was awaited",
                restore.next
            ));
        }
        let place = restore.manifest.chunk_index(index);
        let place = place.ok_or("the snapshot has no such chunk")?;
        let taken = restore.target.chunk(place, bytes);
        taken.map_err(|error| told(error.into()))?;
        restore.next += 1;
        Ok(())
    }

    fn finish(&self, lead: u32) -> Result<(), String> {
        let mut work = lock(&self.work);
        let restore = work.led_by(lead)?;
        let storage = self.storage().display();
        let finished = restore.target.finish();
        finished.map_err(|error| told(error.into()))?;
        if let Some(stats) = restore.target.stats() {
            tracing::info!(
                %storage,
                height = restore.manifest.height(),
                records = stats.records,
                files = stats.files,
                bytes = stats.bytes,
                seconds = stats.took.as_secs_f64(),
                "the state is in place; the application is started"
            );
        }
        self.application.start().map(drop)
    }

    fn accept(&self, lead: u32) -> Result<(), String> {
        let mut work = lock(&self.work);
        work.led_by(lead)?;
        // Before CometBFT hears of it: a restore that is not noted so is undone.
        accept(self.storage()).map_err(|error| error.to_string())?;
        work.restore = None;
        self.stands.send_replace(false);
        tracing::info!(
            kept = %self.storage().join(KEPT).display(),
            "what the storage held before is kept: `join` removes it when the node has caught \
             up, else it is for you to remove then"
        );
        Ok(())
    }

    fn give_up(&self, lead: u32) {
        let mut work = lock(&self.work);
        let restore = work.restore.take_if(|restore| restore.lead == lead);
        let taken_back = restore.map_or(Ok(()), |restore| self.take_back(restore));
        if let Err(failure) = taken_back {
            tracing::error!(
                storage = %self.storage().display(),
                %failure,
                "a restore cannot be taken back; it is tried again when the adapter is started"
            );
        }
    }
}

impl Work {
    fn led_by(&mut self, lead: u32) -> Result<&mut Restore, String> {
        let restore = self.restore.as_mut().filter(|restore| restore.lead == lead);
        restore.ok_or_else(|| "no restore of this connection is under way".to_owned())
    }
}

/// A failure and what to do, in one line.
fn told(failure: Failure) -> String {
    match failure.hint {
        Some(hint) => format!("{}: {hint}", failure.message),
        None => failure.message,
    }
}
