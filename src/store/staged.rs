//! An archive that is being made in the spool.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::snapshot::{Manifest, UniqueIndex};

use super::disk::Step;
use super::entry::{Contents, Entry};
use super::sidecar::Pieces;
use super::state::Inner;
use super::{StoreError, skeleton};

/// An archive with index, manifest and a place for each chunk, that does not
/// count yet. Dropping it removes the file.
pub(super) struct Staged {
    store: Arc<Inner>,
    pub(super) contents: Arc<Contents>,
    pub(super) file: File,
    /// Where it is now; empty when it counts.
    path: PathBuf,
    /// Bytes of the quota that are set aside for it.
    reserved: u64,
}

impl Staged {
    /// Makes room, then the skeleton with index and manifest, and gives the file
    /// all its blocks, so that a full disk shows now and not at the last chunk.
    pub(super) fn create(store: &Arc<Inner>, manifest: Arc<Manifest>) -> Result<Self, StoreError> {
        Self::create_with_holes(store, manifest, 0)
    }

    /// As [`Staged::create`], of which so many bytes of chunks are not to come: the file
    /// has holes in place of them, for which no room is made.
    pub(super) fn create_with_holes(
        store: &Arc<Inner>,
        manifest: Arc<Manifest>,
        holes: u64,
    ) -> Result<Self, StoreError> {
        let needed = skeleton::estimated_bytes(&manifest).saturating_sub(holes);
        let disk = &store.disk;
        let path = disk.temporary("h5");
        let room = Room::make(store, needed)?;
        disk.require_space(&path, needed)?;
        disk.step(Step::Skeleton, &path, || Ok(()))?;
        let made = skeleton::create(&path, &manifest).and_then(|layout| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(StoreError::io("open", &path))?;
            if holes == 0 {
                disk.allocate(&file, &path, layout.file_len)?;
            }
            disk.write_at(&file, &path, &layout.encode(), 0)?;
            disk.write_at(&file, &path, manifest.encoded(), layout.manifest_offset)?;
            Ok((layout, file))
        });
        match made {
            Ok((layout, file)) => {
                room.keep();
                Ok(Self {
                    store: store.clone(),
                    contents: Arc::new(Contents::new(manifest, layout)),
                    file,
                    path,
                    reserved: needed,
                })
            }
            Err(error) => {
                let _ = std::fs::remove_file(&path);
                // libhdf5 does not tell that the disk was full.
                if matches!(error, StoreError::Hdf5 { .. }) {
                    disk.require_space(&path, needed)?;
                }
                Err(error)
            }
        }
    }

    /// Writes a part of a chunk to each of the chunk's places.
    pub(super) fn write(
        &self,
        chunk: UniqueIndex,
        begin: u64,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        for offset in self.contents.offsets_of(chunk) {
            self.store
                .disk
                .write_at(&self.file, &self.path, bytes, offset + begin)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.store.disk.sync_file(&self.file, &self.path)
    }

    /// The archive where it is now, for reading it back.
    pub(super) fn entry(&self) -> Entry {
        Entry::complete(self.contents.clone(), self.path.clone())
    }

    /// Gives the synced file its name among the complete snapshots.
    pub(super) fn publish(self) -> Result<Entry, StoreError> {
        let path = self.store.home.archive(&self.contents.manifest.id());
        let contents = self.contents.clone();
        self.give_name(&path)?;
        Ok(Entry::complete(contents, path))
    }

    /// Gives the synced file its name among the downloads.
    pub(super) fn start(self) -> Result<Entry, StoreError> {
        let path = self.store.home.part(&self.contents.manifest.id());
        let contents = self.contents.clone();
        self.give_name(&path)?;
        let pieces = Pieces::none(&contents.manifest);
        Ok(Entry::partial(contents, path, pieces))
    }

    fn give_name(mut self, path: &Path) -> Result<(), StoreError> {
        let disk = &self.store.disk;
        disk.rename(&self.path, path)?;
        let spooled = std::mem::replace(&mut self.path, path.to_owned());
        disk.settle(&spooled, path)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.store.release(self.reserved);
        if self.path != PathBuf::new() {
            // What stays is swept at the next open.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Bytes of the quota that are given back unless they are kept.
pub(super) struct Room<'a> {
    store: &'a Inner,
    bytes: u64,
}

impl<'a> Room<'a> {
    /// Makes room for so many bytes more, and sets them aside.
    pub(super) fn make(store: &'a Inner, bytes: u64) -> Result<Self, StoreError> {
        store.make_room(bytes)?;
        Ok(Self { store, bytes })
    }

    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.store.release(self.bytes);
    }
}
