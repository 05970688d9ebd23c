//! Opening a home: what is there, what is half done, what is damaged.

use std::collections::btree_map;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use tracing::{debug, warn};

use crate::snapshot::ManifestId;

use super::catalogue::{self, Catalogue, Marks};
use super::disk::Disk;
use super::entry::{Contents, Entry, move_aside, read_head};
use super::home::{ARCHIVE, DAMAGED, Home, PART, SIDECAR, entries, named_id};
use super::sidecar::Pieces;
use super::state::{Inner, Record, State, unix_now};
use super::{DamagedFile, Origin, StoreError, StoreSettings};

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
        let mut scan = Scan {
            home: &home,
            disk: &disk,
            catalogue: None,
            state: State::default(),
        };
        scan.sweep_spool()?;
        scan.load_catalogue()?;
        scan.load_archives()?;
        scan.load_downloads()?;
        let state = scan.state;
        let inner = Self::new(home, settings, disk, state, lock);
        if let Err(error) = inner.save_catalogue() {
            // A home on a full disk still lists, deletes and serves.
            warn!(%error, "The catalogue cannot be written");
        }
        Ok(inner)
    }
}

struct Scan<'a> {
    home: &'a Home,
    disk: &'a Disk,
    /// Nothing when the file is damaged.
    catalogue: Option<Catalogue>,
    state: State,
}

impl Scan<'_> {
    /// Temporaries of a run that ended without removing them.
    fn sweep_spool(&self) -> Result<(), StoreError> {
        for path in entries(&self.home.spool)? {
            debug!(file = %path.display(), "Removing a temporary of an earlier run");
            self.disk.remove(&path)?;
        }
        Ok(())
    }

    fn load_catalogue(&mut self) -> Result<(), StoreError> {
        let path = &self.home.catalogue;
        self.catalogue = match catalogue::load(path) {
            Ok(found) => Some(found.unwrap_or_default()),
            Err(StoreError::Damaged { problem, .. }) => {
                let aside = move_aside(self.disk, path)?;
                self.state.note_damage(&aside, problem);
                warn!(
                    "What was pinned is not known any more, so all snapshots are pinned now. \
                     Unpin what may go: snapswarm unpin CID"
                );
                None
            }
            Err(other) => return Err(other),
        };
        let marks = self.catalogue.iter().flat_map(Catalogue::values);
        self.state.next_sequence = marks.map(|marks| marks.sequence + 1).max().unwrap_or(0);
        Ok(())
    }

    fn load_archives(&mut self) -> Result<(), StoreError> {
        for path in entries(&self.home.snapshots)? {
            if let Some(id) = named_id(&path, ARCHIVE) {
                match self.read_contents(&path, &id)? {
                    Some(contents) => self.enter(Entry::complete(contents, path)),
                    None => continue,
                }
            } else {
                self.note_other(&path);
            }
        }
        Ok(())
    }

    fn load_downloads(&mut self) -> Result<(), StoreError> {
        for path in entries(&self.home.downloads)? {
            if let Some(id) = named_id(&path, PART) {
                self.load_download(&path, &id)?;
            } else if let Some(id) = named_id(&path, SIDECAR) {
                // Comes before its download by name, and is read with it. Without
                // one it is left over from a seal or a removal.
                if !self.home.part(&id).exists() {
                    self.disk.remove(&path)?;
                }
            } else {
                self.note_other(&path);
            }
        }
        Ok(())
    }

    fn load_download(&mut self, path: &Path, id: &ManifestId) -> Result<(), StoreError> {
        let sidecar = self.home.sidecar(id);
        if self.state.records.contains_key(id) {
            // The snapshot became complete another way.
            self.disk.remove(path)?;
            return self.disk.remove(&sidecar);
        }
        let Some(contents) = self.read_contents(path, id)? else {
            return self.disk.remove(&sidecar);
        };
        let manifest = &contents.manifest;
        let pieces = match Pieces::load(manifest, &sidecar) {
            Ok(pieces) => pieces,
            Err(StoreError::Damaged { problem, .. }) => {
                // Nothing is lost: pieces are found again by their hashes.
                let aside = move_aside(self.disk, &sidecar)?;
                self.state.note_damage(&aside, problem);
                None
            }
            Err(other) => return Err(other),
        };
        let pieces = pieces.unwrap_or_else(|| Pieces::none(manifest));
        self.enter(Entry::partial(contents, path.to_owned(), pieces));
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
                let aside = move_aside(self.disk, path)?;
                self.state.note_damage(&aside, problem);
                Ok(None)
            }
            // One file that cannot be read is no reason to serve no other.
            Err(error) => {
                self.state.note_unreadable(path, &error);
                Ok(None)
            }
        }
    }

    fn enter(&mut self, entry: Entry) {
        let id = entry.id();
        let known = self.catalogue.as_ref().map(|all| all.get(&id).copied());
        let marks = known.flatten().unwrap_or_else(|| {
            let sequence = self.state.next_sequence;
            self.state.next_sequence += 1;
            Marks {
                // Without a catalogue nobody can tell what a person wanted kept.
                pinned: known.is_none(),
                proven: false,
                origin: Origin::Fetched,
                added_unix_s: unix_now(),
                sequence,
            }
        });
        if let btree_map::Entry::Vacant(place) = self.state.records.entry(id) {
            place.insert(Record::new(Arc::new(entry), marks));
        }
    }

    fn note_other(&mut self, path: &Path) {
        if path.to_string_lossy().ends_with(DAMAGED) {
            self.state.damaged.push(DamagedFile {
                path: path.to_owned(),
                problem: "an earlier run moved it aside".to_owned(),
            });
        } else {
            debug!(file = %path.display(), "Not a file of ours");
        }
    }
}
