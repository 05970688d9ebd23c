//! `snapswarm adapter`

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::{Door, first_line, home, interrupt, text};
use crate::config::OfferPolicy;
use crate::node::adapter::{Adapter, AdapterOptions};
use crate::node::command::Failure;

/// Stand between CometBFT and its application
///
/// A small process of its own that is not restarted for the daemon's sake: CometBFT
/// ends with the connections to its application. Peers of the node get snapshots
/// from this home, and the application is not asked; new snapshots of the
/// application are taken after each commit; a joining node is given verified bytes
/// only. With --xian, snapshots are made of the application's own state: it is copied
/// at every 1000th block (xian.snapshot_interval in config.toml), for which the answer
/// to Commit is held 250 ms at most (xian.commit_hold_ms). Set `proxy_app` in CometBFT's config.toml to --listen. The first line on
/// stdout, once it listens, is JSON (text on a terminal without --json).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm adapter --app tcp://127.0.0.1:26658 --listen tcp://127.0.0.1:26668 --chain-id my-chain\n  \
    snapswarm adapter --app tcp://127.0.0.1:26658 --listen tcp://127.0.0.1:26668 \\\n    \
      --xian ~/.cometbft/xian --app-cmd 'python -m xian.xian_abci' --cid bafkrei...")]
pub(super) struct Arguments {
    /// Where the application listens: tcp://HOST:PORT or unix://PATH
    #[arg(long, value_name = "ADDR", value_parser = super::arguments::app_address)]
    app: String,
    /// Where CometBFT shall find its application, written likewise
    #[arg(long, value_name = "ADDR", value_parser = super::arguments::app_address)]
    listen: String,
    /// The chain; new snapshots are taken after a restart only with it [default: learnt
    /// when the chain begins, or, to serve, from a home with snapshots of one chain only]
    #[arg(long, value_name = "ID", value_parser = super::arguments::chain_id)]
    chain_id: Option<String>,
    /// What becomes of snapshots that peers offer and that are not here, instead of
    /// adapter.offers in config.toml
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["swarm-only", "prefer-swarm", "any"]))]
    offers: Option<String>,
    /// RPC of a node of the chain: tells the application's version at a height where the
    /// home does not know it, and application hashes of blocks from before this process
    /// was started
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url)]
    chain_rpc: Option<String>,
    /// The storage of the Xian application behind it, as ~/.cometbft/xian: snapshots are
    /// made of it, and with --app-cmd a state of the swarm is restored into it while it is
    /// empty [default: xian.storage in config.toml]
    #[arg(long, value_name = "STORAGE")]
    xian: Option<PathBuf>,
    /// Starts the Xian application, which listens at --app then: when it is needed, or when
    /// a state was restored
    #[arg(long, value_name = "COMMAND")]
    app_cmd: Option<String>,
    /// A snapshot of a Xian state that you trust, beside those of trust.pinned_manifests;
    /// may be repeated
    #[arg(long, value_name = "CID", requires = "app_cmd", value_parser = super::arguments::cid)]
    cid: Vec<String>,
    /// The chain's state_patches.json: snapshots note a hash over it, and one that was made
    /// with other patches is not restored [default: xian.state_patches in config.toml]
    #[arg(long, value_name = "FILE", value_parser = super::arguments::file)]
    state_patches: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(&self, door: &Door<'_>) -> Result<(), Failure> {
        let cancel = interrupt::listen(door)?;
        let config = home::open(door.home, true, door.screen)?;
        let options = AdapterOptions {
            app: self.app.clone(),
            listen: self.listen.clone(),
            chain_id: self.chain_id.clone(),
            offers: self.offers.as_deref().map(policy),
            chain_rpc: self.chain_rpc.clone(),
            xian: absolute(self.xian.as_deref())?,
            state_patches: absolute(self.state_patches.as_deref())?,
            app_cmd: self.app_cmd.clone(),
            named: self.cid.iter().cloned().collect(),
        };
        let adapter = Adapter::start(door.home, &config, options).await?;
        let started = adapter.started();
        let line = if door.json || !io::stdout().is_terminal() {
            text::safe_json(&serde_json::json!(started).to_string())
        } else {
            let facts = [
                ("listens on", started.listen.clone()),
                ("application", started.app.clone()),
            ];
            format!(
                "{}Ctrl-C stops, and CometBFT ends with it.",
                text::facts(&facts)
            )
        };
        if let Err(error) = first_line(&line) {
            tracing::warn!(%error, "the first line cannot be written to stdout");
        }
        adapter.run(cancel).await;
        Ok(())
    }
}

fn absolute(path: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    path.map(home::absolute).transpose()
}

/// The policy of a word that was checked.
fn policy(word: &str) -> OfferPolicy {
    match word {
        "swarm-only" => OfferPolicy::SwarmOnly,
        "any" => OfferPolicy::Any,
        _ => OfferPolicy::PreferSwarm,
    }
}
