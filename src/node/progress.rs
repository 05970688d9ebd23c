//! What a verb tells while it works.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::command::Progress;

/// The window over which a rate is taken: long enough to be steady, short
/// enough to follow a change.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Byte progress is told at most this often.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Sends progress; never waits for who reads it: what does not fit the queue is
/// lost, and the next word replaces it.
#[derive(Clone)]
pub struct Reporter(mpsc::Sender<Progress>);

impl Reporter {
    /// Into this channel.
    pub fn new(sender: mpsc::Sender<Progress>) -> Self {
        Self(sender)
    }

    /// A new phase.
    pub fn phase(&self, text: impl Into<String>) {
        self.send(Progress::Phase {
            text: text.into(),
            next: None,
        });
    }

    /// A new phase, and what comes after it.
    pub fn phase_then(&self, text: impl Into<String>, next: &str) {
        self.send(Progress::Phase {
            text: text.into(),
            next: Some(next.to_owned()),
        });
    }

    /// A line worth reading.
    pub fn note(&self, text: impl Into<String>) {
        self.send(Progress::Note { text: text.into() });
    }

    fn send(&self, progress: Progress) {
        let _ = self.0.try_send(progress);
    }
}

/// `1 chunk`, `2 chunks`
pub(super) fn chunks(number: u32) -> String {
    format!("{number} {}", if number == 1 { "chunk" } else { "chunks" })
}

/// Byte progress of one phase: rate over the last seconds and time to the end.
pub struct Meter {
    reporter: Reporter,
    total: u64,
    samples: VecDeque<(Instant, u64)>,
    told: Option<Instant>,
}

impl Meter {
    /// A phase of `total` bytes.
    pub fn new(reporter: Reporter, total: u64) -> Self {
        Self {
            reporter,
            total,
            samples: VecDeque::new(),
            told: None,
        }
    }

    /// `done` bytes so far, delivered by `peers`.
    pub fn tell(&mut self, done: u64, peers: u32) {
        let now = Instant::now();
        let due = self.told.is_none_or(|told| now - told >= TELL_EVERY);
        if !due && done < self.total {
            return;
        }
        self.told = Some(now);
        self.samples.push_back((now, done));
        while let Some((at, _)) = self.samples.front()
            && now - *at > RATE_WINDOW
            && self.samples.len() > 2
        {
            self.samples.pop_front();
        }
        let rate = self.rate();
        self.reporter.send(Progress::Bytes {
            done,
            total: self.total,
            rate,
            peers,
            eta_s: (rate > 0).then(|| self.total.saturating_sub(done).div_ceil(rate)),
        });
    }

    /// Bytes a second over the window.
    pub fn rate(&self) -> u64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let seconds = (last.0 - first.0).as_secs_f64();
        if seconds < 0.2 {
            return 0;
        }
        (last.1.saturating_sub(first.1) as f64 / seconds) as u64
    }
}

/// A callback for the store's long operations: tells bytes, ends the operation
/// when the verb is cancelled.
pub fn byte_progress(
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> impl FnMut(u64, u64) -> ControlFlow<()> + use<> {
    let reporter = reporter.clone();
    let cancel = cancel.clone();
    let mut meter: Option<Meter> = None;
    move |done, total| {
        meter
            .get_or_insert_with(|| Meter::new(reporter.clone(), total))
            .tell(done, 0);
        if cancel.is_cancelled() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
