//! The first path, from a running node: every new snapshot that a CometBFT node
//! offers to its peers is taken over its p2p port, or read from its disk (`folder`),
//! and published.
//!
//! Neither way tells the application hash; the node's RPC does, as soon as block H+1
//! is there. What is published is therefore proven, and the RPC must be of the chain
//! that the node named.

mod app;
mod choice;
mod folder;
mod intake;
mod memory;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::app::take_from_app;
pub(super) use self::folder::FolderHarvest;
pub(super) use self::intake::Intake;
use self::intake::{AppHashes, Order};
use super::command::{Failure, FailureCode, HarvestStatus};
use super::failure::blocking;
use super::feed::comet_identity;
use super::services::Services;
use crate::comet::peer::{HarvestSettings, Harvester, NodeAddress, Stop};
use crate::comet::rpc::Rpc;
use crate::snapshot::{Offer, Source};
use crate::store::Origin;

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
    told: Told,
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
            told: Told::new(node.to_string()),
            node,
            rpc,
            stop: Stop::new(),
            newest_height: None,
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
            self.told.last = Some(failure.message.clone());
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
        if !self.stop.is_stopped() {
            self.tell(harvester.is_connected(), trouble);
        }
        Ok(harvester)
    }

    /// Takes what is new of the offers; tells the trouble that it had.
    async fn take_new(
        &mut self,
        harvester: Harvester,
        offers: Vec<Offer>,
    ) -> Result<(Harvester, Option<String>), Failure> {
        let Some(chain_id) = harvester.chain_id().map(str::to_owned) else {
            return Ok((harvester, None));
        };
        let mut intake = self.services.intake.lock().await;
        let hashes = AppHashes::Rpc(&self.rpc);
        let order = Order {
            chain_id,
            offers,
            stop: self.stop.clone(),
        };
        let (harvester, round) = intake
            .take_new(&self.services, harvester, order, &hashes)
            .await?;
        Ok((harvester, round.trouble))
    }

    /// Shows in the status how it stands.
    fn tell(&mut self, connected: bool, last_error: Option<String>) {
        self.told.tell(last_error.as_deref());
        self.newest_height = newest_harvested(&self.services).or(self.newest_height);
        self.services.set_harvest(HarvestStatus {
            node: self.node.to_string(),
            connected,
            newest_height: self.newest_height,
            last_error,
        });
    }
}

/// What the log was told of one source's trouble. It hears only of a change: the same
/// trouble comes back with every round.
struct Told {
    source: String,
    /// Until all is well.
    last: Option<String>,
}

impl Told {
    fn new(source: String) -> Self {
        Self { source, last: None }
    }

    fn tell(&mut self, trouble: Option<&str>) {
        if trouble == self.last.as_deref() {
            return;
        }
        match trouble {
            Some(error) => tracing::warn!(source = self.source, error, "harvest trouble"),
            None => tracing::info!(source = self.source, "the harvest is well again"),
        }
        self.last = trouble.map(str::to_owned);
    }
}

/// The newest height on the shelf that came by itself.
fn newest_harvested(services: &Services) -> Option<u64> {
    let stored = services.store.list().into_iter();
    stored
        .filter(|stored| stored.origin == Origin::Harvested && stored.complete)
        .map(|stored| stored.manifest.height())
        .max()
}

/// Does something when the token is cancelled, until the guard is dropped.
fn on_cancel(
    cancel: &CancellationToken,
    then: impl FnOnce() + Send + 'static,
) -> tokio_util::sync::DropGuard {
    let (cancel, over) = (cancel.clone(), CancellationToken::new());
    let guard = over.clone().drop_guard();
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => then(),
            () = over.cancelled() => {}
        }
    });
    guard
}
