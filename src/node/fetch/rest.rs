//! Snapshots of which nothing came, and what is tried instead.
//!
//! Whoever claims a snapshot may be unable to give it, or lie. So where any snapshot of
//! a chain will do, one of which nothing comes is soon left for the next; only when
//! there is no other is the person's whole patience spent on one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::node::command::{Failure, FailureCode, FetchTarget};
use crate::snapshot::ManifestId;

/// False manifests that one `fetch --chain-id` puts up with before it gives up.
const MAX_FALSE: usize = 8;
/// Snapshots of which nothing comes, likewise.
const MAX_GIVEN_UP: usize = 8;
/// How long the first byte of one of several is waited for: a busy provider has a place
/// within this, or says that it has none.
const FIRST_PATIENCE: Duration = Duration::from_secs(20);
/// How long another one is looked for: who has one is connected by then.
const OTHER_PATIENCE: Duration = Duration::from_secs(10);

/// What is left out of the search, and why.
pub(super) struct Rest {
    /// Whether any snapshot of a chain will do.
    is_open: bool,
    /// Not wanted, or false.
    refused: BTreeSet<ManifestId>,
    false_ones: usize,
    left_ones: usize,
    /// Of which nothing came.
    given_up: BTreeSet<ManifestId>,
    /// Why the first of all was left: it was the best.
    trouble: Option<Failure>,
    /// Whether there is no other, so that one is waited for.
    is_last: bool,
}

impl Rest {
    pub(super) fn new(target: &FetchTarget, refused: BTreeSet<ManifestId>) -> Self {
        Self {
            is_open: matches!(target, FetchTarget::Chain { .. }),
            refused,
            false_ones: 0,
            left_ones: 0,
            given_up: BTreeSet::new(),
            trouble: None,
            is_last: false,
        }
    }

    /// What is not to be found.
    pub(super) fn left_out(&self) -> BTreeSet<ManifestId> {
        self.refused.union(&self.given_up).copied().collect()
    }

    /// How long to look.
    pub(super) fn search_patience(&self, patience: Duration) -> Duration {
        match self.given_up.is_empty() {
            true => patience,
            false => patience.min(OTHER_PATIENCE),
        }
    }

    /// How long to wait for the first byte of one that was found.
    pub(super) fn first_patience(&self, patience: Duration) -> Duration {
        match self.is_open && !self.is_last {
            true => patience.min(FIRST_PATIENCE),
            false => patience,
        }
    }

    /// A manifest was found to be false.
    pub(super) fn is_false(&mut self, id: ManifestId) -> Result<(), Failure> {
        self.refused.insert(id);
        self.false_ones += 1;
        match self.is_open && self.false_ones < MAX_FALSE {
            true => Ok(()),
            false => Err(false_manifest(id)),
        }
    }

    /// Nothing came of this one, for this reason.
    pub(super) fn gave_up(&mut self, id: ManifestId, failure: Failure) -> Result<(), Failure> {
        if !self.is_open || self.is_last || self.left_ones >= MAX_GIVEN_UP {
            return Err(failure);
        }
        self.left_ones += 1;
        // Time does not help where there is no room.
        match failure.code {
            FailureCode::Storage => self.refused.insert(id),
            _ => self.given_up.insert(id),
        };
        self.trouble.get_or_insert(failure);
        Ok(())
    }

    /// The search found nothing, for this reason. Those that were given up are looked at
    /// once more.
    pub(super) fn nothing_else(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.given_up.is_empty() {
            return Err(self.trouble.take().unwrap_or(failure));
        }
        self.given_up.clear();
        self.is_last = true;
        Ok(())
    }
}

fn false_manifest(id: ManifestId) -> Failure {
    Failure::new(
        FailureCode::Verification,
        format!("{id} is a false manifest: pieces that fit it do not make the chunks it names"),
    )
    .hint("nothing of it was kept; take a snapshot from another provider")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn id(name: &str) -> ManifestId {
        ManifestId(sha256(name.as_bytes()))
    }

    fn of_chain() -> Rest {
        let target = FetchTarget::Chain {
            chain_id: "chain".to_owned(),
            height: None,
        };
        Rest::new(&target, BTreeSet::from([id("refused")]))
    }

    fn silent() -> Failure {
        Failure::new(FailureCode::NotFound, "nobody delivers")
    }

    #[test]
    fn another_is_soon_tried_and_the_last_one_waited_for() {
        let mut rest = of_chain();
        assert_eq!(rest.search_patience(PATIENCE), PATIENCE);
        assert_eq!(rest.first_patience(PATIENCE), FIRST_PATIENCE);
        rest.gave_up(id("silent"), silent()).unwrap();
        assert_eq!(rest.search_patience(PATIENCE), OTHER_PATIENCE);
        assert!(rest.left_out().contains(&id("silent")));
        rest.nothing_else(silent()).unwrap();
        assert_eq!(rest.left_out(), BTreeSet::from([id("refused")]));
        assert_eq!(rest.search_patience(PATIENCE), PATIENCE);
        assert_eq!(rest.first_patience(PATIENCE), PATIENCE);
        assert!(rest.gave_up(id("silent"), silent()).is_err());
    }

    #[test]
    fn a_flood_of_snapshots_that_nobody_has_comes_to_an_end() {
        let mut rest = of_chain();
        let mut tried = 0;
        while rest.gave_up(id(&tried.to_string()), silent()).is_ok() {
            tried += 1;
        }
        assert_eq!(tried, MAX_GIVEN_UP);
        let mut rest = of_chain();
        let mut tried = 0;
        let full = || Failure::new(FailureCode::Storage, "full");
        while rest.gave_up(id(&tried.to_string()), full()).is_ok() {
            tried += 1;
        }
        assert_eq!(tried, MAX_GIVEN_UP);
        let mut rest = of_chain();
        let mut tried = 1;
        while rest.is_false(id(&tried.to_string())).is_ok() {
            tried += 1;
        }
        assert_eq!(tried, MAX_FALSE);
    }

    #[test]
    fn a_full_disk_is_told_when_no_smaller_snapshot_is_found() {
        let mut rest = of_chain();
        let full = Failure::new(FailureCode::Storage, "full");
        rest.gave_up(id("large"), full).unwrap();
        let told = rest.nothing_else(silent()).unwrap_err();
        assert_eq!(told.code, FailureCode::Storage);
    }

    #[test]
    fn a_full_disk_for_one_does_not_end_the_wait_for_a_smaller_one() {
        let mut rest = of_chain();
        let full = Failure::new(FailureCode::Storage, "full");
        rest.gave_up(id("large"), full).unwrap();
        rest.gave_up(id("small"), silent()).unwrap();
        rest.nothing_else(silent()).unwrap();
        assert!(rest.left_out().contains(&id("large")));
        assert!(!rest.left_out().contains(&id("small")));
    }

    #[test]
    fn a_snapshot_that_was_named_has_the_whole_patience_and_no_other_takes_its_place() {
        let mut rest = Rest::new(&FetchTarget::Manifest("cid".to_owned()), BTreeSet::new());
        assert_eq!(rest.first_patience(PATIENCE), PATIENCE);
        assert!(rest.gave_up(id("silent"), silent()).is_err());
        assert!(rest.is_false(id("false")).is_err());
    }
}
