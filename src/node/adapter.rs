//! The adapter's process: between CometBFT and its application it moves frames
//! (see [`crate::abci`]); what it needs to know of snapshots it reads from the home
//! and asks the daemon.
//!
//! Before a Xian application it may start that itself, when a state was restored into its
//! storage ([`StandInOptions`]).
//!
//! Nothing of libp2p's network and nothing of libhdf5 runs in it: archives are opened as a
//! verb that only looks opens them, and read by position; the state of a Xian node is
//! copied here and read by the daemon, and what is restored is written by worker
//! processes. The daemon may be killed, upgraded or missing; the chain goes on.

mod application;
mod copy;
mod daemon;
mod harvest;
mod own;
mod prefer;
mod stand_in;

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::stand_in::StandInOptions;

use self::application::{Keeper, application};
use self::copy::{CopySettings, Copying};
use self::harvest::Harvest;
use self::own::OwnSnapshots;
use self::stand_in::XianStandIn;
use super::command::{Failure, FailureCode};
use super::failure::blocking;
use super::join::LOGS;
use super::services::store_settings;
use crate::abci::{self, AbciError, AdapterSettings, Address, Learnt, Times};
use crate::comet::rpc::Rpc;
use crate::config::{Config, OfferPolicy};

/// Arguments of `adapter`.
#[derive(Clone, Debug)]
pub struct AdapterOptions {
    /// Where the application listens.
    pub app: String,
    /// Where CometBFT finds its application.
    pub listen: String,
    /// The chain; without it, it is learnt from InitChain, or, to serve, from the home
    /// when that has snapshots of one chain only.
    pub chain_id: Option<String>,
    /// What becomes of snapshots that peers of CometBFT offer, instead of the
    /// configured policy.
    pub offers: Option<OfferPolicy>,
    /// RPC of a node of the chain: it tells the application's version at a height where
    /// the home does not know it, and application hashes from before this process was
    /// started.
    pub chain_rpc: Option<String>,
    /// The storage of the Xian node that is the application, instead of the configured
    /// one.
    pub xian: Option<PathBuf>,
    /// Its chain's `state_patches.json`, likewise.
    pub state_patches: Option<PathBuf>,
    /// Starts the Xian application, where that is not done by others.
    pub app_cmd: Option<String>,
    /// CIDs of states that the person trusts.
    pub named: BTreeSet<String>,
}

/// The first line of `adapter`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AdapterStarted {
    /// Where it listens: CometBFT's `proxy_app`.
    pub listen: String,
    /// The application behind it.
    pub app: String,
}

/// A running adapter.
pub struct Adapter {
    adapter: abci::Adapter,
    harvest: Harvest,
    copying: Option<Copying>,
    keeper: Option<Keeper>,
    started: AdapterStarted,
}

impl Adapter {
    /// Opens the port.
    pub async fn start(
        home: &Path,
        config: &Config,
        options: AdapterOptions,
    ) -> Result<Self, Failure> {
        let app: Address = options.app.parse()?;
        let listen: Address = options.listen.parse()?;
        if app == listen {
            let failure = format!("--app and --listen are both {app}");
            return Err(Failure::new(FailureCode::Usage, failure).hint(
                "--app is where the application listens, --listen where the node's proxy_app leads",
            ));
        }
        let rpc = match &options.chain_rpc {
            Some(url) => Some(Rpc::new(url)?),
            None => None,
        };
        let copies = copy_settings(home, config, &options)?;
        let stand_in = stand_in_options(copies.as_ref(), &options)?;
        let copies = match copies {
            Some(copies) => Some((copies.lock().await?, copies)),
            None => None,
        };
        let policy = options.offers.unwrap_or(config.adapter.offers);
        let snapshots = OwnSnapshots::new(home, store_settings(config), policy, rpc.clone());
        let settings = AdapterSettings {
            app: app.clone(),
            listen,
            chain_id: options.chain_id,
            times: Times {
                hold: config.adapter.hold(),
                ..Times::default()
            },
        };
        let mut adapter = abci::Adapter::bind(settings, Arc::new(snapshots)).await?;
        let mut keeper = None;
        if let Some(stand_in) = stand_in {
            let (stand_in, kept) = xian_stand_in(home, config, stand_in, app.clone()).await?;
            adapter = adapter.with_stand_in(Arc::new(stand_in));
            keeper = Some(kept);
        }
        let copying = copies.map(|(lock, copies)| Copying::new(copies, lock, adapter.learnt()));
        if let Some(copying) = &copying {
            adapter.hold_commits(copying.hold());
        }
        Ok(Self {
            copying,
            started: AdapterStarted {
                listen: adapter.address().to_string(),
                app: app.to_string(),
            },
            harvest: Harvest::new(home, app, adapter.learnt(), rpc),
            keeper,
            adapter,
        })
    }

    /// What it stands between.
    pub fn started(&self) -> &AdapterStarted {
        &self.started
    }

    /// Runs until cancelled; the application that it started ends with it. To be called
    /// from a thread that lives as long: the application's end would follow the thread's.
    pub async fn run(self, cancel: CancellationToken) {
        let harvest = tokio::spawn(self.harvest.run(cancel.clone()));
        let copying = (self.copying).map(|copying| tokio::spawn(copying.run(cancel.clone())));
        let adapter = self.adapter.run(cancel.clone());
        match self.keeper {
            Some(keeper) => drop(tokio::join!(adapter, keeper.run(cancel))),
            None => adapter.await,
        }
        harvest.abort();
        if let Some(copying) = copying {
            copying.abort();
        }
    }
}

/// What of a Xian node is copied; nothing where no storage is named.
fn copy_settings(
    home: &Path,
    config: &Config,
    options: &AdapterOptions,
) -> Result<Option<CopySettings>, Failure> {
    let xian = &config.xian;
    let here = |path: &PathBuf| home.join(path);
    let storage = options.xian.clone();
    let Some(storage) = storage.or_else(|| xian.storage.as_ref().map(here)) else {
        if options.state_patches.is_some() {
            let failure = "--state-patches is of no use without --xian";
            return Err(Failure::new(FailureCode::Usage, failure));
        }
        return Ok(None);
    };
    // One that is missing may come: the application makes it when the chain begins.
    if storage.exists() && !storage.is_dir() {
        let message = format!("{} is no folder", storage.display());
        let hint = "name the storage of the application with --xian, as ~/.cometbft/xian";
        return Err(Failure::new(FailureCode::Usage, message).hint(hint));
    }
    // Where a state may be restored into it, who does that tells more.
    if options.app_cmd.is_none() && !storage.exists() {
        tracing::warn!(
            storage = %storage.display(),
            "the storage is not there yet: the application makes it when the chain begins"
        );
    }
    let named = xian.state_patches.as_ref().map(here);
    let state_patches = options.state_patches.clone().or(named);
    // The chain takes one that is missing for an empty one.
    if let Some(path) = state_patches.as_ref().filter(|path| !path.is_file()) {
        tracing::warn!(
            file = %path.display(),
            "the chain's state_patches.json is missing: snapshots say that there are no patches, \
             and have another CID than those of nodes that have some"
        );
    }
    let settings = CopySettings {
        home: home.to_owned(),
        storage,
        state_patches,
        copy: xian.copy(home),
        // The settings were checked when they were read.
        interval: NonZeroU64::new(xian.snapshot_interval).unwrap_or(NonZeroU64::MAX),
        hold: xian.commit_hold(),
    };
    settings.check()?;
    Ok(Some(settings))
}

/// What is restored into the application's storage; nothing where the application is
/// started by others.
fn stand_in_options(
    copies: Option<&CopySettings>,
    options: &AdapterOptions,
) -> Result<Option<StandInOptions>, Failure> {
    let Some(app_cmd) = options.app_cmd.clone() else {
        return Ok(None);
    };
    if app_cmd.trim().is_empty() {
        return Err(Failure::new(FailureCode::Usage, "--app-cmd is empty")
            .hint("give the command line that starts the application"));
    }
    let copies = copies.ok_or_else(|| {
        Failure::new(
            FailureCode::Usage,
            "--app-cmd starts a Xian application, and needs its storage",
        )
        .hint("name it with --xian STORAGE, or as xian.storage in config.toml")
    })?;
    Ok(Some(StandInOptions {
        storage: copies.storage.clone(),
        app_cmd,
        named: options.named.clone(),
        state_patches: copies.state_patches.clone(),
    }))
}

/// The chain, under whose name snapshots are taken and made.
fn chain_id(learnt: &Learnt) -> Result<String, Failure> {
    let chain = learnt.chain();
    let usage = |message: String| Failure::new(FailureCode::Usage, message);
    if let Some(named) = chain.contradicted_by {
        let said = chain.id.unwrap_or_default();
        return Err(usage(format!(
            "the chain is {named}, and the adapter was started with --chain-id {said}"
        )));
    }
    chain.id.ok_or_else(|| {
        usage(
            "the application has snapshots, and the chain's id is not known: start the \
             adapter with --chain-id"
                .to_owned(),
        )
    })
}

/// Where what the application says goes, in the home's folder of logs.
const APP_LOG: &str = "xian.log";

async fn xian_stand_in(
    home: &Path,
    config: &Config,
    options: StandInOptions,
    app: Address,
) -> Result<(XianStandIn, Keeper), Failure> {
    let logs = home.join(LOGS);
    std::fs::create_dir_all(&logs).map_err(|error| Failure::io(logs.display(), &error))?;
    let (application, keeper) = application(options.app_cmd.clone(), logs.join(APP_LOG), app);
    let home = stand_in::Home {
        folder: home.to_owned(),
        settings: store_settings(config),
        trust: config.trust.clone(),
    };
    let stand_in = blocking(move || XianStandIn::open(options, home, application)).await?;
    Ok((stand_in, keeper))
}

impl From<AbciError> for Failure {
    fn from(error: AbciError) -> Self {
        super::failure::of_abci(&error)
    }
}
