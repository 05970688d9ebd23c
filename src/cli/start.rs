//! `snapswarm start`

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::{ArgGroup, Args};
use libp2p::Multiaddr;

use super::{Door, first_line, home, interrupt, text};
use crate::node::{
    Daemon,
    command::{Failure, FailureCode, StartOptions, Started},
};

/// Run the daemon: seeds all snapshots of the home
///
/// The first line on stdout, once all listeners are bound, is JSON (text on a
/// terminal without --json): peer_id, listen, api. Ctrl-C, SIGTERM or SIGHUP stop
/// it with exit code 0.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm start --listen /ip4/0.0.0.0/tcp/26670\n  \
    snapswarm start --harvest 6d7f...@127.0.0.1:26656 --node-rpc http://127.0.0.1:26657\n  \
    snapswarm start --sdk-snapshots ~/.appd/data/snapshots --node-rpc http://127.0.0.1:26657")]
#[command(group(ArgGroup::new("source").args(["harvest", "sdk_snapshots"]).multiple(true)))]
pub(super) struct Arguments {
    /// Address to listen on, instead of the configured ones; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = super::arguments::multiaddr)]
    listen: Vec<Multiaddr>,
    /// Peer to begin with, beside the configured ones; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = super::arguments::bootstrap)]
    bootstrap: Vec<Multiaddr>,
    /// Address under which others reach this node; may be repeated
    #[arg(long, value_name = "MULTIADDR", value_parser = super::arguments::multiaddr)]
    external_address: Vec<Multiaddr>,
    /// Take every new snapshot of this CometBFT node over its p2p port
    ///
    /// Of each chain the newest 5 that were taken so (store.max_snapshots in
    /// config.toml) and the pinned ones are kept. What you loaded or fetched
    /// yourself is neither counted nor removed.
    #[arg(long, value_name = "ID@HOST:PORT", value_parser = super::arguments::node_address, requires = "node_rpc")]
    harvest: Option<String>,
    /// Take every new snapshot from this folder of a running Cosmos SDK node
    ///
    /// It is the node's data/snapshots. Its files are read and never changed; a
    /// snapshot is taken when the node has finished it and the chain is two blocks
    /// further. Beside --harvest or alone; the same are kept as there.
    #[arg(long, value_name = "DIR", requires = "node_rpc")]
    sdk_snapshots: Option<PathBuf>,
    /// The RPC of that node, which tells the application hash
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url, requires = "source")]
    node_rpc: Option<String>,
}

impl Arguments {
    pub(super) async fn run(&self, door: &Door<'_>) -> Result<(), Failure> {
        let cancel = interrupt::listen(door)?;
        let config = home::open(door.home, false, door.screen)?;
        let options = StartOptions {
            listen: self.listen.clone(),
            bootstrap: self.bootstrap.clone(),
            external_addresses: self.external_address.clone(),
            harvest: self.harvest.clone(),
            sdk_snapshots: self.sdk_snapshots.clone(),
            node_rpc: self.node_rpc.clone(),
        };
        let daemon = match Daemon::start(door.home, config, options).await {
            // Asked to stop before everything was bound: that is no failure.
            Err(stopped) if cancel.is_cancelled() && stopped.code == FailureCode::Interrupted => {
                return Ok(());
            }
            started => started?,
        };
        let line = started_line(daemon.started(), door.json || !io::stdout().is_terminal());
        if let Err(error) = first_line(&line) {
            // A daemon works without anybody who reads its first line.
            tracing::warn!(%error, "the first line cannot be written to stdout");
        }
        daemon.run(cancel).await
    }
}

fn started_line(started: &Started, json: bool) -> String {
    if json {
        return text::safe_json(&serde_json::json!(started).to_string());
    }
    let mut facts = vec![("peer id", started.peer_id.clone())];
    facts.extend(
        started
            .listen
            .iter()
            .map(|address| ("listens on", address.clone())),
    );
    facts.push(("status page", started.api.clone()));
    format!("{}Ctrl-C stops.", text::facts(&facts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_one_line_of_json_for_scripts() {
        let started = Started {
            peer_id: "12D3".to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/1/p2p/12D3".to_owned()],
            api: "http://127.0.0.1:2".to_owned(),
        };
        let line = started_line(&started, true);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["api"], "http://127.0.0.1:2");
        assert!(!line.contains('\n'));
        assert!(started_line(&started, false).contains("listens on"));
    }
}
