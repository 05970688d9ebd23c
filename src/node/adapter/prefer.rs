//! What becomes of an offer that this home does not hold: a pure decision.
//!
//! REJECT is for good: CometBFT does not offer that snapshot again while its process
//! lives. So an offer of the very snapshot that the swarm is bringing waits for the
//! rest of it, and others are rejected only while something better is to be had.

use std::time::Duration;

use crate::config::OfferPolicy;

/// `prefer-swarm` rejects what peers of CometBFT offer for at most so long after the
/// first offer; and what came longer before that than this is no reason to reject:
/// peers may not offer it any more.
const PREFER_FOR: Duration = Duration::from_secs(30 * 60);
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
}
