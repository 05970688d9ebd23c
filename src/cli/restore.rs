//! `snapswarm restore`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::join::{NodeArguments, bring};
use super::{Door, home};
use crate::config;
use crate::node::command::{Command, Failure, LoadCommand, LoadKind, Outcome};
use crate::node::join::JoinOptions;

/// Bring an empty node to the tip from a snapshot that is at hand, without the swarm
///
/// As `join`, with a CAR file or with a snapshot of the home. CometBFT's light client
/// still asks the chain's RPC: where all nodes of a chain are down, start one that has
/// its blocks, alone, and name its RPC here with --trust-height and --trust-hash.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm restore snapshot.car --node-home ~/.cometbft \\\n    \
      --chain-rpc http://10.0.0.5:26657 --trust-height 120000 --trust-hash 6F0A...\n  \
    snapswarm restore bafkrei... --node-home ~/.cometbft --chain-rpc https://a.example,https://b.example")]
pub(super) struct Arguments {
    /// A CAR file that `dump` wrote, or the CID of a snapshot of the home
    #[arg(value_name = "FILE.car|CID")]
    snapshot: PathBuf,
    #[command(flatten)]
    node: NodeArguments,
}

impl Arguments {
    pub(super) async fn run(&self, door: &Door<'_>) -> Result<ExitCode, Failure> {
        let cancel = super::join::listen(door)?;
        let (manifest, from_file) = match self.snapshot.to_str() {
            Some(text) if !self.snapshot.exists() && config::check_cid(text).is_ok() => {
                (text.to_owned(), false)
            }
            _ => {
                let load = load(&self.snapshot)?;
                match door.carry_out_until(load, cancel.clone()).await? {
                    Outcome::Loaded(loaded) => (loaded.manifest, true),
                    _ => return Err(Failure::other_answer()),
                }
            }
        };
        let options = JoinOptions {
            manifest: Some(manifest),
            from_file,
            ..self.node.options()?
        };
        bring(door, options, cancel).await
    }
}

fn load(file: &Path) -> Result<Command, Failure> {
    Ok(Command::Load(LoadCommand {
        path: home::absolute(file)?,
        kind: LoadKind::Car,
        chain_id: None,
        height: None,
        app_hash: None,
        format: None,
        hash: None,
        metadata: None,
        state_patches: None,
    }))
}
