//! Ctrl-C and SIGTERM: the first asks the work to stop cleanly, a second Ctrl-C
//! ends the process at once (which loses nothing that was verified, either).
//! Supervisors send SIGTERM to the process and to its group: a second one says
//! nothing new.

use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::screen::Screen;
use crate::node::command::{Failure, FailureCode};

/// Begins to listen. The token is cancelled by the first signal.
pub fn listen(screen: Screen) -> Result<CancellationToken, Failure> {
    let cancel = CancellationToken::new();
    let mut interrupts = open(SignalKind::interrupt())?;
    let mut terminations = open(SignalKind::terminate())?;
    let token = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
        token.cancel();
        screen.line("Stopping cleanly; Ctrl-C leaves at once.");
        interrupts.recv().await;
        process::exit(FailureCode::Interrupted.exit_code().into());
    });
    Ok(cancel)
}

fn open(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure {
        code: FailureCode::Failed,
        message: format!("the system gives no signals: {error}"),
        hint: None,
    })
}
