//! How fast messages of one stream are read. Who sends more is read slower;
//! that is no fault.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Messages taken at once after a quiet time: opening sixteen snapshots, filling
/// a window and a burst of have-messages stay far below.
const BURST: f64 = 4096.0;

/// Messages in a second: three for each piece on a link of 10 Gbit/s.
const PER_SECOND: f64 = 4000.0;

/// Piece numbers in a have-message that weigh as much as one more message.
pub(super) const NUMBERS_PER_MESSAGE: usize = 64;

/// The allowance of one stream.
pub(super) struct Pace {
    allowance: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            allowance: BURST,
            at: now,
        }
    }

    /// Takes the allowance of so many messages; waits while it is used up.
    pub(super) async fn take(&mut self, messages: usize) {
        if let Some(pause) = self.pause(messages, Instant::now()) {
            sleep(pause).await;
        }
    }

    /// How long to wait before these messages are taken.
    fn pause(&mut self, messages: usize, now: Instant) -> Option<Duration> {
        let earned = (now - self.at).as_secs_f64() * PER_SECOND;
        self.allowance = (self.allowance + earned).min(BURST) - messages as f64;
        self.at = now;
        (self.allowance < 0.0).then(|| Duration::from_secs_f64(-self.allowance / PER_SECOND))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_at_once_and_a_flood_at_its_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST as usize {
            assert_eq!(pace.pause(1, start), None);
        }
        let mut now = start;
        for _ in 0..8000 {
            now += pace.pause(1, now).expect("used up");
        }
        let seconds = (now - start).as_secs_f64();
        assert!((1.99..2.01).contains(&seconds), "{seconds}");

        let later = now + Duration::from_secs(60);
        assert_eq!(pace.pause(BURST as usize, later), None);
        assert!(pace.pause(1, later).is_some());
    }
}
