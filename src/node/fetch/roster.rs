//! The peers that a download knows, and whose turn it is to be tried.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::PeerId;

/// Streams being opened at once.
pub(super) const MAX_OPENING: usize = 8;
/// Of them, streams to peers that are not connected: a dial that fails takes
/// its whole time, and must not keep those waiting who can give pieces now.
const MAX_DIALLING: usize = MAX_OPENING / 2;
/// Peers known; beyond it the worst makes room for a better one.
const MAX_KNOWN: usize = 1024;
/// A peer that gave no stream, or has nothing we lack, is tried again after
/// it; after each further failure the pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause: a peer that comes back is found within a long download.
const LONGEST_PAUSE: Duration = Duration::from_secs(480);
/// While the download has nobody to ask, a hopeful peer is tried again after
/// it, and after twice as long each further time.
const FIRST_HASTY_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause then for who cannot be reached: a provider that is started
/// again is found within seconds.
const LONGEST_HASTY_PAUSE: Duration = Duration::from_secs(4);
/// And at least so much for each hopeful peer: of many that are gone, four are
/// tried in a second.
const HASTY_PACE: Duration = Duration::from_millis(250);

/// The peers of one download.
pub(super) struct Roster {
    known: BTreeMap<PeerId, Known>,
    connected: BTreeSet<PeerId>,
    /// The download has nobody to ask.
    hasty: bool,
}

#[derive(Clone, Copy, Default)]
struct Known {
    state: State,
    /// When it last failed or left.
    tried: Option<Instant>,
    /// Failures since it last gave a stream.
    failures: u32,
    /// It gave a stream in this download, or is said to have the snapshot.
    hopeful: bool,
    /// Attempts since the download has nobody to ask.
    hasty_attempts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Idle,
    /// A stream is being opened; whether the peer was connected before.
    Opening { connected: bool },
    /// It takes part.
    Working,
}

impl Known {
    /// `haste` is the shortest pause of a hopeful peer while the download has
    /// nobody to ask.
    fn is_due(&self, haste: Option<Duration>, now: Instant) -> bool {
        let usual = doubled(FIRST_PAUSE, self.failures.saturating_sub(1)).min(LONGEST_PAUSE);
        let pause = match haste {
            Some(shortest) if self.hopeful => {
                let pause = doubled(FIRST_HASTY_PAUSE, self.hasty_attempts).max(shortest);
                // Who is there and of no use is asked more and more seldom.
                if self.failures > 0 {
                    pause.min(LONGEST_HASTY_PAUSE.max(shortest)).min(usual)
                } else {
                    pause.min(usual)
                }
            }
            _ => usual,
        };
        let rested = |tried| now.saturating_duration_since(tried) >= pause;
        self.state == State::Idle && self.tried.is_none_or(rested)
    }
}

fn doubled(pause: Duration, times: u32) -> Duration {
    pause.saturating_mul(2u32.saturating_pow(times))
}

impl Roster {
    /// `first` are said to have the snapshot.
    pub(super) fn new(first: Vec<PeerId>) -> Self {
        let mut roster = Self {
            known: BTreeMap::new(),
            connected: BTreeSet::new(),
            hasty: false,
        };
        for peer in first {
            roster.add(peer);
            if let Some(known) = roster.known.get_mut(&peer) {
                known.hopeful = true;
            }
        }
        roster
    }

    /// Whether the download has nobody to ask: then those who gave or were said
    /// to have the snapshot are tried again without the usual pauses.
    pub(super) fn set_hasty(&mut self, hasty: bool) {
        if hasty && !self.hasty {
            for known in self.known.values_mut() {
                known.hasty_attempts = 0;
            }
        }
        self.hasty = hasty;
    }

    /// How many gave a stream in this download, or are said to have the snapshot.
    pub(super) fn hopeful(&self, is_out: impl Fn(&PeerId) -> bool) -> usize {
        let known = self.known.iter();
        known
            .filter(|(peer, known)| known.hopeful && !is_out(peer))
            .count()
    }

    /// Takes in a peer. Where there is no room, the one that failed most and is
    /// of no use now makes room; one that never failed does not, so that a
    /// flood of names displaces nobody who was not tried yet.
    pub(super) fn add(&mut self, peer: PeerId) {
        if self.known.contains_key(&peer) {
            return;
        }
        if self.known.len() >= MAX_KNOWN {
            let welcome = self.connected.contains(&peer);
            let Some(worst) = self.worst(welcome) else {
                return;
            };
            self.known.remove(&worst);
        }
        self.known.insert(peer, Known::default());
    }

    /// Who is connected now; all of them are tried.
    pub(super) fn set_connected(&mut self, connected: BTreeSet<PeerId>) {
        self.connected = connected;
        let new: Vec<PeerId> = self
            .connected
            .iter()
            .filter(|peer| !self.known.contains_key(peer))
            .copied()
            .collect();
        for peer in new {
            self.add(peer);
        }
    }

    /// Whom to open a stream on: connected peers first, then those never
    /// tried, then those tried longest ago.
    pub(super) fn next(&mut self, is_out: impl Fn(&PeerId) -> bool, now: Instant) -> Vec<PeerId> {
        let opening = |connected| {
            let state = State::Opening { connected };
            self.known.values().filter(|k| k.state == state).count()
        };
        let (mut near, mut far) = (opening(true), opening(false));
        let pace = || HASTY_PACE.saturating_mul(self.hopeful(&is_out) as u32);
        let haste = self.hasty.then(pace);
        let mut due: Vec<(bool, Option<Instant>, PeerId)> = self
            .known
            .iter()
            .filter(|(peer, known)| known.is_due(haste, now) && !is_out(peer))
            .map(|(peer, known)| (!self.connected.contains(peer), known.tried, *peer))
            .collect();
        due.sort_unstable();
        let mut next = Vec::new();
        for (is_far, _, peer) in due {
            if near + far >= MAX_OPENING || (is_far && far >= MAX_DIALLING) {
                break;
            }
            *(if is_far { &mut far } else { &mut near }) += 1;
            if let Some(known) = self.known.get_mut(&peer) {
                known.state = State::Opening { connected: !is_far };
                known.hasty_attempts = known.hasty_attempts.saturating_add(1);
            }
            next.push(peer);
        }
        next
    }

    /// The peer gave a stream.
    pub(super) fn opened(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.state = State::Working;
            known.failures = 0;
            known.hopeful = true;
        }
    }

    /// The peer gave no stream.
    pub(super) fn failed(&mut self, peer: PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.failures = known.failures.saturating_add(1);
        }
        self.left(peer, now);
    }

    /// The peer takes no part any more.
    pub(super) fn left(&mut self, peer: PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(&peer) {
            known.state = State::Idle;
            known.tried = Some(now);
        }
    }

    /// The peer that is missed least: not connected, idle, failed most often
    /// and longest ago. For a welcome one also a peer that was never tried.
    fn worst(&self, welcome: bool) -> Option<PeerId> {
        self.known
            .iter()
            .filter(|(peer, known)| {
                known.state == State::Idle
                    && !self.connected.contains(peer)
                    && (welcome || known.failures > 0)
            })
            .max_by_key(|(_, known)| (known.failures, Reverse(known.tried)))
            .map(|(peer, _)| *peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn next(roster: &mut Roster, now: Instant) -> Vec<PeerId> {
        roster.next(|_| false, now)
    }

    #[test]
    fn connected_peers_go_first_and_dials_leave_them_half_of_the_places() {
        let now = Instant::now();
        let mut roster = Roster::new(peers(100));
        assert_eq!(next(&mut roster, now).len(), MAX_DIALLING);
        let near = BTreeSet::from_iter(peers(100));
        roster.set_connected(near.clone());
        let second = next(&mut roster, now);
        assert_eq!(second.len(), MAX_OPENING - MAX_DIALLING);
        assert!(second.iter().all(|peer| near.contains(peer)));
    }

    #[test]
    fn peers_never_tried_go_before_those_tried_and_these_by_age() {
        let now = Instant::now();
        let [old, recent, new] = [(); 3].map(|()| PeerId::random());
        let mut roster = Roster::new(vec![old, recent]);
        next(&mut roster, now);
        roster.failed(old, now);
        roster.failed(recent, now + Duration::from_secs(1));
        roster.add(new);
        let order = next(&mut roster, now + LONGEST_PAUSE);
        assert_eq!(order, [new, old, recent]);
    }

    #[test]
    fn the_pause_doubles_with_each_failure_and_a_stream_ends_that() {
        let mut now = Instant::now();
        let peer = PeerId::random();
        let mut roster = Roster::new(vec![peer]);
        for pause_s in [30, 60, 120, 240, 480, 480] {
            assert_eq!(next(&mut roster, now), [peer]);
            roster.failed(peer, now);
            let pause = Duration::from_secs(pause_s);
            assert!(next(&mut roster, now + pause - Duration::from_millis(1)).is_empty());
            now += pause;
        }
        assert_eq!(next(&mut roster, now), [peer]);
        roster.opened(&peer);
        roster.left(peer, now);
        assert_eq!(next(&mut roster, now + FIRST_PAUSE), [peer]);
    }

    #[test]
    fn while_nobody_can_be_asked_hopeful_peers_are_tried_within_seconds() {
        let mut now = Instant::now();
        let [gave, stranger] = [(); 2].map(|()| PeerId::random());
        let mut roster = Roster::new(Vec::new());
        roster.add(gave);
        roster.add(stranger);
        next(&mut roster, now);
        roster.opened(&gave);
        roster.failed(stranger, now);
        roster.left(gave, now);
        assert!(next(&mut roster, now + Duration::from_secs(9)).is_empty());
        assert_eq!(roster.hopeful(|_| false), 1);
        roster.set_hasty(true);
        for pause_s in [1, 2, 4, 4, 4] {
            let pause = Duration::from_secs(pause_s);
            assert!(next(&mut roster, now + pause - Duration::from_millis(1)).is_empty());
            now += pause;
            assert_eq!(next(&mut roster, now), [gave], "the stranger's pause holds");
            roster.failed(gave, now);
        }
        // It comes back, is there, and has nothing for us.
        now += LONGEST_HASTY_PAUSE;
        for _ in 0..3 {
            assert!(next(&mut roster, now).contains(&gave));
            roster.opened(&gave);
            roster.left(gave, now);
            assert!(next(&mut roster, now + LONGEST_HASTY_PAUSE).is_empty());
            now += FIRST_PAUSE;
        }
        roster.set_hasty(false);
        roster.set_hasty(true);
        next(&mut roster, now);
        roster.failed(gave, now);
        roster.set_hasty(false);
        let soon = now + FIRST_PAUSE - Duration::from_millis(1);
        assert!(
            !next(&mut roster, soon).contains(&gave),
            "the usual pauses are back"
        );
    }

    #[test]
    fn many_hopeful_peers_are_not_all_tried_every_few_seconds() {
        let mut now = Instant::now();
        let mut roster = Roster::new(peers(64));
        roster.set_hasty(true);
        let mut attempts = 0;
        for _ in 0..1600 {
            for peer in next(&mut roster, now) {
                attempts += 1;
                roster.failed(peer, now);
            }
            now += Duration::from_millis(100);
        }
        assert!((64 * 5..=64 + 160 * 4).contains(&attempts), "{attempts}");
    }

    #[test]
    fn who_failed_makes_room_and_who_was_not_tried_only_for_a_connected_peer() {
        let now = Instant::now();
        let first = peers(MAX_KNOWN);
        let mut roster = Roster::new(first.clone());
        let late = PeerId::random();
        roster.add(late);
        assert!(!roster.known.contains_key(&late));
        let tried = next(&mut roster, now);
        roster.failed(tried[0], now);
        roster.add(late);
        assert!(roster.known.contains_key(&late) && !roster.known.contains_key(&tried[0]));
        let near = PeerId::random();
        roster.set_connected(BTreeSet::from([near]));
        assert!(roster.known.contains_key(&near));
        assert_eq!(roster.known.len(), MAX_KNOWN);
    }
}
