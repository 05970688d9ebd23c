//! `snapswarm` as a script uses it: homes, daemons, verbs and their JSON.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use snapswarm::node::command::{SnapshotList, SnapshotSummary};
use tokio::process::Command;
use toml::Table;

use crate::comet::{Node, free_addresses, lay_over};
use crate::network::{App, Network};
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
    /// Its name in the swarm; empty where nobody looked it up.
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
        let mut home = Self::at(name, folder, tools);
        let arguments = ["init", "--network", network.name.as_str()];
        let made: Made = home.verb(&arguments, SHORT_VERB, processes).await?;
        home.peer_id = made.peer_id;
        if !settings.is_empty() {
            change_settings(&made.config, settings)?;
        }
        Ok(home)
    }

    /// A home that is there.
    pub fn at(name: &str, folder: PathBuf, tools: &Tools) -> Self {
        Self {
            name: name.to_owned(),
            peer_id: String::new(),
            folder,
            program: tools.snapswarm.clone(),
        }
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A verb of this home, for scripts.
    pub fn command(&self, arguments: &[&str]) -> Command {
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

    /// Starts the verb that brings an empty node to the tip and stays with it. Its
    /// first line comes when the node is there.
    pub fn start_join(
        &self,
        order: &JoinOrder<'_>,
        tools: &Tools,
        processes: &mut Processes,
    ) -> anyhow::Result<()> {
        let arguments = order.arguments(tools)?;
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        processes.start_telling(&self.name, self.command(&arguments))
    }
}

/// Settings of the home of a node that believes the providers of an `app` whose state no
/// application hash proves: two of them, where nobody names a snapshot.
pub fn trust_in(app: App, providers: &[String]) -> Table {
    let mut settings = Table::new();
    if app == App::Xian {
        let ids = providers
            .iter()
            .filter_map(|address| address.rsplit('/').next());
        let endorsers: Vec<toml::Value> = ids.map(toml::Value::from).collect();
        let mut trust = Table::new();
        trust.insert("threshold".to_owned(), 2.into());
        trust.insert("endorsers".to_owned(), endorsers.into());
        settings.insert("trust".to_owned(), trust.into());
    }
    settings
}

/// What a new node is to join, and how.
pub struct JoinOrder<'a> {
    /// How its application runs.
    pub app: App,
    /// The snapshot that it shall restore; without it, the newest.
    pub manifest: Option<&'a str>,
    /// Whether any other way than the swarm counts as failed.
    pub swarm_only: bool,
    /// The empty node.
    pub node: &'a Node,
    /// Peers of the swarm.
    pub bootstrap: &'a [String],
    /// Whose RPCs it believes.
    pub validators: &'a [Node],
}

impl JoinOrder<'_> {
    /// The verb with its arguments.
    pub fn arguments(&self, tools: &Tools) -> anyhow::Result<Vec<String>> {
        let urls = self.validators.iter().map(|validator| validator.rpc.url());
        let urls: Vec<&str> = urls.take(2).collect();
        let lines = self.node.command_lines(self.app, tools)?;
        let mut arguments = vec!["join".to_owned()];
        let mut add = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        if let Some(manifest) = self.manifest {
            add("--cid", manifest.to_owned());
        }
        if self.swarm_only {
            add("--fallback", "none".to_owned());
        }
        add("--chain-rpc", urls.join(","));
        for address in self.bootstrap {
            add("--bootstrap", address.clone());
        }
        add("--node-home", self.node.home().display().to_string());
        add("--node-cmd", lines.node);
        if let Some(app) = lines.app {
            add("--app-cmd", app);
        }
        // Behind an adapter the application is not started by the verb, which must not
        // empty its data then.
        let data = self.node.app_data(self.app).display().to_string();
        match self.app {
            App::Adapter => {}
            App::Xian => {
                add("--xian", data);
                add("--app", self.node.app_address());
            }
            App::InProcess | App::Socket | App::Sdk => add("--app-data", data),
        }
        Ok(arguments)
    }
}

/// A daemon that takes the snapshots of a validator and serves what it has.
pub struct Provider {
    /// Its home.
    pub home: Home,
    /// Where others reach it.
    pub multiaddr: String,
    arguments: Vec<String>,
}

impl Provider {
    /// Starts the daemon beside `node`, at the same address; `bootstrap` are
    /// the addresses of providers that are there already. It reads the folder of the
    /// node's snapshots (`from_folder`), or asks the node for them.
    pub async fn start(
        home: Home,
        node: &Node,
        from_folder: bool,
        bootstrap: &[String],
        network: &Network,
        processes: &mut Processes,
    ) -> anyhow::Result<Self> {
        let [address] = free_addresses(node.p2p.ip())?;
        let listen = multiaddr(address);
        let mut arguments = vec!["start".to_owned()];
        let mut add = |name: &str, value: &str| {
            arguments.extend([name.to_owned(), value.to_owned()]);
        };
        add("--listen", &listen);
        // It makes it a server of the DHT: on loopback no other peer could confirm one.
        add("--external-address", &listen);
        // An adapter tells the daemon of its home by itself what there is to take.
        if !matches!(network.app, App::Adapter | App::Xian) {
            match from_folder {
                true => add("--sdk-snapshots", &node.snapshots().display().to_string()),
                false => add("--harvest", &node.peer_address()),
            }
            add("--node-rpc", node.rpc.url());
        }
        for address in bootstrap {
            add("--bootstrap", address);
        }
        let mut provider = Self {
            home,
            multiaddr: String::new(),
            arguments,
        };
        let name = &provider.home.name;
        let patience = Duration::from_secs(network.patience_s.start);
        let line = processes
            .start_with_first_line(name, provider.command(), patience)
            .await?;
        let started: Started = serde_json::from_str(&line)
            .with_context(|| format!("{name}: the first line is not as agreed: {line}"))?;
        if started.peer_id != provider.home.peer_id {
            bail!(
                "{name}: init named the peer {}, start names {}",
                provider.home.peer_id,
                started.peer_id
            );
        }
        provider.multiaddr = started
            .listen
            .into_iter()
            .find(|address| address.contains("/tcp/"))
            .with_context(|| format!("{name}: no TCP listener in: {line}"))?;
        Ok(provider)
    }

    fn command(&self) -> Command {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.home.command(&arguments)
    }

    /// Kills the daemon and starts it again, at the same address.
    pub fn die_and_come_back(&self, processes: &mut Processes) -> anyhow::Result<()> {
        processes.kill(&self.home.name);
        processes.start_telling(&self.home.name, self.command())
    }
}

/// An address of TCP as the swarm writes it.
pub fn multiaddr(address: SocketAddr) -> String {
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
