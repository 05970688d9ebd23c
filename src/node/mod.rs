//! The hall: the only place where rooms meet.

pub mod command;
pub mod remote;

use std::path::Path;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use command::{
    Command, Failure, FailureCode, Initialised, Outcome, Progress, StartOptions, Started,
};

fn unavailable() -> Failure {
    Failure {
        code: FailureCode::Failed,
        message: "not available in this build".to_owned(),
        hint: None,
    }
}

/// Makes a home, or finds it made.
pub fn init(home: &Path, network: Option<&str>) -> Result<Initialised, Failure> {
    let _ = (home, network);
    Err(unavailable())
}

/// Carries a command out in this process.
pub async fn run_local(
    home: &Path,
    config: Config,
    command: Command,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<Outcome, Failure> {
    let _ = (home, config, command, progress, cancel);
    Err(unavailable())
}

/// A running daemon.
pub struct Daemon {
    started: Started,
}

impl Daemon {
    /// Binds everything.
    pub async fn start(
        home: &Path,
        config: Config,
        options: StartOptions,
        cancel: CancellationToken,
    ) -> Result<Self, Failure> {
        let _ = (home, config, options, cancel);
        Err(unavailable())
    }

    /// The first line.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// Serves until `cancel`.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Failure> {
        cancel.cancelled().await;
        Ok(())
    }
}
