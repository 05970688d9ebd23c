//! What is removed to keep the limits: a pure decision over what is here.
//!
//! Only what came by itself goes by itself: what the harvest took, deltas that were derived
//! from that, downloads that rest half done, and deltas that were fetched on the way to
//! another snapshot. A complete snapshot that a person loaded or fetched stays until that
//! person deletes it.
//!
//! 1. Of each chain the newest `max_snapshots` harvested snapshots stay, by
//!    height, then by order of arrival. What is pinned or held stays beside them. An
//!    older one goes, unless a lease delays it.
//! 2. A derived delta stays as long as a snapshot of its height does: it leads to that one.
//! 3. While more bytes are here than the quota allows, one more goes: the oldest
//!    arrival first, a leased one only when nothing else is left, the newest
//!    harvested one of a chain last of all. What is pinned or being downloaded
//!    never goes.

use std::collections::{BTreeMap, BTreeSet};

use crate::snapshot::ManifestId;

use super::RemovedBecause;

/// One snapshot, as far as its keeping is concerned.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) id: ManifestId,
    pub(super) chain_id: &'a str,
    pub(super) height: u64,
    /// Order of arrival.
    pub(super) sequence: u64,
    pub(super) bytes: u64,
    pub(super) complete: bool,
    /// It was taken from a node, without a person asking for this one.
    pub(super) harvested: bool,
    /// It was made of such, likewise.
    pub(super) derived: bool,
    pub(super) pinned: bool,
    /// Someone downloads it from us.
    pub(super) leased: bool,
    /// It is being downloaded here, or held.
    pub(super) active: bool,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Plan {
    /// To be removed, in this order.
    pub(super) remove: Vec<(ManifestId, RemovedBecause)>,
    /// Too old, and held by a lease.
    pub(super) waiting: BTreeSet<ManifestId>,
    /// Bytes that stay.
    pub(super) kept_bytes: u64,
}

/// Decides. `quota` is what the snapshots here may take together.
pub(super) fn plan(candidates: &[Candidate], max_snapshots: u32, quota: Option<u64>) -> Plan {
    let mut plan = Plan::default();
    let mut gone = BTreeSet::new();
    let mut newest = BTreeSet::new();
    let mut supersede = |candidate: &Candidate, gone: &mut BTreeSet<ManifestId>| {
        if candidate.pinned || candidate.active {
            return;
        }
        if candidate.leased {
            plan.waiting.insert(candidate.id);
        } else {
            gone.insert(candidate.id);
            plan.remove.push((candidate.id, RemovedBecause::Superseded));
        }
    };
    for chain in by_chain(candidates).values() {
        newest.extend(chain.first().map(|candidate| candidate.id));
        for candidate in chain.iter().skip(max_snapshots as usize) {
            supersede(candidate, &mut gone);
        }
    }
    let targets: BTreeSet<(&str, u64)> = candidates
        .iter()
        .filter(|candidate| candidate.complete && !candidate.derived)
        .filter(|candidate| !gone.contains(&candidate.id))
        .map(|target| (target.chain_id, target.height))
        .collect();
    for candidate in candidates.iter().filter(|candidate| candidate.derived) {
        if !targets.contains(&(candidate.chain_id, candidate.height)) {
            supersede(candidate, &mut gone);
        }
    }
    let mut left: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| !gone.contains(&candidate.id))
        .collect();
    plan.kept_bytes = left.iter().map(|candidate| candidate.bytes).sum();
    left.retain(|candidate| {
        let by_hand = candidate.complete && !candidate.harvested && !candidate.derived;
        !candidate.pinned && !candidate.active && !by_hand
    });
    left.sort_by_key(|candidate| {
        (
            newest.contains(&candidate.id),
            candidate.leased,
            candidate.sequence,
        )
    });
    for candidate in left {
        if quota.is_none_or(|quota| plan.kept_bytes <= quota) {
            break;
        }
        plan.kept_bytes -= candidate.bytes;
        plan.waiting.remove(&candidate.id);
        plan.remove.push((candidate.id, RemovedBecause::Quota));
    }
    plan
}

/// The harvested snapshots of each chain, newest first.
fn by_chain<'a, 'b>(candidates: &'b [Candidate<'a>]) -> BTreeMap<&'a str, Vec<&'b Candidate<'a>>> {
    let mut chains: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates
        .iter()
        .filter(|candidate| candidate.complete && candidate.harvested)
    {
        chains
            .entry(candidate.chain_id)
            .or_default()
            .push(candidate);
    }
    for chain in chains.values_mut() {
        chain.sort_by_key(|candidate| std::cmp::Reverse((candidate.height, candidate.sequence)));
    }
    chains
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash;

    fn id(name: u64) -> ManifestId {
        ManifestId(hash::sha256(&name.to_le_bytes()))
    }

    /// A harvested snapshot of 10 bytes whose height and arrival are `name`.
    fn snapshot(name: u64) -> Candidate<'static> {
        Candidate {
            id: id(name),
            chain_id: "a",
            height: name,
            sequence: name,
            bytes: 10,
            complete: true,
            harvested: true,
            derived: false,
            pinned: false,
            leased: false,
            active: false,
        }
    }

    fn removed(plan: &Plan) -> Vec<ManifestId> {
        plan.remove.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn the_newest_of_each_chain_and_the_pinned_stay() {
        let mut all: Vec<Candidate> = (1..=5).map(snapshot).collect();
        all[0].pinned = true;
        all.push(Candidate {
            chain_id: "b",
            ..snapshot(9)
        });
        all.push(Candidate {
            complete: false,
            harvested: false,
            ..snapshot(10)
        });
        let plan = plan(&all, 2, None);
        assert_eq!(removed(&plan), [id(3), id(2)]);
        assert_eq!(plan.kept_bytes, 50);
    }

    #[test]
    fn a_lease_delays_a_removal_by_age_and_not_one_by_quota() {
        let mut all: Vec<Candidate> = (1..=3).map(snapshot).collect();
        all[0].leased = true;
        let by_age = plan(&all, 1, None);
        assert_eq!(removed(&by_age), [id(2)]);
        assert_eq!(by_age.waiting, BTreeSet::from([id(1)]));

        let by_quota = plan(&all, 1, Some(10));
        assert_eq!(
            by_quota.remove,
            [
                (id(2), RemovedBecause::Superseded),
                (id(1), RemovedBecause::Quota)
            ]
        );
        assert!(by_quota.waiting.is_empty());
    }

    #[test]
    fn the_quota_takes_the_oldest_arrival_first_and_the_newest_of_a_chain_last() {
        let mut all: Vec<Candidate> = (1..=4).map(snapshot).collect();
        // Arrived first and is the newest by height.
        all[0].height = 100;
        assert_eq!(removed(&plan(&all, 9, Some(25))), [id(2), id(3)]);
        assert_eq!(
            removed(&plan(&all, 9, Some(0))),
            [id(2), id(3), id(4), id(1)]
        );
    }

    #[test]
    fn what_a_person_brought_is_neither_counted_nor_removed() {
        let mut all: Vec<Candidate> = (1..=6).map(snapshot).collect();
        for by_hand in [0, 3, 5] {
            all[by_hand].harvested = false;
        }
        assert_eq!(removed(&plan(&all, 2, None)), [id(2)]);
        let full = plan(&all, 2, Some(0));
        assert_eq!(removed(&full), [id(2), id(3), id(5)]);
        assert_eq!(full.kept_bytes, 30);
    }

    #[test]
    fn a_derived_delta_goes_with_the_snapshot_that_it_leads_to() {
        let mut all: Vec<Candidate> = (1..=3).map(snapshot).collect();
        let delta = |name: u64, height: u64| Candidate {
            height,
            bytes: 1,
            harvested: false,
            derived: true,
            ..snapshot(name)
        };
        all.extend([delta(12, 2), delta(13, 3)]);
        assert_eq!(removed(&plan(&all, 2, None)), [id(1)], "it is not counted");
        let by_age = plan(&all, 1, None);
        assert_eq!(removed(&by_age), [id(2), id(1), id(12)]);
        assert_eq!(by_age.kept_bytes, 11);
        all[3].leased = true;
        let leased = plan(&all, 1, None);
        assert_eq!(leased.waiting, BTreeSet::from([id(12)]));
        // Whoever brought the snapshot.
        all[1].harvested = false;
        assert_eq!(removed(&plan(&all, 1, None)), [id(1)]);
        all[1].harvested = true;
        all[3].pinned = true;
        assert_eq!(
            removed(&plan(&all, 1, Some(0))),
            [id(2), id(1), id(13), id(3)]
        );
    }

    #[test]
    fn what_is_pinned_or_under_download_is_never_removed() {
        let mut all: Vec<Candidate> = (1..=3).map(snapshot).collect();
        all[0].pinned = true;
        all[1].active = true;
        all[1].complete = false;
        all[1].harvested = false;
        let plan = plan(&all, 0, Some(0));
        assert_eq!(removed(&plan), [id(3)]);
        assert_eq!(plan.kept_bytes, 20);
    }
}
