//! Whom to ask in a search: who is connected, what the DHT finds, and whom
//! others name; and whose turn it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use libp2p::PeerId;
use tokio::time::Instant;

use crate::net::{Key, Net};

/// The search looks around at least so often: peers connect meanwhile.
const ROUND: Duration = Duration::from_millis(100);
/// The DHT is asked again after so long.
const LOOK_UP_EVERY: Duration = Duration::from_secs(10);
/// Peers asked at once.
const MAX_ASKED_AT_ONCE: usize = 16;
/// Of them, peers that are not connected: each may cost a dial that fails only
/// after a while, and must not keep those waiting who can answer now.
const MAX_DIALLED_AT_ONCE: usize = 8;
/// Peers known to one search: bounds what a flood of records can cost.
const MAX_ASKED: usize = 512;
/// Of them, peers that only another peer named. Names cost nothing, so they
/// leave room for what the DHT finds.
const MAX_HINTED: usize = 128;
/// Who had nothing may have it by now, but not sooner than after this.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A peer that may know.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) peer: PeerId,
    pub(super) connected: bool,
}

/// Peers that may know.
pub(super) struct Seeker {
    net: Net,
    key: Key,
    found: BTreeSet<PeerId>,
    hinted: BTreeSet<PeerId>,
    look_up: Option<BoxStream<'static, PeerId>>,
    looked_at: Option<Instant>,
}

impl Seeker {
    pub(super) fn new(net: Net, key: Key) -> Self {
        Self {
            net,
            key,
            found: BTreeSet::new(),
            hinted: BTreeSet::new(),
            look_up: None,
            looked_at: None,
        }
    }

    /// Everyone who may know, each once.
    pub(super) fn sources(&self) -> Vec<Source> {
        let connected: BTreeSet<PeerId> = self.net.connected().iter().map(|p| p.peer).collect();
        let far = self.found.union(&self.hinted);
        let far = far.filter(|peer| !connected.contains(peer));
        let near = connected.iter().map(|peer| (peer, true));
        near.chain(far.map(|peer| (peer, false)))
            .filter(|(peer, _)| **peer != self.net.peer_id())
            .map(|(peer, connected)| Source {
                peer: *peer,
                connected,
            })
            .collect()
    }

    /// Takes in peers that another peer named.
    pub(super) fn add(&mut self, hints: Vec<PeerId>) {
        for peer in hints {
            if self.hinted.len() >= MAX_HINTED {
                return;
            }
            self.hinted.insert(peer);
        }
    }

    /// Ends when there may be more peers than before. Nothing is lost when the
    /// caller drops it halfway.
    pub(super) async fn more(&mut self) {
        let due = self
            .looked_at
            .is_none_or(|at| at.elapsed() >= LOOK_UP_EVERY);
        if self.look_up.is_none() && due {
            self.looked_at = Some(Instant::now());
            let (net, key) = (self.net.clone(), self.key.clone());
            let begun = futures::stream::once(async move { net.find(key).await.ok() });
            let providers = begun.filter_map(std::future::ready).flatten();
            self.look_up = Some(providers.boxed());
        }
        let next = async {
            match &mut self.look_up {
                Some(look_up) => look_up.next().await,
                None => std::future::pending().await,
            }
        };
        match tokio::time::timeout(ROUND, next).await {
            Ok(Some(peer)) => {
                if self.found.len() < MAX_ASKED {
                    self.found.insert(peer);
                }
            }
            Ok(None) => self.look_up = None,
            Err(_) => {}
        }
    }
}

/// Who was asked when, and who is being asked.
#[derive(Default)]
pub(super) struct Asked {
    peers: BTreeMap<PeerId, Turn>,
}

#[derive(Clone, Copy)]
struct Turn {
    last: Instant,
    times: u32,
    /// Whether the answer is still awaited, and from a peer that was connected.
    awaited: Option<bool>,
}

impl Asked {
    /// Whose turn it is, with how often each was asked before: those never
    /// asked first, then those asked longest ago; connected ones before others.
    /// They count as being asked until [`Self::done`].
    pub(super) fn next(
        &mut self,
        mut sources: Vec<Source>,
        is_out: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Vec<(PeerId, u32)> {
        sources.sort_by_key(|source| {
            let last = self.peers.get(&source.peer).map(|turn| turn.last);
            (last, !source.connected, source.peer)
        });
        let awaited = |near: bool| {
            let turns = self.peers.values();
            turns.filter(|turn| turn.awaited == Some(near)).count()
        };
        let (mut near, mut far) = (awaited(true), awaited(false));
        let mut next = Vec::new();
        for Source { peer, connected } in sources {
            if near + far >= MAX_ASKED_AT_ONCE {
                break;
            }
            let has_room = connected || far < MAX_DIALLED_AT_ONCE;
            if !has_room || !self.is_due(&peer, now) || is_out(&peer) || !self.make_room(&peer, now)
            {
                continue;
            }
            let times = self.peers.get(&peer).map_or(0, |turn| turn.times);
            let turn = Turn {
                last: now,
                times: times.saturating_add(1),
                awaited: Some(connected),
            };
            self.peers.insert(peer, turn);
            *(if connected { &mut near } else { &mut far }) += 1;
            next.push((peer, times));
        }
        next
    }

    /// The peer answered, or did not.
    pub(super) fn done(&mut self, peer: &PeerId) {
        if let Some(turn) = self.peers.get_mut(peer) {
            turn.awaited = None;
        }
    }

    fn is_due(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_none_or(|turn| turn.is_over(now))
    }

    /// Forgets whoever was asked longest ago and could be asked again anyway,
    /// so that a new peer has its turn without the pace being passed.
    fn make_room(&mut self, peer: &PeerId, now: Instant) -> bool {
        if self.peers.len() < MAX_ASKED || self.peers.contains_key(peer) {
            return true;
        }
        let over = self.peers.iter().filter(|(_, turn)| turn.is_over(now));
        let Some(oldest) = over
            .min_by_key(|(_, turn)| turn.last)
            .map(|(peer, _)| *peer)
        else {
            return false;
        };
        self.peers.remove(&oldest);
        true
    }
}

impl Turn {
    fn is_over(&self, now: Instant) -> bool {
        self.awaited.is_none() && now.saturating_duration_since(self.last) >= ASK_AGAIN_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(count: usize, connected: bool) -> Vec<Source> {
        let source = |_| Source {
            peer: PeerId::random(),
            connected,
        };
        (0..count).map(source).collect()
    }

    #[test]
    fn a_peer_is_asked_again_after_a_pause_and_never_while_its_answer_is_awaited() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let one = sources(1, true);
        let ask = |asked: &mut Asked, at| asked.next(one.clone(), |_| false, at).len();
        assert_eq!(ask(&mut asked, now), 1);
        assert_eq!(ask(&mut asked, now + 2 * ASK_AGAIN_AFTER), 0);
        asked.done(&one[0].peer);
        assert_eq!(ask(&mut asked, now + ASK_AGAIN_AFTER / 2), 0);
        assert_eq!(ask(&mut asked, now + ASK_AGAIN_AFTER), 1);
    }

    #[test]
    fn connected_peers_keep_places_and_go_first() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        let far = sources(100, false);
        let first = asked.next(far.clone(), |_| false, now);
        assert_eq!(first.len(), MAX_DIALLED_AT_ONCE);
        let near = sources(100, true);
        let both: Vec<Source> = far.into_iter().chain(near.clone()).collect();
        let second = asked.next(both, |_| false, now);
        assert_eq!(second.len(), MAX_ASKED_AT_ONCE - MAX_DIALLED_AT_ONCE);
        assert!(
            second
                .iter()
                .all(|(peer, _)| near.iter().any(|s| s.peer == *peer))
        );
    }

    #[test]
    fn what_is_remembered_of_peers_is_bounded_and_the_pace_holds() {
        let (mut asked, now) = (Asked::default(), Instant::now());
        for source in sources(MAX_ASKED + 10, true) {
            for (peer, _) in asked.next(vec![source], |_| false, now) {
                asked.done(&peer);
            }
        }
        assert_eq!(asked.peers.len(), MAX_ASKED);
        let late = asked.next(sources(1, true), |_| false, now + ASK_AGAIN_AFTER);
        assert_eq!(late.len(), 1);
        assert_eq!(asked.peers.len(), MAX_ASKED);
    }
}
