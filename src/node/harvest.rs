//! The first path, from a running node: every new snapshot that a CometBFT node
//! offers to its peers is taken over its p2p port, and published.
//!
//! The peer protocol does not tell the application hash; the node's RPC does, as
//! soon as block H+1 is there. What is published is therefore proven, and the RPC
//! must be of the chain that the node named.

mod choice;
mod memory;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use self::choice::{Choice, Key, Shelf};
use super::command::{Failure, FailureCode, HarvestStatus};
use super::failure::blocking;
use super::feed::comet_identity;
use super::services::{Services, count};
use crate::comet::peer::{HarvestSettings, Harvester, NodeAddress, Stop};
use crate::comet::rpc::{Rpc, RpcError};
use crate::snapshot::{ManifestId, Offer, SnapshotFields, Source};
use crate::store::{DamagedFile, Origin};

/// How often the node is asked for its snapshots: an app that makes one each
/// few seconds keeps each for several times as long.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After trouble of our own (an unreadable key, a defect) a person has to do
/// something first, so there is no hurry; it is still tried again, because they
/// may do it while the daemon runs.
const BROKEN_PAUSE: Duration = Duration::from_secs(60);

/// A harvest under way.
pub(super) struct Harvest {
    services: Arc<Services>,
    node: NodeAddress,
    rpc: Rpc,
    stop: Stop,
    newest_height: Option<u64>,
    choice: Choice,
    /// The trouble that was last logged, until all is well.
    told: Option<String>,
}

impl Harvest {
    pub(super) fn new(services: Arc<Services>, node: &str, rpc: &str) -> Result<Self, Failure> {
        let node: NodeAddress = node
            .parse()
            .map_err(|error| Failure::new(FailureCode::Usage, format!("--harvest: {error}")))?;
        let rpc = Rpc::new(rpc)?;
        let choice = memory::load(&services.home);
        services.set_harvest(HarvestStatus {
            node: node.to_string(),
            connected: false,
            newest_height: None,
            last_error: None,
        });
        Ok(Self {
            services,
            node,
            rpc,
            stop: Stop::new(),
            newest_height: None,
            choice,
            told: None,
        })
    }

    /// Takes every new snapshot until cancelled. Trouble is logged, shown in the
    /// status and tried again.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let stop = self.stop.clone();
        let stopped = cancel.clone();
        let stopper = tokio::spawn(async move {
            stopped.cancelled().await;
            stop.stop();
        });
        while let Err(failure) = self.rounds(&cancel).await {
            tracing::error!(node = %self.node, error = %failure, "the harvest is broken");
            self.told = Some(failure.message.clone());
            self.tell(false, Some(failure.message));
            let pause = tokio::time::sleep(BROKEN_PAUSE);
            if cancel.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        stopper.abort();
    }

    /// Round after round until cancelled. A failure is trouble of our own.
    async fn rounds(&mut self, cancel: &CancellationToken) -> Result<(), Failure> {
        let identity = comet_identity(&self.services.home).await?;
        let settings = HarvestSettings {
            node: self.node.clone(),
            chain_id: None,
        };
        let mut harvester = Harvester::new(settings, identity, self.stop.clone());
        loop {
            harvester = self.round(harvester).await?;
            let pause = tokio::time::sleep(LOOK_EVERY);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
        }
    }

    /// One look at what the node offers, and whatever is new of it.
    async fn round(&mut self, harvester: Harvester) -> Result<Harvester, Failure> {
        let (mut harvester, listed) = blocking(move || {
            let mut harvester = harvester;
            let listed = harvester.list();
            Ok((harvester, listed))
        })
        .await?;
        if self.stop.is_stopped() {
            return Ok(harvester);
        }
        let trouble;
        match listed {
            Ok(offers) => (harvester, trouble) = self.take_new(harvester, offers).await?,
            Err(error) => trouble = Some(Failure::from(error).message),
        }
        self.remember().await;
        if !self.stop.is_stopped() {
            self.tell(harvester.is_connected(), trouble);
        }
        Ok(harvester)
    }

    /// Takes what is new of the offers; tells the trouble that it had.
    async fn take_new(
        &mut self,
        mut harvester: Harvester,
        offers: Vec<Offer>,
    ) -> Result<(Harvester, Option<String>), Failure> {
        let Some(chain_id) = harvester.chain_id().map(str::to_owned) else {
            return Ok((harvester, None));
        };
        let here = self.here(&chain_id);
        self.choice
            .look_at_damaged(&damages(&self.services.store.damaged()));
        let keep = self.services.config.store.max_snapshots as usize;
        let chosen = self
            .choice
            .choose(&chain_id, &here, offers, keep, Instant::now());
        let mut trouble = chosen.trouble;
        if !chosen.take.is_empty()
            && let Err(failure) = self.check_rpc(&chain_id).await
        {
            return Ok((harvester, Some(failure.message)));
        }
        for offer in chosen.take {
            let key = Key::from(&offer);
            let taken;
            (harvester, taken) = self.take(harvester, &chain_id, offer).await?;
            if self.stop.is_stopped() {
                break;
            }
            match taken {
                Taken::Published(id) => self.choice.taken(key, id),
                Taken::NotYet => {}
                Taken::Failed(failure) => {
                    count(&self.services.counters.harvests_failed);
                    let why = format!(
                        "the snapshot of height {}, format {} was not taken: {}",
                        key.height, key.format, failure.message
                    );
                    self.choice.failed(key, why.clone(), Instant::now());
                    trouble = Some(why);
                }
            }
        }
        Ok((harvester, trouble))
    }

    /// Writes down what is not to be taken again, when there is more of it.
    async fn remember(&mut self) {
        if !self.choice.has_news() {
            return;
        }
        let (home, bytes) = (self.services.home.clone(), memory::encode(&self.choice));
        let written = blocking(move || {
            let written = memory::save(&home, &bytes);
            written.map_err(|error| Failure::io(home.join(memory::FILE).display(), &error))
        });
        if let Err(failure) = written.await {
            tracing::warn!(error = %failure, "after a restart, what was removed may be harvested again");
        }
    }

    /// The complete snapshots of the chain on the shelf.
    fn here(&self, chain_id: &str) -> Shelf {
        let stored = self.services.store.list().into_iter();
        stored
            .filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id)
            // What somebody loaded without its application hash is no substitute.
            .filter(|stored| stored.manifest.app_hash().is_some())
            .map(|stored| {
                let key = Key::from(&*stored.manifest);
                (key, (stored.manifest.id(), stored.origin))
            })
            .collect()
    }

    /// An application hash of another chain would make a lie out of "proven". It
    /// is asked in each round that takes something, because another node may
    /// have come up behind the same URL.
    async fn check_rpc(&self, chain_id: &str) -> Result<(), Failure> {
        let found = self.rpc.chain_id().await?;
        if found == chain_id {
            Ok(())
        } else {
            Err(super::fetch::wrong_chain(&self.rpc, &found, chain_id))
        }
    }

    /// Takes one snapshot and publishes it.
    async fn take(
        &self,
        harvester: Harvester,
        chain_id: &str,
        offer: Offer,
    ) -> Result<(Harvester, Taken), Failure> {
        let app_hash = match self.rpc.app_hash_after(offer.height).await {
            Ok(app_hash) => app_hash,
            Err(RpcError::TooNew { .. }) => return Ok((harvester, Taken::NotYet)),
            Err(error) => return Ok((harvester, Taken::Failed(error.into()))),
        };
        let (services, stop) = (self.services.clone(), self.stop.clone());
        let chain_id = chain_id.to_owned();
        let (harvester, published) = blocking(move || {
            let mut harvester = harvester;
            let published = publish(&services, &mut harvester, chain_id, &offer, app_hash, &stop);
            Ok((harvester, published))
        })
        .await?;
        let taken = match published {
            Ok(id) => {
                count(&self.services.counters.harvests_done);
                self.services.shelf_changed().await;
                Taken::Published(id)
            }
            Err(failure) => Taken::Failed(failure),
        };
        Ok((harvester, taken))
    }

    /// Shows in the status how it stands. The log hears only of a change: the
    /// same trouble comes back with every round.
    fn tell(&mut self, connected: bool, last_error: Option<String>) {
        if last_error != self.told {
            match &last_error {
                Some(error) => tracing::warn!(node = %self.node, error, "harvest trouble"),
                None => tracing::info!(node = %self.node, "the harvest is well again"),
            }
            self.told.clone_from(&last_error);
        }
        let newest = self.services.store.list();
        self.newest_height = newest
            .iter()
            .filter(|stored| stored.origin == Origin::Harvested && stored.complete)
            .map(|stored| stored.manifest.height())
            .max()
            .or(self.newest_height);
        self.services.set_harvest(HarvestStatus {
            node: self.node.to_string(),
            connected,
            newest_height: self.newest_height,
            last_error,
        });
    }
}

/// Which damage is which: a file that is damaged again has the same name and was
/// written at another time.
fn damages(files: &[DamagedFile]) -> BTreeMap<String, ManifestId> {
    let damage = |file: &DamagedFile| {
        let written = std::fs::metadata(&file.path).and_then(|meta| meta.modified());
        let since = written.ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let name = file.path.file_name()?.to_string_lossy().into_owned();
        Some((format!("{name} of {}", since.as_micros()), file.manifest()?))
    };
    files.iter().filter_map(damage).collect()
}

enum Taken {
    Published(ManifestId),
    /// Block H+1 is not there yet; the next round sees it.
    NotYet,
    Failed(Failure),
}

fn publish(
    services: &Services,
    harvester: &mut Harvester,
    chain_id: String,
    offer: &Offer,
    app_hash: Bytes,
    stop: &Stop,
) -> Result<ManifestId, Failure> {
    let mut spool = services.store.publish()?.leaving_space();
    let mut snapshot = harvester.open(offer)?;
    let mut is_first = true;
    while let Some(chunk) = snapshot.next_chunk()? {
        if std::mem::take(&mut is_first) {
            // All chunks but the last are of one size in every application known.
            let likely = chunk.len() as u64 * u64::from(offer.chunks.saturating_sub(1));
            spool.require_room(likely, likely)?;
        }
        spool.push(&chunk)?;
    }
    let fields = SnapshotFields {
        chain_id,
        height: offer.height,
        app_hash: Some(app_hash),
        format: offer.format,
        hash: Some(offer.hash.clone()),
        metadata: offer.metadata.clone(),
    };
    let mut go_on = |_, _| {
        if stop.is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let archive = spool.finish(fields, Origin::Harvested, true, &mut go_on)?;
    Ok(archive.manifest().id())
}
