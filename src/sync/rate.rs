//! A rate of bytes, measured while there is something to move.

use std::time::{Duration, Instant};

/// Memory of the average (`facts/swarm-policy.md`: EWMA over 2 s).
const MEMORY: Duration = Duration::from_secs(2);
/// A measurement is forgotten when nothing was asked for so long: whoever was
/// slow then gets another chance, and whoever was fast must show it again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// An exponentially weighted average of bytes per second. Time passes only
/// between [`Rate::run`] and [`Rate::pause`]: a peer of whom nothing is asked
/// does not get slower; after a while it is unknown again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Decayed sum of bytes over [`MEMORY`].
    sum: f64,
    /// How much of the memory is filled, 0 to 1: without it a new average would
    /// start from zero.
    weight: f64,
    last: Instant,
    running: bool,
}

impl Rate {
    /// Nothing measured, paused.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sum: 0.0,
            weight: 0.0,
            last: now,
            running: false,
        }
    }

    /// From now on time counts.
    pub(super) fn run(&mut self, now: Instant) {
        if self.is_forgotten(now) {
            *self = Self::new(now);
        }
        if !self.running {
            self.running = true;
            self.last = now;
        }
    }

    /// From now on time does not count.
    pub(super) fn pause(&mut self, now: Instant) {
        self.advance(now);
        self.running = false;
    }

    /// So many bytes moved.
    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.advance(now);
        self.sum += bytes as f64;
    }

    /// Bytes per second, or nothing while less than a twentieth of the memory
    /// (about 100 ms) is filled: one frame says nothing about a link.
    pub(super) fn get(&self, now: Instant) -> Option<f64> {
        if self.is_forgotten(now) {
            return None;
        }
        let mut at = *self;
        at.advance(now);
        (at.weight > 0.05).then(|| at.sum / (at.weight * MEMORY.as_secs_f64()))
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        !self.running && now.saturating_duration_since(self.last) > FORGOTTEN_AFTER
    }

    fn advance(&mut self, now: Instant) {
        if self.running && now > self.last {
            let passed = (now - self.last).as_secs_f64();
            let decay = (-passed / MEMORY.as_secs_f64()).exp();
            self.sum *= decay;
            self.weight = 1.0 - (1.0 - self.weight) * decay;
            self.last = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_measured_from_the_start_and_a_short_pause_changes_nothing() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!(rate.get(start), None);
        rate.run(start);
        let mut now = start;
        for step in 1..=100u32 {
            now = start + Duration::from_millis(10) * step;
            rate.add(10_000, now);
            if let Some(rate) = rate.get(now) {
                assert!((0.95e6..1.10e6).contains(&rate), "{rate} at step {step}");
            }
        }
        rate.pause(now);
        let later = now + FORGOTTEN_AFTER;
        assert!(rate.get(later).is_some());
        assert_eq!(rate.get(later), rate.get(now));
        assert_eq!(rate.get(later + Duration::from_nanos(1)), None);
    }

    #[test]
    fn silence_while_something_is_asked_brings_the_rate_down() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        rate.run(start);
        rate.add(2_000_000, start + Duration::from_secs(1));
        let before = rate.get(start + Duration::from_secs(1)).unwrap();
        let after = rate.get(start + Duration::from_secs(11)).unwrap();
        assert!(after < before / 100.0, "{before} {after}");
    }
}
