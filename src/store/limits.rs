//! The limits of a store that is open: room for what comes, and what goes for it.

use std::time::Instant;

use tracing::{info, warn};

use crate::snapshot::ManifestId;

use super::disk::free_bytes;
use super::retain::{self, Candidate};
use super::state::{Inner, Record, State};
use super::{Origin, Removed, RemovedBecause, StoreError};

/// Removals by quota that [`Store::enforce`](super::Store::enforce) has not told
/// yet. Each stands for a snapshot that was here, so there are never many; the
/// bound holds if nobody ever asks.
const MAX_UNTOLD_REMOVALS: usize = 1024;

impl Inner {
    /// Removes what may go until `needed` more bytes fit the quota, and sets them
    /// aside. Removes nothing when that cannot be reached.
    pub(super) fn make_room(&self, needed: u64) -> Result<(), StoreError> {
        let remove = {
            let mut state = self.state();
            let mut remove = Vec::new();
            if let Some(quota) = self.settings.quota_bytes {
                let taken = needed.saturating_add(state.reserved);
                let left = quota.saturating_sub(taken);
                // No limit by number: nothing is removed here for its age.
                let plan = state.plan(u32::MAX, Some(left), Instant::now());
                if taken > quota || plan.kept_bytes > left {
                    return Err(StoreError::OverQuota {
                        needed,
                        quota,
                        kept: plan.kept_bytes + state.reserved,
                    });
                }
                remove = plan.remove;
            }
            state.reserved += needed;
            remove
        };
        let removed = self.remove_all(remove);
        self.tell_removed(removed);
        Ok(())
    }

    /// Leaves it to the next [`Inner::enforce`] to tell of these.
    pub(super) fn tell_removed(&self, removed: impl IntoIterator<Item = Removed>) {
        let mut state = self.state();
        let room = MAX_UNTOLD_REMOVALS.saturating_sub(state.untold.len());
        state.untold.extend(removed.into_iter().take(room));
    }

    /// Fails when `needed` more bytes do not fit the quota, whatever may go.
    pub(super) fn require_quota(&self, needed: u64) -> Result<(), StoreError> {
        let Some(quota) = self.settings.quota_bytes else {
            return Ok(());
        };
        let kept = self.state().kept_whatever_goes();
        if needed <= quota.saturating_sub(kept) {
            return Ok(());
        }
        Err(StoreError::OverQuota {
            needed,
            quota,
            kept,
        })
    }

    /// The most bytes that a new snapshot can have now.
    pub(super) fn room(&self) -> u64 {
        let free = free_bytes(&self.home.root).unwrap_or(u64::MAX);
        let kept = || self.state().kept_whatever_goes();
        let quota = self.settings.quota_bytes;
        quota.map_or(free, |quota| free.min(quota.saturating_sub(kept())))
    }

    /// The same, without any other going for it.
    pub(super) fn spare_bytes(&self) -> u64 {
        let free = free_bytes(&self.home.root).unwrap_or(u64::MAX);
        let taken = || {
            let state = self.state();
            let files = state.records.values().map(Record::file_bytes);
            files.sum::<u64>().saturating_add(state.reserved)
        };
        let quota = self.settings.quota_bytes;
        quota.map_or(free, |quota| free.min(quota.saturating_sub(taken())))
    }

    /// Gives back bytes that [`Inner::make_room`] set aside.
    pub(super) fn release(&self, bytes: u64) {
        let mut state = self.state();
        state.reserved = state.reserved.saturating_sub(bytes);
    }

    /// Keeps the limits; gives what was removed since the last call.
    pub(super) fn enforce(&self, now: Instant) -> Vec<Removed> {
        self.let_go_of_vanished();
        let (mut removed, remove) = {
            let mut state = self.state();
            let quota = self
                .settings
                .quota_bytes
                .map(|quota| quota.saturating_sub(state.reserved));
            let plan = state.plan(self.settings.max_snapshots, quota, now);
            let go_at = now + self.settings.lease;
            for (id, record) in &mut state.records {
                record.go_at = plan
                    .waiting
                    .contains(id)
                    .then(|| record.go_at.unwrap_or(go_at));
            }
            (std::mem::take(&mut state.untold), plan.remove)
        };
        removed.extend(self.remove_all(remove));
        removed
    }

    fn remove_all(&self, ids: Vec<(ManifestId, RemovedBecause)>) -> Vec<Removed> {
        let mut removed = Vec::new();
        for (id, because) in ids {
            match self.remove(&id) {
                Ok(record) => {
                    let removed_now = record.removed(because);
                    let manifest = record.entry.manifest();
                    info!(
                        manifest = %id,
                        chain = manifest.chain_id(),
                        height = manifest.height(),
                        bytes = removed_now.bytes,
                        ?because,
                        "Removed state snapshot"
                    );
                    removed.push(removed_now);
                }
                Err(error) => warn!(manifest = %id, %error, "A snapshot could not be removed"),
            }
        }
        removed
    }
}

impl State {
    /// Bytes that no new snapshot can have of the quota.
    fn kept_whatever_goes(&self) -> u64 {
        let plan = self.plan(u32::MAX, Some(0), Instant::now());
        plan.kept_bytes.saturating_add(self.reserved)
    }

    /// What the limits ask to be removed.
    fn plan(&self, max_snapshots: u32, quota: Option<u64>, now: Instant) -> retain::Plan {
        let candidates: Vec<Candidate> = self
            .records
            .iter()
            .map(|(id, record)| {
                let manifest = record.entry.manifest();
                let is_whole = record.entry.is_complete() && record.marks.origin != Origin::Step;
                Candidate {
                    id: *id,
                    chain_id: manifest.chain_id(),
                    height: manifest.height(),
                    sequence: record.marks.sequence,
                    bytes: record.file_bytes(),
                    // What a person asked for is all here, or on its way.
                    complete: is_whole || !record.marks.only.is_empty(),
                    harvested: record.marks.origin == Origin::Harvested,
                    derived: record.marks.origin == Origin::Derived,
                    pinned: record.marks.pinned,
                    leased: record.is_leased(now),
                    active: record.active || self.held.contains(id),
                }
            })
            .collect();
        retain::plan(&candidates, max_snapshots, quota)
    }
}
