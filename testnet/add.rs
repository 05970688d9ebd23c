//! `testnet join`: a fresh node for a network that is kept running.

use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, ensure};

use crate::comet::Node;
use crate::kept::{Folder, Kept};
use crate::network::{App, Network};
use crate::phases::{HOMES, NODES};
use crate::processes::Processes;
use crate::record::Record;
use crate::swarm::{Home, JoinOrder, trust_in};

/// The first last byte of a new node's address; those below belong to validators.
const FIRST_ADDRESS: u8 = 120;
/// Nodes that can be added.
const NODES_MAX: u8 = 134;

/// Which node.
#[derive(clap::Args)]
pub struct Arguments {
    /// What it is called; a new name makes a new node, the name of one that is there
    /// lets that go on.
    name: Option<String>,
    #[command(flatten)]
    place: crate::Place,
}

/// Makes the node and becomes `snapswarm join`: Ctrl-C and the exit code are its own.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = arguments.place.folder()?;
    let (network, kept) = folder.load()?;
    let mut processes = folder.processes()?;
    let (node, home) = match arguments.name.as_deref() {
        Some(name) if file(&folder, name)?.is_file() => {
            let node = load(&file(&folder, name)?)?;
            let home = Home::at(name, folder.path().join(HOMES).join(name), &kept.tools);
            (node, home)
        }
        name => make(name, &folder, &network, &kept, &processes).await?,
    };
    let alive = folder.alive()?;
    let runs = |name: &str| alive.iter().any(|record| record.name == name);
    ensure!(!runs(&node.name), "{} runs already", node.name);
    if network.app == App::Adapter && !runs(&format!("{}-adapter", node.name)) {
        node.start_adapter(&network, &home, &kept.tools, &mut processes)
            .await?;
    }
    processes.let_go();
    let order = JoinOrder {
        app: network.app,
        manifest: None,
        swarm_only: false,
        node: &node,
        bootstrap: &kept.providers,
        validators: &kept.validators,
    };
    println!(
        "{}: RPC {}, data in {}",
        node.name,
        node.rpc.url(),
        node.home().display()
    );
    // This very process goes on as `join`.
    Record::of(&node.name, nix::unistd::getpid())?.save(&folder.records())?;
    let failed = std::process::Command::new(&kept.tools.snapswarm)
        .arg("--home")
        .arg(home.folder())
        .args(order.arguments(&kept.tools)?)
        .exec();
    Err(failed).with_context(|| format!("{} does not start", kept.tools.snapswarm.display()))
}

/// What is known of a node that was added.
fn file(folder: &Folder, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "the name {name:?}: use letters, digits and '-'"
    );
    Ok(folder.path().join(NODES).join(name).join("testnet.json"))
}

fn load(path: &Path) -> anyhow::Result<Node> {
    let text = std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not right", path.display()))
}

async fn make(
    name: Option<&str>,
    folder: &Folder,
    network: &Network,
    kept: &Kept,
    processes: &Processes,
) -> anyhow::Result<(Node, Home)> {
    let nodes = folder.path().join(NODES);
    let (number, name) = claim(&nodes, kept.validators.len(), name)?;
    let ip = kept.block.address(FIRST_ADDRESS + number % NODES_MAX);
    let (first, tools) = (&kept.validators[0], &kept.tools);
    let place = (name.as_str(), nodes.join(&name));
    let node = Node::make(network, place, ip, first, tools, processes).await?;
    node.configure(network, &kept.validators)?;
    let home = folder.path().join(HOMES).join(&name);
    let trust = trust_in(network.app, &kept.providers);
    let home = Home::make(&name, home, network, &trust, tools, processes).await?;
    // Last: a node without this file is not whole.
    let text = serde_json::to_string_pretty(&node)?;
    crate::comet::write(&file(folder, &name)?, &text)?;
    Ok((node, home))
}

/// Makes a folder that nobody has, also when two are added at once. Its number, and
/// the node's name.
fn claim(nodes: &Path, validators: usize, name: Option<&str>) -> anyhow::Result<(u8, String)> {
    // The homes of the validators, and one for who joins by hand.
    let others = validators + 1;
    let there = std::fs::read_dir(nodes)?.count().saturating_sub(others);
    for number in there..usize::from(NODES_MAX) {
        let name = name.map_or_else(|| format!("new-{}", number + 1), str::to_owned);
        match std::fs::create_dir(nodes.join(&name)) {
            Ok(()) => return Ok((u8::try_from(number)?, name)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| nodes.display().to_string()),
        }
    }
    anyhow::bail!("no more nodes can be added, or a half-made one is in the way of its name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_without_a_name_get_different_ones() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["node0", "node1", "node2"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let claim = |name| claim(folder.path(), 2, name).unwrap();
        assert_eq!(claim(None), (0, "new-1".to_owned()));
        assert_eq!(claim(Some("mine")), (1, "mine".to_owned()));
        assert_eq!(claim(None), (2, "new-3".to_owned()));
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_folder() {
        let folder = Folder::new(Some(Path::new("/nonexistent"))).unwrap();
        for name in ["", "..", "a/b", "/etc"] {
            assert!(file(&folder, name).is_err(), "{name}");
        }
    }
}
