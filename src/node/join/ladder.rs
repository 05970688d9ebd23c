//! Which way is tried next when one has failed. Pure.
//!
//! ```text
//! swarm ──another snapshot──▶ swarm ──▶ peers ──▶ blocks ──▶ the end, with a reason
//! ```
//!
//! A snapshot that this node does not take is set aside and another one is tried, a
//! few times; what concerns the swarm or the node as a whole goes one rung down; what
//! no rung can mend (no trust, no space, the person's policy) ends the join.

use serde::{Deserialize, Serialize};

use crate::node::command::{Failure, FailureCode};

/// A way to the state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rung {
    /// A snapshot of the swarm, fed by the local peer.
    #[default]
    Swarm,
    /// CometBFT's own state sync, from its peers.
    Peers,
    /// All blocks, from the first.
    Blocks,
}

impl Rung {
    /// Its name in settings and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Swarm => "swarm",
            Self::Peers => "peers",
            Self::Blocks => "blocks",
        }
    }

    /// What it is, to a person.
    pub(super) fn way(self) -> &'static str {
        match self {
            Self::Swarm => "the swarm",
            Self::Peers => "the state sync of CometBFT's own peers",
            Self::Blocks => "block sync from the first block",
        }
    }
}

/// Snapshots of the swarm that one join tries: an application that refuses so many
/// refuses them all.
const MAX_SNAPSHOTS: usize = 3;

/// A node that ends by itself is started again so often; then what it is given is
/// taken for the reason.
const MAX_CRASHES: u32 = 2;

/// Why a rung did not hold.
#[derive(Debug)]
pub(super) struct Setback {
    pub(super) kind: Kind,
    pub(super) failure: Failure,
}

/// What a setback concerns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Nothing but this time: the node or its application ended by itself.
    Crash,
    /// This snapshot; another one may do.
    Snapshot,
    /// The whole rung.
    Rung,
    /// Everything: no rung helps.
    Everything,
}

impl Kind {
    /// What it counts for after so many crashes.
    pub(super) fn after(self, crashes: u32) -> Self {
        match self {
            Self::Crash if crashes > MAX_CRASHES => Self::Snapshot,
            kind => kind,
        }
    }
}

/// What follows.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// The same once more.
    Again,
    /// The same rung, with another snapshot.
    Another,
    /// This rung.
    Rung(Rung),
    /// The end, with the setback's failure.
    End,
    /// The end, because the person wants no lower rung.
    Policy,
}

/// What follows a setback, with so many snapshots refused, where these rungs may be
/// used.
pub(super) fn next(rung: Rung, kind: Kind, refused: usize, allowed: &[Rung]) -> Next {
    match kind {
        Kind::Everything => return Next::End,
        Kind::Crash => return Next::Again,
        Kind::Snapshot if rung == Rung::Swarm && refused < MAX_SNAPSHOTS => return Next::Another,
        Kind::Snapshot | Kind::Rung => {}
    }
    let below = [Rung::Peers, Rung::Blocks]
        .into_iter()
        .filter(|b| *b > rung);
    match below.clone().find(|below| allowed.contains(below)) {
        Some(below) => Next::Rung(below),
        None if below.count() == 0 => Next::End,
        None => Next::Policy,
    }
}

impl Setback {
    pub(super) fn snapshot(failure: impl Into<Failure>) -> Self {
        Self::new(Kind::Snapshot, failure)
    }

    pub(super) fn crash(failure: impl Into<Failure>) -> Self {
        Self::new(Kind::Crash, failure)
    }

    pub(super) fn rung(failure: impl Into<Failure>) -> Self {
        Self::new(Kind::Rung, failure)
    }

    pub(super) fn everything(failure: impl Into<Failure>) -> Self {
        Self::new(Kind::Everything, failure)
    }

    fn new(kind: Kind, failure: impl Into<Failure>) -> Self {
        let failure = failure.into();
        // These are the same on every rung.
        let kind = match failure.code {
            _ if failure.about_chain => Kind::Everything,
            FailureCode::Storage
            | FailureCode::Usage
            | FailureCode::Interrupted
            | FailureCode::Policy => Kind::Everything,
            FailureCode::Failed | FailureCode::NotFound | FailureCode::Verification => kind,
        };
        Self { kind, failure }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Rung] = &[Rung::Swarm, Rung::Peers, Rung::Blocks];

    #[test]
    fn other_snapshots_are_tried_before_the_next_rung_and_not_for_ever() {
        for refused in 0..MAX_SNAPSHOTS {
            let next = next(Rung::Swarm, Kind::Snapshot, refused, ALL);
            assert_eq!(next, Next::Another);
        }
        let last = next(Rung::Swarm, Kind::Snapshot, MAX_SNAPSHOTS, ALL);
        assert_eq!(last, Next::Rung(Rung::Peers));
    }

    #[test]
    fn a_crash_is_tried_again_and_then_counts_against_the_snapshot() {
        let tried: Vec<Kind> = (1..=MAX_CRASHES + 1)
            .map(|n| Kind::Crash.after(n))
            .collect();
        assert_eq!(tried.last(), Some(&Kind::Snapshot));
        assert!(
            tried[..tried.len() - 1]
                .iter()
                .all(|kind| *kind == Kind::Crash)
        );
        assert_eq!(next(Rung::Swarm, Kind::Crash, 9, ALL), Next::Again);
    }

    #[test]
    fn the_way_leads_down_and_ends() {
        assert_eq!(
            next(Rung::Swarm, Kind::Rung, 0, ALL),
            Next::Rung(Rung::Peers)
        );
        assert_eq!(
            next(Rung::Peers, Kind::Rung, 0, ALL),
            Next::Rung(Rung::Blocks)
        );
        assert_eq!(
            next(Rung::Peers, Kind::Snapshot, 0, ALL),
            Next::Rung(Rung::Blocks)
        );
        assert_eq!(next(Rung::Blocks, Kind::Rung, 0, ALL), Next::End);
        assert_eq!(next(Rung::Swarm, Kind::Everything, 0, ALL), Next::End);
    }

    #[test]
    fn a_rung_that_is_not_allowed_is_passed_over_and_none_ends_by_policy() {
        let blocks = &[Rung::Swarm, Rung::Blocks];
        assert_eq!(
            next(Rung::Swarm, Kind::Rung, 0, blocks),
            Next::Rung(Rung::Blocks)
        );
        assert_eq!(
            next(Rung::Swarm, Kind::Rung, 0, &[Rung::Swarm]),
            Next::Policy
        );
        let no_blocks = &[Rung::Swarm, Rung::Peers];
        assert_eq!(next(Rung::Peers, Kind::Rung, 0, no_blocks), Next::Policy);
    }

    #[test]
    fn a_full_disk_and_a_chain_that_is_not_to_be_believed_are_the_same_on_every_rung() {
        let full = Failure::new(FailureCode::Storage, "full");
        assert_eq!(Setback::snapshot(full).kind, Kind::Everything);
        let lie = Failure::new(FailureCode::Verification, "a lie");
        assert_eq!(Setback::rung(lie.clone()).kind, Kind::Rung);
        assert_eq!(Setback::rung(lie.about_chain()).kind, Kind::Everything);
    }
}
