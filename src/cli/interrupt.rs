//! Ctrl-C, SIGTERM and SIGHUP: the first asks the work to stop cleanly, a second
//! Ctrl-C ends the process at once (which loses nothing that was verified,
//! either). One Ctrl-C may come twice, to the process and to its group: a second one is
//! a person's only after a moment. Supervisors send SIGTERM to the process and to its group: a second
//! one says nothing new. A terminal that closes sends SIGHUP; whoever was started
//! with it ignored (`nohup`) goes on ignoring it.

use std::time::{Duration, Instant};
use std::{fs, process};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::Door;
use super::answer;
use crate::node::command::{Failure, FailureCode};

/// What a person is told at the first signal.
const STOPPING: &str = "Stopping cleanly; Ctrl-C leaves at once.";
/// A second signal that comes sooner is the same one.
const SAME_SIGNAL: Duration = Duration::from_millis(500);

/// Begins to listen. The token is cancelled by the first signal.
pub(super) fn listen(door: &Door<'_>) -> Result<CancellationToken, Failure> {
    listen_and_tell(door, STOPPING, "what was verified stays")
}

/// The same, with what a person is told at the first signal, and what a second Ctrl-C
/// leaves.
pub(super) fn listen_and_tell(
    door: &Door<'_>,
    stopping: &'static str,
    left: &'static str,
) -> Result<CancellationToken, Failure> {
    let (screen, json) = (door.screen.clone(), door.json);
    let cancel = CancellationToken::new();
    let mut interrupts = open(SignalKind::interrupt())?;
    let mut terminations = open(SignalKind::terminate())?;
    let mut hangups = match is_ignored(HANGUP) {
        true => None,
        false => Some(open(SignalKind::hangup())?),
    };
    let token = cancel.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
            Some(_) = async { hangups.as_mut()?.recv().await } => {}
        }
        token.cancel();
        // On a thread of its own: a stderr that nobody reads delays no stop.
        let told = move || screen.line(stopping);
        tokio::task::spawn_blocking(told);
        let first = Instant::now();
        while interrupts.recv().await.is_some() && first.elapsed() < SAME_SIGNAL {}
        let code = FailureCode::Interrupted;
        // Whoever does not read stdout does not hold the exit up.
        let told = move || answer::failure(json, &Failure::new(code, "left at once").hint(left));
        let told = tokio::task::spawn_blocking(told);
        let _ = tokio::time::timeout(SAME_SIGNAL, told).await;
        process::exit(code.exit_code().into());
    });
    Ok(cancel)
}

/// The number of SIGHUP, everywhere.
const HANGUP: u32 = 1;

/// Whether the process was started with a signal ignored, where the system tells.
fn is_ignored(number: u32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, number))
}

/// `SigIgn: 0000000000001001` has bit n-1 set for signal n.
fn ignores(status: &str, number: u32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

fn open(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        let problem = format!("the system gives no signals: {error}");
        Failure::new(FailureCode::Failed, problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read_by_bits() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n";
        assert!(ignores(status, HANGUP) && ignores(status, 13));
        assert!(!ignores(status, 2));
        assert!(!ignores("Name:\tx\n", HANGUP));
        assert!(!ignores("SigIgn:\t0000000000001000\n", HANGUP));
    }
}
