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
    pub(super) fn new() -> Self {
        Self {
            allowance: BURST,
            at: Instant::now(),
        }
    }

    /// Takes the allowance of so many messages; waits while it is used up.
    pub(super) async fn take(&mut self, messages: usize) {
        let now = Instant::now();
        let earned = (now - self.at).as_secs_f64() * PER_SECOND;
        self.allowance = (self.allowance + earned).min(BURST) - messages as f64;
        self.at = now;
        if self.allowance < 0.0 {
            sleep(Duration::from_secs_f64(-self.allowance / PER_SECOND)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_at_once_and_a_flood_at_its_pace() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..BURST as usize {
            pace.take(1).await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..8000 {
            pace.take(1).await;
        }
        let seconds = start.elapsed().as_secs_f64();
        assert!((1.9..8.1).contains(&seconds), "{seconds}");
    }
}
