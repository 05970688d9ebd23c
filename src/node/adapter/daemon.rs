//! Asking the daemon of the home, which may be of another version: the adapter is
//! not restarted with it. So an answer is read for what is needed of it, and the rest
//! is left alone.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::node::command::{Command, Failure, FailureCode};
use crate::node::remote;
use crate::node::services::lock;

/// The daemon answers at once, or is not to be waited for.
const TIMEOUT: Duration = Duration::from_secs(2);
/// A daemon that takes or makes a large snapshot is silent meanwhile, and so is one that
/// hangs: it is waited for, and told.
const SILENT_AFTER: Duration = Duration::from_secs(600);
/// An answer serves all who ask within so long: the daemon has few places for
/// clients, and anybody may ask through the chain's RPC.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// A running daemon, as far as the adapter cares.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct Running {
    /// Downloads under way, as the daemon tells them.
    pub(super) downloads: Vec<Value>,
}

/// How the daemon is.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Daemon {
    /// It runs.
    Running(Running),
    /// None runs, or it says nothing.
    Silent(String),
    /// It runs, and its answer is not understood.
    Strange(String),
}

impl Daemon {
    /// What is wrong, for people.
    pub(super) fn problem(&self) -> Option<&str> {
        match self {
            Self::Running(_) => None,
            Self::Silent(problem) | Self::Strange(problem) => Some(problem),
        }
    }
}

/// The daemon's state, asked for seldom.
pub(super) struct Watch {
    home: PathBuf,
    runtime: Handle,
    last: Mutex<Option<(Instant, Daemon)>>,
}

impl Watch {
    pub(super) fn new(home: &Path, runtime: Handle) -> Self {
        Self {
            home: home.to_owned(),
            runtime,
            last: Mutex::default(),
        }
    }

    /// How the daemon is now, or was a moment ago. Blocking; whoever comes while it is
    /// asked waits for the same answer.
    pub(super) fn look(&self) -> Daemon {
        let mut last = lock(&self.last);
        if let Some((at, daemon)) = &*last
            && at.elapsed() < FRESH_FOR
        {
            return daemon.clone();
        }
        let daemon = self.runtime.block_on(status(&self.home));
        *last = Some((Instant::now(), daemon.clone()));
        daemon
    }
}

async fn status(home: &Path) -> Daemon {
    let asked = ask(home, &Command::Status);
    match tokio::time::timeout(TIMEOUT, asked).await {
        Err(_) => Daemon::Silent(format!("it does not answer within {} s", TIMEOUT.as_secs())),
        Ok(None) => Daemon::Silent("none runs on this home".to_owned()),
        Ok(Some(Err(failure))) => Daemon::Strange(failure.message),
        Ok(Some(Ok(status))) => match Running::deserialize(status) {
            Ok(running) => Daemon::Running(running),
            Err(error) => Daemon::Strange(not_understood(&error)),
        },
    }
}

/// What the daemon says about an application's snapshots.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct Harvested {
    /// CIDs of what was taken: every version says this.
    #[allow(dead_code)] // its presence tells what kind of answer it is
    taken: Vec<String>,
    /// Height, format and ABCI hash (hex) of what need not be asked for again.
    #[serde(default)]
    pub(super) settled: Vec<(u64, u32, String)>,
    /// What went wrong.
    #[serde(default)]
    pub(super) trouble: Option<String>,
}

/// What the daemon made of a copy.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub(super) struct Made {
    /// The snapshot's CID.
    pub(super) published: String,
    /// How many records it has.
    #[serde(default)]
    pub(super) records: u64,
}

/// Has a harvest done; this may take hours.
pub(super) async fn harvest(home: &Path, command: &Command) -> Result<Harvested, Failure> {
    answer(home, command).await
}

/// Has a snapshot made of a copy; this may take long.
pub(super) async fn publish(home: &Path, command: &Command) -> Result<Made, Failure> {
    answer(home, command).await
}

async fn answer<T: DeserializeOwned>(home: &Path, command: &Command) -> Result<T, Failure> {
    let failed = |message| Failure::new(FailureCode::Failed, message);
    match ask(home, command).await {
        None => Err(failed(format!(
            "no daemon runs on {}: snapshots are not taken",
            home.display()
        ))),
        Some(Err(failure)) => Err(failure),
        Some(Ok(answer)) => T::deserialize(answer).map_err(|error| failed(not_understood(&error))),
    }
}

/// Waits for what takes long, and tells when it takes very long.
pub(super) async fn patiently<T>(asked: impl Future<Output = T>) -> T {
    tokio::pin!(asked);
    loop {
        match tokio::time::timeout(SILENT_AFTER, &mut asked).await {
            Ok(answer) => return answer,
            Err(_) => tracing::warn!(
                minutes = SILENT_AFTER.as_secs() / 60,
                "the daemon is at a snapshot, or hangs: it has said nothing for a while"
            ),
        }
    }
}

/// Tells something, where a daemon runs that hears it soon.
pub(super) async fn tell(home: &Path, command: &Command) {
    let told = tokio::time::timeout(TIMEOUT, ask(home, command)).await;
    if let Ok(Some(Err(failure))) = told {
        tracing::debug!(%failure, "the daemon does not want to know");
    }
}

fn not_understood(error: &serde_json::Error) -> String {
    format!(
        "the daemon's answer is not understood ({error}): it is of another version; start the \
         adapter anew, together with its node, when that may be"
    )
}

async fn ask(home: &Path, command: &Command) -> Option<Result<Value, Failure>> {
    let (progress, mut said) = mpsc::channel(1);
    let drain = async { while said.recv().await.is_some() {} };
    let asked = remote::ask_plainly(home, command, progress, CancellationToken::new());
    tokio::join!(asked, drain).0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_daemon_of_a_later_version_is_understood() {
        let status = json!({
            "running": true, "version": "9", "surprise": {"a": 1},
            "downloads": [
                {"manifest": "one", "done": 5, "total": 9, "mood": "good"},
                {"something": "else"},
            ],
        });
        let running = Running::deserialize(status).unwrap();
        assert_eq!(running.downloads.len(), 2);
        let harvested = json!({
            "taken": ["x"], "settled": [[7, 1, "aa"]], "waiting": [], "trouble": null, "new": 1,
        });
        let harvested = Harvested::deserialize(harvested).unwrap();
        assert_eq!(harvested.settled, [(7, 1, "aa".to_owned())]);
        // One that says nothing of what is settled settles nothing.
        let old = json!({"taken": [], "waiting": [], "trouble": null});
        assert!(Harvested::deserialize(old).unwrap().settled.is_empty());
        assert!(Harvested::deserialize(json!({"manifest": "x"})).is_err());
    }

    #[test]
    fn a_daemon_that_is_not_there_is_told_from_one_that_hangs_and_one_that_is_strange() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let home = tempfile::tempdir().unwrap();
        let look = || Watch::new(home.path(), runtime.handle().clone()).look();
        assert!(matches!(look(), Daemon::Silent(problem) if problem.contains("none runs")));
        let socket = home.path().join(crate::api::control::SOCKET_NAME);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(look(), Daemon::Silent(problem) if problem.contains("2 s")));
        let answers = std::thread::spawn(move || {
            use std::io::{BufRead, BufReader, Write};
            // The first was left by the asker above.
            for answer in ["", "{\"ok\":{\"no\":1}}\n", "{\"ok\":{\"downloads\":[]}}\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        assert!(matches!(look(), Daemon::Strange(_)));
        let running = look();
        assert!(matches!(running, Daemon::Running(_)) && running.problem().is_none());
        answers.join().unwrap();
    }

    #[test]
    fn many_who_ask_at_once_are_one_question_to_the_daemon() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join(crate::api::control::SOCKET_NAME);
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let watch = Watch::new(home.path(), runtime.handle().clone());
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| assert!(watch.look().problem().is_some()));
            }
        });
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_ok());
        assert!(listener.accept().is_err(), "one client, not twenty");
    }
}
