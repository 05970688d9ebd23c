//! A network as its TOML file describes it. Another network is another file;
//! nothing of one stands in code.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

/// More would not find cores on the machines that this is made for, and the
/// last byte of a loopback address counts them.
const VALIDATORS_MAX: u8 = 100;

/// A new node believes what two endpoints agree in.
const VALIDATORS_MIN: u8 = 2;

/// CometBFT's RPC takes bodies of 1,000,000 bytes unless told otherwise, and a
/// transaction travels there with a few characters around it.
const TRANSACTION_BYTES_MAX: u32 = 900_000;

/// Bytes in a chunk of CometBFT's e2e application; fixed in its source.
const E2E_CHUNK_BYTES: u64 = 1_000_000;

/// Bytes in a chunk of the Cosmos SDK; fixed in its source.
const SDK_CHUNK_BYTES: u64 = 10_000_000;

/// A network file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// What it is called: its folders, and its swarm, which others do not meet.
    pub name: String,
    /// Chain id.
    pub chain_id: String,
    /// How the application runs.
    #[serde(default)]
    pub app: App,
    /// Folders that `--tools` must name at the least: different versions.
    #[serde(default = "one")]
    pub min_versions: usize,
    /// The nodes that make blocks.
    pub validators: Validators,
    /// What is written before anything is fetched.
    pub load: Load,
    /// The daemons beside the validators.
    pub providers: Providers,
    /// The new node.
    #[serde(default)]
    pub joiner: Joiner,
    /// How long each phase may take.
    pub patience_s: Patience,
}

/// How the application of each node runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum App {
    /// In CometBFT's own process.
    #[default]
    InProcess,
    /// As a process of its own.
    Socket,
    /// As a process of its own, with `snapswarm adapter` before it.
    Adapter,
    /// A chain of the Cosmos SDK, wasmd: another application, in CometBFT's own process.
    Sdk,
    /// An application that keeps its state as Xian does (`xian_app.py`). `snapswarm
    /// adapter` starts it, and makes snapshots of its storage.
    Xian,
}

impl App {
    /// Bytes in a chunk of its snapshots.
    fn chunk_bytes(self) -> u64 {
        match self {
            Self::Sdk => SDK_CHUNK_BYTES,
            // Of Xian's a chunk holds more; so much is written for each all the same.
            Self::InProcess | Self::Socket | Self::Adapter | Self::Xian => E2E_CHUNK_BYTES,
        }
    }
}

/// The nodes that make blocks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validators {
    /// How many.
    pub count: u8,
    /// Pause after each block.
    pub block_interval_ms: u32,
    /// Blocks between two snapshots.
    pub snapshot_interval: u32,
    /// Blocks that a node keeps; 0: all. Where it is set, the new node chooses its
    /// snapshot itself, after the chain has dropped the blocks that the first needs.
    #[serde(default)]
    pub retain_blocks: u32,
}

/// What is written before anything is fetched.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Chunks that the snapshot must have.
    pub chunks: u32,
    /// Size of one transaction's value.
    pub transaction_bytes: u32,
    /// The values are drawn from it: the same seed, the same state.
    pub seed: u64,
}

/// The daemons beside the validators.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Providers {
    /// The least part of the fetched bytes that each must have delivered.
    pub min_share_percent: u8,
    /// Laid over the `config.toml` of each provider's home.
    #[serde(default)]
    pub settings: toml::Table,
    /// Providers die while the new node downloads.
    pub churn: Option<Churn>,
    /// Laid over the `config.toml` of the last provider, beside `settings`.
    #[serde(default)]
    pub last_settings: toml::Table,
    /// Whether there is one more that answers with wrong bytes.
    #[serde(default)]
    pub liar: bool,
    /// So many of them, the last ones, read the folder of their node's snapshots
    /// instead of asking the node for them.
    #[serde(default)]
    pub from_folders: u8,
}

/// Providers are killed and started again, one after the other.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Pause between two of them.
    pub interval_ms: u64,
    /// How many must have died before the download is over.
    pub min_kills: u32,
}

/// The new node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joiner {
    /// What `join` says when it is to be killed: at each of these once, in this order.
    #[serde(default)]
    pub kill_at: Vec<String>,
    /// The longest that its download may take.
    pub max_fetch_s: Option<f64>,
}

/// Seconds after which a phase counts as failed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patience {
    /// Until processes answer and the chain makes blocks.
    pub start: u64,
    /// Until all providers hold the same large snapshot.
    pub snapshot: u64,
    /// Until the new node's snapshot is complete.
    pub fetch: u64,
    /// Until the new node's application has taken it.
    pub restore: u64,
    /// Until the new node is at the tip.
    pub catch_up: u64,
    /// Until a process that was told to stop has stopped.
    pub stop: u64,
}

fn one() -> usize {
    1
}

/// The file of a network that is named, or is one.
pub fn file(named: &str) -> PathBuf {
    let path = PathBuf::from(named);
    if path.is_file() {
        return path;
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/networks");
    shipped.join(format!("{named}.toml"))
}

impl Network {
    /// Reads and checks a network file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the network file {} cannot be read", path.display()))?;
        let network: Self = toml::from_str(&text)
            .with_context(|| format!("the network file {} is not right", path.display()))?;
        network
            .check()
            .with_context(|| format!("the network file {} is not right", path.display()))?;
        Ok(network)
    }

    fn check(&self) -> anyhow::Result<()> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !self.name.is_empty() && self.name.chars().all(plain),
            "name = {:?}: use a-z, 0-9 and '-'",
            self.name
        );
        // CometBFT's own limit.
        ensure!(
            !self.chain_id.is_empty() && self.chain_id.len() <= 50,
            "chain_id = {:?}: use 1 to 50 characters",
            self.chain_id
        );
        ensure!(
            (VALIDATORS_MIN..=VALIDATORS_MAX).contains(&self.validators.count),
            "validators.count = {}: use {VALIDATORS_MIN} to {VALIDATORS_MAX}",
            self.validators.count
        );
        ensure!(
            self.joiner.kill_at.is_empty() || self.app != App::Adapter,
            "joiner.kill_at: `join` cannot empty an application behind an adapter"
        );
        ensure!(
            self.providers.from_folders == 0 || self.app == App::Sdk,
            "providers.from_folders = {}: only a chain of the SDK keeps snapshots as files",
            self.providers.from_folders
        );
        ensure!(
            self.providers.from_folders <= self.validators.count,
            "providers.from_folders = {}: there are {} providers",
            self.providers.from_folders,
            self.validators.count
        );
        ensure!(
            self.validators.retain_blocks == 0 || self.app != App::Sdk,
            "validators.retain_blocks: a chain of the SDK keeps what its evidence needs"
        );
        ensure!(
            self.validators.snapshot_interval > 0,
            "validators.snapshot_interval = 0: without snapshots there is nothing to hand out"
        );
        ensure!(
            (1..=TRANSACTION_BYTES_MAX).contains(&self.load.transaction_bytes),
            "load.transaction_bytes = {}: use 1 to {TRANSACTION_BYTES_MAX}",
            self.load.transaction_bytes
        );
        ensure!(
            self.providers
                .churn
                .as_ref()
                .is_none_or(|churn| churn.interval_ms > 0),
            "providers.churn.interval_ms = 0: nobody could come up again"
        );
        ensure!(
            u32::from(self.providers.min_share_percent) * u32::from(self.validators.count) <= 100,
            "providers.min_share_percent = {}: {} providers cannot give so much each",
            self.providers.min_share_percent,
            self.validators.count
        );
        Ok(())
    }
}

impl Validators {
    /// Pause after each block.
    pub fn block_interval(&self) -> Duration {
        Duration::from_millis(self.block_interval_ms.into())
    }
}

impl Load {
    /// Transactions that fill so many chunks: their values alone are as large
    /// as all chunks but the last, and keys and punctuation begin that one.
    pub fn transactions(&self, app: App) -> u64 {
        (u64::from(self.chunks) * app.chunk_bytes()).div_ceil(self.transaction_bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/networks");
        let files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!files.is_empty());
        files
    }

    fn smoke() -> String {
        include_str!("networks/smoke.toml").to_owned()
    }

    #[test]
    fn every_shipped_network_file_is_right() {
        for file in shipped() {
            let network = Network::read(&file).unwrap();
            assert_eq!(
                file.file_stem().unwrap().to_str().unwrap(),
                network.name,
                "a file is called as its network is"
            );
        }
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let text = smoke();
        std::fs::write(&file, text.replace("block_interval_ms", "block_interval")).unwrap();
        let error = format!("{:#}", Network::read(&file).unwrap_err());
        assert!(error.contains("block_interval"), "{error}");
    }

    #[test]
    fn a_misspelt_fault_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let churn = include_str!("networks/churn.toml");
        let restart = include_str!("networks/restart.toml");
        for (text, right, wrong) in [
            (churn, "interval_ms = 3000", "interval_s = 3"),
            (churn, "[providers.churn]", "[providers.chrun]"),
            (restart, "kill_at", "kill_when"),
            (restart, "name =", "app = \"grpc\"\nname ="),
        ] {
            assert!(text.contains(right), "{right}");
            std::fs::write(&file, text.replacen(right, wrong, 1)).unwrap();
            let error = format!("{:#}", Network::read(&file).unwrap_err());
            assert!(error.contains("unknown"), "{error}");
        }
    }

    #[test]
    fn more_than_all_cannot_be_asked_of_the_providers() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.toml");
        let text = smoke();
        let asked = |share: u8| {
            let share = format!("min_share_percent = {share}");
            std::fs::write(&file, text.replace("min_share_percent = 10", &share)).unwrap();
            Network::read(&file)
        };
        assert!(asked(25).is_ok());
        assert!(asked(26).is_err());
    }

    #[test]
    fn a_shipped_network_is_found_by_its_name() {
        assert!(file("smoke").is_file());
    }
}
