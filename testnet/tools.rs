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
    /// Python with h5py; only networks of Xian need it.
    pub python: PathBuf,
    /// The source of Xian's own storage code, likewise.
    pub xian_source: PathBuf,
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
        let beside = tools.parent().unwrap_or(&tools);
        let named = |variable, usual| std::env::var_os(variable).map_or(usual, PathBuf::from);
        let found = Self {
            python: named("SNAPSWARM_TEST_PYTHON", beside.join("python/bin/python")),
            xian_source: named("SNAPSWARM_TEST_XIAN", xian_source(beside)),
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
        let of_xian = [&self.python, &self.xian_source];
        if let Some(missing) = of_xian.iter().find(|path| !path.exists()) {
            ensure!(
                app != App::Xian,
                "{} is missing: testnet/demo.sh testnet/networks/xian.toml and testnet/test.sh \
                 install it",
                missing.display()
            );
        }
        Ok(())
    }
}

/// Where `testnet/tools.sh` puts the source of Xian's own storage code, of whatever version.
fn xian_source(tools: &Path) -> PathBuf {
    let entries = std::fs::read_dir(tools).into_iter().flatten().flatten();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("xian_contracting")
    };
    let found = entries.map(|entry| entry.path()).find(is_it);
    found
        .unwrap_or_else(|| tools.join("xian_contracting"))
        .join("src")
}

/// The target folder that this program was built in.
pub fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let folder = program.ancestors().nth(2);
    Ok(folder
        .with_context(|| format!("{} lies in no target folder", program.display()))?
        .to_owned())
}
