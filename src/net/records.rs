//! The record store of the DHT.
//!
//! Only provider records are kept. Value records (`put_value`) are not stored at
//! all: nothing here uses them, and a stranger could fill the node with them.
//!
//! Own records and foreign ones have separate budgets: no flood of foreign
//! records displaces an own one. A foreign record belongs to the peer that
//! announced itself (Kademlia takes a record only from its provider), so floods
//! are bounded by peer: each may hold [`MAX_RECORDS_PER_PEER`], and when the
//! whole budget is used up, room for a peer with few records is taken from the
//! peer with most. A key keeps up to [`MAX_PROVIDERS_PER_KEY`] providers, and as
//! an answer has room for twenty only, each answer begins at another one.
//!
//! Keys that are no SHA-256 multihash are refused: a record then has one size.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use super::announce::RECORD_TTL;
use super::keys::DhtKey;

/// Foreign records in all. With four addresses of 40 bytes each takes about
/// 500 bytes: 16 MiB at most.
pub const MAX_FOREIGN_RECORDS: usize = 32_768;
/// Records of one peer: the largest budget of announcements, with room for one
/// rotation of the sample.
pub const MAX_RECORDS_PER_PEER: usize = 2_560;
/// Providers kept for one key. A chain's rendezvous key is the one that fills.
pub const MAX_PROVIDERS_PER_KEY: usize = 256;
/// Addresses kept with a record.
pub const MAX_RECORD_ADDRESSES: usize = 4;

/// How much may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordLimits {
    /// Own records.
    pub own: usize,
    /// Foreign records in all.
    pub foreign: usize,
    /// Foreign records of one peer.
    pub per_peer: usize,
    /// Providers of one key.
    pub per_key: usize,
}

impl RecordLimits {
    /// The limits above, with room for `own` records of this node.
    pub fn with_own(own: usize) -> Self {
        Self {
            own,
            foreign: MAX_FOREIGN_RECORDS,
            per_peer: MAX_RECORDS_PER_PEER,
            per_key: MAX_PROVIDERS_PER_KEY,
        }
    }
}

#[derive(Debug)]
struct Foreign {
    expires: Instant,
    addresses: Vec<Multiaddr>,
}

/// Provider records, own and foreign.
#[derive(Debug)]
pub struct Records {
    own_id: PeerId,
    limits: RecordLimits,
    own: BTreeSet<DhtKey>,
    foreign: BTreeMap<DhtKey, BTreeMap<PeerId, Foreign>>,
    /// The same records, by peer.
    by_peer: BTreeMap<PeerId, BTreeSet<DhtKey>>,
    /// The same peers, by the number of their records.
    by_count: BTreeSet<(usize, PeerId)>,
    foreign_count: usize,
    refused: u64,
    /// Where the next answer begins among the providers of a key.
    turn: Cell<usize>,
}

impl Records {
    /// An empty store of the node `own_id`.
    pub fn new(own_id: PeerId, limits: RecordLimits) -> Self {
        Self {
            own_id,
            limits,
            own: BTreeSet::new(),
            foreign: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_count: BTreeSet::new(),
            foreign_count: 0,
            refused: 0,
            turn: Cell::new(0),
        }
    }

    /// Own records.
    pub fn own_len(&self) -> usize {
        self.own.len()
    }

    /// Foreign records.
    pub fn foreign_len(&self) -> usize {
        self.foreign_count
    }

    /// Foreign records refused or displaced for lack of room, so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Answers for an own key. `false` when the own budget is used up.
    pub fn hold(&mut self, key: DhtKey) -> bool {
        if self.own.len() >= self.limits.own && !self.own.contains(&key) {
            return false;
        }
        self.own.insert(key);
        true
    }

    /// Does not answer for an own key any more.
    pub fn withdraw(&mut self, key: DhtKey) {
        self.own.remove(&key);
    }

    /// Keeps or renews the record of another peer. `false` when there is no room.
    pub fn add_foreign(
        &mut self,
        key: DhtKey,
        peer: PeerId,
        mut addresses: Vec<Multiaddr>,
        now: Instant,
    ) -> bool {
        addresses.truncate(MAX_RECORD_ADDRESSES);
        let record = Foreign {
            expires: now + RECORD_TTL,
            addresses,
        };
        if let Some(old) = self.foreign.get_mut(&key).and_then(|p| p.get_mut(&peer)) {
            *old = record;
            return true;
        }
        if !self.make_room(key, peer, now) {
            self.refused += 1;
            return false;
        }
        self.foreign.entry(key).or_default().insert(peer, record);
        let keys = self.by_peer.entry(peer).or_default();
        self.by_count.remove(&(keys.len(), peer));
        keys.insert(key);
        self.by_count.insert((keys.len(), peer));
        self.foreign_count += 1;
        true
    }

    /// Forgets all records of a peer.
    pub fn forget(&mut self, peer: &PeerId) {
        for key in self.by_peer.get(peer).cloned().unwrap_or_default() {
            self.remove_foreign(&key, peer);
        }
    }

    /// Forgets what has outlived its time.
    pub fn expire(&mut self, now: Instant) {
        let mut gone = Vec::new();
        for (key, providers) in &self.foreign {
            for (peer, record) in providers {
                if record.expires <= now {
                    gone.push((*key, *peer));
                }
            }
        }
        for (key, peer) in gone {
            self.remove_foreign(&key, &peer);
        }
    }

    /// The providers of a key other than this node, with their addresses. Each
    /// call begins with another of them.
    pub fn foreign_providers(&self, key: &DhtKey, now: Instant) -> Vec<(PeerId, &[Multiaddr])> {
        let Some(providers) = self.foreign.get(key) else {
            return Vec::new();
        };
        let mut living: Vec<(PeerId, &[Multiaddr])> = providers
            .iter()
            .filter(|(_, record)| record.expires > now)
            .map(|(peer, record)| (*peer, record.addresses.as_slice()))
            .collect();
        if !living.is_empty() {
            // A step that is prime to most lengths: successive answers of
            // twenty overlap little and cover all.
            let turn = self.turn.get().wrapping_add(19);
            self.turn.set(turn);
            let begin = turn % living.len();
            living.rotate_left(begin);
        }
        living
    }

    fn make_room(&mut self, key: DhtKey, peer: PeerId, now: Instant) -> bool {
        let of_peer = self.by_peer.get(&peer).map_or(0, BTreeSet::len);
        if of_peer >= self.limits.per_peer {
            return false;
        }
        if self.foreign.get(&key).map_or(0, BTreeMap::len) >= self.limits.per_key
            && !self.drop_expired_provider(&key, now)
        {
            return false;
        }
        if self.foreign_count < self.limits.foreign {
            return true;
        }
        // Full. Only the peer that holds most pays for a newcomer that, with the
        // new record, still holds less.
        let Some(&(most, largest)) = self.by_count.last() else {
            return false;
        };
        if of_peer + 1 >= most {
            return false;
        }
        let victim = self.by_peer.get(&largest).and_then(BTreeSet::last).copied();
        let Some(victim) = victim else {
            return false;
        };
        self.remove_foreign(&victim, &largest);
        self.refused += 1;
        true
    }

    fn drop_expired_provider(&mut self, key: &DhtKey, now: Instant) -> bool {
        let expired = self.foreign.get(key).and_then(|providers| {
            let mut records = providers.iter();
            records.find_map(|(peer, record)| (record.expires <= now).then_some(*peer))
        });
        match expired {
            Some(peer) => {
                self.remove_foreign(key, &peer);
                true
            }
            None => false,
        }
    }

    fn remove_foreign(&mut self, key: &DhtKey, peer: &PeerId) {
        let Some(providers) = self.foreign.get_mut(key) else {
            return;
        };
        if providers.remove(peer).is_none() {
            return;
        }
        if providers.is_empty() {
            self.foreign.remove(key);
        }
        self.foreign_count -= 1;
        if let Some(keys) = self.by_peer.get_mut(peer) {
            self.by_count.remove(&(keys.len(), *peer));
            keys.remove(key);
            if keys.is_empty() {
                self.by_peer.remove(peer);
            } else {
                self.by_count.insert((keys.len(), *peer));
            }
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = DhtKey::from_record_key(&record.key).ok_or(Error::ValueTooLarge)?;
        let added = if record.provider == self.own_id {
            self.hold(key)
        } else {
            self.add_foreign(key, record.provider, record.addresses, Instant::now())
        };
        if added {
            Ok(())
        } else {
            Err(Error::MaxProvidedKeys)
        }
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(digest) = DhtKey::from_record_key(key) else {
            return Vec::new();
        };
        let record = |provider, addresses: &[Multiaddr]| ProviderRecord {
            key: key.clone(),
            provider,
            expires: None,
            addresses: addresses.to_vec(),
        };
        // The own record first: an answer is cut at twenty. Its addresses are
        // filled in by Kademlia.
        let own = self.own.contains(&digest).then(|| record(self.own_id, &[]));
        let now = Instant::now();
        let foreign = self.foreign_providers(&digest, now);
        own.into_iter()
            .chain(foreign.into_iter().map(|(peer, addrs)| record(peer, addrs)))
            .collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        // Kademlia would renew these by its own clock; the announcer does it at
        // its pace instead.
        Vec::new().into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        let Some(key) = DhtKey::from_record_key(key) else {
            return;
        };
        if *peer == self.own_id {
            self.withdraw(key);
        } else {
            self.remove_foreign(&key, peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RecordLimits = RecordLimits {
        own: 4,
        foreign: 100,
        per_peer: 30,
        per_key: MAX_PROVIDERS_PER_KEY,
    };

    fn key(n: u32) -> DhtKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        DhtKey(bytes)
    }

    fn store() -> Records {
        Records::new(PeerId::random(), LIMITS)
    }

    fn check(records: &Records) {
        let by_key: usize = records.foreign.values().map(BTreeMap::len).sum();
        let by_peer: usize = records.by_peer.values().map(BTreeSet::len).sum();
        let by_count: usize = records.by_count.iter().map(|(count, _)| count).sum();
        assert_eq!(by_key, records.foreign_count);
        assert_eq!(by_peer, records.foreign_count);
        assert_eq!(by_count, records.foreign_count);
        assert!(records.foreign_count <= records.limits.foreign);
    }

    #[test]
    fn a_flood_of_foreign_records_evicts_no_own_record() {
        let mut records = store();
        let now = Instant::now();
        for n in 0..LIMITS.own as u32 {
            assert!(records.hold(key(n)));
        }
        assert!(!records.hold(key(99)), "the own budget has an end");
        for n in 0..1_000 {
            records.add_foreign(key(n), PeerId::random(), Vec::new(), now);
        }
        check(&records);
        assert_eq!(records.own_len(), LIMITS.own);
        for n in 0..LIMITS.own as u32 {
            let providers = records.providers(&key(n).to_record_key());
            assert_eq!(providers[0].provider, records.own_id);
        }
    }

    #[test]
    fn own_records_never_take_room_from_foreign_ones() {
        let mut records = store();
        let now = Instant::now();
        for n in 0..LIMITS.foreign as u32 {
            assert!(records.add_foreign(key(n), PeerId::random(), Vec::new(), now));
        }
        assert!(records.hold(key(1)));
        assert_eq!(records.foreign_len(), LIMITS.foreign);
    }

    #[test]
    fn the_flood_of_one_peer_ends_at_its_limit_and_makes_room_for_others() {
        let mut records = store();
        let now = Instant::now();
        let flooder = PeerId::random();
        for n in 0..LIMITS.per_peer as u32 {
            assert!(records.add_foreign(key(n), flooder, Vec::new(), now));
        }
        assert!(!records.add_foreign(key(1_000), flooder, Vec::new(), now));
        for n in 0..(LIMITS.foreign - LIMITS.per_peer) as u32 {
            assert!(records.add_foreign(key(2_000 + n), PeerId::random(), Vec::new(), now));
        }
        // Full: newcomers displace records of the flooder, down to one of its.
        for n in 0..(LIMITS.per_peer - 2) as u32 {
            let newcomer = PeerId::random();
            assert!(records.add_foreign(key(3_000 + n), newcomer, Vec::new(), now));
            check(&records);
        }
        assert_eq!(records.by_peer[&flooder].len(), 2);
    }

    #[test]
    fn a_key_keeps_256_providers_and_successive_answers_of_twenty_show_them_all() {
        let mut records = Records::new(PeerId::random(), RecordLimits::with_own(1));
        let now = Instant::now();
        let mut all = BTreeSet::new();
        for _ in 0..MAX_PROVIDERS_PER_KEY {
            let peer = PeerId::random();
            all.insert(peer);
            assert!(records.add_foreign(key(1), peer, Vec::new(), now));
        }
        assert!(!records.add_foreign(key(1), PeerId::random(), Vec::new(), now));
        let mut seen = BTreeSet::new();
        for _ in 0..MAX_PROVIDERS_PER_KEY {
            let answer = records.providers(&key(1).to_record_key());
            seen.extend(answer.iter().take(20).map(|record| record.provider));
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn a_record_ends_after_its_time_unless_it_is_renewed() {
        let mut records = store();
        let start = Instant::now();
        let (renewed, left) = (PeerId::random(), PeerId::random());
        records.add_foreign(key(1), renewed, Vec::new(), start);
        records.add_foreign(key(1), left, Vec::new(), start);
        records.add_foreign(key(1), renewed, Vec::new(), start + RECORD_TTL / 2);
        let end = start + RECORD_TTL;
        let providers = records.foreign_providers(&key(1), end);
        assert_eq!(providers.len(), 1);
        assert_eq!(providers[0].0, renewed);
        records.expire(end);
        assert_eq!(records.foreign_len(), 1);
        check(&records);
    }

    #[test]
    fn value_records_and_keys_of_other_kinds_are_not_stored() {
        let mut records = store();
        let value = Record::new(key(1).to_record_key(), vec![1, 2, 3]);
        assert!(records.put(value).is_err());
        assert!(records.get(&key(1).to_record_key()).is_none());
        let odd = RecordKey::from(vec![7; 40]);
        let record = ProviderRecord::new(odd, PeerId::random(), Vec::new());
        assert!(records.add_provider(record).is_err());
        assert_eq!(records.foreign_len(), 0);
    }

    #[test]
    fn a_peer_that_is_forgotten_leaves_nothing_behind() {
        let mut records = store();
        let now = Instant::now();
        let (peer, other) = (PeerId::random(), PeerId::random());
        for n in 0..10 {
            records.add_foreign(key(n), peer, Vec::new(), now);
            records.add_foreign(key(n), other, Vec::new(), now);
        }
        records.forget(&peer);
        check(&records);
        assert_eq!(records.foreign_len(), 10);
        assert!(!records.by_peer.contains_key(&peer));
    }

    #[test]
    fn addresses_of_a_record_end_at_their_limit() {
        let mut records = store();
        let address: Multiaddr = "/ip4/203.0.113.1/tcp/1".parse().unwrap();
        let many = vec![address; MAX_RECORD_ADDRESSES + 1];
        let now = Instant::now();
        records.add_foreign(key(1), PeerId::random(), many, now);
        let providers = records.foreign_providers(&key(1), now);
        assert_eq!(providers[0].1.len(), MAX_RECORD_ADDRESSES);
    }
}
