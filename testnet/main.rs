//! Networks of real CometBFT nodes on one machine, described by TOML files
//! (`testnet/networks/`).
//!
//! `testnet run FILE` carries one out from nothing: validators with an
//! application, a snapswarm daemon beside each, transactions until a snapshot is
//! large enough, a new node that fetches it from all the daemons, is fed, and
//! catches up, while happens what the file says. Exit code 0 means that all of it is
//! true; nothing is left running in any case.
//!
//! `testnet up NETWORK` starts one and leaves it running for people; `testnet join`
//! adds a node to it, `testnet down` ends it.
//!
//! | file | what it is for |
//! |---|---|
//! | `network` | the TOML file |
//! | `tools` | the programs that are started |
//! | `running`, `processes`, `record` | one process; all of them; those that outlive us |
//! | `comet`, `application`, `rpc` | CometBFT nodes: homes and settings; how the application runs; RPC |
//! | `sdk` | nodes of a chain of the Cosmos SDK |
//! | `load` | what fills the application's state |
//! | `swarm` | snapswarm's homes, daemons and verbs |
//! | `run`, `phases`, `join`, `report` | a run, its phases, those of the new node, what is told about them |
//! | `faults`, `liar` | what goes wrong on purpose |
//! | `up`, `add`, `down`, `kept` | a network that is kept: start, one more node, end, its folder |

mod add;
mod application;
mod comet;
mod down;
mod faults;
mod join;
mod kept;
mod liar;
mod load;
mod network;
mod phases;
mod processes;
mod record;
mod report;
mod rpc;
mod run;
mod running;
mod sdk;
mod swarm;
mod tools;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use network::Network;
use processes::Processes;
use run::Run;
use tools::Tools;

/// Networks of real CometBFT nodes on this machine.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Carry a network out from nothing to its end.
    ///
    /// Example: testnet run smoke
    Run(RunArguments),
    /// Start a network and leave it running, until `testnet down`.
    ///
    /// Example: testnet up smoke
    Up(up::Arguments),
    /// Add a fresh node to the network that is up, by `snapswarm join`.
    Join(add::Arguments),
    /// End the network that is up, and remove its folder.
    Down(down::Arguments),
    /// A provider that lies; networks start it.
    #[command(hide = true)]
    Liar(liar::Arguments),
}

#[derive(clap::Args)]
struct RunArguments {
    /// A network of testnet/networks (its name), or a network's file.
    network: String,
    #[command(flatten)]
    programs: Programs,
    /// Keep data and logs of a run that succeeds as well.
    #[arg(long)]
    keep: bool,
}

/// Which programs are started.
#[derive(clap::Args)]
struct Programs {
    /// Folder with `cometbft` and `node` (its e2e application), and `wasmd` for a chain
    /// of the SDK; where testnet/tools.sh puts them unless given. A run with several is
    /// carried out with one after the other.
    #[arg(long, value_name = "DIR[,DIR...]", value_delimiter = ',')]
    tools: Vec<PathBuf>,
    /// The program under test; the one built beside this one unless given.
    #[arg(long)]
    snapswarm: Option<PathBuf>,
}

impl Programs {
    /// Those of each folder.
    fn find(&self) -> anyhow::Result<Vec<Tools>> {
        let target = tools::target_folder()?;
        let snapswarm = self.snapswarm.as_deref();
        if self.tools.is_empty() {
            return Ok(vec![Tools::find(&target, None, snapswarm)?]);
        }
        let folders = self.tools.iter();
        folders
            .map(|folder| Tools::find(&target, Some(folder), snapswarm))
            .collect()
    }
}

/// Where a network that is kept lies.
#[derive(clap::Args)]
struct Place {
    /// The network's folder; testnet/up in the target folder unless given.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Place {
    fn folder(&self) -> anyhow::Result<kept::Folder> {
        kept::Folder::new(self.folder.as_deref())
    }
}

// The kernel ends a process when the *thread* that started it ends, not only
// when the program does (`processes`): so all of them are started from the
// main thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Run(arguments) => run(&arguments).await,
        Verb::Up(arguments) => up::run(&arguments).await,
        Verb::Join(arguments) => add::run(&arguments).await,
        Verb::Down(arguments) => down::run(&arguments).await,
        Verb::Liar(arguments) => liar::run(arguments).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let network = Network::read(&network::file(&arguments.network))?;
    let all = arguments.programs.find()?;
    ensure!(
        all.len() >= network.min_versions,
        "the network {} compares versions: name at least {} folders with --tools DIR,DIR",
        network.name,
        network.min_versions
    );
    for tools in &all {
        tools.check(network.app)?;
        let folder = tools.cometbft.with_file_name("");
        println!("== {} with {}", network.name, folder.display());
        run_with(&network, tools, arguments.keep)
            .await
            .with_context(|| format!("with {}", folder.display()))?;
    }
    Ok(())
}

async fn run_with(network: &Network, tools: &Tools, keep: bool) -> anyhow::Result<()> {
    let folder = make_folder(&tools::target_folder()?.join("testnet"), &network.name)?;
    let mut processes = Processes::new(folder.join("logs"))?;
    let stop_patience = Duration::from_secs(network.patience_s.stop);
    let result = tokio::select! {
        result = Run::new(network, tools, &folder, &mut processes).carry_out() => result,
        name = told_to_stop() => Err(anyhow::anyhow!("stopped by {name}")),
    };
    processes.stop(stop_patience).await;
    if result.is_err() || keep {
        eprintln!(
            "Data: {}\nLogs: {}",
            folder.display(),
            processes.logs().display()
        );
    } else {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("the folder {} cannot be removed", folder.display()))?;
    }
    result
}

/// `TARGET/testnet/NAME-SECONDS-PROCESS`: sorts by time, and two runs of one
/// second differ.
fn make_folder(parent: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = parent.join(format!("{name}-{now}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
    Ok(folder)
}

/// Waits for a signal that asks to stop; its name.
async fn told_to_stop() -> &'static str {
    let asked = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = asked(SignalKind::interrupt()) => "Ctrl-C",
        _ = asked(SignalKind::terminate()) => "SIGTERM",
        _ = asked(SignalKind::hangup()) => "SIGHUP",
    }
}
