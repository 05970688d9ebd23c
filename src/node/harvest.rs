//! The first path, from a running node: every new snapshot that a CometBFT node
//! offers to its peers is taken over its p2p port, and published.
//!
//! The peer protocol does not tell the application hash; the node's RPC does, as
//! soon as block H+1 is there. What is published is therefore proven.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode, HarvestStatus};
use super::failure::blocking;
use super::feed::comet_identity;
use super::services::{Services, count};
use crate::comet::peer::{HarvestSettings, Harvester, NodeAddress, Stop};
use crate::comet::rpc::{Rpc, RpcError};
use crate::snapshot::{Manifest, Offer, SnapshotFields, Source};
use crate::store::Origin;

/// How often the node is asked for its snapshots: an app that makes one each
/// few seconds keeps each for several times as long.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A snapshot that could not be taken is tried again after this, and after twice
/// as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Failures remembered; a node offers ten snapshots at a time.
const MAX_FAILURES: usize = 64;

/// A harvest under way.
pub(super) struct Harvest {
    services: Arc<Services>,
    node: NodeAddress,
    rpc: Rpc,
    stop: Stop,
    newest_height: Option<u64>,
    failures: BTreeMap<(u64, u32), (Instant, Duration)>,
}

impl Harvest {
    pub(super) fn new(services: Arc<Services>, node: &str, rpc: &str) -> Result<Self, Failure> {
        let node: NodeAddress = node
            .parse()
            .map_err(|error| Failure::new(FailureCode::Usage, format!("--harvest: {error}")))?;
        let rpc = Rpc::new(rpc)?;
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
            failures: BTreeMap::new(),
        })
    }

    /// Takes every new snapshot until cancelled. Trouble is logged, shown in the
    /// status and tried again.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let identity = match comet_identity(&self.services.home).await {
            Ok(identity) => identity,
            Err(failure) => {
                self.tell(false, Some(failure.message));
                return;
            }
        };
        let settings = HarvestSettings {
            node: self.node.clone(),
            chain_id: None,
        };
        let mut harvester = Harvester::new(settings, identity, self.stop.clone());
        let stop = self.stop.clone();
        let stopper = tokio::spawn(async move {
            cancel.cancelled().await;
            stop.stop();
        });
        while !self.stop.is_stopped() {
            harvester = match self.round(harvester).await {
                Ok(harvester) => harvester,
                Err(failure) => {
                    self.tell(false, Some(failure.message));
                    break;
                }
            };
            let stop = self.stop.clone();
            let _ = tokio::task::spawn_blocking(move || stop.wait(LOOK_EVERY)).await;
        }
        stopper.abort();
    }

    /// One look at what the node offers, and whatever is new of it.
    async fn round(&mut self, mut harvester: Harvester) -> Result<Harvester, Failure> {
        let (mut harvester, listed) = blocking(move || {
            let listed = harvester.list();
            Ok((harvester, listed))
        })
        .await?;
        if self.stop.is_stopped() {
            return Ok(harvester);
        }
        let offers = match listed {
            Ok(offers) => offers,
            Err(error) => {
                self.tell(harvester.is_connected(), Some(error.to_string()));
                return Ok(harvester);
            }
        };
        let mut trouble = None;
        if let Some(chain_id) = harvester.chain_id().map(str::to_owned) {
            for offer in self.wanted(&chain_id, offers) {
                let key = (offer.height, offer.format);
                let taken;
                (harvester, taken) = self.take(harvester, &chain_id, offer).await?;
                if self.stop.is_stopped() {
                    return Ok(harvester);
                }
                match taken {
                    Taken::Published => {
                        self.failures.remove(&key);
                    }
                    Taken::NotYet => {}
                    Taken::Failed(failure) => {
                        count(&self.services.counters.harvests_failed);
                        tracing::warn!(
                            height = key.0, format = key.1, error = %failure,
                            "Failed to create state snapshot"
                        );
                        self.failed(key);
                        trouble = Some(failure.message);
                    }
                }
            }
        }
        self.tell(harvester.is_connected(), trouble);
        Ok(harvester)
    }

    /// What of the offers is new and would be kept, newest first.
    fn wanted(&self, chain_id: &str, mut offers: Vec<Offer>) -> Vec<Offer> {
        let here: Vec<Arc<Manifest>> = self
            .services
            .store
            .list()
            .into_iter()
            .filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id)
            .map(|stored| stored.manifest)
            .collect();
        let keep = self.services.config.store.max_snapshots as usize;
        let now = Instant::now();
        offers.sort_by_key(|offer| std::cmp::Reverse((offer.height, offer.format)));
        let mut heights: Vec<u64> = here.iter().map(|manifest| manifest.height()).collect();
        heights.extend(offers.iter().map(|offer| offer.height));
        heights.sort_unstable_by(|a, b| b.cmp(a));
        heights.dedup();
        let oldest = heights.get(keep.saturating_sub(1)).copied().unwrap_or(0);
        offers.retain(|offer| {
            let known = here.iter().any(|manifest| {
                manifest.height() == offer.height
                    && manifest.format() == offer.format
                    && *manifest.hash() == offer.hash
            });
            let paused = self
                .failures
                .get(&(offer.height, offer.format))
                .is_some_and(|(until, _)| now < *until);
            offer.height >= oldest && !known && !paused
        });
        offers
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
        let services = self.services.clone();
        let chain_id = chain_id.to_owned();
        let (harvester, published) = blocking(move || {
            let mut harvester = harvester;
            let published = publish(&services, &mut harvester, chain_id, &offer, app_hash);
            Ok((harvester, published))
        })
        .await?;
        let taken = match published {
            Ok(()) => {
                count(&self.services.counters.harvests_done);
                self.services.shelf_changed().await;
                Taken::Published
            }
            Err(failure) => Taken::Failed(failure),
        };
        Ok((harvester, taken))
    }

    fn failed(&mut self, key: (u64, u32)) {
        let pause = self
            .failures
            .get(&key)
            .map_or(FIRST_PAUSE, |(_, pause)| (*pause * 2).min(LONGEST_PAUSE));
        if self.failures.len() >= MAX_FAILURES {
            // Heights grow: the lowest is the one that is not offered any more.
            self.failures.pop_first();
        }
        self.failures.insert(key, (Instant::now() + pause, pause));
    }

    fn tell(&mut self, connected: bool, last_error: Option<String>) {
        if let Some(error) = &last_error {
            tracing::debug!(node = %self.node, error, "harvest");
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

enum Taken {
    Published,
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
) -> Result<(), Failure> {
    let mut spool = services.store.publish()?;
    let mut snapshot = harvester.open(offer)?;
    while let Some(chunk) = snapshot.next_chunk()? {
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
    spool.finish(fields, Origin::Harvested, true)?;
    Ok(())
}
