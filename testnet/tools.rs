//! The programs that a run starts: where they are looked for.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::network::App;

/// The programs of a run.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// CometBFT's command: makes homes.
    pub cometbft: PathBuf,
    /// CometBFT with its e2e application in process.
    pub e2e_node: PathBuf,
    /// A node of a chain of the Cosmos SDK; only its networks need it.
    pub wasmd: PathBuf,
    /// What this is all about.
    pub snapswarm: PathBuf,
}

impl Tools {
    /// `snapswarm` lies beside this program, the others where
    /// `testnet/tools.sh` puts them: in `tools/bin` of the target folder.
    pub fn find(
        target: &Path,
        tools: Option<&Path>,
        snapswarm: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let tools = tools.map_or_else(|| target.join("tools/bin"), Path::to_owned);
        let snapswarm = match snapswarm {
            Some(path) => path.to_owned(),
            None => std::env::current_exe()?.with_file_name("snapswarm"),
        };
        let found = Self {
            cometbft: std::path::absolute(tools.join("cometbft"))?,
            e2e_node: std::path::absolute(tools.join("node"))?,
            wasmd: std::path::absolute(tools.join("wasmd"))?,
            snapswarm: std::path::absolute(snapswarm)?,
        };
        for path in [&found.cometbft, &found.e2e_node] {
            ensure!(
                path.is_file(),
                "{} is missing: testnet/demo.sh and testnet/test.sh install it",
                path.display()
            );
        }
        ensure!(
            found.snapswarm.is_file(),
            "{} is missing: cargo build --release makes it",
            found.snapswarm.display()
        );
        Ok(found)
    }

    /// An error unless what a network with this application needs beside is there.
    pub fn check(&self, app: App) -> anyhow::Result<()> {
        ensure!(
            app != App::Sdk || self.wasmd.is_file(),
            "{} is missing: testnet/demo.sh testnet/networks/sdk.toml and testnet/test.sh \
             install it",
            self.wasmd.display()
        );
        Ok(())
    }
}

/// The target folder that this program was built in.
pub fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let folder = program.ancestors().nth(2);
    Ok(folder
        .with_context(|| format!("{} lies in no target folder", program.display()))?
        .to_owned())
}
