//! Ctrl-C and SIGTERM: the first asks the work to stop cleanly, the second ends
//! the process at once (which loses nothing that was verified, either).

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
        let mut next = async || {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
        };
        next().await;
        token.cancel();
        screen.line("Stopping cleanly; once more to leave at once.");
        next().await;
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
