//! Which of a node's offers are taken: a pure decision.
//!
//! The shelf keeps the newest harvested snapshots of a chain (see `store`), so
//! only what is among the newest of those and the offers together is taken: the
//! rest would leave again at once. It is taken oldest first, because a full disk
//! removes the oldest arrival first, and the newest should stay.
//!
//! What was once on the shelf is not taken again, in this run or a later one (see
//! `memory`): if it is gone, the quota or a person removed it. What the disk
//! damaged is taken again, once for each damaged file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::snapshot::{Manifest, ManifestId, Offer};
use crate::store::Origin;

/// A snapshot that could not be taken is tried again after this, and after twice
/// as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Snapshots remembered as taken, and as failing. A node offers at most ten at a
/// time, so what is forgotten is not offered any more. A few KB.
pub(super) const MAX_REMEMBERED: usize = 64;

/// A snapshot's name within its chain; newer ones are greater.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    pub(super) height: u64,
    pub(super) format: u32,
    pub(super) hash: Bytes,
}

impl From<&Offer> for Key {
    fn from(offer: &Offer) -> Self {
        Self {
            height: offer.height,
            format: offer.format,
            hash: offer.hash.clone(),
        }
    }
}

impl From<&Manifest> for Key {
    fn from(manifest: &Manifest) -> Self {
        Self {
            height: manifest.height(),
            format: manifest.format(),
            hash: manifest.hash().clone(),
        }
    }
}

/// The complete snapshots of a chain that are here.
pub(super) type Shelf = BTreeMap<Key, (ManifestId, Origin)>;

/// One that was on the shelf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) key: Key,
    pub(super) manifest: ManifestId,
    /// The disk damaged it: it is taken again.
    pub(super) lost: bool,
}

/// What is remembered of one chain's snapshots from round to round.
#[derive(Default)]
pub(super) struct Choice {
    chain_id: String,
    /// Was on the shelf; the oldest memory in front.
    seen: VecDeque<Seen>,
    /// Damages that were looked at.
    damaged: BTreeSet<String>,
    /// There is more to remember than was told.
    news: bool,
    failing: BTreeMap<Key, Failing>,
}

struct Failing {
    until: Instant,
    pause: Duration,
    why: String,
}

/// What to do in a round.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct Chosen {
    /// To be taken, in this order.
    pub(super) take: Vec<Offer>,
    /// Not to be taken, now or later: here, or once here, or older than what is kept.
    pub(super) settled: Vec<Key>,
    /// Why a wanted snapshot is not tried in this round.
    pub(super) trouble: Option<String>,
}

impl Choice {
    /// With what an earlier run remembered of a chain, the oldest first.
    pub(super) fn remembering(
        chain_id: String,
        seen: impl Iterator<Item = Seen>,
        damaged: BTreeSet<String>,
    ) -> Self {
        Self {
            chain_id,
            seen: seen.take(MAX_REMEMBERED).collect(),
            damaged,
            ..Self::default()
        }
    }

    /// The chain that is remembered.
    pub(super) fn chain_id(&self) -> &str {
        &self.chain_id
    }

    /// What was on the shelf, the oldest memory first.
    pub(super) fn seen(&self) -> impl Iterator<Item = &Seen> {
        self.seen.iter()
    }

    /// Damages that were looked at.
    pub(super) fn damaged(&self) -> &BTreeSet<String> {
        &self.damaged
    }

    /// Whether there is more to remember than at the last call.
    pub(super) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Decides. `here` are the complete snapshots of the chain on the shelf, and
    /// `keep` is how many harvested ones of a chain it keeps.
    pub(super) fn choose(
        &mut self,
        chain_id: &str,
        here: &Shelf,
        offers: Vec<Offer>,
        keep: usize,
        now: Instant,
    ) -> Chosen {
        if self.chain_id != chain_id {
            *self = Self {
                chain_id: chain_id.to_owned(),
                ..Self::default()
            };
        }
        let offers: BTreeMap<Key, Offer> = offers
            .into_iter()
            .map(|offer| (Key::from(&offer), offer))
            .collect();
        let harvested = here.iter().filter(|(_, (_, by))| *by == Origin::Harvested);
        let new = offers.keys().filter(|key| !here.contains_key(key));
        let all: BTreeSet<&Key> = harvested.map(|(key, _)| key).chain(new).collect();
        let newest: BTreeSet<Key> = all.into_iter().rev().take(keep).cloned().collect();
        let mut chosen = Chosen::default();
        for (key, offer) in offers {
            if let Some((id, _)) = here.get(&key) {
                self.taken(key.clone(), *id);
                chosen.settled.push(key);
                continue;
            }
            let seen = self.seen.iter().find(|seen| seen.key == key);
            if !newest.contains(&key) || seen.is_some_and(|seen| !seen.lost) {
                chosen.settled.push(key);
                continue;
            }
            match self.failing.get(&key) {
                Some(failing) if now < failing.until => {
                    chosen.trouble = Some(failing.why.clone());
                }
                _ => chosen.take.push(offer),
            }
        }
        chosen
    }

    /// This one is on the shelf.
    pub(super) fn taken(&mut self, key: Key, manifest: ManifestId) {
        self.failing.remove(&key);
        let seen = Seen {
            key,
            manifest,
            lost: false,
        };
        match self.seen.iter_mut().find(|known| known.key == seen.key) {
            Some(known) if *known == seen => return,
            Some(known) => *known = seen,
            None => self.seen.push_back(seen),
        }
        if self.seen.len() > MAX_REMEMBERED {
            self.seen.pop_front();
        }
        self.news = true;
    }

    /// Takes in what is damaged now, by name: a snapshot that is new among it was
    /// lost through no decision of anybody, and may be taken again.
    pub(super) fn look_at_damaged(&mut self, damages: &BTreeMap<String, ManifestId>) {
        let now: BTreeSet<String> = damages.keys().cloned().collect();
        if now == self.damaged {
            return;
        }
        let new = damages
            .iter()
            .filter(|(name, _)| !self.damaged.contains(*name));
        let lost: BTreeSet<ManifestId> = new.map(|(_, id)| *id).collect();
        for seen in &mut self.seen {
            seen.lost |= lost.contains(&seen.manifest);
        }
        self.damaged = now;
        self.news = true;
    }

    /// This one could not be taken.
    pub(super) fn failed(&mut self, key: Key, why: String, now: Instant) {
        let pause = self.failing.remove(&key).map_or(FIRST_PAUSE, |failing| {
            (failing.pause * 2).min(LONGEST_PAUSE)
        });
        if self.failing.len() >= MAX_REMEMBERED {
            let stalest = self.failing.iter().min_by_key(|(_, failing)| failing.until);
            if let Some(key) = stalest.map(|(key, _)| key.clone()) {
                self.failing.remove(&key);
            }
        }
        let until = now + pause;
        self.failing.insert(key, Failing { until, pause, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    fn offer(height: u64, format: u32) -> Offer {
        Offer {
            height,
            format,
            chunks: 1,
            hash: Bytes::from_static(b"hash"),
            metadata: Bytes::new(),
        }
    }

    fn names(offers: &[Offer]) -> Vec<(u64, u32)> {
        offers
            .iter()
            .map(|offer| (offer.height, offer.format))
            .collect()
    }

    fn id(key: &Key) -> ManifestId {
        ManifestId(sha256(&key.height.to_be_bytes()))
    }

    fn here(offers: &[Offer], origin: Origin) -> Shelf {
        let entry = |offer| (Key::from(offer), (id(&Key::from(offer)), origin));
        offers.iter().map(entry).collect()
    }

    fn shelf(offers: &[Offer]) -> Shelf {
        here(offers, Origin::Harvested)
    }

    fn damaged(offer: &Offer, when: u32) -> (String, ManifestId) {
        let id = id(&Key::from(offer));
        (format!("{id}.h5.damaged of {when}"), id)
    }

    #[test]
    fn what_a_person_brought_is_not_counted_and_not_taken_again() {
        let by_hand = [offer(9, 1), offer(8, 1), offer(2, 1)];
        let here = here(&by_hand, Origin::Loaded);
        let offers = vec![offer(3, 1), offer(2, 1), offer(1, 1)];
        let chosen = Choice::default().choose("a", &here, offers, 2, Instant::now());
        assert_eq!(names(&chosen.take), [(1, 1), (3, 1)]);
    }

    #[test]
    fn what_the_disk_damaged_is_taken_again_once() {
        let (mut choice, now) = (Choice::default(), Instant::now());
        let offers = [offer(3, 1)];
        let damages = BTreeMap::from([damaged(&offers[0], 1)]);
        choice.choose("a", &shelf(&offers), offers.to_vec(), 2, now);
        assert!(choice.has_news());
        choice.look_at_damaged(&damages);
        assert!(choice.has_news());
        for _failed_before in [false, true] {
            let chosen = choice.choose("a", &Shelf::new(), offers.to_vec(), 2, now);
            assert_eq!(names(&chosen.take), [(3, 1)]);
        }
        // Taken, and removed by the quota: the damage of then is no news.
        choice.taken(Key::from(&offers[0]), id(&Key::from(&offers[0])));
        choice.look_at_damaged(&damages);
        let chosen = choice.choose("a", &Shelf::new(), offers.to_vec(), 2, now);
        assert_eq!(names(&chosen.take), []);
        choice.look_at_damaged(&BTreeMap::from([damaged(&offers[0], 2)]));
        let chosen = choice.choose("a", &Shelf::new(), offers.to_vec(), 2, now);
        assert_eq!(names(&chosen.take), [(3, 1)]);
    }

    #[test]
    fn the_newest_snapshots_of_shelf_and_offers_are_taken_oldest_first() {
        let offers = vec![offer(3, 1), offer(2, 2), offer(2, 1), offer(1, 1)];
        let chosen =
            Choice::default().choose("a", &shelf(&[offer(9, 1)]), offers, 3, Instant::now());
        assert_eq!(names(&chosen.take), [(2, 2), (3, 1)]);
        assert_eq!(chosen.trouble, None);
    }

    #[test]
    fn what_was_on_the_shelf_is_not_taken_again_nor_replaced_by_an_older_one() {
        let mut choice = Choice::default();
        let now = Instant::now();
        let offers = vec![offer(3, 1), offer(2, 1), offer(1, 1)];
        // One is taken in this run, one was on the shelf before it.
        choice.choose("a", &shelf(&[offer(3, 1)]), offers.clone(), 2, now);
        let second = Key::from(&offer(2, 1));
        choice.taken(second.clone(), id(&second));
        let chosen = choice.choose("a", &Shelf::new(), offers.clone(), 2, now);
        assert_eq!(names(&chosen.take), []);
        let settled: Vec<u64> = chosen.settled.iter().map(|key| key.height).collect();
        assert_eq!(settled, [1, 2, 3], "too old, taken, on the shelf");
        let another_chain = choice.choose("b", &Shelf::new(), offers, 2, now);
        assert_eq!(names(&another_chain.take), [(2, 1), (3, 1)]);
    }

    #[test]
    fn what_failed_waits_twice_as_long_each_time_and_its_trouble_is_told_meanwhile() {
        let mut choice = Choice::default();
        let none = Shelf::new();
        let start = Instant::now();
        let choose =
            |choice: &mut Choice, now| choice.choose("a", &none, vec![offer(1, 1)], 1, now);
        choose(&mut choice, start);
        for pause in [FIRST_PAUSE, FIRST_PAUSE * 2] {
            choice.failed(Key::from(&offer(1, 1)), "why".to_owned(), start);
            let early = choose(&mut choice, start + pause - Duration::from_millis(1));
            assert!(early.take.is_empty() && early.settled.is_empty());
            assert_eq!(early.trouble.as_deref(), Some("why"));
            assert_eq!(names(&choose(&mut choice, start + pause).take), [(1, 1)]);
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut choice = Choice::default();
        for height in 0..=MAX_REMEMBERED as u64 {
            let key = Key::from(&offer(height, 1));
            choice.taken(key.clone(), id(&key));
            choice.failed(key, String::new(), Instant::now());
        }
        assert_eq!(choice.seen.len(), MAX_REMEMBERED);
        assert_eq!(choice.failing.len(), MAX_REMEMBERED);
    }
}
