//! When which key is published: a budget, a pace, a rotating sample.
//!
//! # Model
//!
//! The *wanted* set is what this node serves; the *active* set is what it
//! announces: all chains and manifests up to a limit, and of the chunks as many
//! as the budget covers. When there are more, the active chunks are a window on
//! the ring of all chunk keys; it begins at a place drawn from the seed and moves
//! on by its own length each round (one republish interval). Chunk keys are
//! digests, so a window is a random sample, and providers with different seeds
//! announce different ones.
//!
//! An active key is *due* at once, then each republish interval; published keys
//! are due again sooner when the DHT was smaller than the replication factor and
//! grew since. Due keys go out in the order chain, manifest, chunk, at most
//! `per_second` in the long run and `in_flight` at the same time, and only while
//! there is somebody to give them to. A key that is not wanted any more is
//! withdrawn at once: nobody else can delete a record, but it is not renewed and
//! ends with its time to live.
//!
//! Pure: the time is an argument, the actor carries out what [`Announcer::poll`]
//! says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::error::NetError;
use super::keys::{DhtKey, Key};
use crate::snapshot::{ChunkId, ManifestId};

/// Records live two hours at their holders: a key survives two missed rounds.
pub(super) const RECORD_TTL: Duration = Duration::from_secs(2 * 60 * 60);
/// Copies of a record that the DHT makes: Kademlia's k.
const REPLICATION: usize = 20;
/// Wait after the DHT grew: peers rarely come alone.
const SETTLE: Duration = Duration::from_secs(2);
/// Wait after a publication that failed.
const RETRY: Duration = Duration::from_secs(60);

/// What is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AnnouncePolicy {
    /// Chains, manifests, and chunks within the budget.
    #[default]
    ManifestsAndChunks,
    /// Chains and manifests only.
    Manifests,
}

/// All that this node serves now; the network publishes, renews and withdraws by
/// itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Announcement {
    /// Chains of which a snapshot is here.
    pub chains: Vec<String>,
    /// Snapshots that are here, whole or in part, most wanted first.
    pub manifests: Vec<ManifestId>,
    /// Chunks that are here and verified, in any order.
    pub chunks: Vec<ChunkId>,
    /// Which of them are told.
    pub policy: AnnouncePolicy,
}

/// The budget of publication.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pacing {
    /// Renewal of each record; well below the two hours that records live.
    pub republish_every: Duration,
    /// Chunk keys announced at a time; above it, a rotating sample. Each
    /// publication asks and tells about 40 peers once per `republish_every`.
    pub max_chunk_keys: usize,
    /// Chain and manifest keys announced.
    pub max_other_keys: usize,
    /// Publications begun each second, in the long run.
    pub per_second: u32,
    /// Publications begun at once after a pause.
    pub burst: u32,
    /// Publications under way at the same time.
    pub in_flight: usize,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            republish_every: Duration::from_secs(40 * 60),
            // A snapshot of a thousand chunks (10 GB) is announced whole.
            max_chunk_keys: 1024,
            max_other_keys: 256,
            per_second: 4,
            burst: 16,
            in_flight: 8,
        }
    }
}

impl Pacing {
    /// Refuses what could not work.
    pub(super) fn check(&self) -> Result<(), NetError> {
        let bad = |setting, problem: &str| {
            Err(NetError::BadSetting {
                setting,
                problem: problem.to_owned(),
            })
        };
        if self.per_second == 0 || self.burst == 0 || self.in_flight == 0 {
            return bad("announce pace", "is 0: nothing would ever be announced");
        }
        if self.republish_every.is_zero() || self.republish_every >= RECORD_TTL {
            return bad(
                "republish interval",
                "must be below the 2 hours that a record lives",
            );
        }
        Ok(())
    }

    /// Own records that may exist at a time.
    pub(super) fn max_keys(&self) -> usize {
        self.max_chunk_keys + self.max_other_keys
    }

    fn gap(&self) -> Duration {
        Duration::from_secs(1) / self.per_second
    }
}

/// Figures of the announcer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AnnounceStats {
    /// Keys that this node could announce.
    pub wanted: usize,
    /// Keys that the budget covers now.
    pub active: usize,
    /// Of these, published at least once.
    pub published: usize,
    /// Publications done since the start.
    pub publications: u64,
    /// Publications that failed.
    pub failures: u64,
}

/// What the actor has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AnnounceAction {
    /// Answer for this key from the own record store.
    Hold(DhtKey),
    /// Do not answer for this key any more.
    Withdraw(DhtKey),
    /// Give the record to the DHT; then call `handle_published` or
    /// `handle_failed`.
    Publish(DhtKey),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Rank {
    Chain,
    Manifest,
    Chunk,
}

#[derive(Debug)]
struct Entry {
    rank: Rank,
    due: Instant,
    in_flight: bool,
    /// Size of the DHT, as far as known, when it was published last.
    published_to: Option<usize>,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Announcer {
    pacing: Pacing,
    /// All chunk keys wanted.
    chunks: BTreeSet<DhtKey>,
    /// Where the window on them begins.
    window: DhtKey,
    round_ends: Instant,
    active: BTreeMap<DhtKey, Entry>,
    /// Wanted keys, whether active or not.
    wanted: usize,
    pending: VecDeque<AnnounceAction>,
    in_flight: usize,
    /// The time at which the pace would be used up entirely (GCRA).
    paced_until: Instant,
    routed_peers: usize,
    publications: u64,
    failures: u64,
}

impl Announcer {
    pub fn new(pacing: Pacing, seed: [u8; 32], now: Instant) -> Self {
        Self {
            round_ends: now + pacing.republish_every,
            pacing,
            chunks: BTreeSet::new(),
            window: DhtKey(seed),
            active: BTreeMap::new(),
            wanted: 0,
            pending: VecDeque::new(),
            in_flight: 0,
            paced_until: now,
            routed_peers: 0,
            publications: 0,
            failures: 0,
        }
    }

    /// The whole of what is served changed.
    pub fn handle_wanted(&mut self, wanted: &Announcement, now: Instant) {
        let mut ranked = BTreeMap::new();
        let chains = wanted.chains.iter().map(|chain| {
            let key = Key::Chain(chain.clone()).digest();
            (key, Rank::Chain)
        });
        let manifests = wanted
            .manifests
            .iter()
            .map(|id| (Key::Manifest(*id).digest(), Rank::Manifest));
        for (key, rank) in chains.chain(manifests) {
            if ranked.len() < self.pacing.max_other_keys {
                ranked.entry(key).or_insert(rank);
            }
        }
        self.chunks = match wanted.policy {
            AnnouncePolicy::Manifests => BTreeSet::new(),
            AnnouncePolicy::ManifestsAndChunks => wanted
                .chunks
                .iter()
                .map(|id| Key::Chunk(*id).digest())
                .collect(),
        };
        self.wanted = wanted.chains.len() + wanted.manifests.len() + self.chunks.len();
        for key in self.sample() {
            ranked.entry(key).or_insert(Rank::Chunk);
        }
        self.activate(ranked, now);
    }

    /// So many peers are in the routing table now.
    pub fn handle_routing(&mut self, peers: usize, now: Instant) {
        self.routed_peers = peers;
        for entry in self.active.values_mut() {
            if grew(entry.published_to, peers) && !entry.in_flight {
                entry.due = entry.due.min(now + SETTLE);
            }
        }
    }

    /// The publication of a key ended well.
    pub fn handle_published(&mut self, key: DhtKey, now: Instant) {
        self.publications += 1;
        let due = now + self.pacing.republish_every;
        self.finish(key, due, now);
    }

    /// The publication of a key failed.
    pub fn handle_failed(&mut self, key: DhtKey, now: Instant) {
        self.failures += 1;
        self.finish(key, now + RETRY, now);
    }

    /// The next thing to do.
    pub fn poll(&mut self, now: Instant) -> Option<AnnounceAction> {
        if now >= self.round_ends {
            self.next_round(now);
        }
        if let Some(action) = self.pending.pop_front() {
            return Some(action);
        }
        if self.routed_peers == 0
            || self.in_flight >= self.pacing.in_flight
            || now < self.next_slot()
        {
            return None;
        }
        let (key, entry) = self
            .active
            .iter_mut()
            .filter(|(_, entry)| !entry.in_flight && entry.due <= now)
            .min_by_key(|(key, entry)| (entry.rank, entry.due, **key))?;
        entry.in_flight = true;
        entry.published_to = Some(self.routed_peers);
        let key = *key;
        self.in_flight += 1;
        self.paced_until = self.paced_until.max(now) + self.pacing.gap();
        Some(AnnounceAction::Publish(key))
    }

    /// When to poll again, if nothing is handled before.
    pub fn poll_timeout(&self) -> Instant {
        let mut at = self.round_ends;
        if self.routed_peers > 0 && self.in_flight < self.pacing.in_flight {
            let waiting = self.active.values().filter(|entry| !entry.in_flight);
            if let Some(due) = waiting.map(|entry| entry.due).min() {
                at = at.min(due.max(self.next_slot()));
            }
        }
        at
    }

    pub fn stats(&self) -> AnnounceStats {
        let published = |entry: &&Entry| entry.published_to.is_some();
        AnnounceStats {
            wanted: self.wanted,
            active: self.active.len(),
            published: self.active.values().filter(published).count(),
            publications: self.publications,
            failures: self.failures,
        }
    }

    /// From when on the pace allows one more.
    fn next_slot(&self) -> Instant {
        // A burst of n: n − 1 gaps may be owed. The subtraction cannot reach
        // before the clock's beginning in practice, and then there is no wait.
        let owed = self.pacing.gap() * (self.pacing.burst - 1);
        self.paced_until
            .checked_sub(owed)
            .unwrap_or(self.paced_until)
    }

    fn finish(&mut self, key: DhtKey, due: Instant, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let peers = self.routed_peers;
        // A key may have been withdrawn meanwhile.
        if let Some(entry) = self.active.get_mut(&key) {
            entry.in_flight = false;
            entry.due = if grew(entry.published_to, peers) {
                now + SETTLE
            } else {
                due
            };
        }
    }

    fn next_round(&mut self, now: Instant) {
        self.round_ends = now + self.pacing.republish_every;
        if self.chunks.len() <= self.pacing.max_chunk_keys {
            return;
        }
        if let Some(last) = self.sample().last() {
            // The next window begins behind the last key of this one.
            self.window = self.after(last);
        }
        let mut ranked: BTreeMap<DhtKey, Rank> = self
            .active
            .iter()
            .filter(|(_, entry)| entry.rank != Rank::Chunk)
            .map(|(key, entry)| (*key, entry.rank))
            .collect();
        for key in self.sample() {
            ranked.entry(key).or_insert(Rank::Chunk);
        }
        self.activate(ranked, now);
    }

    /// The chunk keys in the window, in ring order.
    fn sample(&self) -> Vec<DhtKey> {
        self.chunks
            .range(self.window..)
            .chain(self.chunks.range(..self.window))
            .take(self.pacing.max_chunk_keys)
            .copied()
            .collect()
    }

    fn after(&self, key: &DhtKey) -> DhtKey {
        let behind = (Bound::Excluded(*key), Bound::Unbounded);
        let next = self.chunks.range(behind).next();
        next.or_else(|| self.chunks.first())
            .copied()
            .unwrap_or(*key)
    }

    /// Makes exactly these keys active.
    fn activate(&mut self, ranked: BTreeMap<DhtKey, Rank>, now: Instant) {
        let gone: Vec<DhtKey> = self
            .active
            .keys()
            .filter(|key| !ranked.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.active.remove(&key);
            self.pending.push_back(AnnounceAction::Withdraw(key));
        }
        for (key, rank) in ranked {
            if let Some(entry) = self.active.get_mut(&key) {
                entry.rank = rank;
                continue;
            }
            self.pending.push_back(AnnounceAction::Hold(key));
            self.active.insert(
                key,
                Entry {
                    rank,
                    due: now,
                    in_flight: false,
                    published_to: None,
                },
            );
        }
    }
}

/// Whether a record that was given to a DHT of `then` peers should be given to
/// the one of `peers` as well.
fn grew(then: Option<usize>, peers: usize) -> bool {
    then.is_some_and(|then| then < REPLICATION && peers > then)
}

#[cfg(test)]
mod tests;
