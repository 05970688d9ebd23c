//! The adapter's process: between CometBFT and its application it moves frames
//! (see [`crate::abci`]); what it needs to know of snapshots it reads from the home
//! and asks the daemon.
//!
//! Before a Xian application it may start that itself, when a state was restored into its
//! storage ([`StandInOptions`]).
//!
//! It has no part of libp2p and none of libhdf5: archives are opened as a verb that
//! only looks opens them, and read by position. The daemon may be killed, upgraded
//! or missing; the chain goes on.

mod application;
mod daemon;
mod harvest;
mod own;
mod prefer;
mod stand_in;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use self::stand_in::StandInOptions;

use self::application::{Keeper, application};
use self::harvest::Harvest;
use self::own::OwnSnapshots;
use self::stand_in::XianStandIn;
use super::command::Failure;
use super::failure::blocking;
use super::join::LOGS;
use super::services::store_settings;
use crate::abci::{self, AbciError, AdapterSettings, Address, Times};
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
    /// The Xian application behind it, where it is started here.
    pub stand_in: Option<StandInOptions>,
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
        let rpc = match &options.chain_rpc {
            Some(url) => Some(Rpc::new(url)?),
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
        if let Some(options) = options.stand_in {
            let (stand_in, kept) = xian_stand_in(home, config, options, app.clone()).await?;
            adapter = adapter.with_stand_in(Arc::new(stand_in));
            keeper = Some(kept);
        }
        Ok(Self {
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
        let adapter = self.adapter.run(cancel.clone());
        match self.keeper {
            Some(keeper) => drop(tokio::join!(adapter, keeper.run(cancel))),
            None => adapter.await,
        }
        harvest.abort();
    }
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
    let trust = config.trust.clone();
    let stand_in = blocking(move || XianStandIn::open(options, trust, application)).await?;
    Ok((stand_in, keeper))
}

impl From<AbciError> for Failure {
    fn from(error: AbciError) -> Self {
        super::failure::of_abci(&error)
    }
}
