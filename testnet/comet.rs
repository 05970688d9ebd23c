//! CometBFT nodes: their homes and settings.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;
use toml::Table;

use crate::network::{App, Network};
use crate::processes::Processes;
use crate::rpc::Rpc;
use crate::sdk;
use crate::tools::Tools;

/// What the e2e application calls its version; a genesis that says otherwise
/// ends a state sync after its last chunk.
const APP_VERSION: &str = "1";

/// Bytes a second of a p2p connection. CometBFT's default of 5,120,000 is made
/// for the internet and would be all that a harvest or a restore can reach.
const P2P_RATE: i64 = 512_000_000;

/// How long `cometbft` may take to write a few files.
const FILES_PATIENCE: Duration = Duration::from_secs(60);

/// A node: its home, where it listens, its name among peers.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// What it is called in logs and tables.
    pub name: String,
    /// Where it listens for peers.
    pub p2p: SocketAddr,
    /// Its RPC.
    pub rpc: Rpc,
    /// Where its application listens: for CometBFT, if it is a process of its own, or
    /// for users, on a chain of the SDK.
    pub(super) app: SocketAddr,
    /// Where the adapter before it listens, if there is one.
    pub(super) adapter: SocketAddr,
    pub(super) home: PathBuf,
    id: String,
}

impl Node {
    /// `ID@HOST:PORT`.
    pub fn peer_address(&self) -> String {
        format!("{}@{}", self.id, self.p2p)
    }

    /// Its home.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Writes the node's settings as its operator has them: with all of `nodes` but
    /// itself as its peers.
    pub fn configure(&self, network: &Network, nodes: &[Node]) -> anyhow::Result<()> {
        let path = self.home.join("config/config.toml");
        let mut config: Table = toml::from_str(&self.config()?)
            .with_context(|| format!("{} is no TOML", path.display()))?;
        lay_over(&mut config, self.settings(network, nodes));
        write(&path, &toml::to_string(&config)?)?;
        self.configure_app(network)
    }

    fn settings(&self, network: &Network, peers: &[Node]) -> Table {
        let peers: Vec<String> = peers
            .iter()
            .filter(|peer| peer.id != self.id)
            .map(Node::peer_address)
            .collect();
        let interval = format!("{}ms", network.validators.block_interval().as_millis());
        let mut settings = toml::toml! {
            log_level = "statesync:debug,p2p:error,*:info"
            [rpc]
            pprof_laddr = ""
            [p2p]
            external_address = ""
            pex = false
            addr_book_strict = false
            allow_duplicate_ip = true
            [tx_index]
            indexer = "null"
        };
        settings.insert("moniker".into(), self.name.clone().into());
        settings.insert("proxy_app".into(), self.proxy_app(network.app).into());
        let mut set = |section: &str, key: &str, value: toml::Value| {
            let section = settings
                .entry(section)
                .or_insert_with(|| Table::new().into());
            if let Some(section) = section.as_table_mut() {
                section.insert(key.into(), value);
            }
        };
        set(
            "rpc",
            "laddr",
            format!("tcp://{}", self.rpc.address()).into(),
        );
        set("p2p", "laddr", format!("tcp://{}", self.p2p).into());
        set("p2p", "persistent_peers", peers.join(",").into());
        set("p2p", "send_rate", P2P_RATE.into());
        set("p2p", "recv_rate", P2P_RATE.into());
        set("consensus", "timeout_commit", interval.into());
        settings
    }

    /// Its settings as they are in its file now.
    pub fn config(&self) -> anyhow::Result<String> {
        let path = self.home.join("config/config.toml");
        std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    }

    /// A node in a home that is there, with free ports at `ip`.
    pub(super) async fn in_home(
        name: String,
        home: PathBuf,
        ip: IpAddr,
        tools: &Tools,
        processes: &Processes,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(&tools.cometbft);
        command.arg("show-node-id").arg("--home").arg(&home);
        let [p2p, rpc_address, app, adapter] = free_addresses(ip)?;
        Ok(Self {
            name,
            p2p,
            rpc: Rpc::new(rpc_address)?,
            app,
            adapter,
            home,
            id: run("cometbft", command, processes).await?.trim().to_owned(),
        })
    }

    /// Makes the home of one more node, on the chain of `other`.
    pub async fn make(
        network: &Network,
        (name, home): (&str, PathBuf),
        ip: IpAddr,
        other: &Self,
        tools: &Tools,
        processes: &Processes,
    ) -> anyhow::Result<Self> {
        if network.app == App::Sdk {
            sdk::init(&home, &network.chain_id, tools, processes).await?;
        } else {
            let mut command = Command::new(&tools.cometbft);
            command.arg("init").arg("--home").arg(&home);
            run("cometbft", command, processes).await?;
        }
        let genesis = "config/genesis.json";
        std::fs::copy(other.home.join(genesis), home.join(genesis))
            .with_context(|| format!("{} gets no genesis.json", home.display()))?;
        Self::in_home(name.to_owned(), home, ip, tools, processes).await
    }
}

/// Makes the homes of all validators and of one more node, which comes last,
/// under `folder`.
pub async fn make_homes(
    network: &Network,
    folder: &Path,
    block: LoopbackBlock,
    tools: &Tools,
    processes: &Processes,
) -> anyhow::Result<Vec<Node>> {
    let mut command = Command::new(&tools.cometbft);
    command
        .args(["testnet", "--n", "1", "--populate-persistent-peers=false"])
        .args(["--v", &network.validators.count.to_string()])
        .arg("--o")
        .arg(folder);
    run("cometbft", command, processes).await?;
    let mut nodes = Vec::new();
    for index in 0..=network.validators.count {
        let home = folder.join(format!("node{index}"));
        adapt_genesis(&home, network)?;
        let ip = block.address(index + 1);
        let name = match index == network.validators.count {
            true => "joiner".to_owned(),
            false => format!("validator-{}", index + 1),
        };
        nodes.push(Node::in_home(name, home, ip, tools, processes).await?);
    }
    Ok(nodes)
}

/// Runs a command of `program` that reads or writes files; what it prints.
pub(super) async fn run(
    program: &str,
    command: Command,
    processes: &Processes,
) -> anyhow::Result<String> {
    let output = processes.run(program, command, FILES_PATIENCE).await?;
    ensure!(
        output.status.success(),
        "{program} has failed ({}){}",
        output.status,
        processes.tail(program)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn adapt_genesis(home: &Path, network: &Network) -> anyhow::Result<()> {
    let path = home.join("config/genesis.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let mut genesis: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    genesis["chain_id"] = network.chain_id.clone().into();
    genesis["consensus_params"]["version"]["app"] = APP_VERSION.into();
    write(&path, &serde_json::to_string_pretty(&genesis)?)
}

/// Makes a folder and those above it.
pub fn make_folder(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))
}

/// Writes a file.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Lays `over` over `under`: tables are merged, other values replaced.
pub fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// 254 addresses of the loopback range. Each run draws its own, so that two
/// of them on one machine do not meet.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct LoopbackBlock([u8; 2]);

impl LoopbackBlock {
    /// A random one, away from 127.0 and 127.1, where other things listen.
    pub fn random() -> Self {
        Self([rand::random_range(2..=254), rand::random()])
    }

    /// An address of it; 0 and 255 have no use.
    pub fn address(self, last: u8) -> IpAddr {
        IpAddr::from([127, self.0[0], self.0[1], last])
    }
}

/// Free TCP ports at `ip`, all different.
pub fn free_addresses<const N: usize>(ip: IpAddr) -> anyhow::Result<[SocketAddr; N]> {
    // Held together, so that no port is given twice.
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind((ip, 0)).with_context(|| {
            format!("no port can be taken at {ip}: does this system have the whole of 127.0.0.0/8?")
        })?);
    }
    let mut addresses = [SocketAddr::from((ip, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&held) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laying_over_keeps_what_is_not_named() {
        let mut under = toml::toml! {
            a = 1
            [t]
            b = 2
            c = 3
        };
        let over = toml::toml! {
            [t]
            c = 4
            [u]
            d = 5
        };
        lay_over(&mut under, over);
        let expected = toml::toml! {
            a = 1
            [t]
            b = 2
            c = 4
            [u]
            d = 5
        };
        assert_eq!(under, expected);
    }

    #[test]
    fn free_addresses_differ_and_can_be_bound() {
        let ip = LoopbackBlock::random().address(1);
        let can_be_bound = || {
            let [a, b] = free_addresses(ip).unwrap();
            assert_ne!(a, b);
            TcpListener::bind(a).is_ok() && TcpListener::bind(b).is_ok()
        };
        // Another process may take one in between, but not again and again.
        assert!((0..5).any(|_| can_be_bound()));
    }
}
