//! After a commit, away from it: the application is asked for its snapshots, and
//! the daemon told of new ones. The daemon takes the chunks itself, on a connection
//! of its own to the application, one at a time.
//!
//! An offer is forgotten only when the daemon says that it is settled. Whatever goes
//! wrong, on whichever side, it is asked for again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::daemon::{self, Harvested};
use crate::abci::{Address, AppSource, Learnt};
use crate::api::control::MAX_REQUEST_BYTES;
use crate::comet::rpc::Rpc;
use crate::node::command::{AppOffer, Command, Failure, FailureCode, HarvestCommand};
use crate::node::failure::blocking;
use crate::snapshot::{Offer, Source};

/// The application is asked at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After trouble, the next attempt waits longer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);
/// After a defect of our own, it begins anew.
const DEFECT_PAUSE: Duration = Duration::from_secs(60);
/// Offers of an application that are looked at. Those of today have ten at most.
const MAX_OFFERS: usize = 64;
/// Offers of one command, in hex: what is beside them in a request is short.
const MAX_COMMAND_BYTES: usize = MAX_REQUEST_BYTES - (1 << 20);

/// What a harvest works with.
#[derive(Clone)]
pub(super) struct Harvest {
    home: PathBuf,
    app: Address,
    learnt: Learnt,
    rpc: Option<Rpc>,
}

impl Harvest {
    pub(super) fn new(home: &Path, app: Address, learnt: Learnt, rpc: Option<Rpc>) -> Self {
        let home = home.to_owned();
        Self {
            home,
            app,
            learnt,
            rpc,
        }
    }

    /// Looks after each commit, until cancelled. A defect of ours ends one run, and
    /// another begins.
    pub(super) async fn run(self, cancel: CancellationToken) {
        loop {
            let run = Run::new(self.clone()).run(cancel.clone());
            match tokio::spawn(run).await {
                Ok(()) => return,
                Err(error) if error.is_cancelled() => return,
                Err(error) => tracing::error!(
                    %error,
                    "a defect of snapswarm: new snapshots of the application wait a minute"
                ),
            }
            let pause = tokio::time::sleep(DEFECT_PAUSE);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}

/// Height, format and ABCI hash.
type Name = (u64, u32, String);

fn name(offer: &Offer) -> Name {
    (offer.height, offer.format, hex::encode(&offer.hash))
}

/// The hook behind Commit.
struct Run {
    with: Harvest,
    /// The connection to the application, kept while it works.
    app: Option<AppSource>,
    /// Offers that the daemon said are settled; at most [`MAX_OFFERS`].
    settled: BTreeSet<Name>,
    /// The trouble that was last logged.
    told: Option<String>,
}

impl Run {
    fn new(with: Harvest) -> Self {
        Self {
            with,
            app: None,
            settled: BTreeSet::new(),
            told: None,
        }
    }

    async fn run(mut self, cancel: CancellationToken) {
        let mut commits = self.with.learnt.commits();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = commits.changed() => if changed.is_err() {
                    return;
                },
            }
            let Some(looked) = cancel.run_until_cancelled(self.look()).await else {
                return;
            };
            let pause = match looked {
                Ok(()) => {
                    self.tell(None);
                    LOOK_EVERY
                }
                Err(failure) => {
                    self.tell(Some(failure.message));
                    TROUBLE_PAUSE
                }
            };
            let pause = tokio::time::sleep(pause);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let offers = self.list().await?;
        let names: BTreeSet<_> = offers.iter().map(name).collect();
        self.settled.retain(|settled| names.contains(settled));
        let is_new = |offer: &Offer| !self.settled.contains(&name(offer));
        let new: Vec<Offer> = offers.into_iter().filter(is_new).collect();
        if new.is_empty() {
            return Ok(());
        }
        let chain_id = super::chain_id(&self.with.learnt)?;
        let mut told = Vec::new();
        for offer in first_of(&new) {
            told.push(AppOffer {
                height: offer.height,
                format: offer.format,
                chunks: offer.chunks,
                hash: hex::encode(&offer.hash),
                metadata: hex::encode(&offer.metadata),
                app_hash: self.app_hash(offer.height).await,
            });
        }
        let command = Command::Harvest(HarvestCommand {
            app: self.with.app.to_string(),
            chain_id,
            offers: told.clone(),
        });
        let harvested = daemon::patiently(daemon::harvest(&self.with.home, &command)).await?;
        match self.take_in(&told, harvested) {
            None => Ok(()),
            Some(trouble) => Err(Failure::new(FailureCode::Failed, trouble)),
        }
    }

    /// The application's snapshots, newest first. An application that was started again
    /// has closed the connection of before.
    async fn list(&mut self) -> Result<Vec<Offer>, Failure> {
        if let Some(app) = self.app.take()
            && let Ok(offers) = self.list_of(app).await
        {
            return Ok(offers);
        }
        self.list_of(AppSource::new(self.with.app.clone())).await
    }

    async fn list_of(&mut self, mut app: AppSource) -> Result<Vec<Offer>, Failure> {
        let (app, listed) = blocking(move || {
            let listed = app.list();
            Ok((app, listed))
        })
        .await?;
        let mut offers = listed?;
        // One that failed is not asked again on the same connection.
        self.app = Some(app);
        offers.truncate(MAX_OFFERS);
        Ok(offers)
    }

    /// Takes in what the daemon says; gives the trouble that there is. Where there is
    /// any, all are asked for again.
    fn take_in(&mut self, asked: &[AppOffer], harvested: Harvested) -> Option<String> {
        if harvested.trouble.is_some() {
            return harvested.trouble;
        }
        self.settled.extend(harvested.settled);
        let is_lost = |offer: &&AppOffer| {
            let name = (offer.height, offer.format, offer.hash.clone());
            let is_settled = self.settled.contains(&name);
            !is_settled && offer.app_hash.is_none() && self.with.learnt.is_past(offer.height)
        };
        let lost = asked.iter().find(is_lost)?;
        let height = lost.height;
        Some(match &self.with.rpc {
            None => format!(
                "the application hash of height {height} went by before this adapter ran: \
                 --chain-rpc tells it"
            ),
            Some(rpc) => format!(
                "{} does not tell the application hash of height {height}",
                rpc.url()
            ),
        })
    }

    /// The application hash after a height, confirmed by the chain: as it went by,
    /// or as the RPC tells.
    async fn app_hash(&self, height: u64) -> Option<String> {
        if let Some(hash) = self.with.learnt.app_hash(height) {
            return Some(hex::encode(&hash));
        }
        let rpc = self.with.rpc.as_ref()?;
        rpc.app_hash_after(height).await.ok().map(hex::encode)
    }

    /// The log hears only of a change.
    fn tell(&mut self, trouble: Option<String>) {
        if trouble == self.told {
            return;
        }
        match &trouble {
            Some(trouble) => tracing::warn!(trouble, "new snapshots of the application wait"),
            None => tracing::info!("new snapshots of the application are taken again"),
        }
        self.told = trouble;
    }
}

/// As many as fit into one command, the newest; at least one. The others come when
/// these are settled.
fn first_of(offers: &[Offer]) -> &[Offer] {
    let mut room = MAX_COMMAND_BYTES;
    let fits = |offer: &&Offer| {
        let bytes = 2 * (offer.hash.len() + offer.metadata.len()) + 1024;
        let fits = bytes <= room;
        room = room.saturating_sub(bytes);
        fits
    };
    let count = offers.iter().take_while(fits).count().max(1);
    &offers[..count.min(offers.len())]
}

#[cfg(test)]
mod tests;
