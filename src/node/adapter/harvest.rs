//! After a commit, away from it: the application is asked for its snapshots, and
//! the daemon told of new ones. The daemon takes the chunks itself, on a connection
//! of its own to the application, one at a time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::abci::{Address, AppSource, Learnt};
use crate::comet::rpc::Rpc;
use crate::node::command::{AppOffer, Command, Failure, HarvestCommand, Harvested, Outcome};
use crate::node::failure::blocking;
use crate::node::remote;
use crate::snapshot::{Offer, Source};

/// The application is asked at most so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After trouble, the next attempt waits longer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(30);
/// Offers of an application that are looked at. Those of today have ten at most.
const MAX_OFFERS: usize = 64;

/// The hook behind Commit.
pub(super) struct Harvest {
    home: PathBuf,
    app: Address,
    learnt: Learnt,
    rpc: Option<Rpc>,
    /// Offers about which the daemon has decided; at most [`MAX_OFFERS`].
    decided: BTreeSet<(u64, u32, Vec<u8>)>,
    /// The trouble that was last logged.
    told: Option<String>,
}

impl Harvest {
    pub(super) fn new(home: &Path, app: Address, learnt: Learnt, rpc: Option<Rpc>) -> Self {
        Self {
            home: home.to_owned(),
            app,
            learnt,
            rpc,
            decided: BTreeSet::new(),
            told: None,
        }
    }

    /// Looks after each commit, until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut commits = self.learnt.commits();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = commits.changed() => if changed.is_err() {
                    return;
                },
            }
            let mut pause = LOOK_EVERY;
            match self.look().await {
                Ok(()) => self.tell(None),
                Err(failure) => {
                    pause = TROUBLE_PAUSE;
                    self.tell(Some(failure.message));
                }
            }
            if cancel
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<(), Failure> {
        let app = self.app.clone();
        let listed = blocking(move || Ok(AppSource::new(app).list()?));
        let mut offers = listed.await?;
        offers.truncate(MAX_OFFERS);
        let names: BTreeSet<_> = offers.iter().map(name).collect();
        self.decided.retain(|decided| names.contains(decided));
        let new = |offer: &Offer| !self.decided.contains(&name(offer));
        if !offers.iter().any(new) {
            return Ok(());
        }
        let Some(chain_id) = self.learnt.chain().id else {
            return Err(Failure::new(
                crate::node::command::FailureCode::Usage,
                "the application has snapshots, and the chain's id is not known: start the \
                 adapter with --chain-id",
            ));
        };
        let mut told = Vec::new();
        for offer in &offers {
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
            app: self.app.to_string(),
            chain_id,
            offers: told,
        });
        let harvested = self.ask(&command).await?;
        for (offer, key) in offers.iter().map(|offer| (offer, name(offer))) {
            let is_waiting = |waiting: &(u64, u32)| *waiting == (offer.height, offer.format);
            if !harvested.waiting.iter().any(is_waiting) {
                self.decided.insert(key);
            }
        }
        match harvested.trouble {
            None => Ok(()),
            Some(trouble) => Err(Failure::new(
                crate::node::command::FailureCode::Failed,
                trouble,
            )),
        }
    }

    /// The application hash after a height, confirmed by the chain: as it went by,
    /// or as the RPC tells.
    async fn app_hash(&self, height: u64) -> Option<String> {
        if let Some(hash) = self.learnt.app_hash(height) {
            return Some(hex::encode(&hash));
        }
        let rpc = self.rpc.as_ref()?;
        rpc.app_hash_after(height).await.ok().map(hex::encode)
    }

    async fn ask(&self, command: &Command) -> Result<Harvested, Failure> {
        let (progress, mut said) = mpsc::channel(1);
        let drain = tokio::spawn(async move { while said.recv().await.is_some() {} });
        let asked = remote::ask(&self.home, command, progress, CancellationToken::new()).await;
        drain.abort();
        let code = crate::node::command::FailureCode::Failed;
        match asked {
            Some(Ok(Outcome::Harvested(harvested))) => Ok(harvested),
            Some(Err(failure)) => Err(failure),
            Some(Ok(_)) => Err(Failure::new(code, "the daemon answered another question")),
            None => Err(Failure::new(
                code,
                format!(
                    "no daemon runs on {}: snapshots are not taken",
                    self.home.display()
                ),
            )),
        }
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

fn name(offer: &Offer) -> (u64, u32, Vec<u8>) {
    (offer.height, offer.format, offer.hash.to_vec())
}
