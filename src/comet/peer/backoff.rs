//! Pauses between tries to reach a node.

use std::time::{Duration, Instant};

use super::Stop;

/// The pause after a first failure. A node that restarts is back within a few
/// seconds.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause. A joining node discovers snapshots for 5 s at least: we
/// must not miss it.
const LONGEST: Duration = Duration::from_secs(4);

/// Doubles the pause from one failure to the next.
#[derive(Debug)]
pub(super) struct Backoff {
    pause: Duration,
    not_before: Option<Instant>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self {
            pause: FIRST,
            not_before: None,
        }
    }

    /// A try failed, or what it had brought ended.
    pub(super) fn failed(&mut self) {
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(LONGEST);
    }

    /// The connection has shown its worth: the next failure is a first one.
    pub(super) fn worked(&mut self) {
        self.pause = FIRST;
    }

    /// Waits until the next try is due; tells whether stopped.
    pub(super) fn wait(&self, stop: &Stop) -> bool {
        match self.not_before {
            Some(due) => stop.wait(due.saturating_duration_since(Instant::now())),
            None => stop.is_stopped(),
        }
    }
}
