//! `snapswarm feed`

use clap::Args;

use super::{Cid, text};
use crate::node::command::{Command, FeedCommand, Outcome};

/// Give a complete snapshot to a joining CometBFT node
///
/// Only a snapshot whose application hash the chain has confirmed is given:
/// `fetch --node-rpc` and `start --harvest` confirm it, `--chain-rpc` does it
/// here. The node must be in state sync, with no other peer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    snapswarm feed bafkrei... --node-p2p 6d7f...@127.0.0.1:26656 --node-rpc http://127.0.0.1:26657")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
    /// The joining node's p2p listener
    #[arg(long, value_name = "ID@HOST:PORT", value_parser = super::arguments::node_address)]
    node_p2p: String,
    /// Its RPC
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url)]
    node_rpc: String,
    /// RPC of a node of the chain that you trust, to confirm a snapshot that is
    /// not proven yet
    #[arg(long, value_name = "URL", value_parser = super::arguments::rpc_url)]
    chain_rpc: Option<String>,
    /// How long the restore may take without any progress; once the node has every
    /// chunk, ten times as long, and at least ten minutes
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    timeout: u64,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Feed(FeedCommand {
            manifest: self.snapshot.cid.clone(),
            node_p2p: self.node_p2p.clone(),
            node_rpc: self.node_rpc.clone(),
            chain_rpc: self.chain_rpc.clone(),
            proof: None,
            timeout_s: self.timeout,
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Fed(fed) = outcome else {
        return None;
    };
    let result = if fed.restored {
        "The node restored the state and confirmed its application hash"
    } else {
        "The node did not restore the state"
    };
    Some(format!(
        "{result} in {}: height {}, application hash {}\n",
        text::seconds(fed.seconds),
        fed.height,
        text::safe(&fed.app_hash),
    ))
}
