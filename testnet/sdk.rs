//! A chain of the Cosmos SDK: unmodified wasmd, CometBFT and application in one process.
//!
//! Its homes are made by its own commands, as its operators make them. What it has to
//! hand out is contract code, which stands in the genesis: a chain that was exported
//! and begun anew has it there, too. The code itself lies in files beside the
//! application's database, and a snapshot carries it in a part of its own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::process::Command;
use toml::Table;

use crate::comet::{LoopbackBlock, Node, lay_over, make_folder, run, write};
use crate::load;
use crate::network::Network;
use crate::processes::Processes;
use crate::tools::Tools;

/// Snapshots that a node keeps. A folder's files are read once they have rested for ten
/// seconds, and must be there still.
const KEPT_SNAPSHOTS: i64 = 5;

/// What the sequences of the module of contract code begin with.
const SEQUENCE: u8 = 4;

/// The part of the snapshots' folder in a node's home.
const SNAPSHOTS: &str = "data/snapshots";

impl Node {
    /// Where a node of the SDK keeps its snapshots.
    pub fn snapshots(&self) -> PathBuf {
        self.home.join(SNAPSHOTS)
    }

    /// Writes the application's settings as its operator has them; what else its own
    /// commands wrote stays.
    pub(super) fn configure_sdk_app(&self, network: &Network) -> anyhow::Result<()> {
        let path = self.home.join("config/app.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut app =
            toml::from_str(&text).with_context(|| format!("{} is no TOML", path.display()))?;
        let mut settings = toml::toml! {
            minimum-gas-prices = "0stake"
            [api]
            enable = false
        };
        let interval = i64::from(network.validators.snapshot_interval);
        let mut snapshots = Table::new();
        snapshots.insert("snapshot-interval".into(), interval.into());
        snapshots.insert("snapshot-keep-recent".into(), KEPT_SNAPSHOTS.into());
        settings.insert("state-sync".into(), snapshots.into());
        let mut grpc = Table::new();
        grpc.insert("address".into(), self.app.to_string().into());
        settings.insert("grpc".into(), grpc.into());
        lay_over(&mut app, settings);
        write(&path, &toml::to_string(&app)?)
    }
}

/// Makes the homes of all validators and of one more node, which comes last, under
/// `folder`.
pub async fn make_homes(
    network: &Network,
    folder: &Path,
    block: LoopbackBlock,
    tools: &Tools,
    processes: &Processes,
) -> anyhow::Result<Vec<Node>> {
    let count = network.validators.count;
    let homes: Vec<PathBuf> = (0..=count)
        .map(|index| folder.join(format!("node{index}")))
        .collect();
    let (last, validators) = homes.split_last().context("there is a new node")?;
    make_folder(last)?;
    let mut command = wasmd(last, tools);
    command
        .args(["testnet", "init-files", "--keyring-backend", "test"])
        .args(["--v", &count.to_string(), "--chain-id", &network.chain_id])
        .args(["--node-daemon-home", ".", "--minimum-gas-prices", "0stake"])
        .arg("--output-dir")
        .arg(folder);
    run("wasmd", command, processes).await?;
    let used = folder.join("gentxs");
    std::fs::remove_dir_all(&used)
        .with_context(|| format!("{} cannot be removed", used.display()))?;
    init(last, &network.chain_id, tools, processes).await?;
    let genesis = validators
        .first()
        .context("there are validators")?
        .join("config/genesis.json");
    let genesis = with_codes(&genesis, network)?;
    let mut nodes = Vec::new();
    for (index, home) in (0..=count).zip(&homes) {
        write(&home.join("config/genesis.json"), &genesis)?;
        let name = match index == count {
            true => "joiner".to_owned(),
            false => format!("validator-{}", index + 1),
        };
        let ip = block.address(index + 1);
        nodes.push(Node::in_home(name, home.clone(), ip, tools, processes).await?);
    }
    Ok(nodes)
}

/// Makes the home of a node that is no validator; its genesis is not the chain's yet.
pub async fn init(
    home: &Path,
    chain_id: &str,
    tools: &Tools,
    processes: &Processes,
) -> anyhow::Result<()> {
    make_folder(home)?;
    let mut command = wasmd(home, tools);
    command
        .args(["init", "new", "--chain-id", chain_id, "--home"])
        .arg(home);
    run("wasmd", command, processes).await.map(drop)
}

/// wasmd makes settings in the home of whoever starts it, whatever `--home` says: that
/// is a folder of the network.
fn wasmd(home: &Path, tools: &Tools) -> Command {
    let mut command = Command::new(&tools.wasmd);
    command.env("HOME", home);
    command
}

/// A genesis with the network's contract code in it.
fn with_codes(path: &Path, network: &Network) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let mut genesis: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let creator = genesis["app_state"]["bank"]["balances"][0]["address"].clone();
    let codes: Vec<Value> = (0..)
        .zip(load::codes(&network.load))
        .map(|(index, code)| {
            json!({
                "code_id": load::code_id(index).to_string(),
                "code_info": {
                    "code_hash": BASE64_STANDARD.encode(Sha256::digest(&code)),
                    "creator": creator,
                    "instantiate_config": { "permission": "Everybody", "addresses": [] },
                },
                "code_bytes": BASE64_STANDARD.encode(&code),
                "pinned": false,
            })
        })
        .collect();
    let next = load::code_id(codes.len() as u64);
    let wasm = &mut genesis["app_state"]["wasm"];
    wasm["codes"] = codes.into();
    wasm["sequences"] = json!([sequence("lastCodeId", next), sequence("lastContractId", 1)]);
    Ok(serde_json::to_string(&genesis)?)
}

/// The next number of a sequence.
fn sequence(name: &str, next: u64) -> Value {
    let mut key = vec![SEQUENCE];
    key.extend_from_slice(name.as_bytes());
    json!({ "id_key": BASE64_STANDARD.encode(key), "value": next.to_string() })
}
