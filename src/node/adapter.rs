//! The adapter's process: between CometBFT and its application it moves frames
//! (see [`crate::abci`]); what it needs to know of snapshots it reads from the home
//! and asks the daemon.
//!
//! It has no part of libp2p and none of libhdf5: archives are opened as a verb that
//! only looks opens them, and read by position. The daemon may be killed, upgraded
//! or missing; the chain goes on.

mod daemon;
mod harvest;
mod own;
mod prefer;

use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::harvest::Harvest;
use self::own::OwnSnapshots;
use super::command::Failure;
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
        let adapter = abci::Adapter::bind(settings, Arc::new(snapshots)).await?;
        Ok(Self {
            started: AdapterStarted {
                listen: adapter.address().to_string(),
                app: app.to_string(),
            },
            harvest: Harvest::new(home, app, adapter.learnt(), rpc),
            adapter,
        })
    }

    /// What it stands between.
    pub fn started(&self) -> &AdapterStarted {
        &self.started
    }

    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let harvest = tokio::spawn(self.harvest.run(cancel.clone()));
        self.adapter.run(cancel).await;
        harvest.abort();
    }
}

impl From<AbciError> for Failure {
    fn from(error: AbciError) -> Self {
        super::failure::of_abci(&error)
    }
}
