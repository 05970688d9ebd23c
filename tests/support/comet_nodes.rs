//! Real CometBFT nodes with the e2e application in process, each killed when it
//! is dropped.

#![allow(dead_code)] // each test file uses its own part

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use snapswarm::comet::peer::{NodeAddress, NodeId};
use snapswarm::comet::rpc::Rpc;
use toml::Table;

use super::comet_tools::CometTools;

/// The app version of the e2e application: a genesis that says otherwise ends a
/// state sync after its last chunk.
const APP_VERSION: &str = "1";
/// Everything that a test waits for happens within seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What differs from one node of a test to another.
pub struct NodePlan {
    /// Blocks between two snapshots.
    pub snapshot_interval: u32,
    /// Time between blocks.
    pub block_ms: u32,
    /// Bytes a second of p2p, each way.
    pub p2p_rate: i64,
    /// Laid over config.toml.
    pub settings: Table,
}

/// A node: files, addresses, and the process while it runs.
pub struct CometNode {
    pub p2p: SocketAddr,
    pub rpc_url: String,
    pub home: PathBuf,
    id: NodeId,
    e2e_node: PathBuf,
    cometbft: PathBuf,
    /// Of an application that listens on a socket.
    app: Option<Process>,
    process: Option<Process>,
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It led a group of its own, and nothing in it shall live on.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

impl CometNode {
    /// A validator's home, alone on its chain.
    pub fn validator(tools: &CometTools, folder: &Path, chain_id: &str, plan: NodePlan) -> Self {
        let node = Self::make(tools, folder, plan, chain_id);
        let path = node.home.join("config/genesis.json");
        let mut genesis: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        genesis["chain_id"] = chain_id.into();
        genesis["consensus_params"]["version"]["app"] = APP_VERSION.into();
        fs::write(&path, genesis.to_string()).unwrap();
        node
    }

    /// An empty node that shall join the chain of `validator` by state sync.
    pub fn joiner(
        tools: &CometTools,
        folder: &Path,
        validator: &Self,
        chain_id: &str,
        trust: (u64, String),
        mut plan: NodePlan,
    ) -> Self {
        let (height, hash) = trust;
        let mut statesync = Table::new();
        let servers = format!("{0},{0}", validator.rpc_url);
        statesync.insert("enable".into(), true.into());
        statesync.insert("rpc_servers".into(), servers.into());
        statesync.insert("trust_height".into(), (height as i64).into());
        statesync.insert("trust_hash".into(), hash.into());
        statesync.insert("trust_period".into(), "168h0m0s".into());
        statesync.insert("discovery_time".into(), "5s".into());
        plan.settings.insert("statesync".into(), statesync.into());
        Self::follower(tools, folder, validator, chain_id, plan)
    }

    /// An empty node of the chain of `validator`, with its plan's peers.
    pub fn follower(
        tools: &CometTools,
        folder: &Path,
        validator: &Self,
        chain_id: &str,
        plan: NodePlan,
    ) -> Self {
        let node = Self::make(tools, folder, plan, chain_id);
        fs::copy(
            validator.home.join("config/genesis.json"),
            node.home.join("config/genesis.json"),
        )
        .unwrap();
        node
    }

    fn make(tools: &CometTools, folder: &Path, plan: NodePlan, chain_id: &str) -> Self {
        let run = |arguments: &[&str]| {
            let output = Command::new(&tools.cometbft)
                .args(arguments)
                .arg("--home")
                .arg(folder)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["init"]);
        let id = run(&["show-node-id"]).trim().parse().unwrap();
        let [p2p, rpc] = free_addresses();
        write_config(folder, &plan, p2p, rpc);
        write_app_config(folder, &plan, chain_id);
        fs::create_dir_all(folder.join("tmp")).unwrap();
        Self {
            p2p,
            rpc_url: format!("http://{rpc}"),
            home: folder.to_owned(),
            id,
            e2e_node: tools.e2e_node.clone(),
            cometbft: tools.cometbft.clone(),
            app: None,
            process: None,
        }
    }

    /// Lays settings over config.toml, before a start.
    pub fn configure(&self, settings: Table) {
        let path = self.home.join("config/config.toml");
        let mut config: Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        lay_over(&mut config, settings);
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    }

    /// Starts the process. It lives no longer than the calling thread: call it
    /// from the test's own.
    pub fn start(&mut self) {
        let mut command = Command::new(&self.e2e_node);
        command.arg(self.home.join("config/app.toml"));
        self.process = Some(self.spawn(command, "log"));
    }

    /// Starts the application alone, on a socket; gives its address.
    pub fn start_app(&mut self) -> String {
        let path = self.home.join("config/app.toml");
        let mut config: Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let [address, _] = free_addresses();
        let listen = format!("tcp://{address}");
        config.insert("protocol".into(), "socket".into());
        config.insert("listen".into(), listen.clone().into());
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        let mut command = Command::new(&self.e2e_node);
        command.arg(path);
        self.app = Some(self.spawn(command, "app.log"));
        listen
    }

    /// Starts CometBFT before an application on a socket.
    pub fn start_before(&mut self, proxy_app: &str) {
        let mut settings = Table::new();
        settings.insert("proxy_app".into(), proxy_app.into());
        self.configure(settings);
        let mut command = Command::new(&self.cometbft);
        command.args(["start", "--home"]).arg(&self.home);
        self.process = Some(self.spawn(command, "log"));
    }

    fn spawn(&self, mut command: Command, log: &str) -> Process {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.join(log))
            .unwrap();
        command
            .env("CMTHOME", &self.home)
            // A state sync keeps its chunks there.
            .env("TMPDIR", self.home.join("tmp"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        // SAFETY: between fork and exec, one system call.
        unsafe {
            // For a test run that is killed itself.
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        Process(command.spawn().unwrap())
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn address(&self) -> NodeAddress {
        NodeAddress {
            id: self.id,
            host: self.p2p.ip().to_string(),
            port: self.p2p.port(),
        }
    }

    pub fn rpc(&self) -> Rpc {
        Rpc::new(&self.rpc_url).unwrap()
    }

    /// How often the log has this text.
    pub fn log_count(&self, text: &str) -> usize {
        let log = fs::read(self.home.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(text).count()
    }

    pub async fn wait_for_height(&self, height: u64) {
        let rpc = self.rpc();
        wait_until(
            &format!("height {height} of {}", self.rpc_url),
            async || rpc.status().await.is_ok_and(|node| node.height >= height),
        )
        .await;
    }

    /// Writes so many values of so many bytes into the application's state.
    pub async fn write_state(&self, values: usize, value_bytes: usize) {
        let client = local_client();
        for number in 0..values {
            self.write_value(&client, number, value_bytes).await;
        }
    }

    /// Writes one value, which no compression and no deduplication makes small.
    pub async fn write_value(&self, client: &reqwest::Client, number: usize, bytes: usize) {
        let value: String = (0..bytes.div_ceil(64))
            .map(|_| hex::encode(rand::random::<[u8; 32]>()))
            .collect();
        let tx = format!("key{number:05}={}", &value[..bytes]);
        self.broadcast(client, tx.as_bytes()).await;
    }

    /// Gives the node a transaction.
    pub async fn broadcast(&self, client: &reqwest::Client, tx: &[u8]) {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let question = json!({
            "jsonrpc": "2.0", "id": 1, "method": "broadcast_tx_sync",
            "params": { "tx": BASE64_STANDARD.encode(tx) },
        });
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = client
                .post(&self.rpc_url)
                .body(question.to_string())
                .send()
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
            let answer: Value = serde_json::from_str(&answer).unwrap();
            if answer["result"]["code"] == 0 {
                return;
            }
            // A full mempool empties with the next block.
            let full = answer["error"]["data"]
                .as_str()
                .is_some_and(|data| data.contains("mempool is full"));
            assert!(full && Instant::now() < end, "{answer}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A header that a joiner may trust: its height and block hash.
    pub async fn trusted(&self, height: u64) -> (u64, String) {
        let url = format!("{}/commit?height={height}", self.rpc_url);
        let answer = local_client().get(url).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let hash = &answer["result"]["signed_header"]["commit"]["block_id"]["hash"];
        (height, hash.as_str().unwrap().to_owned())
    }
}

pub fn local_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// Asks again and again, and panics with `what` when the patience ends.
pub async fn wait_until(what: &str, mut question: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !question().await {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Two free ports on a loopback address that no one else is likely to use.
fn free_addresses() -> [SocketAddr; 2] {
    let ip = IpAddr::from([127, rand::random_range(2..120), rand::random(), 7]);
    let held = [0, 0].map(|port| TcpListener::bind((ip, port)).unwrap());
    held.map(|listener| listener.local_addr().unwrap())
}

fn write_config(home: &Path, plan: &NodePlan, p2p: SocketAddr, rpc: SocketAddr) {
    let mut settings = toml::toml! {
        log_level = "statesync:debug,*:info"
        [rpc]
        pprof_laddr = ""
        unsafe = true
        [p2p]
        pex = false
        addr_book_strict = false
        [tx_index]
        indexer = "null"
    };
    let mut rest = Table::new();
    rest.insert("laddr".into(), format!("tcp://{p2p}").into());
    rest.insert("send_rate".into(), plan.p2p_rate.into());
    rest.insert("recv_rate".into(), plan.p2p_rate.into());
    let mut over = Table::new();
    over.insert("p2p".into(), rest.into());
    let mut rest = Table::new();
    rest.insert("laddr".into(), format!("tcp://{rpc}").into());
    over.insert("rpc".into(), rest.into());
    let mut rest = Table::new();
    rest.insert(
        "timeout_commit".into(),
        format!("{}ms", plan.block_ms).into(),
    );
    over.insert("consensus".into(), rest.into());
    lay_over(&mut settings, over);
    lay_over(&mut settings, plan.settings.clone());
    let path = home.join("config/config.toml");
    let mut config: Table = toml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    lay_over(&mut config, settings);
    fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
}

fn write_app_config(home: &Path, plan: &NodePlan, chain_id: &str) {
    let mut app = toml::toml! {
        protocol = "builtin"
        mode = "full"
        retain_blocks = 0
        key_type = "ed25519"
        persist_interval = 1
    };
    let dir = home.join("data/app");
    fs::create_dir_all(&dir).unwrap();
    app.insert("chain_id".into(), chain_id.into());
    app.insert("dir".into(), dir.to_str().unwrap().into());
    let interval = i64::from(plan.snapshot_interval);
    app.insert("snapshot_interval".into(), interval.into());
    fs::write(home.join("config/app.toml"), toml::to_string(&app).unwrap()).unwrap();
}

fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}
