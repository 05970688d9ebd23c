//! What is not here any more, or not to be trusted: files that were moved aside,
//! files that cannot be read, pins of snapshots whose files are missing.

use std::collections::btree_map::Entry as Slot;
use std::io;
use std::sync::Arc;

use tracing::{error, info, warn};

use crate::snapshot::ManifestId;

use super::entry::{Entry, move_aside};
use super::state::Inner;
use super::{DamagedFile, RemovedBecause, StoreError};

impl Inner {
    /// Lets go of complete snapshots whose files somebody took away under this
    /// process. What is known about them is kept, because a file may come back.
    pub(super) fn let_go_of_vanished(&self) {
        if self.disk.is_for_reading() {
            return;
        }
        let entries: Vec<Arc<Entry>> = {
            let state = self.state();
            let entries = state.records.values().map(|record| record.entry.clone());
            entries.filter(|entry| entry.is_complete()).collect()
        };
        for entry in entries {
            let found = std::fs::metadata(&entry.path);
            if !found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            let id = entry.id();
            let mut state = self.state();
            let record = match state.records.entry(id) {
                Slot::Occupied(found) if Arc::ptr_eq(&found.get().entry, &entry) => found.remove(),
                _ => continue,
            };
            state.forget_damage(&entry.path);
            state.missing.insert(id, record.marks.clone());
            drop(state);
            self.files.forget(&id);
            warn!(
                manifest = %id, file = %entry.path.display(),
                "The file of a snapshot was taken away: it is not served any more. Put it back and \
                 start again, or `snapswarm delete CID` forgets it"
            );
            self.tell_removed([record.removed(RemovedBecause::Vanished)]);
        }
    }

    /// A piece of a complete snapshot was found wrong, or cannot be read: it is
    /// listed as damaged until a whole check has decided, and told once.
    pub(super) fn doubt(&self, entry: &Arc<Entry>, error: &StoreError) {
        if matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
        {
            return self.let_go_of_vanished();
        }
        let mut state = self.state();
        let record = state.records.get(&entry.id());
        let is_here = record.is_some_and(|record| Arc::ptr_eq(&record.entry, entry));
        // What a download has is read again before it counts as a snapshot.
        if !is_here || !entry.is_complete() || !entry.set_doubted(true) {
            return;
        }
        error!(
            manifest = %entry.id(), %error,
            "The disk has damaged a snapshot: `snapswarm verify CID` moves it aside, then fetch or \
             load it again"
        );
        let problem = match error {
            StoreError::Damaged { problem, .. } => problem.clone(),
            other => other.to_string(),
        };
        let path = entry.path.clone();
        state.damaged.push(DamagedFile::new(path, problem));
    }

    /// Every byte of a snapshot was found right.
    pub(super) fn clear_doubt(&self, id: &ManifestId) {
        let mut state = self.state();
        if let Some(record) = state.records.get(id) {
            record.entry.set_doubted(false);
            let path = record.entry.path.clone();
            state.forget_damage(&path);
        }
    }

    /// Moves a complete snapshot aside whose bytes are not what they were. A
    /// store for reading leaves it where it is.
    pub(super) fn set_aside(&self, id: &ManifestId, problem: &str) {
        if self.disk.is_for_reading() {
            return;
        }
        let Some(record) = self.state().records.remove(id) else {
            return;
        };
        self.files.forget(id);
        let path = move_aside(&self.disk, &record.entry.path)
            .unwrap_or_else(|_| record.entry.path.clone());
        warn!(manifest = %id, file = %path.display(), problem, "A damaged snapshot was moved aside");
        let problem = problem.to_owned();
        let mut state = self.state();
        state.forget_damage(&record.entry.path);
        state.forget_damage(&path);
        state.damaged.push(DamagedFile::new(path, problem));
        if record.marks.pinned {
            state.missing.insert(*id, record.marks);
        }
        drop(state);
        if let Err(error) = self.save_catalogue() {
            warn!(%error, "The catalogue could not be written");
        }
    }

    /// Unpins a snapshot, also one whose file is missing.
    pub(super) fn unpin(&self, id: &ManifestId) -> Result<(), StoreError> {
        let before = {
            let mut state = self.state();
            let marks = state.missing.get_mut(id);
            marks.map(|marks| std::mem::replace(&mut marks.pinned, false))
        };
        let Some(before) = before else {
            return self.mark(id, |marks| marks.pinned = false);
        };
        self.save_catalogue().inspect_err(|_| {
            if let Some(marks) = self.state().missing.get_mut(id) {
                marks.pinned = before;
            }
        })
    }

    /// Removes a snapshot with all that is left of it: files that were moved
    /// aside, or the pin of a file that is missing.
    pub(super) fn delete(&self, id: &ManifestId) -> Result<(), StoreError> {
        let removed = match self.remove(id) {
            Err(StoreError::NotFound(_)) => false,
            removed => removed.map(|_| true)?,
        };
        let forgotten = self.forget(id)?;
        match removed || forgotten {
            true => Ok(()),
            false => Err(StoreError::NotFound(*id)),
        }
    }

    /// Removes what is left of a snapshot that is not here; whether anything was.
    fn forget(&self, id: &ManifestId) -> Result<bool, StoreError> {
        let is_its = |file: &DamagedFile| file.manifest() == Some(*id);
        let files: Vec<DamagedFile> = {
            let state = self.state();
            state
                .damaged
                .iter()
                .filter(|file| is_its(file))
                .cloned()
                .collect()
        };
        for file in &files {
            self.disk.remove(&file.path)?;
            info!(file = %file.path.display(), "Removed a damaged file");
        }
        let was_missing = {
            let mut state = self.state();
            state.damaged.retain(|file| !files.contains(file));
            state.missing.remove(id).is_some()
        };
        if was_missing {
            self.forget_endorsements(id);
            self.save_catalogue()?;
        }
        Ok(was_missing || !files.is_empty())
    }
}
