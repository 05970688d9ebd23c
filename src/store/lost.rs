//! What is not here any more, or not to be trusted: files that were moved aside,
//! files that cannot be read, pins of snapshots whose files are missing.

use tracing::{info, warn};

use crate::snapshot::ManifestId;

use super::entry::move_aside;
use super::state::Inner;
use super::{DamagedFile, StoreError};

impl Inner {
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
        state.damaged.push(DamagedFile { path, problem });
        if record.marks.pinned {
            state.missing.insert(*id, record.marks);
        }
        drop(state);
        if let Err(error) = self.save_catalogue() {
            warn!(%error, "The catalogue could not be written");
        }
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
            self.save_catalogue()?;
        }
        Ok(was_missing || !files.is_empty())
    }
}
