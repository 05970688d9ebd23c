//! Who is banned, and until when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Offence;

/// First term for wrong bytes: long enough that a liar is out of the download
/// that it disturbed, short enough that a host with one bad disk sector comes
/// back within the hour.
const FIRST_TERM_WRONG_BYTES: Duration = Duration::from_secs(15 * 60);
/// First term for a broken protocol: mostly another version's bug, not malice.
const FIRST_TERM_PROTOCOL: Duration = Duration::from_secs(60);
/// Each further offence multiplies the term by this.
const TERM_GROWTH: u32 = 4;
/// The longest term. A new identity costs nothing, so longer terms only hurt
/// those who mended their ways.
const LONGEST_TERM: Duration = Duration::from_secs(24 * 3600);
/// Good behaviour after a term for so long, and the offences are forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Keys remembered. With keys of 40 bytes the map takes about half a MiB. The
/// record that matters least gives way to a new one.
const MAX_RECORDS: usize = 4096;

/// Bans by key. The key is the caller's: a peer id, a public IP address.
#[derive(Clone, Debug)]
pub struct Bans<K> {
    records: BTreeMap<K, Record>,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    offences: u32,
    /// End of the present or last term.
    until: Instant,
    lifted: bool,
    /// What the term is for.
    offence: Offence,
}

/// A term that was just given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BanTerm {
    /// How long.
    pub term: Duration,
    /// When it ends.
    pub until: Instant,
    /// Offences of this key that are remembered, this one included.
    pub offences: u32,
}

impl<K: Ord + Clone> Default for Bans<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Ord + Clone> Bans<K> {
    /// Nobody is banned.
    pub fn new() -> Self {
        Self {
            records: BTreeMap::new(),
        }
    }

    /// Bans `key` from now on. An offence during a term (a message that was on
    /// its way) lengthens nothing.
    pub fn ban(&mut self, key: K, offence: Offence, now: Instant) -> BanTerm {
        self.forget(now);
        if !self.records.contains_key(&key) && self.records.len() >= MAX_RECORDS {
            self.drop_least(now);
        }
        let record = self.records.entry(key).or_insert(Record {
            offences: 0,
            until: now,
            lifted: false,
            offence,
        });
        if record.until <= now || record.lifted {
            record.offences = record.offences.saturating_add(1);
            record.until = now + term(offence, record.offences);
            record.lifted = false;
            record.offence = offence;
        }
        BanTerm {
            term: record.until - now,
            until: record.until,
            offences: record.offences,
        }
    }

    /// Ends the present ban of `key` and forgets the offence that led to it.
    pub fn lift(&mut self, key: &K) {
        if let Some(record) = self.records.get_mut(key)
            && !record.lifted
        {
            record.lifted = true;
            record.offences = record.offences.saturating_sub(1);
            if record.offences == 0 {
                self.records.remove(key);
            }
        }
    }

    /// Whether `key` is banned now.
    pub fn is_banned(&self, key: &K, now: Instant) -> bool {
        self.banned_until(key, now).is_some()
    }

    /// When the present ban of `key` ends.
    pub fn banned_until(&self, key: &K, now: Instant) -> Option<Instant> {
        self.records
            .get(key)
            .filter(|record| !record.lifted && record.until > now)
            .map(|record| record.until)
    }

    /// Who is banned now, for what, and until when.
    pub fn iter(&self, now: Instant) -> impl Iterator<Item = (&K, Offence, Instant)> {
        self.records
            .iter()
            .filter(move |(_, record)| !record.lifted && record.until > now)
            .map(|(key, record)| (key, record.offence, record.until))
    }

    /// Keys remembered, banned now or not.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        self.records
            .retain(|_, record| record.until + FORGET_AFTER > now);
    }

    /// Makes room: the record whose term ended or ends first goes.
    fn drop_least(&mut self, now: Instant) {
        let least = self
            .records
            .iter()
            .min_by_key(|(_, record)| {
                let banned = !record.lifted && record.until > now;
                (banned, record.until)
            })
            .map(|(key, _)| key.clone());
        if let Some(key) = least {
            self.records.remove(&key);
        }
    }
}

fn term(offence: Offence, offences: u32) -> Duration {
    let first = match offence {
        Offence::WrongBytes => FIRST_TERM_WRONG_BYTES,
        Offence::Protocol => FIRST_TERM_PROTOCOL,
    };
    let growth = TERM_GROWTH.saturating_pow(offences.saturating_sub(1));
    first.saturating_mul(growth).min(LONGEST_TERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_grow_to_a_day_and_are_forgotten_after_a_good_one() {
        let mut now = Instant::now();
        let mut bans = Bans::new();
        let mut terms = Vec::new();
        for _ in 0..5 {
            let term = bans.ban(7, Offence::WrongBytes, now);
            assert!(bans.is_banned(&7, now));
            terms.push(term.term);
            now = term.until;
            assert!(!bans.is_banned(&7, now));
        }
        assert!(terms.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(terms[0], FIRST_TERM_WRONG_BYTES);
        assert_eq!(terms[4], LONGEST_TERM);

        now += FORGET_AFTER;
        let again = bans.ban(7, Offence::WrongBytes, now);
        assert_eq!(again.term, FIRST_TERM_WRONG_BYTES);
    }

    #[test]
    fn a_lifted_ban_leaves_no_offence_behind() {
        let now = Instant::now();
        let mut bans = Bans::new();
        bans.ban(1, Offence::WrongBytes, now);
        bans.lift(&1);
        assert!(!bans.is_banned(&1, now));
        assert!(bans.is_empty());

        let first = bans.ban(1, Offence::WrongBytes, now);
        let second = bans.ban(1, Offence::WrongBytes, first.until);
        assert_eq!(second.offences, 2);
        bans.lift(&1);
        assert!(!bans.is_banned(&1, first.until));
        let again = bans.ban(1, Offence::WrongBytes, first.until);
        assert_eq!(again.offences, 2, "the first offence still counts");
    }

    #[test]
    fn an_offence_during_a_term_lengthens_nothing() {
        let now = Instant::now();
        let mut bans = Bans::new();
        let first = bans.ban(1, Offence::Protocol, now);
        let during = bans.ban(1, Offence::Protocol, now + Duration::from_secs(1));
        assert_eq!(first.until, during.until);
        assert_eq!(during.offences, 1);
    }

    #[test]
    fn the_map_is_bounded_and_the_longest_bans_stay() {
        let now = Instant::now();
        let mut bans = Bans::new();
        bans.ban(0, Offence::WrongBytes, now);
        for key in 1..=MAX_RECORDS {
            bans.ban(key, Offence::Protocol, now);
        }
        assert_eq!(bans.len(), MAX_RECORDS);
        assert!(bans.is_banned(&0, now));
        assert!(bans.is_banned(&MAX_RECORDS, now));
    }
}
