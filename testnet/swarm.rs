//! `snapswarm` as a script uses it: homes, daemons, verbs and their JSON.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use snapswarm::node::command::{Joined, SnapshotList, SnapshotSummary};
use tokio::process::Command;

use crate::comet::{Node, free_addresses, lay_over};
use crate::network::Network;
use crate::processes::Processes;
use crate::tools::Tools;

/// For verbs that only look at a home or write a file into it.
const SHORT_VERB: Duration = Duration::from_secs(30);

/// What `init` prints.
#[derive(Deserialize)]
struct Made {
    peer_id: String,
    config: PathBuf,
}

/// The first line of `start`.
#[derive(Deserialize)]
struct Started {
    peer_id: String,
    listen: Vec<String>,
}

/// A home of snapswarm.
pub struct Home {
    /// What it is called in logs and tables.
    pub name: String,
    /// Its name in the swarm.
    pub peer_id: String,
    folder: PathBuf,
    program: PathBuf,
}

impl Home {
    /// Makes the home `folder` for the network's own swarm, apart from any
    /// other, with `settings` laid over its `config.toml`.
    pub async fn make(
        name: &str,
        folder: PathBuf,
        network: &Network,
        settings: &toml::Table,
        tools: &Tools,
        processes: &Processes,
    ) -> anyhow::Result<Self> {
        let mut home = Self {
            name: name.to_owned(),
            peer_id: String::new(),
            folder,
            program: tools.snapswarm.clone(),
        };
        let arguments = ["init", "--network", network.name.as_str()];
        let made: Made = home.verb(&arguments, SHORT_VERB, processes).await?;
        home.peer_id = made.peer_id;
        if !settings.is_empty() {
            change_settings(&made.config, settings)?;
        }
        Ok(home)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--home")
            .arg(&self.folder)
            .arg("--json")
            .args(arguments);
        command
    }

    /// Runs a verb and reads its JSON.
    async fn verb<T: DeserializeOwned>(
        &self,
        arguments: &[&str],
        patience: Duration,
        processes: &Processes,
    ) -> anyhow::Result<T> {
        let what = || format!("{}: snapswarm {}", self.name, arguments.join(" "));
        let log = format!("{}-{}", self.name, arguments[0]);
        let output = processes
            .run(&log, self.command(arguments), patience)
            .await
            .with_context(what)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!(
                "{} has failed ({}): {}{}",
                what(),
                output.status,
                stdout.trim(),
                processes.tail(&log)
            );
        }
        serde_json::from_str(&stdout)
            .with_context(|| format!("{} prints other JSON than agreed: {stdout}", what()))
    }

    /// All snapshots that the home has.
    pub async fn list(&self, processes: &Processes) -> anyhow::Result<Vec<SnapshotSummary>> {
        let list: SnapshotList = self.verb(&["list"], SHORT_VERB, processes).await?;
        Ok(list.snapshots)
    }

    /// Has the verb bring an empty node to the tip and stay with it; what it says when
    /// the node is there.
    pub async fn join(
        &self,
        order: &JoinOrder<'_>,
        tools: &Tools,
        patience: Duration,
        processes: &mut Processes,
    ) -> anyhow::Result<Joined> {
        let JoinOrder {
            snapshot,
            node,
            bootstrap,
            validators,
        } = order;
        let urls = validators.iter().map(|validator| validator.rpc.url());
        let urls: Vec<&str> = urls.take(2).collect();
        let (node_home, app_data) = (node.home(), node.app_data());
        let command_line = node.command_line(tools)?;
        let mut command = self.command(&["join", "--cid", &snapshot.manifest]);
        command
            .args(["--chain-rpc", &urls.join(","), "--bootstrap", bootstrap])
            .args(["--fallback", "none", "--node-cmd", &command_line])
            .arg("--node-home")
            .arg(node_home)
            .arg("--app-data")
            .arg(app_data);
        let line = processes
            .start_with_first_line(&self.name, command, patience)
            .await?;
        serde_json::from_str(&line)
            .with_context(|| format!("{}: join says otherwise than agreed: {line}", self.name))
    }
}

/// What a new node is to join, and how.
pub struct JoinOrder<'a> {
    /// The snapshot that it shall restore.
    pub snapshot: &'a SnapshotSummary,
    /// The empty node.
    pub node: &'a Node,
    /// A peer of the swarm.
    pub bootstrap: &'a str,
    /// Whose RPCs it believes.
    pub validators: &'a [Node],
}

/// A daemon that harvests from a validator and serves what it has.
pub struct Provider {
    /// Its home.
    pub home: Home,
    /// Where others reach it.
    pub multiaddr: String,
}

impl Provider {
    /// Starts the daemon beside `node`, at the same address; `bootstrap` are
    /// the addresses of providers that are there already.
    pub async fn start(
        home: Home,
        node: &Node,
        bootstrap: &[String],
        patience: Duration,
        processes: &mut Processes,
    ) -> anyhow::Result<Self> {
        let [address] = free_addresses(node.p2p.ip())?;
        let multiaddr = multiaddr(address);
        let harvest = node.peer_address();
        // The external address makes it a server of the DHT: on loopback no
        // other peer could confirm one.
        let mut arguments = vec![
            "start",
            "--listen",
            &multiaddr,
            "--external-address",
            &multiaddr,
            "--harvest",
            &harvest,
            "--node-rpc",
            node.rpc.url(),
        ];
        for address in bootstrap {
            arguments.extend(["--bootstrap", address]);
        }
        let command = home.command(&arguments);
        let line = processes
            .start_with_first_line(&home.name, command, patience)
            .await?;
        let started: Started = serde_json::from_str(&line)
            .with_context(|| format!("{}: the first line is not as agreed: {line}", home.name))?;
        if started.peer_id != home.peer_id {
            bail!(
                "{}: init named the peer {}, start names {}",
                home.name,
                home.peer_id,
                started.peer_id
            );
        }
        let multiaddr = started
            .listen
            .into_iter()
            .find(|address| address.contains("/tcp/"))
            .with_context(|| format!("{}: no TCP listener in: {line}", home.name))?;
        Ok(Self { home, multiaddr })
    }
}

fn multiaddr(address: SocketAddr) -> String {
    format!("/ip4/{}/tcp/{}", address.ip(), address.port())
}

fn change_settings(path: &Path, settings: &toml::Table) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let mut config: toml::Table =
        toml::from_str(&text).with_context(|| format!("{} is no TOML", path.display()))?;
    lay_over(&mut config, settings.clone());
    std::fs::write(path, toml::to_string(&config)?)
        .with_context(|| format!("{} cannot be written", path.display()))
}
