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

/// The peers of one download.
pub(super) struct Roster {
    known: BTreeMap<PeerId, Known>,
    connected: BTreeSet<PeerId>,
}

#[derive(Clone, Copy, Default)]
struct Known {
    state: State,
    /// When it last failed or left.
    tried: Option<Instant>,
    /// Failures since it last gave a stream.
    failures: u32,
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
    fn is_due(&self, now: Instant) -> bool {
        let pause = FIRST_PAUSE
            .saturating_mul(2u32.saturating_pow(self.failures.saturating_sub(1)))
            .min(LONGEST_PAUSE);
        let rested = |tried| now.saturating_duration_since(tried) >= pause;
        self.state == State::Idle && self.tried.is_none_or(rested)
    }
}

impl Roster {
    pub(super) fn new(first: Vec<PeerId>) -> Self {
        let mut roster = Self {
            known: BTreeMap::new(),
            connected: BTreeSet::new(),
        };
        for peer in first {
            roster.add(peer);
        }
        roster
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
        let mut due: Vec<(bool, Option<Instant>, PeerId)> = self
            .known
            .iter()
            .filter(|(peer, known)| known.is_due(now) && !is_out(peer))
            .map(|(peer, known)| (!self.connected.contains(peer), known.tried, *peer))
            .collect();
        due.sort_unstable();
        let mut next = Vec::new();
        for (is_far, _, peer) in due {
            if near + far >= MAX_OPENING || (is_far && far >= MAX_DIALLING) {
                break;
            }
            *(if is_far { &mut far } else { &mut near }) += 1;
            self.set(&peer, State::Opening { connected: !is_far });
            next.push(peer);
        }
        next
    }

    /// The peer gave a stream.
    pub(super) fn opened(&mut self, peer: &PeerId) {
        if let Some(known) = self.known.get_mut(peer) {
            known.state = State::Working;
            known.failures = 0;
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

    fn set(&mut self, peer: &PeerId, state: State) {
        if let Some(known) = self.known.get_mut(peer) {
            known.state = state;
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
