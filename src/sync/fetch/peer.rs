//! A connected peer, as the scheduler sees it, and what is remembered of it.

use std::time::{Duration, Instant};

use super::super::rate::Rate;
use super::board::Holds;
use crate::snapshot::PIECE_BYTES;

/// Requests open at one peer. Half of what a piece stream takes
/// ([`crate::wire::MAX_OPEN_REQUESTS`]).
pub const MAX_WINDOW: u32 = 32;
/// Requests open at a peer that has everything: not data on its way, but choice
/// for its order of serving.
const COMPLETE_WINDOW: u32 = 8;
/// Requests open at a peer of whom nothing was verified yet: what a liar can
/// cost before it is found out.
const UNPROVEN_WINDOW: u32 = 4;
/// Besides the round trip, the window covers this time: batches, verification
/// and queues at the other side.
const WINDOW_SLACK: Duration = Duration::from_millis(500);

/// First pause after a refusal; doubles with each further one in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// First pause after a stall; doubles likewise.
const FIRST_STALL_PAUSE: Duration = Duration::from_secs(1);
/// First pause after "not allowed": a setting of a person, not a moment.
const NOT_ALLOWED_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause: an honest holder that everybody else fails is asked again
/// soon enough.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// So many pieces may turn out gone in a row before the peer is asked less: a
/// snapshot that is being removed is no reason, a false claim is.
const GONE_FOR_FREE: u32 = 4;

/// A started piece without a byte for this long stalls, at any rate.
const STALL_MIN: Duration = Duration::from_secs(3);
/// And for the time of so many bytes at the rate that was seen last: a limit in
/// seconds alone wrecks slow uplinks (`facts/swarm-policy.md`).
const STALL_BYTES: f64 = 8.0 * 128.0 * 1024.0;
/// And never longer than this.
const STALL_MAX: Duration = Duration::from_secs(60);
/// The rate assumed where none was seen: a slow home uplink.
const STALL_RATE: f64 = 100_000.0;
/// Requests that no sign came for at all: the peer may be serving others, and
/// whoever else has the piece may take them sooner, so patience costs nothing.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// An open request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) piece: u32,
    pub(super) len: u32,
    pub(super) asked_at: Instant,
    pub(super) started_at: Option<Instant>,
    pub(super) bytes: u32,
    /// The peer had announced the manifest when it was asked.
    pub(super) announced: bool,
}

impl Request {
    pub(super) fn left(&self) -> u32 {
        self.len.saturating_sub(self.bytes)
    }
}

/// What stays known of a peer that left, so that leaving washes nothing away.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    pub(super) bytes: u64,
    pub(super) wasted_bytes: u64,
    pub(super) verified: u32,
    pub(super) refusals: u32,
    pub(super) stalls: u32,
    pub(super) refusals_in_row: u32,
    pub(super) stalls_in_row: u32,
    pub(super) banned: bool,
    /// Sent wrong bytes without having announced them: it is not asked again.
    pub(super) shunned: bool,
    /// The ban is for wrong bytes: a false manifest lifts it.
    pub(super) liftable: bool,
    pub(super) pause_until: Option<Instant>,
}

/// Why a peer is left in peace for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    Gone,
    Busy,
    NotAllowed,
    Stall,
}

impl Record {
    /// Notes one more reason. Reasons that come while a pause is running (the
    /// rest of a window that is refused at once) lengthen nothing. `jitter` (0
    /// to 1) keeps joiners from coming back all at once.
    pub(super) fn pause(&mut self, reason: Reason, jitter: f64, now: Instant) {
        if self.pause_until.is_some_and(|until| until > now) {
            return;
        }
        let (first, count) = match reason {
            Reason::Stall => {
                self.stalls_in_row += 1;
                (FIRST_STALL_PAUSE, self.stalls_in_row)
            }
            Reason::Gone => {
                self.refusals_in_row += 1;
                (
                    FIRST_PAUSE,
                    self.refusals_in_row.saturating_sub(GONE_FOR_FREE),
                )
            }
            Reason::Busy => {
                self.refusals_in_row += 1;
                (FIRST_PAUSE, self.refusals_in_row)
            }
            Reason::NotAllowed => {
                self.refusals_in_row += 1;
                (NOT_ALLOWED_PAUSE, self.refusals_in_row)
            }
        };
        if count > 0 {
            let pause = first
                .saturating_mul(1 << (count - 1).min(16))
                .min(LONGEST_PAUSE);
            self.pause_until = Some(now + pause.mul_f64(0.75 + 0.25 * jitter));
        }
    }

    /// A piece of its was verified: patience is restored.
    pub(super) fn proved(&mut self, bytes: u32) {
        self.bytes += u64::from(bytes);
        self.verified += 1;
        self.refusals_in_row = 0;
        self.stalls_in_row = 0;
        self.pause_until = None;
    }

    pub(super) fn is_out(&self) -> bool {
        self.banned || self.shunned
    }
}

/// A connected peer.
pub(super) struct Peer {
    pub(super) rtt: Duration,
    pub(super) rate: Rate,
    /// The rate when bytes came last.
    rate_seen: f64,
    pub(super) holds: Holds,
    pub(super) announced: bool,
    /// In the order of asking; at most [`MAX_WINDOW`].
    pub(super) requests: Vec<Request>,
    /// The last sign of delivery.
    alive_at: Instant,
    /// The last verified piece, or the joining.
    pub(super) useful_at: Instant,
    /// The peer's own limit, learned from refusals.
    cap: u32,
    /// It has nothing that is missing.
    pub(super) dry: bool,
}

impl Peer {
    pub(super) fn new(rtt: Duration, now: Instant) -> Self {
        Self {
            rtt,
            rate: Rate::new(now),
            rate_seen: STALL_RATE,
            holds: Holds::Nothing,
            announced: false,
            requests: Vec::new(),
            alive_at: now,
            useful_at: now,
            cap: MAX_WINDOW,
            dry: false,
        }
    }

    /// Requests that may be open at it. Step 1 of `facts/swarm-policy.md`.
    pub(super) fn window(&self, record: &Record, guess: f64, now: Instant) -> u32 {
        if record.stalls_in_row > 0 {
            return 1;
        }
        let rate = self.rate.get(now).unwrap_or(guess);
        let bytes = rate * (self.rtt + WINDOW_SLACK).as_secs_f64();
        let mut window = 1 + (bytes / f64::from(PIECE_BYTES)).ceil() as u32;
        if self.holds.is_complete() {
            window = window.max(COMPLETE_WINDOW);
        }
        if record.verified == 0 {
            window = window.min(UNPROVEN_WINDOW);
        }
        window.min(self.cap).min(MAX_WINDOW)
    }

    /// Seconds until a piece of `len` bytes would be here if asked for now.
    pub(super) fn eta(&self, len: u32, guess: f64, now: Instant) -> f64 {
        let owed: u64 = self.requests.iter().map(|r| u64::from(r.left())).sum();
        self.rtt.as_secs_f64() + (owed + u64::from(len)) as f64 / self.speed(guess, now)
    }

    /// Each open request with the seconds until it would be here: the started
    /// one first, the others in the order of asking.
    pub(super) fn etas(&self, guess: f64, now: Instant) -> impl Iterator<Item = (&Request, f64)> {
        let speed = self.speed(guess, now);
        let started: u64 = self
            .requests
            .iter()
            .filter(|request| request.started_at.is_some())
            .map(|request| u64::from(request.left()))
            .sum();
        let mut ahead = started;
        self.requests.iter().map(move |request| {
            let bytes = if request.started_at.is_some() {
                u64::from(request.left())
            } else {
                ahead += u64::from(request.len);
                ahead
            };
            (request, bytes as f64 / speed)
        })
    }

    fn speed(&self, guess: f64, now: Instant) -> f64 {
        // A byte in a second stands for "never" without a division by zero.
        self.rate.get(now).unwrap_or(guess).max(1.0)
    }

    pub(super) fn request(&mut self, piece: u32) -> Option<&mut Request> {
        self.requests.iter_mut().find(|r| r.piece == piece)
    }

    pub(super) fn open(&mut self, request: Request, now: Instant) {
        if self.requests.is_empty() {
            self.alive_at = now;
            self.rate.run(now);
        }
        self.requests.push(request);
    }

    pub(super) fn close(&mut self, piece: u32, now: Instant) -> Option<Request> {
        let at = self.requests.iter().position(|r| r.piece == piece)?;
        let request = self.requests.remove(at);
        if self.requests.is_empty() {
            self.rate.pause(now);
        }
        Some(request)
    }

    /// Nothing asked of it is left, and what was measured while it stood still
    /// says nothing about the next time.
    pub(super) fn forget_rate(&mut self, now: Instant) {
        self.rate = Rate::new(now);
    }

    pub(super) fn alive(&mut self, now: Instant) {
        self.alive_at = now;
    }

    pub(super) fn moved(&mut self, bytes: u32, now: Instant) {
        self.alive_at = now;
        self.rate.add(u64::from(bytes), now);
        if let Some(rate) = self.rate.get(now) {
            self.rate_seen = rate;
        }
    }

    /// The peer said that so many requests are too many.
    pub(super) fn shrink(&mut self) {
        self.cap = (self.requests.len() as u32 / 2).max(1);
    }

    pub(super) fn grow(&mut self) {
        self.cap = (self.cap + 1).min(MAX_WINDOW);
    }

    /// Whether it stopped delivering what it was asked for.
    pub(super) fn has_stalled(&self, now: Instant) -> bool {
        if self.requests.is_empty() {
            return false;
        }
        let started = self.requests.iter().any(|r| r.started_at.is_some());
        let scaled = Duration::from_secs_f64((STALL_BYTES / self.rate_seen.max(1.0)).min(60.0));
        let limit = if started {
            (STALL_MIN + 8 * self.rtt + scaled).min(STALL_MAX)
        } else {
            SILENCE_MAX + scaled
        };
        now.saturating_duration_since(self.alive_at) > limit
    }
}
