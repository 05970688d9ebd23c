//! `testnet down`: ends a network that was kept running, and removes its folder.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;

use crate::kept::Folder;

/// A joined node stops its own processes within this, and everybody else sooner.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// The kernel ends what was killed within this.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at processes that are not our children.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Which network.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: crate::Place,
}

/// Tells all to stop, kills those that do not, and removes the folder.
pub async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = arguments.place.folder()?;
    folder.check()?;
    let count = folder.alive()?.len();
    signal(&folder, Signal::SIGTERM)?;
    if !have_ended(&folder, STOP_PATIENCE).await? {
        for record in folder.alive()? {
            println!("{} does not stop and is killed", record.name);
        }
        signal(&folder, Signal::SIGKILL)?;
        ensure!(
            have_ended(&folder, KILL_PATIENCE).await?,
            "processes of the network cannot be ended; its folder {} stays",
            folder.path().display()
        );
    }
    std::fs::remove_dir_all(folder.path())
        .with_context(|| format!("the folder {} cannot be removed", folder.path().display()))?;
    println!(
        "{count} processes stopped, {} removed",
        folder.path().display()
    );
    Ok(())
}

fn signal(folder: &Folder, signal: Signal) -> anyhow::Result<()> {
    for record in folder.alive()? {
        record.signal(signal);
    }
    Ok(())
}

async fn have_ended(folder: &Folder, patience: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + patience;
    while !folder.alive()?.is_empty() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(true)
}
