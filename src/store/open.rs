//! Opening a home: what is there, what is half done, what is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::{debug, warn};

use crate::snapshot::{Endorsements, ManifestId};

use super::catalogue::{self, Catalogue, Marks};
use super::disk::Disk;
use super::endorsed;
use super::entry::{Contents, Entry, move_aside, read_head};
use super::home::{ARCHIVE, DAMAGED, ENDORSED, Home, PART, SIDECAR, entries, named_id};
use super::sidecar::Pieces;
use super::state::{Inner, Record, State, unix_now};
use super::{DamagedFile, Origin, StoreError, StoreSettings};

/// Lines kept of missing snapshots that nobody pinned: more than a home has
/// harvested ones. Some 50 KB.
const MAX_MISSING: usize = 256;

impl Inner {
    pub(super) fn open(
        root: &Path,
        settings: StoreSettings,
        adjust: impl FnOnce(&mut Disk),
    ) -> Result<Self, StoreError> {
        let home = Home::create(root)?;
        let lock = home.lock()?;
        let mut disk = Disk::new(home.spool.clone());
        adjust(&mut disk);
        let mut scan = Scan::new(&home, &disk);
        scan.sweep_spool()?;
        scan.load_archives()?;
        scan.load_downloads()?;
        let state = scan.enter_all()?;
        let inner = Self::new(home, settings, disk, state, Some(lock));
        if let Err(error) = inner.save_catalogue() {
            // A home on a full disk still lists, deletes and serves.
            warn!(%error, "The catalogue cannot be written");
        }
        Ok(inner)
    }

    /// Looks at a home that another process may be changing: files appear and
    /// vanish by rename, whole; a download that is sealed moves from one folder
    /// to the other, so it is looked for where it was before where it will be;
    /// a snapshot has its line in the catalogue before it has its name, so the
    /// catalogue is read last.
    pub(super) fn open_for_reading(
        root: &Path,
        settings: StoreSettings,
    ) -> Result<Self, StoreError> {
        let home = Home::at(root);
        let disk = Disk::for_reading(home.spool.clone());
        let mut scan = Scan::new(&home, &disk);
        scan.load_downloads()?;
        scan.load_archives()?;
        let state = scan.enter_all()?;
        Ok(Self::new(home, settings, disk, state, None))
    }
}

struct Scan<'a> {
    home: &'a Home,
    disk: &'a Disk,
    /// What is there; complete where it is both.
    found: BTreeMap<ManifestId, Entry>,
    /// Of which snapshots there is a file with who speaks for them.
    endorsed: BTreeSet<ManifestId>,
    damaged: Vec<DamagedFile>,
}

impl<'a> Scan<'a> {
    fn new(home: &'a Home, disk: &'a Disk) -> Self {
        Self {
            home,
            disk,
            found: BTreeMap::new(),
            endorsed: BTreeSet::new(),
            damaged: Vec::new(),
        }
    }

    /// Temporaries of a run that ended without removing them.
    fn sweep_spool(&self) -> Result<(), StoreError> {
        for path in entries(&self.home.spool)? {
            debug!(file = %path.display(), "Removing a temporary of an earlier run");
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    fn load_archives(&mut self) -> Result<(), StoreError> {
        for path in self.entries(&self.home.snapshots)? {
            if let Some(id) = named_id(&path, ARCHIVE) {
                if let Some(contents) = self.read_contents(&path, &id)? {
                    self.found.insert(id, Entry::complete(contents, path));
                }
            } else if let Some(id) = named_id(&path, ENDORSED) {
                self.endorsed.insert(id);
            } else {
                self.note_other(&path);
            }
        }
        Ok(())
    }

    fn load_downloads(&mut self) -> Result<(), StoreError> {
        for path in self.entries(&self.home.downloads)? {
            if let Some(id) = named_id(&path, PART) {
                self.load_download(&path, &id)?;
            } else if let Some(id) = named_id(&path, SIDECAR) {
                // Comes before its download by name, and is read with it. Without
                // one it is left over from a seal or a removal.
                if !self.home.part(&id).exists() {
                    self.remove(&path)?;
                }
            } else {
                self.note_other(&path);
            }
        }
        Ok(())
    }

    fn load_download(&mut self, path: &Path, id: &ManifestId) -> Result<(), StoreError> {
        let sidecar = self.home.sidecar(id);
        if self.found.contains_key(id) {
            // The snapshot became complete another way.
            self.remove(path)?;
            return self.remove(&sidecar);
        }
        let Some(contents) = self.read_contents(path, id)? else {
            return self.remove(&sidecar);
        };
        let manifest = &contents.manifest;
        let pieces = match Pieces::load(manifest, &sidecar) {
            Ok(pieces) => pieces,
            Err(StoreError::Damaged { problem, .. }) => {
                // Nothing is lost: pieces are found again by their hashes.
                self.set_aside(&sidecar, problem)?;
                None
            }
            Err(other) => return Err(other),
        };
        let pieces = pieces.unwrap_or_else(|| Pieces::none(manifest));
        let entry = Entry::partial(contents, path.to_owned(), pieces);
        self.found.insert(*id, entry);
        Ok(())
    }

    /// What a file of ours holds; nothing when it is damaged and was moved aside.
    fn read_contents(
        &mut self,
        path: &Path,
        id: &ManifestId,
    ) -> Result<Option<Arc<Contents>>, StoreError> {
        let read = File::open(path)
            .map_err(StoreError::io("open", path))
            .and_then(|file| read_head(&file, path, id));
        match read {
            Ok((layout, manifest)) => Ok(Some(Arc::new(Contents::new(Arc::new(manifest), layout)))),
            Err(StoreError::Damaged { problem, .. }) => {
                self.set_aside(path, problem)?;
                Ok(None)
            }
            Err(error) if self.disk.is_for_reading() && is_gone(&error) => Ok(None),
            // One file that cannot be read is no reason to serve no other.
            Err(error) => {
                warn!(file = %path.display(), %error, "A file cannot be read and is passed over");
                let problem = match &error {
                    StoreError::Io { source, .. } => source.to_string(),
                    error => error.to_string(),
                };
                let unread = DamagedFile {
                    unread: true,
                    ..DamagedFile::new(path.to_owned(), problem)
                };
                self.damaged.push(unread);
                Ok(None)
            }
        }
    }

    /// Gives every snapshot that was found its marks.
    fn enter_all(mut self) -> Result<State, StoreError> {
        let known = self.load_catalogue()?;
        let mut missing = known.clone().unwrap_or_default();
        let marks = missing.values();
        let mut next_sequence = marks.map(|marks| marks.sequence + 1).max().unwrap_or(0);
        let mut records = BTreeMap::new();
        for (id, entry) in std::mem::take(&mut self.found) {
            let marks = missing.remove(&id).or_else(|| {
                // A deletion meanwhile took the line away after the file.
                if self.disk.is_for_reading() && !entry.path.exists() {
                    return None;
                }
                if known.is_some() {
                    debug!(file = %entry.path.display(), "Not in the catalogue");
                }
                next_sequence += 1;
                Some(Marks {
                    // Without a catalogue nobody can tell what a person wanted kept.
                    pinned: known.is_none(),
                    proven: false,
                    app_version: None,
                    origin: Origin::Fetched,
                    added_unix_s: unix_now(),
                    sequence: next_sequence - 1,
                    only: Vec::new(),
                })
            });
            if let Some(marks) = marks {
                records.insert(id, Record::new(Arc::new(entry), marks));
            }
        }
        self.miss(&mut missing);
        let endorsed = self.load_endorsed(&records, &missing)?;
        let damaged = self.damaged;
        Ok(State::found(
            records,
            endorsed,
            damaged,
            missing,
            next_sequence,
        ))
    }

    /// Who speaks for what is here. Of what may come back the file stays, and one of
    /// anything else is left over.
    fn load_endorsed(
        &mut self,
        records: &BTreeMap<ManifestId, Record>,
        missing: &Catalogue,
    ) -> Result<BTreeMap<ManifestId, Endorsements>, StoreError> {
        let mut endorsed = BTreeMap::new();
        for id in std::mem::take(&mut self.endorsed) {
            let path = self.home.endorsed(&id);
            let Some(record) = records.get(&id) else {
                if !missing.contains_key(&id) {
                    self.remove(&path)?;
                }
                continue;
            };
            match endorsed::load(record.entry.manifest(), &path) {
                Ok(Some(set)) => drop(endorsed.insert(id, set)),
                Ok(None) => {}
                Err(StoreError::Damaged { problem, .. }) => self.set_aside(&path, problem)?,
                Err(error) => {
                    warn!(file = %path.display(), %error, "Endorsements cannot be read");
                    self.note(path, error.to_string());
                }
            }
        }
        Ok(endorsed)
    }

    /// Tells of lines without files, and leaves them, because a disk that is not
    /// mounted comes back: those that are pinned, and of the others the latest.
    ///
    /// A line that nobody pinned may be of a snapshot that never arrived, and to a
    /// reader any line may be of one on its way in or out: they are for the debug
    /// log.
    fn miss(&self, lines: &mut Catalogue) {
        for (id, marks) in lines.iter() {
            let file = self.home.archive(id);
            let is_damaged = self.damaged.iter().any(|file| file.manifest() == Some(*id));
            if marks.pinned && !is_damaged && !self.disk.is_for_reading() {
                warn!(
                    manifest = %id, file = %file.display(),
                    "The file of a pinned snapshot is missing. Put it back, or fetch or load the \
                     snapshot again: it stays pinned. `snapswarm delete CID` forgets it"
                );
            } else {
                debug!(manifest = %id, file = %file.display(), "Its file is not there");
            }
        }
        let unpinned = lines.values().filter(|marks| !marks.pinned);
        let mut latest: Vec<u64> = unpinned.map(|marks| marks.sequence).collect();
        latest.sort_unstable_by(|one, other| other.cmp(one));
        if let Some(last) = latest.get(MAX_MISSING - 1).copied() {
            lines.retain(|_, marks| marks.pinned || marks.sequence >= last);
        }
    }

    /// What is known about the snapshots; nothing when that is lost.
    fn load_catalogue(&mut self) -> Result<Option<Catalogue>, StoreError> {
        let home = self.home;
        let path = &home.catalogue;
        let what = match catalogue::load(path) {
            Ok(Some(known)) => return Ok(Some(known)),
            Ok(None) if self.found.is_empty() => return Ok(Some(Catalogue::new())),
            Ok(None) => "missing",
            Err(StoreError::Damaged { problem, .. }) => {
                self.set_aside(path, problem)?;
                "damaged"
            }
            Err(other) => return Err(other),
        };
        warn!(
            file = %path.display(),
            "The catalogue is {what}: what was pinned, proven or harvested is not known any more. \
             What is here ({} snapshots) counts as pinned now, fetched and not proven. Unpin what \
             may go: snapswarm unpin CID",
            self.found.len()
        );
        Ok(None)
    }

    /// Moves a file aside that cannot be trusted; a reader only tells of it.
    fn set_aside(&mut self, path: &Path, problem: String) -> Result<(), StoreError> {
        if self.disk.is_for_reading() {
            self.note(path.to_owned(), problem);
            return Ok(());
        }
        let aside = move_aside(self.disk, path)?;
        warn!(file = %aside.display(), problem, "A damaged file was moved aside");
        self.note(aside, problem);
        Ok(())
    }

    /// Removes a file that is of no use any more; a reader leaves it.
    fn remove(&self, path: &Path) -> Result<(), StoreError> {
        if self.disk.is_for_reading() {
            return Ok(());
        }
        self.disk.remove(path)
    }

    /// The entries of a folder. To a reader a folder that is not there is empty.
    fn entries(&self, folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
        match entries(folder) {
            Err(error) if self.disk.is_for_reading() && is_gone(&error) => Ok(Vec::new()),
            entries => entries,
        }
    }

    fn note_other(&mut self, path: &Path) {
        if path.to_string_lossy().ends_with(DAMAGED) {
            self.note(path.to_owned(), "an earlier run moved it aside".to_owned());
        } else {
            debug!(file = %path.display(), "Not a file of ours");
        }
    }

    fn note(&mut self, path: PathBuf, problem: String) {
        self.damaged.push(DamagedFile::new(path, problem));
    }
}

fn is_gone(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
