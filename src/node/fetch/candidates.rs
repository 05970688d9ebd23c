//! Which snapshot to fetch, of those that peers say they have.
//!
//! Every entry of a catalogue is a claim. Claims that agree in everything make
//! one candidate, so that a lie about a snapshot stands beside the truth and
//! never in its place. What a few strangers claim never pushes aside what many
//! peers, or a peer that the user named, have: candidates are ranked by backing
//! first and by height second.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use libp2p::PeerId;

use crate::snapshot::{Manifest, ManifestId, STATE_FORMAT};
use crate::wire::CatalogueEntry;

/// Claims so many blocks above the median of all peers are not plausible. At a
/// block each second it is more than a day; peers that follow the same chain
/// have snapshots much closer together.
const FAR_ABOVE_BLOCKS: u64 = 100_000;

/// What one peer says it has.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who says so.
    pub peer: PeerId,
    /// Whether the user named this peer (on the command line or in the
    /// settings).
    pub named: bool,
    /// The claim.
    pub entry: CatalogueEntry,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The chain.
    pub chain_id: String,
    /// Exactly this height, or the newest.
    pub height: Option<u64>,
    /// Lower ones are left out: what comes after them is known to nobody any more.
    pub not_below: Option<u64>,
    /// Larger snapshots are left out, bytes.
    pub max_bytes: Option<u64>,
    /// The chain's newest height, where an RPC tells it.
    pub tip: Option<u64>,
    /// Bytes for which there is room here; larger ones come last, unless they are
    /// begun.
    pub room: u64,
    /// Only records of a state.
    pub state_only: bool,
    /// How many endorsers must have computed a state that no application hash
    /// proves, and of how many; nothing where the settings list none.
    pub quorum: Option<(usize, usize)>,
}

/// What is known here of snapshots that peers claim to have.
pub struct Known<'a> {
    /// Whether a part is here.
    pub begun: &'a dyn Fn(&ManifestId) -> bool,
    /// Whether it is believed: it is pinned, or enough endorsers computed it.
    pub believed: &'a dyn Fn(&Subject) -> bool,
}

/// Everything that a claim says of a snapshot. Verdicts are kept by it: a lie
/// with the name of an honest snapshot is another subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Subject {
    /// Its name.
    pub manifest: ManifestId,
    /// Claimed height.
    pub height: u64,
    /// Claimed application hash; empty when unproven.
    pub app_hash: Bytes,
    /// Claimed ABCI format.
    pub format: u32,
    /// Claimed number of chunks.
    pub chunks: u32,
    /// Claimed bytes.
    pub total_bytes: u64,
}

impl Subject {
    /// What an entry claims.
    pub fn of(entry: &CatalogueEntry) -> Self {
        Self {
            manifest: entry.manifest,
            height: entry.height,
            app_hash: entry.app_hash.clone(),
            format: entry.format,
            chunks: entry.chunks,
            total_bytes: entry.total_bytes,
        }
    }

    /// Whether the manifest of this name bears the claim out.
    pub fn agrees(&self, manifest: &Manifest) -> bool {
        let app_hash = manifest.app_hash().map_or(&[][..], |hash| hash);
        manifest.id() == self.manifest
            && manifest.height() == self.height
            && app_hash == self.app_hash
            && manifest.format() == self.format
            && manifest.chunk_count() == self.chunks
            && manifest.total_bytes() == self.total_bytes
    }
}

/// A snapshot that can be tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What is claimed of it.
    pub subject: Subject,
    /// Whether a peer that the user named claims it.
    pub named: bool,
    /// Whether enough endorsers computed it, or it is pinned.
    pub believed: bool,
    /// Who claims to have all of it.
    pub peers: BTreeSet<PeerId>,
}

impl Candidate {
    /// Whether one stranger is all that speaks for it.
    pub fn is_lone(&self) -> bool {
        !self.named && !self.believed && self.peers.len() < 2
    }
}

/// How well a candidate is backed; the derived order is the preference.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Backing {
    OneStranger,
    /// Power of two below the number of holders. Identities are free, so a few
    /// more of them must not count for more than a newer height does. Without
    /// a chain to ask the number is all there is; with one, all are alike.
    Several(u32),
    NamedPeer,
    /// Without a chain to ask there is nothing better than the word of those whom
    /// the person listed.
    Believed,
}

impl Backing {
    fn of(candidate: &Candidate, tip: Option<u64>) -> Self {
        match candidate.peers.len() {
            _ if candidate.believed && tip.is_none() => Self::Believed,
            _ if candidate.named => Self::NamedPeer,
            0 | 1 => Self::OneStranger,
            _ if tip.is_some() => Self::Several(0),
            holders => Self::Several(holders.ilog2()),
        }
    }
}

/// Why a claim that the person may have hoped for is not considered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LeftOut {
    /// Its height is not below the chain's.
    AboveTip,
    /// It is larger than the settings allow.
    TooLarge,
    /// The blocks after it are gone.
    TooOld,
    /// No application hash proves its state, and too few endorsers computed it.
    Unendorsed,
    /// The settings name others, and take no other.
    NotPinned,
}

impl LeftOut {
    /// A sentence for so many such claims.
    pub fn sentence(self, count: usize, wanted: &Wanted) -> String {
        let claims = if count == 1 {
            "1 claim was".to_owned()
        } else {
            format!("{count} claims were")
        };
        match self {
            Self::AboveTip => format!(
                "{claims} left out: not below the chain's height {}",
                wanted.tip.unwrap_or_default()
            ),
            Self::TooLarge => format!(
                "{claims} left out: more bytes than max_download_bytes = {} allows",
                wanted.max_bytes.unwrap_or_default()
            ),
            Self::TooOld => format!(
                "{claims} left out: older than height {}, below which nothing could be followed",
                wanted.not_below.unwrap_or_default()
            ),
            Self::Unendorsed => {
                let (needed, listed) = wanted.quorum.unwrap_or_default();
                format!(
                    "{claims} left out: no application hash proves that state, and fewer than \
                     {needed} of the {listed} endorsers in config.toml computed it"
                )
            }
            Self::NotPinned => format!(
                "{claims} left out: not among the pinned_manifests below [trust] in config.toml"
            ),
        }
    }
}

/// How many claims were left out, by reason.
pub type LeftOutCounts = BTreeMap<LeftOut, usize>;

/// The result of ranking.
#[derive(Debug, Default)]
pub struct Ranked {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// What was left out.
    pub left_out: LeftOutCounts,
}

/// Ranks what peers claim to have in full. Among equally backed ones those that
/// are here in part go first, so that an interrupted download goes on.
pub fn rank(claims: &[Claim], wanted: &Wanted, known: &Known) -> Ranked {
    let mut ranked = Ranked::default();
    let mut groups: BTreeMap<Subject, Candidate> = BTreeMap::new();
    let mut newest: BTreeMap<PeerId, u64> = BTreeMap::new();
    for claim in claims {
        match fit(&claim.entry, wanted) {
            Fit::Yes => {}
            Fit::No => continue,
            Fit::LeftOut(reason) => {
                *ranked.left_out.entry(reason).or_default() += 1;
                continue;
            }
        }
        let height = newest.entry(claim.peer).or_default();
        *height = claim.entry.height.max(*height);
        let subject = Subject::of(&claim.entry);
        let candidate = groups.entry(subject.clone());
        let candidate = candidate.or_insert_with(|| Candidate {
            believed: (known.believed)(&subject),
            subject,
            named: false,
            peers: BTreeSet::new(),
        });
        candidate.peers.insert(claim.peer);
        candidate.named |= claim.named;
    }
    if wanted.quorum.is_some() {
        groups.retain(|subject, candidate| {
            // A state of our own format is one that no application hash commits to.
            let may_be_taken = candidate.believed || subject.format != STATE_FORMAT;
            if !may_be_taken {
                *ranked.left_out.entry(LeftOut::Unendorsed).or_default() += candidate.peers.len();
            }
            may_be_taken
        });
    }
    let highest = highest_plausible(newest.into_values().collect(), wanted.tip);
    let mut candidates: Vec<Candidate> = groups.into_values().collect();
    candidates.sort_by_cached_key(|candidate| {
        let Subject {
            manifest, height, ..
        } = candidate.subject;
        // A named peer is believed whatever strangers say of the height.
        let plausible = candidate.named || height <= highest;
        let is_begun = (known.begun)(&manifest);
        Reverse((
            is_begun || candidate.subject.total_bytes <= wanted.room,
            Backing::of(candidate, wanted.tip),
            plausible,
            is_begun,
            height,
            candidate.peers.len(),
            candidate.subject.clone(),
        ))
    });
    ranked.candidates = candidates;
    ranked
}

/// The highest height that is not absurd: below the chain's where that is
/// known, else not far above the median of what each peer has newest, so that
/// no peer moves it by claiming much.
fn highest_plausible(mut newest: Vec<u64>, tip: Option<u64>) -> u64 {
    if let Some(tip) = tip {
        return tip;
    }
    newest.sort_unstable();
    let lower_middle = newest.len().saturating_sub(1) / 2;
    let median = newest.get(lower_middle).copied().unwrap_or_default();
    median.saturating_add(FAR_ABOVE_BLOCKS)
}

/// Whether an entry is what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fit {
    /// It is.
    Yes,
    /// It is simply something else.
    No,
    /// A person would want to know that it is not.
    LeftOut(LeftOut),
}

/// Whether an entry is what is wanted.
pub fn fit(entry: &CatalogueEntry, wanted: &Wanted) -> Fit {
    let other_height = wanted.height.is_some_and(|height| height != entry.height);
    let other_kind = wanted.state_only && entry.format != STATE_FORMAT;
    // A delta is for those who have what it builds on: they take it on their way.
    let is_of_use = entry.complete && !entry.delta;
    if entry.chain_id != wanted.chain_id || !is_of_use || other_height || other_kind {
        return Fit::No;
    }
    if wanted.tip.is_some_and(|tip| entry.height >= tip) {
        return Fit::LeftOut(LeftOut::AboveTip);
    }
    if wanted.not_below.is_some_and(|least| entry.height < least) {
        return Fit::LeftOut(LeftOut::TooOld);
    }
    if wanted.max_bytes.is_some_and(|max| entry.total_bytes > max) {
        return Fit::LeftOut(LeftOut::TooLarge);
    }
    Fit::Yes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    fn claim(peer: u8, named: bool, height: u64, manifest: &str) -> Claim {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([peer; 32]).unwrap();
        Claim {
            peer: key.public().to_peer_id(),
            named,
            entry: CatalogueEntry {
                chain_id: "chain".to_owned(),
                height,
                format: 1,
                app_hash: Bytes::from_static(b"hash"),
                manifest: ManifestId(sha256(manifest.as_bytes())),
                manifest_bytes: 100,
                total_bytes: 1000,
                chunks: 1,
                complete: true,
                delta: false,
                endorsements: Vec::new(),
            },
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            chain_id: "chain".to_owned(),
            height: None,
            not_below: None,
            max_bytes: None,
            tip: None,
            room: u64::MAX,
            state_only: false,
            quorum: None,
        }
    }

    fn known<'a>(
        begun: &'a [ManifestId],
        believed: &'a [ManifestId],
    ) -> impl Fn(&[Claim], &Wanted) -> Ranked {
        move |claims, wanted| {
            let known = Known {
                begun: &|id| begun.contains(id),
                believed: &|subject| believed.contains(&subject.manifest),
            };
            rank(claims, wanted, &known)
        }
    }

    fn ranked(claims: &[Claim], wanted: &Wanted) -> Ranked {
        known(&[], &[])(claims, wanted)
    }

    fn best(claims: &[Claim], wanted: &Wanted) -> Option<u64> {
        ranked(claims, wanted)
            .candidates
            .first()
            .map(|c| c.subject.height)
    }

    #[test]
    fn a_lone_stranger_with_an_absurd_height_does_not_win_over_several_peers() {
        let claims = [
            claim(1, false, 1 << 62, "garbage"),
            claim(2, false, 100, "real"),
            claim(3, false, 100, "real"),
        ];
        assert_eq!(best(&claims, &wanted()), Some(100));
    }

    #[test]
    fn where_only_a_state_will_do_nothing_else_is_taken() {
        let mut claims = [claim(1, true, 200, "opaque"), claim(2, false, 100, "state")];
        claims[1].entry.format = STATE_FORMAT;
        let wanted = Wanted {
            state_only: true,
            ..wanted()
        };
        assert_eq!(best(&claims, &wanted), Some(100));
    }

    #[test]
    fn a_named_peer_is_believed_before_any_number_of_strangers() {
        let claims = [
            claim(1, false, 200, "theirs"),
            claim(2, false, 200, "theirs"),
            claim(3, true, 100, "ours"),
        ];
        assert_eq!(best(&claims, &wanted()), Some(100));
    }

    #[test]
    fn what_the_disk_cannot_hold_comes_last_unless_it_is_begun() {
        let mut claims = [claim(1, true, 200, "large"), claim(1, true, 100, "small")];
        claims[0].entry.total_bytes = 5000;
        let wanted = Wanted {
            room: 4999,
            ..wanted()
        };
        assert_eq!(best(&claims, &wanted), Some(100));
        assert_eq!(ranked(&claims, &wanted).candidates.len(), 2);
        let begun = known(&[claims[0].entry.manifest], &[])(&claims, &wanted);
        assert_eq!(begun.candidates[0].subject.height, 200);
    }

    #[test]
    fn equally_backed_snapshots_go_by_height_and_then_by_holders() {
        let claims = [
            claim(1, true, 100, "old"),
            claim(1, true, 200, "garbage"),
            claim(2, true, 200, "new"),
            claim(3, true, 200, "new"),
        ];
        let ranked = ranked(&claims, &wanted());
        assert_eq!(
            ranked.candidates[0].subject.manifest,
            ManifestId(sha256(b"new"))
        );
        assert_eq!(ranked.candidates[0].peers.len(), 2);
        assert_eq!(ranked.candidates[2].subject.height, 100);
    }

    #[test]
    fn heights_at_or_above_the_tip_and_oversized_snapshots_are_left_out_with_a_word() {
        let claims = [claim(1, true, 1 << 62, "far"), claim(1, true, 90, "near")];
        let tip = Wanted {
            tip: Some(100),
            ..wanted()
        };
        let ranked = ranked(&claims, &tip);
        assert_eq!(ranked.candidates.len(), 1);
        assert_eq!(ranked.candidates[0].subject.height, 90);
        assert_eq!(
            ranked.left_out,
            LeftOutCounts::from([(LeftOut::AboveTip, 1)])
        );
        assert!(LeftOut::AboveTip.sentence(1, &tip).contains("height 100"));

        let small = Wanted {
            max_bytes: Some(999),
            ..wanted()
        };
        assert_eq!(best(&claims, &small), None);
    }

    #[test]
    fn a_state_that_nothing_proves_is_taken_only_when_the_endorsers_computed_it() {
        let mut claims = [claim(1, true, 200, "new"), claim(2, false, 100, "old")];
        for claim in &mut claims {
            claim.entry.format = STATE_FORMAT;
        }
        let old = [claims[1].entry.manifest];
        let strict = Wanted {
            quorum: Some((2, 3)),
            tip: Some(1000),
            ..wanted()
        };
        let ranked = known(&[], &old)(&claims, &strict);
        assert_eq!(ranked.candidates.len(), 1);
        assert_eq!(ranked.candidates[0].subject.height, 100);
        assert!(!ranked.candidates[0].is_lone());
        assert_eq!(
            ranked.left_out,
            LeftOutCounts::from([(LeftOut::Unendorsed, 1)])
        );
        let sentence = LeftOut::Unendorsed.sentence(1, &strict);
        assert!(sentence.contains("2 of the 3 endorsers"), "{sentence}");
        // Where nobody is listed, it is the person's to judge.
        assert_eq!(best(&claims, &wanted()), Some(200));
    }

    #[test]
    fn where_no_chain_can_be_asked_what_the_endorsers_computed_goes_first() {
        let claims = [claim(1, true, 200, "theirs"), claim(2, false, 100, "ours")];
        let ours = [claims[1].entry.manifest];
        let listed = Wanted {
            quorum: Some((1, 1)),
            ..wanted()
        };
        let first = |wanted: &Wanted| {
            let ranked = known(&[], &ours)(&claims, wanted);
            assert_eq!(ranked.candidates.len(), 2);
            ranked.candidates[0].subject.height
        };
        assert_eq!(first(&listed), 100);
        let tip = Some(1000);
        assert_eq!(first(&Wanted { tip, ..listed }), 200);
    }

    #[test]
    fn incomplete_and_foreign_entries_and_deltas_are_no_candidates() {
        let mut incomplete = claim(1, true, 5, "x");
        incomplete.entry.complete = false;
        let mut foreign = claim(1, true, 5, "y");
        foreign.entry.chain_id = "other".to_owned();
        let mut delta = claim(1, true, 5, "z");
        delta.entry.delta = true;
        assert_eq!(best(&[incomplete, foreign, delta], &wanted()), None);
    }

    #[test]
    fn two_strangers_with_an_absurd_height_do_not_win_over_many_peers_nor_over_two() {
        let absurd = |peer| claim(peer, false, 1 << 62, "garbage");
        let mut claims: Vec<Claim> = (3..103).map(|n| claim(n, false, 100, "real")).collect();
        claims.extend([absurd(1), absurd(2)]);
        assert_eq!(best(&claims, &wanted()), Some(100));
        let even = [claims[0].clone(), claims[1].clone(), absurd(1), absurd(2)];
        assert_eq!(best(&even, &wanted()), Some(100));
    }

    #[test]
    fn a_newer_height_wins_among_about_as_many_holders() {
        let claims = [
            claim(1, false, 100, "old"),
            claim(2, false, 100, "old"),
            claim(3, false, 100, "old"),
            claim(4, false, 200, "new"),
            claim(5, false, 200, "new"),
        ];
        assert_eq!(best(&claims, &wanted()), Some(200));
    }

    #[test]
    fn a_lie_about_an_honest_snapshot_is_another_candidate() {
        let honest = claim(2, false, 100, "real");
        let lies: [fn(&mut CatalogueEntry); 4] = [
            |entry| entry.app_hash = Bytes::from_static(b"other"),
            |entry| entry.height = 99,
            |entry| entry.total_bytes = 1,
            |entry| entry.format = 9,
        ];
        for lie in lies {
            let mut false_claim = claim(1, false, 100, "real");
            lie(&mut false_claim.entry);
            let ranked = ranked(&[false_claim, honest.clone()], &wanted());
            assert_eq!(ranked.candidates.len(), 2);
            let alone = |c: &Candidate| c.peers == BTreeSet::from([honest.peer]);
            let kept = ranked.candidates.iter().find(|c| alone(c)).unwrap();
            assert_eq!(kept.subject, Subject::of(&honest.entry));
        }
    }

    #[test]
    fn of_equally_backed_snapshots_the_one_that_is_here_in_part_goes_first() {
        let claims = [
            claim(1, false, 100, "begun"),
            claim(2, false, 200, "newer"),
            claim(3, false, 50, "backed"),
            claim(4, false, 50, "backed"),
        ];
        let here = ManifestId(sha256(b"begun"));
        let ranked = known(&[here], &[])(&claims, &wanted());
        let heights: Vec<u64> = ranked.candidates.iter().map(|c| c.subject.height).collect();
        assert_eq!(heights, [50, 100, 200]);
    }
}
