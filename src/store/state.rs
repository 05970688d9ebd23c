//! What a store knows while it is open, and the changes to it.
//!
//! Two locks, always taken in this order: `writing` while the catalogue file, or one
//! with endorsements, is replaced, `state` for moments only and never while the disk works. Progress of
//! a single download has a lock of its own, taken after `state` or alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tracing::warn;

use crate::snapshot::{Endorsements, ManifestId, Scope};

use super::catalogue::{self, Catalogue, Marks};
use super::disk::Disk;
use super::entry::{Archive, Ended, Entry, OpenFiles};
use super::home::Home;
use super::pid_lock::PidLock;
use super::staged::Staged;
use super::{DamagedFile, Origin, Removed, RemovedBecause, StoreError, StoreSettings, selection};

/// One open store.
pub(super) struct Inner {
    pub(super) home: Home,
    pub(super) settings: StoreSettings,
    pub(super) disk: Disk,
    pub(super) files: OpenFiles,
    state: Mutex<State>,
    /// Held while the catalogue file is replaced, or one with endorsements.
    pub(super) writing: Mutex<()>,
    /// Holds pieces that are checked because they are served for the first time.
    pub(super) checking: Mutex<Vec<u8>>,
    /// Holds the home while it is open; nothing when it was opened for reading.
    _lock: Option<PidLock>,
}

/// What is here.
#[derive(Default)]
pub(super) struct State {
    pub(super) records: BTreeMap<ManifestId, Record>,
    /// Who speaks for those of them for which anybody does.
    pub(super) endorsed: BTreeMap<ManifestId, Endorsements>,
    pub(super) damaged: Vec<DamagedFile>,
    /// Marks of snapshots whose files are not there, perhaps for the moment only.
    pub(super) missing: Catalogue,
    /// Marks of snapshots whose files are about to get their names.
    arriving: Catalogue,
    /// Downloads whose files are being made.
    starting: BTreeSet<ManifestId>,
    next_sequence: u64,
    /// Snapshots that are being read: no limit removes them. Once for each
    /// [`Hold`](super::Hold).
    pub(super) held: Vec<ManifestId>,
    /// Bytes of the quota set aside for files in the spool.
    pub(super) reserved: u64,
    /// Removals that `enforce` has not told yet.
    pub(super) untold: Vec<Removed>,
}

/// One snapshot.
pub(super) struct Record {
    pub(super) entry: Arc<Entry>,
    pub(super) marks: Marks,
    /// Someone downloads it from us until then.
    pub(super) leased_until: Option<Instant>,
    /// Leases cannot delay its removal beyond this.
    pub(super) go_at: Option<Instant>,
    /// A [`Download`](super::Download) has it open.
    pub(super) active: bool,
}

impl Record {
    pub(super) fn new(entry: Arc<Entry>, marks: Marks) -> Self {
        Self {
            entry,
            marks,
            leased_until: None,
            go_at: None,
            active: false,
        }
    }

    /// The scopes that were asked for, in order, where no more is to come.
    pub(super) fn only(&self) -> Vec<Scope> {
        match self.entry.is_complete() {
            true => Vec::new(),
            false => selection::scopes(&self.marks),
        }
    }

    /// What the file takes on disk, or is to take.
    pub(super) fn file_bytes(&self) -> u64 {
        let all = self.entry.contents.layout.file_len;
        let only = self.only();
        if only.is_empty() {
            return all;
        }
        let have = self.entry.have();
        all.saturating_sub(selection::hole_bytes(self.entry.manifest(), &only, &have))
    }

    /// What is told when it is gone.
    pub(super) fn removed(&self, because: RemovedBecause) -> Removed {
        let manifest = self.entry.manifest();
        let chunks = manifest.unique_indexes();
        Removed {
            id: manifest.id(),
            chain_id: manifest.chain_id().to_owned(),
            height: manifest.height(),
            bytes: self.file_bytes(),
            chunks: chunks
                .map(|chunk| manifest.unique_chunk(chunk).id)
                .collect(),
            because,
        }
    }

    pub(super) fn is_leased(&self, now: Instant) -> bool {
        self.leased_until.is_some_and(|until| now < until)
            && self.go_at.is_none_or(|limit| now < limit)
    }
}

impl Inner {
    pub(super) fn new(
        home: Home,
        settings: StoreSettings,
        disk: Disk,
        state: State,
        lock: Option<PidLock>,
    ) -> Self {
        Self {
            home,
            settings,
            disk,
            files: OpenFiles::default(),
            state: Mutex::new(state),
            writing: Mutex::new(()),
            checking: Mutex::default(),
            _lock: lock,
        }
    }

    /// No invariant is broken in the middle of a change, so a panic of another
    /// thread does not end the store.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn entry(&self, id: &ManifestId) -> Option<Arc<Entry>> {
        Some(self.state().records.get(id)?.entry.clone())
    }

    /// Writes the catalogue file as it should be now.
    pub(super) fn save_catalogue(&self) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let catalogue = {
            let state = self.state();
            let mut all = state.missing.clone();
            all.extend(state.arriving.clone());
            let here = state.records.iter();
            all.extend(here.map(|(id, record)| (*id, record.marks.clone())));
            all
        };
        self.disk
            .replace(&self.home.catalogue, &catalogue::encode(&catalogue))
    }

    /// Enters marks for a snapshot whose file is about to get its name, or for a part of
    /// it that is to have these scopes.
    fn announce_arrival(
        &self,
        id: ManifestId,
        origin: Origin,
        proven: bool,
        only: &[Scope],
    ) -> Result<Marks, StoreError> {
        let marks = {
            let mut state = self.state();
            let here = state.records.get(&id).map(|record| &record.marks);
            let before = here.or_else(|| state.missing.get(&id));
            let sequence = before.map_or(state.next_sequence, |marks| marks.sequence);
            let marks = Marks {
                pinned: before.is_some_and(|marks| marks.pinned),
                proven: proven || before.is_some_and(|marks| marks.proven),
                app_version: before.and_then(|marks| marks.app_version),
                origin: before.map_or(origin, |marks| marks.origin.or(origin)),
                added_unix_s: unix_now(),
                sequence,
                only: selection::names(only),
            };
            state.next_sequence = state.next_sequence.max(sequence + 1);
            state.arriving.insert(id, marks.clone());
            marks
        };
        let saved = self.save_catalogue();
        if saved.is_err() {
            self.state().arriving.remove(&id);
        }
        saved.map(|()| marks)
    }

    /// Takes the marks back of a snapshot whose file did not get its name.
    fn arrived<T>(&self, id: &ManifestId, result: Result<T, StoreError>) -> Result<T, StoreError> {
        result.inspect_err(|_| {
            self.state().arriving.remove(id);
            if let Err(error) = self.save_catalogue() {
                warn!(%error, "The catalogue keeps a line for a snapshot that did not arrive");
            }
        })
    }

    /// Makes a verified and synced archive one of the complete snapshots. When
    /// the snapshot is complete here already, that one is given.
    pub(super) fn publish(
        &self,
        staged: Staged,
        origin: Origin,
        proven: bool,
    ) -> Result<Archive, StoreError> {
        let id = staged.contents.manifest.id();
        if let Some(archive) = self.complete_already(&id, origin, proven)? {
            return Ok(archive);
        }
        let marks = self.announce_arrival(id, origin, proven, &[])?;
        let published = self.arrived(&id, staged.publish())?;
        let mut state = self.state();
        state.arriving.remove(&id);
        let entry = Arc::new(published);
        state.missing.remove(&id);
        let before = state.records.insert(id, Record::new(entry.clone(), marks));
        drop(state);
        if let Some(record) = before {
            self.end_download(&record.entry, Ended::Complete);
        }
        self.open_archive(entry)
    }

    /// The archive of a snapshot that is complete already, marked with what this
    /// arrival adds.
    pub(super) fn complete_already(
        &self,
        id: &ManifestId,
        origin: Origin,
        proven: bool,
    ) -> Result<Option<Archive>, StoreError> {
        let Some(entry) = self.entry(id).filter(|entry| entry.is_complete()) else {
            return Ok(None);
        };
        self.mark(id, |marks| {
            marks.proven |= proven;
            marks.origin = marks.origin.or(origin);
            marks.only.clear();
        })?;
        self.open_archive(entry).map(Some)
    }

    pub(super) fn open_archive(&self, entry: Arc<Entry>) -> Result<Archive, StoreError> {
        let file = self.files.get(&entry)?;
        Ok(Archive { entry, file })
    }

    /// Changes the marks of a snapshot, durably or not at all.
    pub(super) fn mark(
        &self,
        id: &ManifestId,
        change: impl FnOnce(&mut Marks),
    ) -> Result<(), StoreError> {
        let before = {
            let mut state = self.state();
            let record = state.records.get_mut(id).ok_or(StoreError::NotFound(*id))?;
            let before = record.marks.clone();
            change(&mut record.marks);
            if before == record.marks {
                return Ok(());
            }
            before
        };
        self.save_catalogue().inspect_err(|_| {
            if let Some(record) = self.state().records.get_mut(id) {
                record.marks = before;
            }
        })
    }

    /// Ends a download whose record is gone and removes its files.
    fn end_download(&self, entry: &Entry, why: Ended) {
        let Some(mut progress) = entry.progress() else {
            return;
        };
        progress.ended = Some(why);
        drop(progress);
        for path in [&entry.path, &self.home.sidecar(&entry.id())] {
            if let Err(error) = self.disk.remove(path) {
                warn!(%error, "A file of an ended download stays until the next start");
            }
        }
    }

    /// Removes a snapshot, complete or not.
    pub(super) fn remove(&self, id: &ManifestId) -> Result<Record, StoreError> {
        let record = self
            .state()
            .records
            .remove(id)
            .ok_or(StoreError::NotFound(*id))?;
        self.files.forget(id);
        let removed = self.disk.remove(&record.entry.path);
        if let Err(error) = removed {
            self.state().records.insert(*id, record);
            return Err(error);
        }
        self.state().forget_damage(&record.entry.path);
        if let Some(folder) = record.entry.path.parent() {
            self.disk.sync_folder(folder)?;
        }
        self.end_download(&record.entry, Ended::Deleted);
        self.forget_endorsements(id);
        self.save_catalogue()?;
        Ok(record)
    }

    /// Takes the name for a download that is about to begin: the entry to go on
    /// with, or nothing when there is none yet.
    pub(super) fn claim_download(&self, id: ManifestId) -> Result<Option<Arc<Entry>>, StoreError> {
        let mut state = self.state();
        let state = &mut *state;
        match state.records.get_mut(&id) {
            Some(record) if record.entry.is_complete() => Err(StoreError::AlreadyComplete(id)),
            Some(record) if record.active => Err(StoreError::DownloadOpen(id)),
            Some(record) => {
                record.active = true;
                Ok(Some(record.entry.clone()))
            }
            None if state.starting.insert(id) => Ok(None),
            None => Err(StoreError::DownloadOpen(id)),
        }
    }

    /// Gives the name back.
    pub(super) fn release_download(&self, id: &ManifestId) {
        let mut state = self.state();
        state.starting.remove(id);
        if let Some(record) = state.records.get_mut(id) {
            record.active = false;
        }
    }

    /// Enters a new download under the name that was claimed.
    pub(super) fn start_download(
        &self,
        staged: Staged,
        only: &[Scope],
        origin: Origin,
    ) -> Result<Arc<Entry>, StoreError> {
        let id = staged.contents.manifest.id();
        let marks = self.announce_arrival(id, origin, false, only)?;
        let started = self.arrived(&id, staged.start())?;
        let mut state = self.state();
        state.arriving.remove(&id);
        let entry = Arc::new(started);
        // A publication of the same snapshot may have been faster.
        if state.records.contains_key(&id) {
            drop(state);
            self.end_download(&entry, Ended::Complete);
            return Err(StoreError::AlreadyComplete(id));
        }
        let mut record = Record::new(entry.clone(), marks);
        record.active = true;
        state.missing.remove(&id);
        state.records.insert(id, record);
        state.starting.remove(&id);
        Ok(entry)
    }

    /// Puts the sealed file of a download, which has its last name, in the place
    /// of the download.
    pub(super) fn complete_download(&self, download: &Entry, path: PathBuf) {
        let id = download.id();
        let entry = Entry::complete(download.contents.clone(), path);
        if let Some(record) = self.state().records.get_mut(&id) {
            record.entry = Arc::new(entry);
            record.active = false;
        }
        self.files.forget(&id);
        if let Some(mut progress) = download.progress() {
            progress.ended = Some(Ended::Complete);
        }
    }
}

impl State {
    /// What a store begins with.
    pub(super) fn found(
        records: BTreeMap<ManifestId, Record>,
        endorsed: BTreeMap<ManifestId, Endorsements>,
        damaged: Vec<DamagedFile>,
        missing: Catalogue,
        next_sequence: u64,
    ) -> Self {
        Self {
            records,
            endorsed,
            damaged,
            missing,
            next_sequence,
            ..Self::default()
        }
    }

    /// A file that was damaged is not there any more, or another one is.
    pub(super) fn forget_damage(&mut self, path: &Path) {
        self.damaged.retain(|file| file.path != path);
    }
}

/// Seconds since 1970, for people.
pub(super) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
