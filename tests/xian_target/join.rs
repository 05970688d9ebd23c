//! `join --xian` on a chain of real CometBFT, whose application keeps its state as Xian does.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use toml::Table;

use crate::application::{App, CHAIN, Running, Snapshot};
use crate::comet_nodes::{CometNode, NodePlan, local_client};
use crate::comet_tools::comet_tools;
use crate::support::{Daemon, Home, Ran, wait};
use crate::xian::{read, words};

fn plan(peer: Option<&CometNode>) -> NodePlan {
    let mut p2p = Table::new();
    p2p.insert("allow_duplicate_ip".into(), true.into());
    if let Some(peer) = peer {
        p2p.insert("persistent_peers".into(), peer.address().to_string().into());
    }
    let mut settings = Table::new();
    settings.insert("p2p".into(), p2p.into());
    NodePlan {
        snapshot_interval: 0,
        block_ms: 500,
        p2p_rate: 512_000_000,
        settings,
    }
}

/// A chain of one validator, and a daemon that has a snapshot of its state.
struct Chain {
    folder: tempfile::TempDir,
    validator: CometNode,
    app: App,
    running: Option<Running>,
    snapshot: Snapshot,
    daemon: Daemon,
    provider: Home,
    nonce: u64,
}

impl Chain {
    async fn start() -> Self {
        let memory = tempfile::tempdir_in("/dev/shm");
        let folder = memory.or_else(|_| tempfile::tempdir()).unwrap();
        let home = folder.path().join("validator");
        let mut validator = CometNode::validator(&comet_tools(), &home, CHAIN, plan(None));
        let app = App::new(&folder.path().join("app"));
        let mut nonce = 0;
        let first = app.start();
        validator.start_before(&app.address);
        validator.wait_for_height(1).await;
        for _ in 0..20 {
            write(&validator, &mut nonce).await;
        }
        let height = validator.rpc().status().await.unwrap().height;
        validator.wait_for_height(height + 2).await;
        // A snapshot of what stands still.
        validator.kill();
        first.stop();
        let snapshot = Snapshot::of(&app.storage(), None);
        assert!(snapshot.chunks.len() > 2, "{}", snapshot.chunks.len());
        let running = Some(app.start());
        validator.start_before(&app.address);
        validator
            .wait_for_height(snapshot.manifest.height() + 2)
            .await;
        let provider = Home::new();
        snapshot.load_into(&provider);
        Self {
            daemon: provider.start::<_, &str>([]),
            provider,
            folder,
            validator,
            app,
            running,
            snapshot,
            nonce,
        }
    }

    async fn write(&mut self) {
        write(&self.validator, &mut self.nonce).await;
    }

    fn joiner(&self, name: &str) -> Joiner {
        let folder = self.folder.path().join(name);
        let home = folder.join("node");
        let node = CometNode::follower(
            &comet_tools(),
            &home,
            &self.validator,
            CHAIN,
            plan(Some(&self.validator)),
        );
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut settings = Table::new();
        let proxy = format!("tcp://{}", free.local_addr().unwrap());
        settings.insert("proxy_app".into(), proxy.into());
        node.configure(settings);
        Joiner {
            node,
            app: App::new(&folder.join("app")),
            home: Home::new(),
        }
    }
}

/// One transaction, which no compression makes small.
async fn write(node: &CometNode, nonce: &mut u64) {
    let value = hex::encode((0..4000).map(|_| rand::random::<u8>()).collect::<Vec<u8>>());
    let tx = json!({
        "sender": "alice",
        "nonce": *nonce,
        "writes": [
            { "key": format!("con_notes.notes:{nonce}"), "value": value },
            { "key": "currency.balances:alice", "value": *nonce },
        ],
    });
    node.broadcast(&local_client(), tx.to_string().as_bytes())
        .await;
    *nonce += 1;
}

struct Joiner {
    node: CometNode,
    app: App,
    home: Home,
}

impl Joiner {
    async fn command(&self, chain: &Chain, more: &[&str]) -> Command {
        let cometbft = comet_tools().cometbft;
        let start = format!(
            "exec {} start --home {}",
            cometbft.display(),
            self.node.home.display()
        );
        let (height, hash) = chain.validator.trusted(1).await;
        let mut command = self
            .home
            .command(["join", "--no-seed", "--exit-when-synced"]);
        command
            .arg("--node-home")
            .arg(&self.node.home)
            .args(["--node-cmd", &start, "--app-cmd", &self.app.command("")])
            .args(["--app", &self.app.address, "--xian"])
            .arg(self.app.storage())
            .args(["--chain-rpc", &chain.validator.rpc_url])
            .args(["--trust-height", &height.to_string(), "--trust-hash", &hash])
            .args(["--bootstrap", &chain.daemon.address()])
            .args(["--timeout", "20", "--patience", "30", "--fallback", "none"])
            .args(more);
        command
    }

    async fn join(&self, chain: &Chain, more: &[&str]) -> Ran {
        Ran(self.command(chain, more).await.output().unwrap())
    }

    /// Joins until a line of its progress has this text; then it is killed.
    async fn join_until(&self, chain: &Chain, text: &str) {
        let mut command = self.command(chain, &["--cid", &chain.snapshot.cid()]).await;
        command.stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = Killed(command.spawn().unwrap());
        let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        for line in lines.map_while(Result::ok) {
            seen += &format!("{line}\n");
            if line.contains(text) {
                return;
            }
        }
        panic!("'{text}' is nowhere in:\n{seen}");
    }

    /// What its storage holds under a key.
    fn value(&self, group: &str) -> Option<String> {
        value(&self.app.storage(), group)
    }
}

/// What a storage that nobody writes holds under a group.
fn value(storage: &Path, group: &str) -> Option<String> {
    let records = read(storage).unwrap();
    let mut found = records
        .iter()
        .map(words)
        .filter(|record| record[1] == group);
    found
        .next()
        .map(|record| record[2].as_str().unwrap().to_owned())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        wait(&mut self.0);
    }
}

fn is_synced(said: &Value, chain: &Chain) {
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["manifest"], chain.snapshot.cid());
    assert_eq!(said["snapshot_height"], chain.snapshot.manifest.height());
}

fn is_believed(said: &Value, why: &str) {
    let believed = said["believed"].as_str().unwrap();
    assert!(believed.contains(why), "{believed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_gets_a_state_that_the_person_believes_in_and_follows_the_chain() {
    let mut chain = Chain::start().await;
    chain.write().await;
    let newest = format!("/notes/{}", chain.nonce - 1);

    // Nobody is named: nothing is begun.
    let joiner = chain.joiner("one");
    let refused = joiner.join(&chain, &[]).await.failed(7);
    assert!(
        refused["hint"].as_str().unwrap().contains("--cid"),
        "{refused}"
    );
    assert_eq!(joiner.app.starts(), 0);

    let cid = chain.snapshot.cid();
    let ran = joiner.join(&chain, &["--cid", &cid]).await;
    is_synced(&ran.ok(), &chain);
    is_believed(&ran.ok(), "it was named by its CID");
    assert!(
        ran.stderr()
            .contains("is believed: it was named by its CID"),
        "{}",
        ran.stderr()
    );
    assert!(!joiner.app.storage().join(".snapswarm-restore").exists());
    chain.validator.kill();
    chain.running.take().unwrap().stop();
    for group in ["/notes/0", &newest, "/balances/alice", "/alice"] {
        let own = joiner.value(group);
        assert!(own.is_some(), "{group}");
        assert_eq!(own, value(&chain.app.storage(), group), "{group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_any_phase_the_same_command_goes_on() {
    let chain = Chain::start().await;
    for (name, text) in [
        ("node", "starting CometBFT"),
        ("restore", "the node has all chunks"),
        ("window", "catching up"),
        ("settings", "own settings come back"),
    ] {
        let joiner = chain.joiner(name);
        joiner.join_until(&chain, text).await;
        let ran = joiner.join(&chain, &["--cid", &chain.snapshot.cid()]).await;
        let said = ran.ok();
        println!("{name}: {}", said["rung"]);
        assert!(
            !joiner.app.storage().join(".snapswarm-restore").exists(),
            "{name}"
        );
        assert!(joiner.value("/notes/0").is_some(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_goes_to_no_node_that_has_no_adapter_to_restore_it() {
    let chain = Chain::start().await;
    let cid = chain.snapshot.cid();
    // `join` knows before it starts the node.
    let joiner = chain.joiner("plain");
    let mut command = joiner.command(&chain, &["--cid", &cid]).await;
    let given: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut plain = Command::new(command.get_program());
    let mut arguments = given.into_iter();
    while let Some(argument) = arguments.next() {
        match argument == "--xian" || argument == "--app" {
            true => drop(arguments.next()),
            false => drop(plain.arg(argument)),
        }
    }
    command = plain;
    let refused = Ran(command.output().unwrap());
    let refused = refused.failed(7);
    let told = refused["message"].as_str().unwrap();
    assert!(told.contains("no application restores by itself"), "{told}");
    assert_eq!(joiner.app.starts(), 0);

    // `feed` asks the node.
    let trust = chain.validator.trusted(1).await;
    let folder = chain.folder.path().join("fed");
    let tools = comet_tools();
    let mut node = CometNode::joiner(&tools, &folder, &chain.validator, CHAIN, trust, plan(None));
    let app = App::new(&folder.join("app"));
    let _running = app.start();
    node.start_before(&app.address);
    let rpc = &chain.validator.rpc_url;
    let feed = [
        "feed",
        &cid,
        "--node-rpc",
        &node.rpc_url,
        "--chain-rpc",
        rpc,
        "--node-p2p",
    ];
    let mut feed = chain.provider.command(feed);
    let refused = Ran(feed.arg(node.address().to_string()).output().unwrap()).failed(2);
    let told = refused["message"].as_str().unwrap();
    assert!(told.contains("is not behind an adapter"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_in_a_file_is_restored_without_the_swarm() {
    let chain = Chain::start().await;
    let joiner = chain.joiner("file");
    let car = chain.folder.path().join("snapshot.car");
    chain.snapshot.write_car(&car);
    let mut command = joiner.command(&chain, &[]).await;
    // The same, but for what concerns the swarm.
    let given: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut restore = joiner.home.command(["restore".as_ref(), car.as_os_str()]);
    let swarm = ["--bootstrap", "--timeout", "--fallback"];
    let mut arguments = given
        .into_iter()
        .skip_while(|one| *one != "--exit-when-synced");
    while let Some(argument) = arguments.next() {
        match swarm.iter().any(|one| argument == *one) {
            true => drop(arguments.next()),
            false => drop(restore.arg(argument)),
        }
    }
    command = restore;
    let said = Ran(command.output().unwrap()).ok();
    is_synced(&said, &chain);
    is_believed(&said, "you gave its file");
    assert!(joiner.value("/notes/0").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_of_a_restore_is_said_before_anything_is_begun() {
    let chain = Chain::start().await;
    let cid = chain.snapshot.cid();
    let joiner = chain.joiner("full");
    let storage = joiner.app.storage();
    // Somebody's state.
    copy_storage(&chain.app.storage(), &storage);
    let refused = joiner.join(&chain, &["--cid", &cid]).await.failed(7);
    let told = refused["message"].as_str().unwrap();
    assert!(told.contains("holds the state of height"), "{told}");
    assert!(refused["hint"].as_str().unwrap().contains("mv "));
    assert!(value(&storage, "/notes/0").is_some(), "it is still there");

    // What was named is no storage, no address, no file.
    let joiner = chain.joiner("wrong");
    let file = chain.folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    for (option, wrong) in [
        ("--xian", file.as_path()),
        ("--app", Path::new("nonsense")),
        ("--state-patches", Path::new("/nowhere/state_patches.json")),
    ] {
        let command = joiner.command(&chain, &["--cid", &cid]).await;
        let ran = Ran(with(&command, option, wrong).output().unwrap());
        let refused = ran.failed(2);
        let told = refused["message"].as_str().unwrap();
        assert!(told.contains(option), "{told}");
    }
    assert_eq!(joiner.app.starts(), 0);
    let listed = joiner.home.run(["list"]).ok();
    assert_eq!(listed["snapshots"], json!([]), "nothing was downloaded");
}

/// The same command with another value of an option.
fn with(command: &Command, option: &str, value: &Path) -> Command {
    let mut other = Command::new(command.get_program());
    let mut arguments = command.get_args();
    while let Some(argument) = arguments.next() {
        match argument == option {
            true => drop(arguments.next()),
            false => drop(other.arg(argument)),
        }
    }
    other.arg(option).arg(value);
    other
}

fn copy_storage(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_storage(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_not_the_applications_is_told() {
    let chain = Chain::start().await;
    let joiner = chain.joiner("other");
    let elsewhere = chain.folder.path().join("elsewhere");
    let mut command = joiner
        .command(&chain, &["--cid", &chain.snapshot.cid()])
        .await;
    let given: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let mut other = Command::new(command.get_program());
    other.args(
        given
            .iter()
            .map(|argument| match *argument == joiner.app.storage() {
                true => elsewhere.as_os_str(),
                false => argument,
            }),
    );
    command = other;
    let ran = Ran(command.output().unwrap());
    let told = ran.failed(7);
    let said = told["message"].as_str().unwrap();
    let storage = elsewhere.display().to_string();
    for part in [
        "the application has another state than the chain: it says that it is at height 0; does \
         it keep its state in the storage that was restored?",
        "no other was asked for",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let hint = told["hint"].as_str().unwrap();
    assert!(hint.contains(&storage), "{hint}");
}
