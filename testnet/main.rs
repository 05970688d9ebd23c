//! Networks of real CometBFT nodes on one machine, described by TOML files
//! (`testnet/networks/`).
//!
//! `testnet run FILE` carries one out from nothing: validators with an
//! application in their process, a snapswarm daemon beside each, transactions
//! until a snapshot is large enough, a new node that fetches it from all the
//! daemons, is fed, and catches up. Exit code 0 means that all of it is true;
//! nothing is left running in any case.
//!
//! | file | what it is for |
//! |---|---|
//! | `network` | the TOML file |
//! | `tools` | the programs that are started |
//! | `processes` | starting, watching, ending them |
//! | `comet`, `rpc` | CometBFT nodes: homes and settings; RPC |
//! | `load` | transactions |
//! | `swarm` | snapswarm's homes, daemons and verbs |
//! | `run`, `join`, `report` | the phases, those of the new node, what is told about them |

mod comet;
mod join;
mod load;
mod network;
mod processes;
mod report;
mod rpc;
mod run;
mod swarm;
mod tools;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
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
    /// Example: testnet run testnet/networks/demo.toml
    Run(RunArguments),
}

#[derive(clap::Args)]
struct RunArguments {
    /// The network's file.
    file: PathBuf,
    /// Folder with `cometbft` and `node` (its e2e application); where
    /// testnet/tools.sh puts them unless given.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// The program under test; the one built beside this one unless given.
    #[arg(long)]
    snapswarm: Option<PathBuf>,
    /// Keep data and logs of a run that succeeds as well.
    #[arg(long)]
    keep: bool,
}

// The kernel ends a process when the *thread* that started it ends, not only
// when the program does (`processes`): so all of them are started from the
// main thread.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Verb::Run(arguments) = Arguments::parse().verb;
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &RunArguments) -> anyhow::Result<()> {
    let network = Network::read(&arguments.file)?;
    let target = tools::target_folder()?;
    let tools = Tools::find(
        &target,
        arguments.tools.as_deref(),
        arguments.snapswarm.as_deref(),
    )?;
    let folder = make_folder(&target.join("testnet"), &network.name)?;
    let mut processes = Processes::new(folder.join("logs"))?;
    let stop_patience = Duration::from_secs(network.patience_s.stop);
    let result = tokio::select! {
        result = Run::new(&network, &tools, &folder, &mut processes).carry_out() => result,
        name = told_to_stop() => Err(anyhow::anyhow!("stopped by {name}")),
    };
    processes.stop(stop_patience).await;
    if result.is_err() || arguments.keep {
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
