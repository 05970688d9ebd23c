//! Commands over a home's control socket: both ends.
//!
//! A command, its progress and its outcome travel as the JSON forms of
//! [`super::command`]. The daemon's end is [`Door`], the command line's [`ask`].

use std::{io, path::Path, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Failure, FailureCode, Outcome, Progress};
use crate::api::control::{self, CallError, Handler, PROGRESS_QUEUE, SOCKET_NAME};

/// What to do about two that do not understand each other.
const SAME_VERSION: &str = "use the same version of snapswarm on both sides: restart the daemon";

/// Carries out commands inside a daemon.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// As `run_local`, on the daemon's own rooms.
    async fn carry_out(
        &self,
        command: Command,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure>;
}

/// A carrier behind the control socket.
pub struct Door(pub Arc<dyn Carrier>);

#[async_trait]
impl Handler for Door {
    async fn run(
        &self,
        request: Value,
        progress: mpsc::Sender<Value>,
        cancel: CancellationToken,
    ) -> Result<Value, Value> {
        let command: Command = serde_json::from_value(request).map_err(|error| {
            json!(
                Failure::new(
                    FailureCode::Usage,
                    format!("the daemon does not know this command: {error}"),
                )
                .hint(SAME_VERSION)
            )
        })?;
        let (sender, mut said) = mpsc::channel(PROGRESS_QUEUE);
        let forward = async move {
            while let Some(value) = said.recv().await {
                // Full: the client is slow; what is dropped is followed by news.
                let _ = progress.try_send(json!(value));
            }
        };
        let (outcome, ()) = tokio::join!(self.0.carry_out(command, sender, cancel), forward);
        outcome
            .map(|outcome| json!(outcome))
            .map_err(|failure| json!(failure))
    }
}

/// Asks the daemon of a home; `None` when none runs there, or when it is somebody
/// else's and the command only looks at snapshots, which can be done without it.
pub async fn ask(
    home: &Path,
    command: &Command,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Option<Result<Outcome, Failure>> {
    let answer = ask_plainly(home, command, progress, cancel).await?;
    Some(answer.and_then(|value| serde_json::from_value(value).map_err(not_understood)))
}

/// The same; the outcome is as the daemon wrote it, for an asker that shall also
/// understand a daemon of a later version.
pub(super) async fn ask_plainly(
    home: &Path,
    command: &Command,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Option<Result<Value, Failure>> {
    let (sender, mut said) = mpsc::channel(PROGRESS_QUEUE);
    let forward = async move {
        while let Some(value) = said.recv().await {
            // A newer daemon may say what this version does not know.
            if let Ok(value) = serde_json::from_value::<Progress>(value)
                && progress.send(value).await.is_err()
            {
                break;
            }
        }
    };
    let socket = home.join(SOCKET_NAME);
    let request = json!(command);
    let (answer, ()) = tokio::join!(control::call(&socket, &request, sender, cancel), forward);
    match answer {
        Err(CallError::NoDaemon) => None,
        Err(CallError::Connect(source))
            if source.kind() == io::ErrorKind::PermissionDenied
                && command.only_looks()
                && !matches!(command, Command::Status) =>
        {
            None
        }
        Err(error) => Some(Err(broken(command, &error))),
        Ok(Ok(value)) => Some(Ok(value)),
        Ok(Err(value)) => Some(Err(
            serde_json::from_value(value).unwrap_or_else(not_understood)
        )),
    }
}

fn not_understood(error: serde_json::Error) -> Failure {
    Failure::new(
        FailureCode::Failed,
        format!("the daemon's answer is not understood: {error}"),
    )
    .hint(SAME_VERSION)
}

fn broken(command: &Command, error: &CallError) -> Failure {
    let cause =
        std::error::Error::source(error).map_or_else(String::new, |cause| format!(": {cause}"));
    let (code, hint) = match (error, command) {
        (CallError::Gone, Command::Fetch(_)) => (
            FailureCode::Interrupted,
            "nothing verified is lost: give the same command again",
        ),
        (CallError::Gone, _) => (
            FailureCode::Failed,
            "look into the daemon's log, start it again and repeat the command",
        ),
        (CallError::NoDaemon | CallError::Connect(_) | CallError::Answer(_), _) => (
            FailureCode::Failed,
            "check that the daemon of this home runs as the same user and in the same version",
        ),
    };
    let mut failure = Failure::new(code, format!("{error}{cause}")).hint(hint);
    failure.daemon_gone = matches!(error, CallError::Gone);
    failure
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::node::command::LimitsCommand;

    #[test]
    fn the_daemon_of_somebody_else_is_not_needed_for_a_look() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join(SOCKET_NAME);
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o000)).unwrap();
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                // Root may use every socket; this thread now asks as somebody else.
                nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let limits = Command::Limits(LimitsCommand::default());
                [Command::List, Command::Status, limits].map(|command| {
                    let (progress, _said) = mpsc::channel(1);
                    let asked = ask(home.path(), &command, progress, CancellationToken::new());
                    runtime.block_on(asked)
                })
            });
            asking.join().unwrap()
        });
        assert!(asked[0].is_none());
        for answer in &asked[1..] {
            assert!(matches!(answer, Some(Err(failure)) if failure.code == FailureCode::Failed));
        }
    }
}
