//! Which candidate is tried next, and what came of those before.
//!
//! Only a definite verdict puts a candidate out. What failed for a reason that
//! passes (a peer is busy, the chain is not that far) has its turn again, after
//! those that were tried less often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::candidates::{Candidate, Subject};
use crate::snapshot::ManifestId;

/// A candidate that failed is not tried again at once.
const REST: Duration = Duration::from_secs(2);
/// Candidates of lone strangers tried in a row while better backed ones wait:
/// identities are free, and each may cost the time of one attempt.
const MAX_LONE_IN_A_ROW: u32 = 8;
/// Candidates remembered, about 200 bytes each. Beyond it all is forgotten: that
/// costs attempts, and is reached only by a flood of lies.
const MAX_REMEMBERED: usize = 4096;

/// What came of the candidates so far.
pub(super) struct Trials {
    /// Condemned by name: their pieces do not make their chunks.
    refused: BTreeSet<ManifestId>,
    /// Claims that were found to be false.
    out: BTreeSet<Subject>,
    /// Attempts that decided nothing.
    attempts: BTreeMap<Subject, Attempts>,
    lone_in_a_row: u32,
}

#[derive(Clone, Copy)]
struct Attempts {
    count: u32,
    last: Instant,
}

impl Trials {
    pub(super) fn new(refused: BTreeSet<ManifestId>) -> Self {
        Self {
            refused,
            out: BTreeSet::new(),
            attempts: BTreeMap::new(),
            lone_in_a_row: 0,
        }
    }

    /// Whether it is known not to be worth an attempt.
    pub(super) fn is_out(&self, subject: &Subject) -> bool {
        self.refused.contains(&subject.manifest) || self.out.contains(subject)
    }

    /// The candidate to try now, of those ranked best first, and how often it
    /// was tried before. A lone stranger's has its first turn when the backed
    /// ones have had two.
    pub(super) fn choose(
        &mut self,
        ranked: &[Candidate],
        now: Instant,
    ) -> Option<(Candidate, u32)> {
        let waiting = || ranked.iter().filter(|c| !self.is_out(&c.subject));
        let patience_is_over =
            self.lone_in_a_row >= MAX_LONE_IN_A_ROW && waiting().any(|c| !c.is_lone());
        let chosen = waiting()
            .filter(|c| !(patience_is_over && c.is_lone()))
            // The first of equals is taken: the best ranked.
            .min_by_key(|c| self.count(&c.subject) + u32::from(c.is_lone()))?
            .clone();
        let resting = self
            .attempts
            .get(&chosen.subject)
            .is_some_and(|attempts| now.saturating_duration_since(attempts.last) < REST);
        if resting {
            return None;
        }
        self.lone_in_a_row = if chosen.is_lone() {
            self.lone_in_a_row.saturating_add(1)
        } else {
            0
        };
        let before = self.count(&chosen.subject);
        Some((chosen, before))
    }

    /// The claim is false, whoever repeats it.
    pub(super) fn put_out(&mut self, subject: Subject) {
        if self.out.len() >= MAX_REMEMBERED {
            self.out.clear();
        }
        self.attempts.remove(&subject);
        self.out.insert(subject);
    }

    /// The attempt decided nothing.
    pub(super) fn put_off(&mut self, subject: Subject, now: Instant) {
        if self.attempts.len() >= MAX_REMEMBERED {
            self.attempts.clear();
        }
        let count = self.count(&subject) + 1;
        self.attempts.insert(subject, Attempts { count, last: now });
    }

    fn count(&self, subject: &Subject) -> u32 {
        self.attempts.get(subject).map_or(0, |a| a.count)
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::*;
    use crate::snapshot::hash::sha256;

    fn candidate(name: &str, holders: usize) -> Candidate {
        Candidate {
            subject: Subject {
                manifest: ManifestId(sha256(name.as_bytes())),
                height: 100,
                app_hash: bytes::Bytes::new(),
                format: 1,
                chunks: 1,
                total_bytes: 1000,
            },
            named: false,
            believed: false,
            peers: (0..holders).map(|_| PeerId::random()).collect(),
        }
    }

    #[test]
    fn what_failed_for_now_has_its_turn_again_and_what_is_false_has_not() {
        let (mut trials, now) = (Trials::new(BTreeSet::new()), Instant::now());
        let ranked = [candidate("best", 2), candidate("next", 2)];
        let [best, next] = ranked.clone().map(|c| c.subject);
        let choose = |trials: &mut Trials, at| {
            trials
                .choose(&ranked, at)
                .map(|(c, times)| (c.subject, times))
        };
        assert_eq!(choose(&mut trials, now), Some((best.clone(), 0)));
        trials.put_off(best.clone(), now);
        assert_eq!(choose(&mut trials, now), Some((next.clone(), 0)));
        trials.put_out(next);
        assert_eq!(choose(&mut trials, now), None, "it rests");
        assert_eq!(choose(&mut trials, now + REST), Some((best.clone(), 1)));
        trials.put_out(best);
        assert_eq!(choose(&mut trials, now + 2 * REST), None);
    }

    #[test]
    fn a_flood_of_lone_strangers_does_not_keep_a_backed_candidate_waiting() {
        let (mut trials, mut now) = (Trials::new(BTreeSet::new()), Instant::now());
        let mut ranked = vec![candidate("backed", 2)];
        ranked.extend((0..1000).map(|n| candidate(&n.to_string(), 1)));
        let mut turns = 0;
        for _ in 0..100 {
            now += REST;
            let (chosen, _) = trials.choose(&ranked, now).unwrap();
            turns += u32::from(!chosen.is_lone());
            trials.put_off(chosen.subject, now);
        }
        assert!(turns > 100 / (MAX_LONE_IN_A_ROW + 1), "{turns} turns");
    }

    #[test]
    fn a_condemned_name_is_out_whatever_is_claimed_of_it() {
        let refused = candidate("refused", 3);
        let names = BTreeSet::from([refused.subject.manifest]);
        let mut trials = Trials::new(names);
        assert!(trials.choose(&[refused], Instant::now()).is_none());
    }
}
