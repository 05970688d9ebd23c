//! The application's process, where the adapter starts it: runs while it is wanted, and is
//! started again after a pause when it ends by itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::abci::{Address, AppInfo, app_info};
use crate::comet::process::{Plan, Process};

/// It closes its files within this when it is told to stop, or is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// One that is started answers within this: some go through their whole state first.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// The first pause before one that ended by itself is started again; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// One that ran so long was well.
const WELL_AFTER: Duration = Duration::from_secs(300);
/// Between two looks at one that is being started.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// One that takes a connection answers within this, or is asked again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Phase {
    /// There is no process, and none is being started.
    #[default]
    Idle,
    Starting,
    Running,
}

/// How the process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Condition {
    phase: Phase,
    /// How often it has ended by itself, or could not be started.
    ends: u64,
}

/// The application, for those who want it to run or not. One of them at a time.
pub(super) struct Application {
    address: Address,
    log: PathBuf,
    wanted: watch::Sender<bool>,
    condition: watch::Receiver<Condition>,
}

/// Runs it; to be polled as long as the adapter.
pub(super) struct Keeper {
    plan: Plan,
    wanted: watch::Receiver<bool>,
    condition: watch::Sender<Condition>,
}

/// An application that is not wanted yet: `command` starts it, and then it listens at
/// `address`.
pub(super) fn application(
    command: String,
    log: PathBuf,
    address: Address,
) -> (Application, Keeper) {
    let (wanted, is_wanted) = watch::channel(false);
    let (tell, condition) = watch::channel(Condition::default());
    let plan = Plan {
        command,
        environment: Vec::new(),
        log: log.clone(),
    };
    let application = Application {
        address,
        log,
        wanted,
        condition,
    };
    let keeper = Keeper {
        plan,
        wanted: is_wanted,
        condition: tell,
    };
    (application, keeper)
}

impl Application {
    /// Has it run from now on.
    pub(super) fn want(&self) {
        self.wanted.send_replace(true);
    }

    /// Has it run from now on, and waits until it answers. Blocking.
    pub(super) fn start(&self) -> Result<AppInfo, String> {
        let before = self.condition.borrow().ends;
        self.want();
        let start = Instant::now();
        loop {
            let problem = match app_info(&self.address, ANSWER_PATIENCE) {
                Ok(info) if self.runs() => return Ok(info),
                Ok(_) => "something else listens there".to_owned(),
                Err(error) => error.to_string(),
            };
            let log = self.log.display();
            if self.condition.borrow().ends > before {
                return Err(format!("the application ended by itself; its log is {log}"));
            }
            if start.elapsed() > START_PATIENCE {
                return Err(format!(
                    "the application does not answer at {} ({problem}); its log is {log}",
                    self.address
                ));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Has it run no more, and waits until it does not. Blocking.
    pub(super) fn stop(&self) {
        self.wanted.send_replace(false);
        // Without a keeper there is no process.
        let is_kept = || self.condition.has_changed().is_ok();
        while self.condition.borrow().phase != Phase::Idle && is_kept() {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn runs(&self) -> bool {
        self.condition.borrow().phase == Phase::Running
    }
}

impl Keeper {
    /// Ends, and the process with it, when it is cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut pause = PAUSE_MIN;
        while self.is_wanted(&cancel).await {
            let since = Instant::now();
            self.enter(Phase::Starting);
            // Whoever wants it no more has seen that it is idle, or is seen here.
            let is_wanted = *self.wanted.borrow();
            let by_itself = is_wanted && self.one(&cancel).await;
            self.condition.send_modify(|it| {
                it.phase = Phase::Idle;
                it.ends += u64::from(by_itself);
            });
            if !by_itself {
                pause = PAUSE_MIN;
                continue;
            }
            if since.elapsed() >= WELL_AFTER {
                pause = PAUSE_MIN;
            }
            let paused = async {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = self.wanted.wait_for(|it| !*it) => {}
                }
            };
            cancel.run_until_cancelled(paused).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits until it is wanted; false when that is over.
    async fn is_wanted(&mut self, cancel: &CancellationToken) -> bool {
        let wanted = self.wanted.wait_for(|it| *it);
        matches!(cancel.run_until_cancelled(wanted).await, Some(Ok(_)))
    }

    /// Runs it once; whether it ended by itself.
    async fn one(&mut self, cancel: &CancellationToken) -> bool {
        let command = &self.plan.command;
        let mut process = match Process::start(&self.plan).await {
            Ok(process) => process,
            Err(error) => {
                tracing::error!(command, %error, "the application cannot be started");
                return true;
            }
        };
        tracing::info!(command, log = %self.plan.log.display(), "the application is started");
        self.enter(Phase::Running);
        let ended = async { while process.next().await.is_some() {} };
        let by_itself = tokio::select! {
            () = ended => true,
            _ = self.wanted.wait_for(|it| !*it) => false,
            () = cancel.cancelled() => false,
        };
        if by_itself {
            let tail = process.tail();
            let last = tail.lines().rev().find(|line| !line.trim().is_empty());
            tracing::error!(
                command,
                last = last.unwrap_or_default(),
                log = %self.plan.log.display(),
                "the application has ended by itself; it is started again after a pause"
            );
        }
        process.stop(STOP_PATIENCE).await;
        by_itself
    }

    fn enter(&self, phase: Phase) {
        self.condition.send_modify(|it| it.phase = phase);
    }
}
