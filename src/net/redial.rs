//! Whom to dial at the start, and again when the connection is gone.
//!
//! Targets are the configured bootstrap peers and the remembered ones. Each is
//! dialled at the start. One that cannot be reached, or is lost, is tried again
//! after a pause that doubles up to [`MAX_PAUSE`], with a random part so that the
//! peers of a restarted node do not all come at the same moment. While enough
//! peers are connected nobody is dialled again: in a large network the bootstrap
//! peers are left alone once one is in. The pause begins anew only after a steady
//! connection: a peer that takes us and hangs up at once, because it is of another
//! network or has banned us, is not knocked at every second.
//!
//! Pure: the time and the randomness are arguments.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

/// First pause: a peer that just restarts is back within seconds.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// A connection that stood so long was wanted by both sides.
const STEADY: Duration = Duration::from_secs(60);
/// Connected peers from which on no target is dialled again.
pub(super) const ENOUGH_PEERS: usize = 8;
/// Attempts under way at the same time.
const MAX_ATTEMPTS: usize = 8;

/// Where to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A configured address; its peer id may be unknown.
    Address(Multiaddr),
    /// A peer whose addresses are in the book.
    Peer(PeerId),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Attempting,
    Connected {
        since: Instant,
    },
    /// Leads nowhere useful.
    Asleep,
}

#[derive(Debug)]
struct Target {
    place: Place,
    peer: Option<PeerId>,
    state: State,
    pause: Duration,
    tried: bool,
}

/// The number of a target.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TargetId(usize);

/// The state machine.
#[derive(Debug, Default)]
pub(super) struct Redial {
    targets: Vec<Target>,
}

impl Redial {
    /// Adds a target that is due at once. `peer` is who is expected there.
    pub fn add(&mut self, place: Place, peer: Option<PeerId>, now: Instant) {
        if self.targets.iter().any(|target| target.place == place) {
            return;
        }
        self.targets.push(Target {
            place,
            peer,
            state: State::Waiting { until: now },
            pause: MIN_PAUSE,
            tried: false,
        });
    }

    /// The next target to dial. Then `handle_connected` or `handle_failed`.
    pub fn poll(&mut self, now: Instant, connected: usize) -> Option<(TargetId, Place)> {
        if self.attempts() >= MAX_ATTEMPTS {
            return None;
        }
        let index = self.targets.iter().position(|target| {
            matches!(target.state, State::Waiting { until } if until <= now)
                && (!target.tried || connected < ENOUGH_PEERS)
        })?;
        let target = self.targets.get_mut(index)?;
        target.state = State::Attempting;
        target.tried = true;
        Some((TargetId(index), target.place.clone()))
    }

    /// When to poll again, if nothing is handled before.
    pub fn poll_timeout(&self, connected: usize) -> Option<Instant> {
        if self.attempts() >= MAX_ATTEMPTS {
            return None;
        }
        let waiting = self.targets.iter().filter_map(|target| match target.state {
            State::Waiting { until } if !target.tried || connected < ENOUGH_PEERS => Some(until),
            _ => None,
        });
        waiting.min()
    }

    /// The attempt on a target succeeded: `peer` is there.
    pub fn handle_reached(&mut self, id: TargetId, peer: PeerId, now: Instant) {
        if let Some(target) = self.targets.get_mut(id.0) {
            target.peer = Some(peer);
            target.connect(now);
        }
    }

    /// The attempt on a target failed. `chance` is a random number below 1. Gives
    /// the address of a configured target that fails for the first time: a person
    /// should hear of it once.
    pub fn handle_failed(&mut self, id: TargetId, chance: f64, now: Instant) -> Option<&Multiaddr> {
        let target = self.targets.get_mut(id.0)?;
        let is_news = target.pause == MIN_PAUSE;
        target.pause_from(now, chance);
        match &target.place {
            Place::Address(address) if is_news => Some(address),
            _ => None,
        }
    }

    /// A connection to a peer stands, whoever began it.
    pub fn handle_connected(&mut self, peer: PeerId, now: Instant) {
        for target in &mut self.targets {
            if target.peer == Some(peer) {
                target.connect(now);
            }
        }
    }

    /// The last connection to a peer is gone.
    pub fn handle_lost(&mut self, peer: PeerId, chance: f64, now: Instant) {
        for target in &mut self.targets {
            let State::Connected { since } = target.state else {
                continue;
            };
            if target.peer == Some(peer) {
                if now.saturating_duration_since(since) >= STEADY {
                    target.pause = MIN_PAUSE;
                }
                target.pause_from(now, chance);
            }
        }
    }

    /// Whoever waits for a lost target cannot wait as long as it was to pause.
    pub fn handle_hurry(&mut self, now: Instant) {
        for target in &mut self.targets {
            if let State::Waiting { until } = &mut target.state {
                *until = now.min(*until);
            }
        }
    }

    /// A target leads to this node itself: it is left alone from now on.
    pub fn handle_useless(&mut self, id: TargetId) {
        // Indices are names, so the target stays and only sleeps.
        if let Some(target) = self.targets.get_mut(id.0) {
            target.state = State::Asleep;
        }
    }

    /// A peer is of another network: wherever it is, it is left alone.
    pub fn handle_stranger(&mut self, peer: PeerId) {
        for target in &mut self.targets {
            if target.peer == Some(peer) {
                target.state = State::Asleep;
            }
        }
    }

    fn attempts(&self) -> usize {
        let attempting = |target: &&Target| target.state == State::Attempting;
        self.targets.iter().filter(attempting).count()
    }
}

impl Target {
    /// Notes a connection; one that stands already keeps its beginning.
    fn connect(&mut self, now: Instant) {
        if matches!(self.state, State::Waiting { .. } | State::Attempting) {
            self.state = State::Connected { since: now };
        }
    }

    fn pause_from(&mut self, now: Instant, chance: f64) {
        // Between one and one and a half pauses.
        let pause = self.pause.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 2.0);
        self.state = State::Waiting { until: now + pause };
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u16) -> Place {
        Place::Address(format!("/ip4/203.0.113.1/tcp/{n}").parse().unwrap())
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_begin_anew_after_a_steady_connection() {
        let mut redial = Redial::default();
        let start = Instant::now();
        redial.add(place(1), None, start);
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let (id, _) = redial.poll(now, 0).unwrap();
            assert!(redial.poll(now, 0).is_none(), "one attempt at a time");
            redial.handle_failed(id, 0.0, now);
            let next = redial.poll_timeout(0).unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(pauses[11], MAX_PAUSE);

        let (id, _) = redial.poll(now, 0).unwrap();
        let peer = PeerId::random();
        redial.handle_reached(id, peer, now);
        assert_eq!(redial.poll_timeout(1), None);
        let lost = now + STEADY;
        redial.handle_lost(peer, 0.0, lost);
        assert_eq!(redial.poll_timeout(0), Some(lost + MIN_PAUSE));
    }

    #[test]
    fn a_peer_that_takes_us_and_hangs_up_at_once_is_dialled_ever_more_seldom() {
        let mut redial = Redial::default();
        let (mut now, peer) = (Instant::now(), PeerId::random());
        redial.add(place(1), Some(peer), now);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let (id, _) = redial.poll(now, 0).unwrap();
            redial.handle_reached(id, peer, now);
            redial.handle_lost(peer, 0.0, now);
            let next = redial.poll_timeout(0).unwrap();
            pauses.push(next - now);
            now = next;
        }
        assert_eq!(pauses[..3], [1, 2, 4].map(Duration::from_secs));
        assert_eq!(pauses[11], MAX_PAUSE);
    }

    #[test]
    fn in_a_hurry_waiting_targets_are_due_at_once_and_others_stay_as_they_are() {
        let mut redial = Redial::default();
        let (now, lost) = (Instant::now(), PeerId::random());
        for n in 0..3 {
            redial.add(place(n), None, now);
        }
        let (waiting, _) = redial.poll(now, 0).unwrap();
        let (here, _) = redial.poll(now, 0).unwrap();
        let (connected, _) = redial.poll(now, 0).unwrap();
        redial.handle_failed(waiting, 0.0, now);
        redial.handle_useless(here);
        redial.handle_reached(connected, lost, now);
        assert!(redial.poll(now, 0).is_none());
        redial.handle_hurry(now);
        assert_eq!(redial.poll(now, 0).map(|(id, _)| id), Some(waiting));
        assert!(redial.poll(now, 0).is_none());
        // The pauses themselves go on growing.
        redial.handle_failed(waiting, 0.0, now);
        assert_eq!(redial.poll_timeout(0), Some(now + 2 * MIN_PAUSE));
    }

    #[test]
    fn every_target_is_tried_once_but_none_again_while_enough_are_connected() {
        let mut redial = Redial::default();
        let now = Instant::now();
        for n in 0..3 {
            redial.add(place(n), None, now);
        }
        for _ in 0..3 {
            let (id, _) = redial.poll(now, ENOUGH_PEERS).unwrap();
            redial.handle_failed(id, 0.5, now);
        }
        let later = now + MAX_PAUSE;
        assert!(redial.poll(later, ENOUGH_PEERS).is_none());
        assert_eq!(redial.poll_timeout(ENOUGH_PEERS), None);
        assert!(redial.poll(later, ENOUGH_PEERS - 1).is_some());
    }

    #[test]
    fn attempts_at_the_same_time_are_bounded() {
        let mut redial = Redial::default();
        let now = Instant::now();
        for n in 0..20 {
            redial.add(place(n), None, now);
        }
        let under_way = std::iter::from_fn(|| redial.poll(now, 0)).count();
        assert_eq!(under_way, MAX_ATTEMPTS);
    }

    #[test]
    fn targets_that_lead_here_or_into_another_network_are_left_alone() {
        let mut redial = Redial::default();
        let (now, stranger) = (Instant::now(), PeerId::random());
        redial.add(place(1), None, now);
        redial.add(place(2), None, now);
        let (here, _) = redial.poll(now, 0).unwrap();
        redial.handle_useless(here);
        let (there, _) = redial.poll(now, 0).unwrap();
        redial.handle_reached(there, stranger, now);
        redial.handle_stranger(stranger);
        redial.handle_lost(stranger, 0.0, now);
        redial.handle_connected(stranger, now);
        assert!(redial.poll(now + MAX_PAUSE, 0).is_none());
        assert_eq!(redial.poll_timeout(0), None);
    }
}
