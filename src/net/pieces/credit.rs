//! How many bytes may be under way on a stream.
//!
//! Written bytes cannot be reordered or cancelled any more, so only as many are
//! written ahead as keep the path busy: a base, and the measured rate times the
//! round trip and the turnaround of two busy machines. The round trip is measured
//! with an almost empty path only: measured through our own queue it would grow
//! with the credit, and the credit with it.

use std::time::Duration;

use tokio::time::Instant;

use super::Fault;
use crate::wire::{ACK_EVERY_BYTES, BASE_CREDIT_BYTES};

/// What lies between the arrival of bytes and the next write, beside the path:
/// tasks that wait for a processor on both sides, an acknowledgement that waits
/// for company. It matters on fast paths alone: at 12 MB/s it is 60 KB.
const TURNAROUND: Duration = Duration::from_millis(5);

/// The most that rate × time adds: 500 Mbit/s over 270 ms. Nothing is
/// allocated for it here; the peer's receive window bounds it as well.
const MAX_PATH_BYTES: u64 = 16 << 20;

/// The least time over which a rate is measured.
const RATE_WINDOW: Duration = Duration::from_millis(100);

/// What is left of an old rate after each window: a path that was fast stays
/// allowed to be for about two seconds.
const RATE_MEMORY: f64 = 0.95;

/// Sent, acknowledged, and what that tells about the path.
pub(super) struct Credit {
    sent: u64,
    acknowledged: u64,
    /// The byte whose acknowledgement ends a measurement, and when it left.
    sample: Option<(u64, Instant)>,
    round_trip: Option<Duration>,
    /// Since when everything sent is acknowledged.
    idle_since: Option<Instant>,
    window_start: Instant,
    window_bytes: u64,
    rate: f64,
}

impl Credit {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            sent: 0,
            acknowledged: 0,
            sample: None,
            round_trip: None,
            idle_since: Some(now),
            window_start: now,
            window_bytes: 0,
            rate: 0.0,
        }
    }

    /// Bytes that may be written now.
    pub(super) fn room(&self) -> u64 {
        self.limit().saturating_sub(self.sent - self.acknowledged)
    }

    /// Bytes that may be unacknowledged.
    fn limit(&self) -> u64 {
        let time = self.round_trip.unwrap_or_default() + TURNAROUND;
        let path = time.as_secs_f64() * self.rate;
        BASE_CREDIT_BYTES + (path as u64).min(MAX_PATH_BYTES)
    }

    /// Whether the peer owes an acknowledgement. What is left below one interval
    /// is never acknowledged by itself.
    pub(super) fn owed(&self) -> bool {
        self.sent - self.acknowledged >= ACK_EVERY_BYTES
    }

    /// Bytes per second that were acknowledged lately.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// The shortest round trip seen.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// So many bytes were written.
    pub(super) fn sent(&mut self, bytes: u64, now: Instant) {
        let under_way = self.sent - self.acknowledged;
        if let Some(since) = self.idle_since.take() {
            // Time without anything under way says nothing about the path.
            self.window_start += now - since;
        }
        let next = self.acknowledged + ACK_EVERY_BYTES;
        if under_way < ACK_EVERY_BYTES && self.sent + bytes >= next {
            self.sample = Some((next, now));
        }
        self.sent += bytes;
    }

    /// The peer has read so many bytes, in all.
    pub(super) fn acknowledge(&mut self, bytes: u64, now: Instant) -> Result<(), Fault> {
        if bytes > self.sent || bytes < self.acknowledged {
            return Err(Fault::Acknowledged {
                acknowledged: bytes,
                sent: self.sent,
            });
        }
        self.window_bytes += bytes - self.acknowledged;
        self.acknowledged = bytes;
        if bytes == self.sent {
            self.idle_since.get_or_insert(now);
        }
        if let Some((offset, left)) = self.sample
            && bytes >= offset
        {
            let sample = now - left;
            self.round_trip = Some(self.round_trip.map_or(sample, |least| least.min(sample)));
            self.sample = None;
        }
        let passed = now - self.window_start;
        if passed >= RATE_WINDOW {
            let rate = self.window_bytes as f64 / passed.as_secs_f64();
            self.rate = rate.max(self.rate * RATE_MEMORY);
            self.window_start = now;
            self.window_bytes = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_base_is_under_way_before_anything_is_known() {
        let now = Instant::now();
        let mut credit = Credit::new(now);
        assert_eq!(credit.room(), BASE_CREDIT_BYTES);
        credit.sent(BASE_CREDIT_BYTES, now);
        assert_eq!(credit.room(), 0);
        credit.acknowledge(ACK_EVERY_BYTES, now).unwrap();
        assert_eq!(credit.room(), ACK_EVERY_BYTES);
    }

    #[test]
    fn a_peer_that_acknowledges_all_at_once_is_sent_more_at_a_time() {
        let mut now = Instant::now();
        let mut credit = Credit::new(now);
        for _ in 0..500 {
            credit.sent(credit.room(), now);
            now += Duration::from_millis(1);
            credit.acknowledge(credit.sent, now).unwrap();
            now += Duration::from_millis(1);
        }
        assert!(credit.room() > 4 * BASE_CREDIT_BYTES, "{}", credit.room());
    }

    #[test]
    fn acknowledging_what_was_not_sent_or_going_back_is_a_fault() {
        let now = Instant::now();
        let mut credit = Credit::new(now);
        credit.sent(100, now);
        assert!(credit.acknowledge(101, now).is_err());
        credit.acknowledge(100, now).unwrap();
        assert!(credit.acknowledge(99, now).is_err());
    }

    /// A path of a given rate and delay, driven in steps of a millisecond.
    fn drive(rate: f64, delay: Duration, seconds: u32) -> (f64, u64) {
        let start = Instant::now();
        let step = Duration::from_millis(1);
        let mut credit = Credit::new(start);
        let mut queue = std::collections::VecDeque::new();
        let mut link_free = start;
        let (mut delivered, mut most) = (0, 0);
        for tick in 0..seconds * 1000 {
            let now = start + step * tick;
            while queue.front().is_some_and(|(at, _)| *at <= now) {
                let (_, offset) = queue.pop_front().unwrap();
                credit.acknowledge(offset, now).unwrap();
                delivered = offset;
            }
            while credit.room() >= ACK_EVERY_BYTES {
                credit.sent(ACK_EVERY_BYTES, now);
                let taken = Duration::from_secs_f64(ACK_EVERY_BYTES as f64 / rate);
                link_free = link_free.max(now) + taken;
                queue.push_back((link_free + delay, credit.sent));
            }
            most = most.max(credit.sent - credit.acknowledged);
        }
        (delivered as f64 / f64::from(seconds), most)
    }

    #[test]
    fn a_slow_path_keeps_the_base_under_way_and_a_long_one_its_product() {
        for (rate, delay_ms) in [
            (1.25e6, 1),
            (12.5e6, 1),
            (1.25e6, 150),
            (12.5e6, 150),
            (50e6, 50),
        ] {
            let delay = Duration::from_millis(delay_ms);
            let (got, most) = drive(rate, delay, 10);
            assert!(got > rate * 0.85, "{got} of {rate} at {delay:?}");
            let first = ACK_EVERY_BYTES as f64 / rate;
            let turnaround = TURNAROUND.as_secs_f64();
            let product = rate * (delay.as_secs_f64() + first + 0.001 + turnaround);
            let bound = BASE_CREDIT_BYTES as f64 + product * 1.3 + ACK_EVERY_BYTES as f64;
            assert!((most as f64) < bound, "{most}, {bound} at {rate} {delay:?}");
        }
    }
}
