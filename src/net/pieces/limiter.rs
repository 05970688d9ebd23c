//! The rate limit over all uploads of a node.
//!
//! A token bucket in its other form: a point in time up to which the allowed
//! bytes are given away. Who wants to send takes the next stretch and waits for
//! its beginning, so everyone's turn comes in the order of asking, and leaving a
//! wait (to send a control frame) does not lose the turn.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{FRAME_HEADER_BYTES, MAX_DATA_BYTES};

/// Unused time that may be made up for: enough for timers that fire late, far
/// too little to be seen in a second.
const BURST: Duration = Duration::from_millis(20);

/// How long one data frame may take at the limit; slower ones are cut into
/// smaller frames, so that a stream is never silent for long.
const FRAME_TIME: f64 = 0.05;

/// The smallest data frame that is worth its framing.
const MIN_FRAME_BYTES: f64 = 4096.0;

/// Bytes of a yamux data frame beside its payload: the yamux header (12), and
/// twice what TLS 1.3 adds to a record (5 header, 1 type, 16 tag), for header
/// and payload leave as two records.
const MUXER_FRAME_BYTES: u64 = 12 + 2 * 22;

/// What yamux puts into a frame at most.
pub(super) const MUXER_PAYLOAD_BYTES: usize = 16 << 10;

/// Bytes on the wire for so many bytes written to a stream. Measured at the
/// socket in `tests/pieces/rate.rs`. QUIC adds two per cent more.
pub(super) fn wire_bytes(written: u64) -> u64 {
    written + written.div_ceil(MUXER_PAYLOAD_BYTES as u64) * MUXER_FRAME_BYTES
}

/// Shared by all streams of a server.
pub(super) struct Limiter {
    state: Mutex<State>,
}

struct State {
    bytes_per_second: Option<f64>,
    given_until: Instant,
    epoch: u64,
}

/// A turn to send.
#[derive(Clone, Copy)]
pub(super) struct Turn {
    /// When it begins; absent: now.
    pub(super) at: Option<Instant>,
    /// Bytes of piece that may be sent then.
    pub(super) bytes: u32,
    epoch: u64,
}

impl Limiter {
    pub(super) fn new(bytes_per_second: Option<u64>, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                bytes_per_second: bytes_per_second.map(|rate| rate.max(1) as f64),
                given_until: now,
                epoch: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another limit, from now on. Turns already taken are void.
    pub(super) fn set(&self, bytes_per_second: Option<u64>, now: Instant) {
        let mut state = self.state();
        state.bytes_per_second = bytes_per_second.map(|rate| rate.max(1) as f64);
        state.given_until = now;
        state.epoch += 1;
    }

    /// The next turn for up to `bytes` of a piece.
    pub(super) fn turn(&self, bytes: u32, now: Instant) -> Turn {
        let mut state = self.state();
        let epoch = state.epoch;
        let Some(rate) = state.bytes_per_second else {
            return Turn {
                at: None,
                bytes,
                epoch,
            };
        };
        let frame = (rate * FRAME_TIME).clamp(MIN_FRAME_BYTES, f64::from(MAX_DATA_BYTES));
        let bytes = bytes.min(frame as u32);
        let at = state.give(u64::from(bytes) + FRAME_HEADER_BYTES as u64, now);
        Turn {
            at: Some(at),
            bytes,
            epoch,
        }
    }

    /// Whether a turn that was taken is void.
    pub(super) fn is_void(&self, turn: &Turn) -> bool {
        turn.epoch != self.state().epoch
    }

    /// Counts bytes that do not wait for a turn: control frames.
    pub(super) fn charge(&self, bytes: u64, now: Instant) {
        let _ = self.state().give(bytes, now);
    }
}

impl State {
    /// Gives the next stretch away; its beginning.
    fn give(&mut self, bytes: u64, now: Instant) -> Instant {
        let at = self.given_until.max(now.checked_sub(BURST).unwrap_or(now));
        if let Some(rate) = self.bytes_per_second {
            self.given_until = at + Duration::from_secs_f64(wire_bytes(bytes) as f64 / rate);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: u32 = MAX_DATA_BYTES - 5;

    #[test]
    fn bytes_leave_at_the_limit_and_a_change_counts_at_once() {
        let start = Instant::now();
        let limiter = Limiter::new(Some(1_000_000), start);
        let (mut now, mut sent) = (start, 0);
        while now < start + Duration::from_secs(10) {
            let turn = limiter.turn(FRAME, now);
            // Timers fire late.
            now = turn.at.unwrap().max(now) + Duration::from_millis(1);
            sent += wire_bytes(u64::from(turn.bytes) + 5);
        }
        assert!((9_900_000..10_200_000).contains(&sent), "{sent}");

        let turn = limiter.turn(FRAME, now);
        limiter.set(Some(100_000_000), now);
        assert!(limiter.is_void(&turn));
        assert!(limiter.turn(FRAME, now).at.unwrap() <= now);
        limiter.set(None, now);
        assert!(limiter.turn(FRAME, now).at.is_none());
    }

    #[test]
    fn streams_share_the_limit_evenly_and_slow_ones_get_small_frames() {
        let start = Instant::now();
        let limiter = Limiter::new(Some(100_000), start);
        let mut sent = [0u32; 3];
        let mut ready = [start; 3];
        for tick in 0..10_000 {
            let now = start + Duration::from_millis(tick);
            for stream in 0..3 {
                if ready[stream] <= now {
                    let turn = limiter.turn(FRAME, now);
                    assert!(turn.bytes <= 5000, "{}", turn.bytes);
                    sent[stream] += turn.bytes;
                    ready[stream] = turn.at.unwrap();
                }
            }
        }
        let all: u32 = sent.iter().sum();
        assert!((950_000..1_050_000).contains(&all), "{sent:?}");
        for one in sent {
            assert!(one.abs_diff(all / 3) < all / 60, "{sent:?}");
        }
    }
}
