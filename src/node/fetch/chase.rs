//! What a search for the best snapshot of a chain knows so far, and what it
//! tells the person. No clock and no network in here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use libp2p::PeerId;
use tokio::time::Instant;

use super::candidates::{
    Candidate, Claim, Fit, Known, LeftOut, LeftOutCounts, Subject, Wanted, fit, rank,
};
use super::trials::Trials;
use crate::comet::rpc::HeaderAfter;
use crate::node::command::Failure;
use crate::node::progress::Reporter;
use crate::snapshot::{Endorsements, Manifest, ManifestId};
use crate::wire::CatalogueEntry;

/// Sentences shown of one search, so that strangers cannot fill the screen; the
/// debug log has them all.
const MAX_TOLD: usize = 64;
/// States of the chain that are kept, at most 100 bytes each.
const MAX_STATES: usize = 1024;

/// A manifest to fetch.
pub(super) struct Found {
    pub(super) manifest: Arc<Manifest>,
    /// What the chain has at its height, where it confirmed the application hash.
    pub(super) proof: Option<HeaderAfter>,
    /// Who is said to have it.
    pub(super) peers: Vec<PeerId>,
    /// Who speaks for it, as far as the search has heard.
    pub(super) endorsements: Endorsements,
}

/// What one step of a search brought.
pub(super) enum Outcome {
    /// The chain's newest height, where somebody tells it.
    Tip(Option<u64>),
    /// It is not told for now.
    NoTip(Failure),
    /// A candidate was tried.
    Tried {
        subject: Subject,
        /// What the chain has at its height, where it was told.
        state: Option<HeaderAfter>,
        verdict: Verdict,
    },
}

/// What came of a candidate.
pub(super) enum Verdict {
    Found(Found),
    /// The claim is false, for this reason.
    False(String),
    /// Nothing is decided, for this reason.
    NotNow(String),
}

/// What a search does after a step.
pub(super) enum Next {
    /// It is over.
    Found(Found),
    /// The chain's height is known: a candidate can be chosen.
    Choose,
    /// After a pause.
    LookAgain,
    /// At once.
    LookNow,
}

/// The state of a search.
pub(super) struct Chase {
    wanted: Wanted,
    /// Manifests that the settings name; when there are any, no others are taken.
    pinned: BTreeSet<ManifestId>,
    trials: Trials,
    states: BTreeMap<u64, HeaderAfter>,
    told: Told,
    /// Whether anything fit to be tried was heard of.
    offered: bool,
    /// Why the chain's height is not told, while it is not.
    trouble: Option<Failure>,
}

/// A candidate whose turn it is.
pub(super) struct Turn {
    pub(super) candidate: Candidate,
    /// How often it was tried before.
    pub(super) before: u32,
    /// What the chain has at its height, where it is known.
    pub(super) state: Option<HeaderAfter>,
}

impl Chase {
    pub(super) fn new(
        wanted: Wanted,
        pinned: BTreeSet<ManifestId>,
        refused: BTreeSet<ManifestId>,
        reporter: Reporter,
    ) -> Self {
        Self {
            wanted,
            pinned,
            trials: Trials::new(refused),
            states: BTreeMap::new(),
            told: Told::new(reporter),
            offered: false,
            trouble: None,
        }
    }

    /// Whether a claim is worth keeping.
    pub(super) fn fit(&self, entry: &CatalogueEntry) -> Fit {
        match fit(entry, &self.wanted) {
            Fit::Yes if !self.is_allowed(&entry.manifest) => Fit::LeftOut(LeftOut::NotPinned),
            Fit::Yes if self.trials.is_out(&Subject::of(entry)) => Fit::No,
            fit => fit,
        }
    }

    /// The candidate to try now. `left_out` are claims that were not kept.
    pub(super) fn choose(
        &mut self,
        claims: &[Claim],
        mut left_out: LeftOutCounts,
        known: &Known,
        now: Instant,
    ) -> Option<Turn> {
        let mut ranked = rank(claims, &self.wanted, known);
        for (reason, count) in ranked.left_out {
            *left_out.entry(reason).or_default() += count;
        }
        self.told.left_out(&left_out, &self.wanted);
        ranked
            .candidates
            .retain(|candidate| self.is_allowed(&candidate.subject.manifest));
        let (candidate, before) = self.trials.choose(&ranked.candidates, now)?;
        self.offered = true;
        let state = self.states.get(&candidate.subject.height).cloned();
        Some(Turn {
            candidate,
            before,
            state,
        })
    }

    /// Takes in what a step brought.
    pub(super) fn apply(&mut self, outcome: Outcome, now: Instant) -> Next {
        match outcome {
            Outcome::Tip(tip) => {
                self.wanted.tip = tip;
                self.trouble = None;
                Next::Choose
            }
            Outcome::NoTip(failure) => {
                let error = &failure.message;
                self.told.say(&format!("{error}; asking again"));
                self.trouble = Some(failure);
                Next::LookAgain
            }
            Outcome::Tried {
                subject,
                state,
                verdict,
            } => {
                if let Some(state) = state {
                    self.learn_state(subject.height, state);
                }
                match verdict {
                    Verdict::Found(found) => return Next::Found(found),
                    Verdict::False(reason) => {
                        self.trials.put_out(subject);
                        self.told.verdict(format!("left out: {reason}"));
                    }
                    Verdict::NotNow(reason) => {
                        self.trials.put_off(subject, now);
                        self.told.verdict(format!("not now: {reason}"));
                    }
                }
                Next::LookNow
            }
        }
    }

    fn learn_state(&mut self, height: u64, state: HeaderAfter) {
        if self.states.len() >= MAX_STATES {
            self.states.clear();
        }
        self.states.insert(height, state);
    }

    /// Why offers were not taken: how many for which limit, then what was found
    /// false or not at hand.
    pub(super) fn reasons(&self) -> Vec<String> {
        let counts = self.told.left_out.iter();
        let limits = counts.map(|(reason, count)| reason.sentence(*count, &self.wanted));
        limits.chain(self.told.verdicts.iter().cloned()).collect()
    }

    /// Whether the chain's height was told.
    pub(super) fn knows_tip(&self) -> bool {
        self.wanted.tip.is_some()
    }

    /// Whether all that was offered was left out because too few endorsers computed
    /// it.
    pub(super) fn lacks_endorsers(&self) -> bool {
        let mut left_out = self.told.left_out.keys();
        !self.offered && left_out.any(|reason| *reason == LeftOut::Unendorsed)
    }

    /// Whether all that was offered was left out because the settings name others.
    pub(super) fn lacks_pinned(&self) -> bool {
        let left_out = &self.told.left_out;
        let is_pins = |reason: &LeftOut| *reason == LeftOut::NotPinned;
        !self.offered && !left_out.is_empty() && left_out.keys().all(is_pins)
    }

    /// Whether there was anything to try.
    pub(super) fn had_offers(&self) -> bool {
        self.offered
    }

    /// Why the chain's height was not told in the end, if it was not.
    pub(super) fn into_trouble(self) -> Option<Failure> {
        self.trouble
    }

    /// Pinned manifests in the settings exclude all others.
    fn is_allowed(&self, id: &ManifestId) -> bool {
        self.pinned.is_empty() || self.pinned.contains(id)
    }
}

/// What the person was told, so that nothing is said twice.
struct Told {
    reporter: Reporter,
    sentences: BTreeSet<String>,
    /// Those of them that say why a candidate was not taken.
    verdicts: BTreeSet<String>,
    /// Claims that were left out, as counted last.
    left_out: LeftOutCounts,
    /// The counts that were told.
    told_counts: LeftOutCounts,
}

impl Told {
    fn new(reporter: Reporter) -> Self {
        Self {
            reporter,
            sentences: BTreeSet::new(),
            verdicts: BTreeSet::new(),
            left_out: LeftOutCounts::new(),
            told_counts: LeftOutCounts::new(),
        }
    }

    fn verdict(&mut self, sentence: String) {
        self.say(&sentence);
        if self.verdicts.len() < MAX_TOLD {
            self.verdicts.insert(sentence);
        }
    }

    fn say(&mut self, sentence: &str) {
        if self.sentences.contains(sentence) {
            return;
        }
        tracing::debug!(sentence, "search");
        if self.sentences.len() < MAX_TOLD && self.sentences.insert(sentence.to_owned()) {
            self.reporter.note(sentence);
        }
    }

    /// One line for each reason; another one only when there are twice as many.
    fn left_out(&mut self, counts: &LeftOutCounts, wanted: &Wanted) {
        for (reason, count) in counts {
            if is_news(&self.told_counts, *reason, *count) {
                self.told_counts.insert(*reason, *count);
                self.say(&reason.sentence(*count, wanted));
            }
        }
        self.left_out.clone_from(counts);
    }
}

fn is_news(told: &LeftOutCounts, reason: LeftOut, count: usize) -> bool {
    let before = told.get(&reason).copied().unwrap_or_default();
    count > 0 && count >= before.saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_growing_number_is_told_again_only_when_it_has_doubled() {
        let mut told = LeftOutCounts::new();
        let mut lines = 0;
        for count in 0..=1000 {
            if is_news(&told, LeftOut::AboveTip, count) {
                told.insert(LeftOut::AboveTip, count);
                lines += 1;
            }
        }
        assert_eq!(lines, 10);
        assert!(!is_news(&told, LeftOut::AboveTip, 512));
    }
}
