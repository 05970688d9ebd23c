//! A network that is kept running: what `testnet up` leaves in its folder for `join`
//! and `down`.
//!
//! ```text
//! network.toml   the network's file, as it was then
//! network.json   what a new node has to know, once the network is up
//! records/       one file for each process
//! logs/ nodes/ swarm/
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::comet::{LoopbackBlock, Node, write};
use crate::network::Network;
use crate::processes::Processes;
use crate::record::Record;
use crate::tools::Tools;

/// Marks a folder as ours, from the first moment on.
const NETWORK: &str = "network.toml";
const STATE: &str = "network.json";
const RECORDS: &str = "records";
const LOGS: &str = "logs";

/// What a new node has to know of a network.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// The programs that it was started with.
    pub tools: Tools,
    /// Where it listens.
    pub block: LoopbackBlock,
    /// The nodes that make blocks.
    pub validators: Vec<Node>,
    /// Where the daemons beside them are reached.
    pub providers: Vec<String>,
}

/// The folder of a kept network.
pub struct Folder(PathBuf);

impl Folder {
    /// The one that was named, or the usual one.
    pub fn new(named: Option<&Path>) -> anyhow::Result<Self> {
        let folder = match named {
            Some(folder) => std::path::absolute(folder)?,
            None => crate::tools::target_folder()?.join("testnet/up"),
        };
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Takes it for a network whose file is `network`; nothing may be in it.
    pub fn begin(&self, network: &Path) -> anyhow::Result<()> {
        let shown = self.0.display();
        ensure!(
            !self.is_ours(),
            "a network is in {shown} already: `testnet down` ends it, --folder names another place"
        );
        crate::comet::make_folder(&self.0)?;
        let mut entries = fs::read_dir(&self.0).with_context(|| format!("{shown}"))?;
        ensure!(
            entries.next().is_none(),
            "the folder {shown} holds something else; name an empty one with --folder"
        );
        fs::copy(network, self.0.join(NETWORK))
            .with_context(|| format!("{} cannot be copied to {shown}", network.display()))?;
        Ok(())
    }

    fn is_ours(&self) -> bool {
        self.0.join(NETWORK).exists()
    }

    /// An error unless a network is here.
    pub fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.is_ours(),
            "no network is in {}: `testnet up NETWORK` starts one, --folder names its place",
            self.0.display()
        );
        Ok(())
    }

    /// Its processes, which outlive us.
    pub fn processes(&self) -> anyhow::Result<Processes> {
        Processes::kept(self.0.join(LOGS), self.records())
    }

    /// Where they are written down.
    pub fn records(&self) -> PathBuf {
        self.0.join(RECORDS)
    }

    /// Those that still run.
    pub fn alive(&self) -> anyhow::Result<Vec<Record>> {
        let records = self.records();
        if !records.exists() {
            return Ok(Vec::new());
        }
        let mut alive = Record::all(&records)?;
        alive.retain(Record::is_alive);
        Ok(alive)
    }

    /// Writes down what a new node has to know.
    pub fn save(&self, kept: &Kept) -> anyhow::Result<()> {
        write(&self.0.join(STATE), &serde_json::to_string_pretty(kept)?)
    }

    /// Reads it.
    pub fn load(&self) -> anyhow::Result<(Network, Kept)> {
        self.check()?;
        let path = self.0.join(STATE);
        let text = fs::read(&path).with_context(|| {
            format!(
                "the network in {} is not up: `testnet down` clears it away",
                self.0.display()
            )
        })?;
        let kept = serde_json::from_slice(&text);
        let kept = kept.with_context(|| format!("{} is not right", path.display()))?;
        Ok((Network::read(&self.0.join(NETWORK))?, kept))
    }
}
