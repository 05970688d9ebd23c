//! Questions to the home's daemon: one that runs, one in this process, or none, where the
//! join does without the swarm.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{ASK_AGAIN, JoinOptions};
use crate::config::Config;
use crate::node::command::{Command, Failure, FailureCode, Outcome, Progress, StartOptions};
use crate::node::{Daemon, remote, run_local};

/// A daemon that runs tells its status within this.
const STATUS_PATIENCE: Duration = Duration::from_secs(20);
/// A daemon that is started anew is there again within this.
const BACK_PATIENCE: Duration = Duration::from_secs(120);

/// A daemon in this process.
pub(super) struct OwnDaemon {
    pub(super) task: JoinHandle<Result<(), Failure>>,
    pub(super) stop: CancellationToken,
}

/// Asks the home's daemon, or does without one.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) home: PathBuf,
    pub(super) progress: mpsc::Sender<Progress>,
    /// The settings of a home that has no daemon and needs none.
    pub(super) alone: Option<Config>,
    /// Whether the daemon is in this process.
    pub(super) is_own: bool,
}

impl Asker {
    /// Asks; a daemon that goes away meanwhile and is started again is asked again.
    pub(super) async fn ask(
        &self,
        command: Command,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        loop {
            match self.ask_once(command.clone(), cancel.clone()).await {
                // One in this process does not come back.
                Err(failure) if failure.daemon_gone && !self.is_own => {
                    if cancel.is_cancelled() || !self.comes_back(&cancel).await {
                        return Err(failure);
                    }
                }
                answer => return answer,
            }
        }
    }

    pub(super) async fn ask_once(
        &self,
        command: Command,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        let progress = self.progress.clone();
        if let Some(config) = &self.alone {
            return run_local(&self.home, config.clone(), command, progress, cancel).await;
        }
        let asked = remote::ask(&self.home, &command, progress, cancel).await;
        asked.unwrap_or_else(|| Err(self.gone()))
    }

    fn gone(&self) -> Failure {
        let message = format!("the daemon of {} has gone", self.home.display());
        let mut failure = Failure::new(FailureCode::Failed, message)
            .hint("start it again, or give the same command again: it goes on");
        failure.daemon_gone = true;
        failure
    }

    /// Whether a daemon that has gone is there again in time.
    async fn comes_back(&self, cancel: &CancellationToken) -> bool {
        let seconds = BACK_PATIENCE.as_secs();
        let text = format!("{}; waiting {seconds} seconds for it", self.gone().message);
        let _ = self.progress.send(Progress::Note { text }).await;
        let is_back = async {
            while !has_daemon(&self.home).await.unwrap_or_default() {
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        let waited = tokio::time::timeout(BACK_PATIENCE, is_back);
        let waited = cancel.run_until_cancelled(waited).await;
        waited.is_some_and(|in_time| in_time.is_ok())
    }
}

/// Whether a daemon of the home runs.
pub(super) async fn has_daemon(home: &Path) -> Result<bool, Failure> {
    let (progress, _) = mpsc::channel(1);
    let asked = remote::ask(home, &Command::Status, progress, CancellationToken::new());
    let asked = tokio::time::timeout(STATUS_PATIENCE, asked).await;
    let status = asked.unwrap_or_else(|_| {
        Some(Err(Failure::new(
            FailureCode::Failed,
            format!(
                "the daemon of {} does not answer for {} seconds",
                home.display(),
                STATUS_PATIENCE.as_secs()
            ),
        )
        .hint(
            "its log may say why; stop it (kill -9 loses nothing) and start it again",
        )))
    });
    status.transpose().map(|status| status.is_some())
}

/// A daemon of the home in this process.
pub(super) async fn own_daemon(
    home: &Path,
    config: Config,
    options: &JoinOptions,
) -> Result<OwnDaemon, Failure> {
    let start = StartOptions {
        bootstrap: options.bootstrap.clone(),
        ..StartOptions::default()
    };
    let daemon = Daemon::start(home, config, start).await?;
    let stop = CancellationToken::new();
    let task = tokio::spawn(daemon.run(stop.clone()));
    Ok(OwnDaemon { task, stop })
}
