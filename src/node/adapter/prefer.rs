//! What becomes of an offer that this home does not hold: a pure decision.
//!
//! REJECT is for good: CometBFT does not offer that snapshot again while its process
//! lives. So an offer of the very snapshot that the swarm is bringing waits for the
//! rest of it, and others are rejected only while something better is to be had.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::OfferPolicy;

/// `prefer-swarm` rejects what peers of CometBFT offer for at most so long after the
/// first offer; and what came longer before that than this is no reason to reject:
/// peers may not offer it any more.
const PREFER_FOR: Duration = Duration::from_secs(30 * 60);
/// A download that has brought nothing for so long makes no progress.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// What is known when an offer comes that is not here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Situation {
    /// The swarm is bringing this very one.
    pub(super) is_coming: bool,
    /// It is bringing one of this chain.
    pub(super) another_is_coming: bool,
    /// How long ago the newest complete one of this chain came here.
    pub(super) another_is_here: Option<Duration>,
    /// Since the first offer.
    pub(super) since_first: Duration,
    /// Whether waiting is an answer.
    pub(super) may_wait: bool,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Advice {
    Pass,
    Wait(&'static str),
    Reject(&'static str),
}

/// Decides.
pub(super) fn advise(policy: OfferPolicy, situation: &Situation) -> Advice {
    if policy == OfferPolicy::Any {
        return Advice::Pass;
    }
    if situation.is_coming && situation.may_wait {
        return Advice::Wait("the swarm is bringing it");
    }
    if policy == OfferPolicy::SwarmOnly {
        return Advice::Reject("it is not here, and adapter.offers is swarm-only");
    }
    let is_recent = |came: Duration| came <= situation.since_first + PREFER_FOR;
    if situation.since_first > PREFER_FOR {
        Advice::Pass
    } else if situation.is_coming || situation.another_is_coming {
        Advice::Reject("it is not here, and the swarm is bringing one")
    } else if situation.another_is_here.is_some_and(is_recent) {
        Advice::Reject("it is not here, and another one that came lately is")
    } else {
        Advice::Pass
    }
}

/// Which downloads move.
#[derive(Default)]
pub(super) struct Progress {
    /// By CID: bytes that were here, and since when. No more than the daemon tells.
    seen: BTreeMap<String, (u64, Instant)>,
}

impl Progress {
    /// Takes in the downloads as they are now; gives those that move.
    pub(super) fn moving(
        &mut self,
        downloads: Vec<(String, u64)>,
        now: Instant,
    ) -> BTreeSet<String> {
        let before = std::mem::take(&mut self.seen);
        for (manifest, done) in downloads {
            let since = match before.get(&manifest) {
                Some((had, since)) if *had == done => *since,
                _ => now,
            };
            self.seen.insert(manifest, (done, since));
        }
        let moving = |since: &Instant| now.duration_since(*since) <= STALLED_AFTER;
        let seen = self.seen.iter();
        seen.filter(|(_, (_, since))| moving(since))
            .map(|(manifest, _)| manifest.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use OfferPolicy::{Any, PreferSwarm, SwarmOnly};

    fn is_rejected(policy: OfferPolicy, situation: &Situation) -> bool {
        matches!(advise(policy, situation), Advice::Reject(_))
    }

    #[test]
    fn the_very_one_that_is_coming_waits_while_it_may() {
        let mut situation = Situation {
            is_coming: true,
            another_is_coming: true,
            may_wait: true,
            ..Situation::default()
        };
        for policy in [SwarmOnly, PreferSwarm] {
            assert!(matches!(advise(policy, &situation), Advice::Wait(_)));
        }
        assert_eq!(advise(Any, &situation), Advice::Pass);
        situation.may_wait = false;
        assert!(is_rejected(SwarmOnly, &situation) && is_rejected(PreferSwarm, &situation));
    }

    #[test]
    fn swarm_only_rejects_all_that_is_not_here() {
        let situation = Situation {
            since_first: PREFER_FOR * 10,
            ..Situation::default()
        };
        assert!(is_rejected(SwarmOnly, &situation));
    }

    #[test]
    fn prefer_swarm_rejects_others_while_one_comes_or_has_come_lately_and_not_for_ever() {
        let nothing = Situation::default();
        assert_eq!(advise(PreferSwarm, &nothing), Advice::Pass);
        let coming = Situation {
            another_is_coming: true,
            ..Situation::default()
        };
        let here = |came: Duration| Situation {
            another_is_here: Some(came),
            ..Situation::default()
        };
        for mut situation in [coming, here(Duration::ZERO), here(PREFER_FOR)] {
            assert!(is_rejected(PreferSwarm, &situation), "{situation:?}");
            situation.since_first = PREFER_FOR;
            assert!(is_rejected(PreferSwarm, &situation), "{situation:?}");
            situation.since_first += Duration::from_secs(1);
            assert_eq!(advise(PreferSwarm, &situation), Advice::Pass);
        }
        let old = here(PREFER_FOR + Duration::from_secs(1));
        assert_eq!(advise(PreferSwarm, &old), Advice::Pass);
    }

    #[test]
    fn a_download_moves_until_it_has_brought_nothing_for_a_while() {
        let mut progress = Progress::default();
        let start = Instant::now();
        let mut moving = |done: &[(&str, u64)], after: Duration| {
            let downloads = done.iter().map(|(one, done)| ((*one).to_owned(), *done));
            let moving = progress.moving(downloads.collect(), start + after);
            moving.into_iter().collect::<Vec<_>>()
        };
        let second = Duration::from_secs(1);
        assert_eq!(moving(&[("a", 1), ("b", 1)], Duration::ZERO), ["a", "b"]);
        assert_eq!(moving(&[("a", 2), ("b", 1)], 100 * second), ["a", "b"]);
        assert_eq!(moving(&[("a", 2), ("b", 1)], 121 * second), ["a"]);
        assert_eq!(moving(&[("a", 2), ("b", 9)], 221 * second), ["b"]);
        assert_eq!(moving(&[], 222 * second), [""; 0]);
        assert_eq!(moving(&[("a", 2)], 223 * second), ["a"], "begun anew");
    }
}
