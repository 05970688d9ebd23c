//! By which way a node comes to a state with the fewest bytes to fetch.
//!
//! A way is a state to begin with, at hand or as a full snapshot, and deltas on top
//! of it. Two snapshots whose notes name the same state stand for each other,
//! whether they are full or deltas. What snapshots say of themselves is a claim: a
//! way that does not end in the state that was looked for is found out at its end.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::notes::{StateDigest, StateNotes};
use crate::snapshot::{ChunkId, Manifest, ManifestId};

/// The longest chain of deltas: each of them is read while the records pass
/// through all, in the memory of a [`Decoder`](super::Decoder).
pub const MAX_DELTAS: usize = 8;

/// What a node has.
pub struct AtHand<'a> {
    /// The states that are here whole, each under the name of a snapshot that
    /// stands for it.
    pub states: &'a [(ManifestId, StateDigest)],
    /// Whether a chunk is here, of whatever snapshot: it is not fetched.
    pub has_chunk: &'a dyn Fn(&ChunkId) -> bool,
}

/// How to come to a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The state at hand to begin with; none where the first step is full.
    pub start: Option<ManifestId>,
    /// The snapshots to take, each on top of what the ones before made. None where
    /// the state is at hand.
    pub steps: Vec<ManifestId>,
    /// The bytes of their chunks that are not at hand.
    pub fetch_bytes: u64,
}

impl Plan {
    /// Fewer bytes first, then fewer steps; the names decide what is left, so that
    /// the same offers give the same plan.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |plan: &Self| (plan.fetch_bytes, plan.steps.len());
        key(self)
            .cmp(&key(other))
            .then_with(|| self.steps.cmp(&other.steps))
            .then_with(|| self.start.cmp(&other.start))
    }
}

/// The way to the state `goal` with the fewest bytes to fetch, out of the snapshots
/// that are offered. None where no way leads there. Offers without notes of a state
/// are passed over.
pub fn plan(goal: &StateDigest, at_hand: &AtHand, offers: &[&Manifest]) -> Option<Plan> {
    let offers: Vec<Offer> = offers
        .iter()
        .filter_map(|manifest| Offer::new(manifest, at_hand))
        .collect();
    let mut state_of: BTreeMap<ManifestId, StateDigest> =
        offers.iter().map(|offer| (offer.id, offer.state)).collect();
    state_of.extend(at_hand.states.iter().copied());

    let mut ways: BTreeMap<StateDigest, Plan> = BTreeMap::new();
    for (id, state) in at_hand.states {
        let here = Plan {
            start: Some(*id),
            steps: Vec::new(),
            fetch_bytes: 0,
        };
        take_better(&mut ways, *state, here);
    }
    for offer in offers.iter().filter(|offer| offer.base.is_none()) {
        let nothing = Plan {
            start: None,
            steps: Vec::new(),
            fetch_bytes: 0,
        };
        take_better(&mut ways, offer.state, offer.on_top_of(&nothing));
    }
    // After each round every way of one delta more was looked at.
    for _ in 0..MAX_DELTAS {
        let before = ways.clone();
        for offer in &offers {
            let base = offer.base.and_then(|base| state_of.get(&base));
            if let Some(way) = base.and_then(|base| before.get(base)) {
                take_better(&mut ways, offer.state, offer.on_top_of(way));
            }
        }
        if ways == before {
            break;
        }
    }
    ways.remove(goal)
}

fn take_better(ways: &mut BTreeMap<StateDigest, Plan>, state: StateDigest, way: Plan) {
    match ways.get(&state) {
        Some(known) if known.cmp(&way) != Ordering::Greater => {}
        _ => drop(ways.insert(state, way)),
    }
}

/// What counts of an offered snapshot.
struct Offer {
    id: ManifestId,
    base: Option<ManifestId>,
    state: StateDigest,
    fetch_bytes: u64,
}

impl Offer {
    fn new(manifest: &Manifest, at_hand: &AtHand) -> Option<Self> {
        let content = manifest.state()?;
        let chunks = manifest
            .unique_indexes()
            .map(|index| manifest.unique_chunk(index));
        let missing = chunks.filter(|chunk| !(at_hand.has_chunk)(&chunk.id));
        Some(Self {
            id: manifest.id(),
            base: content.base(),
            state: StateNotes::of(manifest).ok()?.state,
            fetch_bytes: missing.map(|chunk| u64::from(chunk.size)).sum(),
        })
    }

    fn on_top_of(&self, way: &Plan) -> Plan {
        let mut steps = way.steps.clone();
        steps.push(self.id);
        Plan {
            start: way.start,
            steps,
            fetch_bytes: way.fetch_bytes + self.fetch_bytes,
        }
    }
}
