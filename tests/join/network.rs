//! A small chain with a provider, and empty nodes that join it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use toml::Table;

use crate::comet_nodes::{CometNode, NodePlan, wait_until};
use crate::comet_tools::comet_tools;
use crate::scripted_app::{AppProcess, SCRIPTED_APP};
use crate::support::{Daemon, Home, Ran};

pub const CHAIN: &str = "join-real-1";

/// Blocks from one snapshot to the next.
pub const SNAPSHOT_INTERVAL: u32 = 5;
/// Cuts the state of the tests into a few chunks.
const CHUNK_BYTES: &str = "60000";
/// Nothing takes longer, except for a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two full nodes, one of which makes the blocks, and a daemon that harvests from it.
pub struct Network {
    pub validator: CometNode,
    /// Another endpoint of the chain.
    pub follower: CometNode,
    pub provider: Home,
    pub daemon: Option<Daemon>,
    /// They live as long as it.
    _apps: Vec<AppProcess>,
    folder: tempfile::TempDir,
    _turn: MutexGuard<'static, ()>,
}

/// One network at a time: nodes that have to share two cores with those of other tests
/// fall behind their chain.
static TURN: Mutex<()> = Mutex::const_new(());

fn plan(mut settings: Table) -> NodePlan {
    // All come from one address.
    let p2p = settings.entry("p2p").or_insert(Table::new().into());
    let p2p = p2p.as_table_mut().unwrap();
    p2p.insert("allow_duplicate_ip".into(), true.into());
    NodePlan {
        snapshot_interval: SNAPSHOT_INTERVAL,
        block_ms: 700,
        p2p_rate: 512_000_000,
        settings,
    }
}

fn peers_of(node: &CometNode) -> Table {
    let mut p2p = Table::new();
    p2p.insert("persistent_peers".into(), node.address().to_string().into());
    let mut settings = Table::new();
    settings.insert("p2p".into(), p2p.into());
    settings
}

/// CometBFT waits for the disk several times for each block; three nodes on one disk
/// are slower than their chain.
fn in_memory() -> tempfile::TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).unwrap()
}

impl Network {
    /// A chain that makes a snapshot every five blocks, the newest of which the
    /// provider has.
    pub async fn start() -> Self {
        let turn = TURN.lock().await;
        let folder = in_memory();
        let at = |name: &str| folder.path().join(name);
        let interval = SNAPSHOT_INTERVAL.to_string();
        let options = [
            "--snapshot-interval",
            &interval,
            "--chunk-bytes",
            CHUNK_BYTES,
        ];
        let tools = comet_tools();
        let mut validator =
            CometNode::validator(&tools, &at("validator"), CHAIN, plan(Table::new()));
        let apps = vec![
            AppProcess::start(&at("app"), &options),
            AppProcess::start(&at("app2"), &options),
        ];
        validator.start_before(&apps[0].address);
        validator.wait_for_height(1).await;
        let mut follower = CometNode::follower(
            &tools,
            &at("follower"),
            &validator,
            CHAIN,
            plan(peers_of(&validator)),
        );
        follower.start_before(&apps[1].address);
        validator.write_state(20, 20_000).await;
        follower.wait_for_height(2).await;
        let provider = Home::new();
        let mut network = Self {
            validator,
            follower,
            provider,
            daemon: None,
            _apps: apps,
            folder,
            _turn: turn,
        };
        network.start_provider().await;
        network
    }

    /// Starts the provider's daemon; ends when it has a snapshot.
    pub async fn start_provider(&mut self) {
        let node = self.validator.address().to_string();
        let rpc = &self.validator.rpc_url;
        self.daemon = Some(self.provider.start(["--harvest", &node, "--node-rpc", rpc]));
        wait_until("a snapshot at the provider", async || {
            let listed = self.provider.run(["list"]).ok();
            let all = listed["snapshots"].as_array().unwrap();
            all.iter()
                .any(|one| one["proven"] == true && one["chunks"].as_u64() > Some(3))
        })
        .await;
    }

    /// `URL,URL`
    pub fn rpcs(&self) -> String {
        format!("{},{}", self.validator.rpc_url, self.follower.rpc_url)
    }

    pub fn bootstrap(&self) -> String {
        self.daemon.as_ref().unwrap().address()
    }

    /// An empty node.
    pub fn joiner(&self, name: &str) -> Joiner {
        let folder = self.folder.path().join(name);
        let node = CometNode::follower(
            &comet_tools(),
            &folder.join("node"),
            &self.validator,
            CHAIN,
            plan(peers_of(&self.validator)),
        );
        let app = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut joiner = Joiner {
            node,
            home: Home::new(),
            app: format!("tcp://{app}"),
            folder,
            config: String::new(),
            script: String::new(),
        };
        joiner.set_app(&joiner.app);
        joiner.config = read(&joiner.node.home.join("config/config.toml"));
        joiner
    }
}

/// An empty node, its application, and a home of snapswarm.
pub struct Joiner {
    pub node: CometNode,
    pub home: Home,
    pub script: String,
    app: String,
    folder: PathBuf,
    config: String,
}

/// How a join ended.
pub struct Ended {
    pub ran: Ran,
    pub code: Option<i32>,
}

impl Ended {
    pub fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        let code = output.status.code();
        let ran = Ran(output);
        Self { ran, code }
    }

    /// What it said on stdout.
    pub fn said(&self) -> Value {
        serde_json::from_slice(&self.ran.0.stdout)
            .unwrap_or_else(|_| panic!("{}\n{}", self.ran.stdout(), self.ran.stderr()))
    }
}

impl Joiner {
    pub fn app_data(&self) -> PathBuf {
        self.folder.join("app")
    }

    /// Where CometBFT is to find the application.
    pub fn set_app(&self, address: &str) {
        let mut settings = Table::new();
        settings.insert("proxy_app".into(), address.into());
        self.node.configure(settings);
    }

    fn app_command(&self) -> String {
        let folder = self.folder.display();
        let script = match self.script.as_str() {
            "" => String::new(),
            script => format!(" --script '{script}'"),
        };
        format!(
            "exec {SCRIPTED_APP} --listen {} --data {folder}/app --marks {folder}/marks \
             --log {folder}/app.log --quiet --empty-check --snapshot-interval {SNAPSHOT_INTERVAL} \
             --chunk-bytes {CHUNK_BYTES}{script}",
            self.app
        )
    }

    /// What every verb is told that brings this node to the tip.
    fn tell(&self, command: &mut Command) {
        let node = self.node.home.display();
        let cometbft = comet_tools().cometbft;
        let node_cmd = format!("exec {} start --home {node}", cometbft.display());
        command
            .arg("--exit-when-synced")
            .arg("--node-home")
            .arg(&self.node.home)
            .args(["--node-cmd", &node_cmd]);
    }

    /// And what is told where the application is started, too.
    fn tell_app(&self, command: &mut Command) {
        command
            .args(["--app-cmd", &self.app_command()])
            .arg("--app-data")
            .arg(self.app_data());
    }

    /// `snapswarm join` with what all have, and more.
    pub fn command(&self, network: &Network, more: &[&str]) -> Command {
        let mut command = self.command_before_app(network, more);
        self.tell_app(&mut command);
        command
    }

    /// The same with another command for the application.
    pub fn command_with_app(&self, network: &Network, app: &str) -> Command {
        let mut command = self.command_before_app(network, &[]);
        command.args(["--app-cmd", app]);
        command
    }

    /// Whom its operator has it dial.
    pub fn name_peers(&self, peers: &str) {
        let mut p2p = Table::new();
        p2p.insert("persistent_peers".into(), peers.into());
        let mut settings = Table::new();
        settings.insert("p2p".into(), p2p.into());
        self.node.configure(settings);
    }

    /// Before an application that others start.
    pub fn join_before_app(&self, network: &Network, more: &[&str]) -> Ended {
        Ended::of(self.command_before_app(network, more))
    }

    /// `snapswarm restore`, to the end.
    pub fn restore(&self, car: &str, more: &[&str]) -> Ended {
        let mut command = self.home.command(["restore", car]);
        self.tell(&mut command);
        self.tell_app(&mut command);
        command.args(more);
        Ended::of(command)
    }

    /// `snapswarm join` before an application that others start.
    pub fn command_before_app(&self, network: &Network, more: &[&str]) -> Command {
        let mut command = self.home.command(["join", "--no-seed"]);
        self.tell(&mut command);
        command.args(more);
        let mut unless_told = |name: &str, value: &str| {
            if !more.contains(&name) {
                command.args([name, value]);
            }
        };
        unless_told("--chain-rpc", &network.rpcs());
        unless_told("--timeout", "20");
        unless_told("--patience", "20");
        if network.daemon.is_some() {
            unless_told("--bootstrap", &network.bootstrap());
        }
        command
    }

    /// Joins, to the end.
    pub fn join(&self, network: &Network, more: &[&str]) -> Ended {
        let output = self.command(network, more).output().unwrap();
        let code = output.status.code();
        Ended {
            ran: Ran(output),
            code,
        }
    }

    /// Joins until a line of its progress has this text; then it is killed.
    pub fn join_until(&self, network: &Network, text: &str) {
        let mut join = Running::start(self.command(network, &[]));
        join.wait_for(text);
        join.kill();
    }

    /// Whether everything is as its operator left it.
    pub fn is_as_it_was(&self) -> bool {
        let now = read(&self.node.home.join("config/config.toml"));
        now == self.config && !self.node.home.join("snapswarm-join.json").exists()
    }

    /// Whether its operator's settings are in force, whatever else is remembered.
    pub fn has_own_settings(&self) -> bool {
        let journal = read(&self.node.home.join("snapswarm-join.json"));
        let journal: Value = serde_json::from_str(&journal).unwrap_or_default();
        let changed = journal["settings"].as_array().map_or(0, Vec::len);
        read(&self.node.home.join("config/config.toml")) == self.config && changed == 0
    }

    /// What its application logged.
    pub fn app_log(&self) -> String {
        read(&self.folder.join("app.log"))
    }

    /// What CometBFT logged.
    pub fn node_log(&self) -> String {
        read(&self.home.path().join("logs/node.log"))
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A join under way; killed when it is dropped.
pub struct Running {
    pub child: Child,
    lines: mpsc::Receiver<String>,
    seen: String,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: String::new(),
        }
    }

    pub fn wait_for(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(end - Instant::now()) {
            self.seen += &line;
            self.seen.push('\n');
            if line.contains(text) {
                return;
            }
        }
        panic!("'{text}' is nowhere in:\n{}", self.seen);
    }

    /// How it ends by itself in this time; killed when it does not.
    pub fn end_within(mut self, time: Duration) -> Option<Ended> {
        let end = Instant::now() + time;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen += &(line + "\n"),
                Err(mpsc::RecvTimeoutError::Timeout) => return None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
        }
        let mut stdout = Vec::new();
        let mut from = self.child.stdout.take().unwrap();
        from.read_to_end(&mut stdout).unwrap();
        let status = crate::support::wait(&mut self.child);
        let stderr = std::mem::take(&mut self.seen).into_bytes();
        let ran = Ran(Output {
            status,
            stdout,
            stderr,
        });
        let code = status.code();
        Some(Ended { ran, code })
    }

    /// The first line on stdout.
    pub fn first_line(&mut self) -> Value {
        let mut line = String::new();
        let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}\n{}", self.seen))
    }

    /// Waits for its end with this exit code; what it said.
    pub fn finish(&mut self, code: i32) -> Value {
        let mut said = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut said).unwrap();
        let ended = crate::support::wait(&mut self.child);
        self.seen
            .extend(self.lines.try_iter().map(|line| line + "\n"));
        assert_eq!(ended.code(), Some(code), "{said}\n{}", self.seen);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}\n{}", self.seen))
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
