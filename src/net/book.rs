//! The address book: who was heard of, where, and which chains they serve.
//!
//! A peer is *hearsay* until it has told, over a connection, that it is of our
//! network; then it is *met*, and only met peers are remembered: a connection
//! alone may lead into another network, whose peer hangs up first. Room is
//! made by forgetting hearsay first, then the met peer that was seen longest ago;
//! connected peers stay. Addresses come in already [believed](super::scope).

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};

use super::scope::Scope;
use super::settings::without_peer;
use super::view::RememberedPeer;
use crate::wire::{MAX_HINT_ADDRESSES, PeerHint};

/// Peers in the book; about 1 KiB each.
pub(super) const MAX_KNOWN_PEERS: usize = 2048;
/// Addresses of one peer.
pub(super) const MAX_PEER_ADDRESSES: usize = MAX_HINT_ADDRESSES;
/// Chains noted of one peer.
pub(super) const MAX_PEER_CHAINS: usize = 16;
/// Attempts to reach a peer of hearsay before it is forgotten.
const MAX_HEARSAY_FAILURES: u32 = 3;

#[derive(Debug, Default)]
struct Entry {
    /// Best first.
    addresses: Vec<Multiaddr>,
    chains: BTreeSet<String>,
    connected: bool,
    /// Absent: hearsay.
    met: Option<Met>,
    failures: u32,
    /// When it was heard of last, in the order of events.
    heard: u64,
}

/// When a peer was seen last. The order decides; the time is for people, whose
/// clock may be set meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Met {
    /// In the order of events.
    order: u64,
    unix_s: u64,
}

/// The book. Pure.
#[derive(Debug)]
pub(super) struct PeerBook {
    own_id: PeerId,
    peers: BTreeMap<PeerId, Entry>,
    events: u64,
}

impl PeerBook {
    pub fn new(own_id: PeerId) -> Self {
        Self {
            own_id,
            peers: BTreeMap::new(),
            events: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Where a peer may be, best first.
    pub fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers
            .get(peer)
            .map_or(&[], |entry| entry.addresses.as_slice())
    }

    /// Somebody told these addresses of a peer. Says whether the peer has any
    /// address in the book now.
    pub fn heard(&mut self, peer: PeerId, addresses: &[Multiaddr]) -> bool {
        if peer == self.own_id {
            return false;
        }
        if addresses.is_empty() && !self.peers.contains_key(&peer) {
            return false;
        }
        let Some(entry) = self.entry(peer) else {
            return false;
        };
        for address in addresses {
            push_address(&mut entry.addresses, address);
        }
        !entry.addresses.is_empty()
    }

    /// A connection to a peer stands. `dialled` is the address that led to it.
    pub fn connected(&mut self, peer: PeerId, dialled: Option<&Multiaddr>) {
        let Some(entry) = self.entry(peer) else {
            return;
        };
        entry.connected = true;
        if let Some(address) = dialled {
            let address = without_peer(address);
            entry.addresses.retain(|known| *known != address);
            entry.addresses.insert(0, address);
            entry.addresses.truncate(MAX_PEER_ADDRESSES);
        }
    }

    /// A connected peer of our network told its own addresses: it is met, and they
    /// replace what others said, behind `proven`, the address at which it was reached.
    pub fn identified(
        &mut self,
        peer: PeerId,
        told: &[Multiaddr],
        proven: Option<&Multiaddr>,
        now_unix_s: u64,
    ) {
        let Some(entry) = self.entry(peer) else {
            return;
        };
        entry.met = Some(Met {
            order: entry.heard,
            unix_s: now_unix_s,
        });
        entry.failures = 0;
        let mut addresses = Vec::new();
        for address in proven.into_iter().chain(told) {
            push_address(&mut addresses, address);
        }
        if !addresses.is_empty() {
            entry.addresses = addresses;
        }
    }

    /// The last connection to a peer is gone.
    pub fn disconnected(&mut self, peer: &PeerId, now_unix_s: u64) {
        self.events += 1;
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.connected = false;
            if let Some(met) = &mut entry.met {
                met.order = self.events;
                met.unix_s = now_unix_s;
            }
        }
    }

    /// A peer could not be reached.
    pub fn failed(&mut self, peer: &PeerId) {
        let Some(entry) = self.peers.get_mut(peer) else {
            return;
        };
        entry.failures += 1;
        let hearsay = entry.met.is_none();
        if hearsay && !entry.connected && entry.failures >= MAX_HEARSAY_FAILURES {
            self.peers.remove(peer);
        }
    }

    /// Forgets a peer.
    pub fn forget(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }

    /// A peer's catalogue named these chains: of all that it serves, or of
    /// `asked` alone.
    pub fn serves(&mut self, peer: PeerId, asked: Option<&str>, chains: &[String]) {
        let Some(entry) = self.entry(peer) else {
            return;
        };
        match asked {
            None => entry.chains.clear(),
            Some(chain_id) => {
                entry.chains.remove(chain_id);
            }
        }
        for chain_id in chains {
            if entry.chains.len() < MAX_PEER_CHAINS {
                entry.chains.insert(chain_id.clone());
            }
        }
    }

    /// Known peers that serve a chain: connected ones first, then the last seen.
    pub fn serving(&self, chain_id: &str) -> Vec<PeerId> {
        let mut peers: Vec<(&PeerId, &Entry)> = self
            .peers
            .iter()
            .filter(|(_, entry)| entry.chains.contains(chain_id))
            .collect();
        peers.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.connected, entry.met)));
        peers.into_iter().map(|(peer, _)| *peer).collect()
    }

    /// What may be told of the peers that serve a chain (of any, when none is
    /// named) over a connection of scope `over` to `asker`.
    pub fn hints(
        &self,
        chain_id: Option<&str>,
        asker: &PeerId,
        over: Scope,
        limit: usize,
    ) -> Vec<PeerHint> {
        let candidates: Vec<PeerId> = match chain_id {
            Some(chain_id) => self.serving(chain_id),
            None => self
                .peers
                .iter()
                .filter(|(_, entry)| !entry.chains.is_empty())
                .map(|(peer, _)| *peer)
                .collect(),
        };
        let others = candidates.into_iter().filter(|peer| peer != asker);
        others
            .filter_map(|peer| {
                let addresses: Vec<_> = self
                    .addresses(&peer)
                    .iter()
                    .filter(|address| Scope::of(address).is_some_and(|told| over.may_carry(told)))
                    .take(MAX_HINT_ADDRESSES)
                    .map(|address| address.to_vec().into())
                    .collect();
                (!addresses.is_empty()).then(|| PeerHint {
                    peer_id: peer.to_bytes().into(),
                    addresses,
                })
            })
            .take(limit)
            .collect()
    }

    /// Brings back a peer that was met in an earlier run; who was seen last comes
    /// last.
    pub fn remember(&mut self, peer: &RememberedPeer) {
        let Some(entry) = self.entry(peer.peer) else {
            return;
        };
        entry.met = Some(Met {
            order: entry.heard,
            unix_s: peer.last_seen_unix_s,
        });
        for address in &peer.addresses {
            push_address(&mut entry.addresses, address);
        }
    }

    /// The met peers, those seen last first.
    pub fn remembered(&self, limit: usize) -> Vec<RememberedPeer> {
        let mut met: Vec<(Met, &PeerId, &Entry)> = self
            .peers
            .iter()
            .filter(|(_, entry)| !entry.addresses.is_empty())
            .filter_map(|(peer, entry)| Some((entry.met?, peer, entry)))
            .collect();
        met.sort_by_key(|(met, ..)| std::cmp::Reverse(*met));
        met.into_iter()
            .take(limit)
            .map(|(met, peer, entry)| RememberedPeer {
                peer: *peer,
                addresses: entry.addresses.clone(),
                last_seen_unix_s: met.unix_s,
            })
            .collect()
    }

    /// The entry of a peer, made when there is none; nothing for this node itself
    /// or when everyone in a full book is connected.
    fn entry(&mut self, peer: PeerId) -> Option<&mut Entry> {
        if peer == self.own_id {
            return None;
        }
        self.events += 1;
        if !self.peers.contains_key(&peer) && self.peers.len() >= MAX_KNOWN_PEERS {
            let idle = self.peers.iter().filter(|(_, entry)| !entry.connected);
            let worst = idle.min_by_key(|(_, entry)| (entry.met, entry.heard));
            let worst = *worst?.0;
            self.peers.remove(&worst);
        }
        let entry = self.peers.entry(peer).or_default();
        entry.heard = self.events;
        Some(entry)
    }
}

fn push_address(addresses: &mut Vec<Multiaddr>, address: &Multiaddr) {
    let address = without_peer(address);
    if addresses.len() < MAX_PEER_ADDRESSES && !addresses.contains(&address) {
        addresses.push(address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn book() -> PeerBook {
        PeerBook::new(PeerId::random())
    }

    #[test]
    fn a_full_book_forgets_hearsay_first_then_who_was_seen_longest_ago() {
        let mut book = book();
        let here = address("/ip4/203.0.113.1/tcp/1");
        let met: Vec<PeerId> = (0..MAX_KNOWN_PEERS as u64 - 1)
            .map(|n| {
                let peer = PeerId::random();
                book.connected(peer, Some(&here));
                book.identified(peer, &[], Some(&here), 100 + n);
                if n > 0 {
                    book.disconnected(&peer, 100 + n);
                }
                peer
            })
            .collect();
        let hearsay = PeerId::random();
        book.heard(hearsay, std::slice::from_ref(&here));
        assert_eq!(book.len(), MAX_KNOWN_PEERS);

        book.heard(PeerId::random(), std::slice::from_ref(&here));
        assert!(book.addresses(&hearsay).is_empty(), "hearsay made room");
        let newcomer = PeerId::random();
        book.connected(newcomer, Some(&here));
        let another = PeerId::random();
        book.connected(another, Some(&here));
        assert_eq!(book.len(), MAX_KNOWN_PEERS);
        assert!(!book.addresses(&met[0]).is_empty(), "it is connected");
        assert!(book.addresses(&met[1]).is_empty(), "seen longest ago");
    }

    #[test]
    fn what_a_peer_says_of_itself_replaces_what_others_said() {
        let mut book = book();
        let peer = PeerId::random();
        let rumour = address("/ip4/203.0.113.1/tcp/1");
        let proven = address("/ip4/203.0.113.2/tcp/2");
        let own = address("/ip4/203.0.113.3/tcp/3");
        book.heard(peer, &[rumour]);
        book.connected(peer, Some(&proven));
        book.identified(peer, std::slice::from_ref(&own), Some(&proven), 1);
        assert_eq!(book.addresses(&peer), [proven, own]);
    }

    #[test]
    fn hearsay_that_leads_nowhere_is_forgotten_and_met_peers_are_not() {
        let mut book = book();
        let (hearsay, met) = (PeerId::random(), PeerId::random());
        let here = address("/ip4/203.0.113.1/tcp/1");
        book.heard(hearsay, std::slice::from_ref(&here));
        book.connected(met, Some(&here));
        book.identified(met, &[], Some(&here), 1);
        book.disconnected(&met, 1);
        for _ in 0..MAX_HEARSAY_FAILURES {
            book.failed(&hearsay);
            book.failed(&met);
        }
        assert!(book.addresses(&hearsay).is_empty());
        assert!(!book.addresses(&met).is_empty());
    }

    #[test]
    fn private_addresses_are_never_told_to_public_peers() {
        let mut book = book();
        let (peer, lan_only, asker) = (PeerId::random(), PeerId::random(), PeerId::random());
        let public = address("/ip4/203.0.113.1/tcp/1");
        let private = address("/ip4/10.0.0.1/tcp/1");
        book.heard(peer, &[private.clone(), public.clone()]);
        book.heard(lan_only, std::slice::from_ref(&private));
        for peer in [peer, lan_only] {
            book.serves(peer, None, &["chain-1".to_owned()]);
        }
        let hints = book.hints(Some("chain-1"), &asker, Scope::Public, 32);
        assert_eq!(hints.len(), 1);
        assert_eq!(hints[0].addresses, [public.to_vec()]);
        let hints = book.hints(None, &asker, Scope::Private, 32);
        assert_eq!(hints.len(), 2);
    }

    #[test]
    fn hints_name_those_that_serve_the_chain_but_not_who_asks_and_end_at_the_limit() {
        let mut book = book();
        let here = address("/ip4/203.0.113.1/tcp/1");
        let peers: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
        for peer in &peers {
            book.heard(*peer, std::slice::from_ref(&here));
            book.serves(*peer, None, &["chain-1".to_owned()]);
        }
        let hints = |book: &PeerBook, chain| book.hints(Some(chain), &peers[0], Scope::Public, 32);
        assert_eq!(hints(&book, "chain-1").len(), 32);
        assert!(hints(&book, "chain-2").is_empty());
        for peer in &peers[1..] {
            book.serves(*peer, Some("chain-1"), &[]);
        }
        assert!(hints(&book, "chain-1").is_empty());
    }

    #[test]
    fn a_peer_that_never_said_who_it_is_is_not_remembered() {
        let mut book = book();
        let (silent, named) = (PeerId::random(), PeerId::random());
        let here = address("/ip4/203.0.113.1/tcp/1");
        for peer in [silent, named] {
            book.connected(peer, Some(&here));
        }
        book.identified(named, &[], Some(&here), 7);
        for peer in [silent, named] {
            book.disconnected(&peer, 8);
        }
        let remembered = book.remembered(10);
        assert_eq!(remembered.len(), 1);
        assert_eq!(remembered[0].peer, named);
        assert_eq!(remembered[0].last_seen_unix_s, 8);
    }

    #[test]
    fn a_clock_that_is_set_changes_nothing_in_the_order_of_peers_nor_who_is_remembered() {
        const YEAR_S: u64 = 365 * 86_400;
        let here = address("/ip4/203.0.113.1/tcp/1");
        let now = 56 * YEAR_S;
        let times = [now, now + 10 * YEAR_S, now + 1, now - 10 * YEAR_S, 0];
        let mut first_run = book();
        let peers = times.map(|time| {
            let peer = PeerId::random();
            first_run.connected(peer, Some(&here));
            first_run.identified(peer, &[], Some(&here), time);
            first_run.serves(peer, None, &["chain-1".to_owned()]);
            first_run.disconnected(&peer, time);
            peer
        });
        let latest_first: Vec<PeerId> = peers.iter().rev().copied().collect();
        let names = |remembered: &[RememberedPeer]| -> Vec<PeerId> {
            remembered.iter().map(|peer| peer.peer).collect()
        };
        let remembered = first_run.remembered(10);
        assert_eq!(names(&remembered), latest_first);
        assert_eq!(first_run.serving("chain-1"), latest_first);

        let mut second_run = book();
        for peer in remembered.iter().rev() {
            second_run.remember(peer);
        }
        assert_eq!(second_run.remembered(10), remembered);
    }

    #[test]
    fn this_node_is_not_in_its_own_book() {
        let mut book = book();
        let own = book.own_id;
        assert!(!book.heard(own, &[address("/ip4/203.0.113.1/tcp/1")]));
        book.connected(own, None);
        assert_eq!(book.len(), 0);
    }
}
