//! A snapshot under download.

mod check;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::info;

use crate::snapshot::hash::{self, BATCH_PIECES};
use crate::snapshot::{Bitmap, Manifest, PieceIndex, Scope, UniqueIndex, VerifiedPiece};

use super::disk::{may_be_written, read_at};
use super::entry::{Archive, Ended, Entry, Progress};
use super::staged::Staged;
use super::state::Inner;
use super::{Origin, StoreError, selection};

pub use check::BATCH_CHUNKS;

/// A snapshot under download. Any number of threads may write, check and sync at
/// once. Dropping it leaves a download that [`Store::begin_download`] goes on
/// with.
///
/// [`Store::begin_download`]: super::Store::begin_download
pub struct Download {
    store: Arc<Inner>,
    entry: Arc<Entry>,
    file: File,
    origin: Origin,
    /// Held while the sidecar is written, so that an older one never replaces a
    /// newer one.
    syncing: Mutex<()>,
    /// What chunks are read back into; kept, because fresh memory costs as much as
    /// the reading.
    buffer: Mutex<Vec<u8>>,
}

impl Download {
    /// Begins, or goes on with what is here. Wanted are these scopes; of none named, all
    /// of it.
    pub(super) fn begin(
        store: &Arc<Inner>,
        manifest: Arc<Manifest>,
        only: &[Scope],
        origin: Origin,
    ) -> Result<Self, StoreError> {
        let id = manifest.id();
        // Who asks for a harvested snapshot keeps it, as any other that it fetched.
        store.complete_already(&id, origin, false)?;
        let mut known = store.claim_download(id)?;
        if known.as_ref().is_some_and(|entry| !entry.path.exists()) {
            // Somebody took the file away under us: begin again.
            store.remove(&id)?;
            known = store.claim_download(id)?;
        }
        let begun = match known {
            Some(entry) => Self::resume(store, entry, only, origin),
            None => Self::start(store, manifest, only, origin),
        };
        if begun.is_err() {
            store.release_download(&id);
        }
        begun
    }

    fn start(
        store: &Arc<Inner>,
        manifest: Arc<Manifest>,
        only: &[Scope],
        origin: Origin,
    ) -> Result<Self, StoreError> {
        let nothing_here = Bitmap::new(manifest.piece_count());
        let holes = selection::hole_bytes(&manifest, only, &nothing_here);
        let staged = Staged::create_with_holes(store, manifest, holes)?;
        staged.sync()?;
        let entry = store.start_download(staged, only, origin)?;
        let file = open_for_writing(&entry.path)?;
        Ok(Self::new(store, entry, file, origin))
    }

    fn resume(
        store: &Arc<Inner>,
        entry: Arc<Entry>,
        only: &[Scope],
        origin: Origin,
    ) -> Result<Self, StoreError> {
        let file = open_for_writing(&entry.path)?;
        store.mark(&entry.id(), |marks| marks.origin = marks.origin.or(origin))?;
        let this = Self::new(store, entry, file, origin);
        let found = this.find_written()?;
        selection::give_room(store, &this.entry, &this.file, only)?;
        let have = this.have();
        info!(
            manifest = %this.manifest().id(),
            pieces = have.count(),
            of = have.len(),
            found_by_hash = found,
            "Resuming a download"
        );
        Ok(this)
    }

    fn new(store: &Arc<Inner>, entry: Arc<Entry>, file: File, origin: Origin) -> Self {
        Self {
            store: store.clone(),
            entry,
            file,
            origin,
            syncing: Mutex::new(()),
            buffer: Mutex::default(),
        }
    }

    /// What is being downloaded.
    pub fn manifest(&self) -> &Arc<Manifest> {
        self.entry.manifest()
    }

    /// The file that grows.
    pub fn path(&self) -> &Path {
        &self.entry.path
    }

    /// Pieces that are verified and written, by piece number.
    pub fn have(&self) -> Bitmap {
        self.progress().pieces.have.clone()
    }

    /// Distinct chunks that were read back whole, by unique chunk number: those
    /// that are served.
    pub fn checked(&self) -> Bitmap {
        self.progress().pieces.checked.clone()
    }

    /// Writes pieces; those that are here already are passed over. They survive a
    /// kill of the process from here on, and a loss of power from the next
    /// [`Download::sync`] on.
    pub fn write(&self, pieces: &[VerifiedPiece]) -> Result<(), StoreError> {
        for verified in pieces {
            let (index, len) = self.own_piece(verified)?;
            if self.running()?.pieces.have.contains(index.get()) {
                continue;
            }
            debug_assert_eq!(len as usize, verified.bytes().len());
            self.store.disk.write_at(
                &self.file,
                &self.entry.path,
                verified.bytes(),
                self.offset_of(index),
            )?;
            let mut progress = self.running()?;
            progress.pieces.have.insert(index.get());
            progress.ahead_of_sidecar = true;
        }
        Ok(())
    }

    /// Makes what was written survive a loss of power: data first, then the
    /// sidecar.
    pub fn sync(&self) -> Result<(), StoreError> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        // What is written from here on is left to the next sync.
        let pieces = {
            let mut progress = self.running()?;
            if !std::mem::take(&mut progress.ahead_of_sidecar) {
                return Ok(());
            }
            progress.pieces.clone()
        };
        let disk = &self.store.disk;
        let id = self.entry.id();
        let synced = disk
            .sync_data(&self.file, &self.entry.path)
            .and_then(|()| disk.replace(&self.store.home.sidecar(&id), &pieces.encode(&id)));
        let mut progress = self.progress();
        if synced.is_err() {
            progress.ahead_of_sidecar = true;
        }
        if progress.ended.is_some() {
            // Deleted meanwhile: the sidecar must not outlive its download.
            let _ = disk.remove(&self.store.home.sidecar(&id));
        }
        synced
    }

    /// Makes all pieces of a chunk missing again, durably.
    pub fn drop_chunk(&self, chunk: UniqueIndex) -> Result<(), StoreError> {
        let pieces: Vec<PieceIndex> = self.manifest().pieces_of(chunk).collect();
        self.forget(chunk, &pieces)
    }

    /// Ends the download: syncs the file and gives it its name among the complete
    /// snapshots. All chunks must be checked. May be repeated.
    pub fn seal(&self) -> Result<Archive, StoreError> {
        let _syncing = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.entry.id();
        let disk = &self.store.disk;
        let path = self.store.home.archive(&id);
        let ended = self.progress().ended;
        match ended {
            Some(Ended::Deleted) => return Err(StoreError::NotFound(id)),
            Some(Ended::Complete) => {}
            None => {
                self.require_all_checked()?;
                disk.sync_file(&self.file, &self.entry.path)?;
                disk.rename(&self.entry.path, &path)?;
                self.store.complete_download(&self.entry, path.clone());
            }
        }
        disk.settle(&self.entry.path, &path)?;
        disk.remove(&self.store.home.sidecar(&id))?;
        let sealed = self.store.complete_already(&id, self.origin, false)?;
        let manifest = self.manifest();
        info!(
            height = manifest.height(),
            chain = manifest.chain_id(),
            chunks = manifest.chunk_count(),
            bytes = manifest.total_bytes(),
            manifest = %id,
            "Fetched state snapshot"
        );
        sealed.ok_or(StoreError::NotFound(id))
    }

    fn require_all_checked(&self) -> Result<(), StoreError> {
        let progress = self.running()?;
        let checked = &progress.pieces.checked;
        if checked.is_full() {
            return Ok(());
        }
        Err(StoreError::Unchecked {
            id: self.entry.id(),
            missing: checked.len() - checked.count(),
        })
    }

    /// Finds pieces that were written and not marked before the last run ended,
    /// by their hash; gives how many.
    fn find_written(&self) -> Result<u32, StoreError> {
        let manifest = self.manifest().clone();
        let have = self.have();
        let mut known_data_end = 0;
        let mut batch = Vec::with_capacity(BATCH_PIECES);
        let mut found = 0;
        for index in manifest.piece_indexes() {
            if have.contains(index.get()) {
                continue;
            }
            let begin = self.offset_of(index);
            let end = begin + u64::from(manifest.piece(index).len);
            if may_be_written(&self.file, begin..end, &mut known_data_end) {
                batch.push(index);
            }
            if batch.len() == BATCH_PIECES {
                found += self.mark_by_hash(&batch)?;
                batch.clear();
            }
        }
        Ok(found + self.mark_by_hash(&batch)?)
    }

    /// Marks those of the pieces whose bytes on disk have their SHA-256.
    fn mark_by_hash(&self, pieces: &[PieceIndex]) -> Result<u32, StoreError> {
        let mut buffers = Vec::with_capacity(pieces.len());
        for index in pieces {
            let mut buffer = vec![0; self.manifest().piece(*index).len as usize];
            read_at(
                &self.file,
                &self.entry.path,
                &mut buffer,
                self.offset_of(*index),
            )?;
            buffers.push(buffer);
        }
        let slices: Vec<&[u8]> = buffers.iter().map(|buffer| &buffer[..]).collect();
        let digests = hash::sha256_many(&slices);
        let mut progress = self.running()?;
        let mut found = 0;
        for (index, digest) in pieces.iter().zip(digests) {
            if self.manifest().piece(*index).sha256 == digest {
                progress.pieces.have.insert(index.get());
                progress.ahead_of_sidecar = true;
                found += 1;
            }
        }
        Ok(found)
    }

    /// Makes pieces of a chunk missing again, durably: a sidecar that still
    /// claims them would bring them back.
    fn forget(&self, chunk: UniqueIndex, pieces: &[PieceIndex]) -> Result<(), StoreError> {
        {
            let mut progress = self.running()?;
            progress.pieces.checked.remove(chunk.get());
            for piece in pieces {
                progress.pieces.have.remove(piece.get());
            }
            progress.ahead_of_sidecar = true;
        }
        self.sync()
    }

    /// Where a piece lies in the file.
    fn offset_of(&self, index: PieceIndex) -> u64 {
        let piece = self.manifest().piece(index);
        self.entry.contents.offset_of(piece.chunk) + u64::from(piece.offset)
    }

    /// The number and length of a piece, which must have been checked against
    /// this snapshot's manifest.
    fn own_piece(&self, verified: &VerifiedPiece) -> Result<(PieceIndex, u32), StoreError> {
        let index = verified.index();
        if verified.manifest() != self.entry.id() {
            return Err(StoreError::ForeignPiece {
                id: self.entry.id(),
                piece: index.get(),
            });
        }
        Ok((index, self.manifest().piece(index).len))
    }

    #[cfg(test)]
    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.entry
            .progress()
            .expect("the entry of a download has progress")
    }

    /// The progress of a download that has not ended.
    fn running(&self) -> Result<std::sync::MutexGuard<'_, Progress>, StoreError> {
        let progress = self.progress();
        match progress.ended {
            None => Ok(progress),
            Some(Ended::Deleted) => Err(StoreError::NotFound(self.entry.id())),
            Some(Ended::Complete) => Err(StoreError::AlreadyComplete(self.entry.id())),
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.progress().ended.is_none() {
            self.store.release_download(&self.entry.id());
        }
    }
}

fn open_for_writing(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(StoreError::io("open", path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::store::testing::{manifest_at, noise, piece};
    use crate::store::{Store, StoreSettings};

    const CHUNK_BYTES: usize = 1 << 20;

    fn snapshot(height: u64) -> (Arc<Manifest>, Vec<u8>) {
        let chunk = noise(height, CHUNK_BYTES);
        (Arc::new(manifest_at(height, &[&chunk])), chunk)
    }

    fn open(home: &Path, quota_bytes: Option<u64>) -> Store {
        let settings = StoreSettings {
            quota_bytes,
            ..StoreSettings::default()
        };
        Store::open(home, settings).unwrap()
    }

    /// Brings all of one as a step.
    fn bring(store: &Store, manifest: &Arc<Manifest>, chunk: &[u8]) {
        let step = store.begin_step(manifest.clone()).unwrap();
        let pieces = manifest.piece_indexes();
        let pieces: Vec<_> = pieces
            .map(|index| piece(manifest, &[chunk], index))
            .collect();
        step.write(&pieces).unwrap();
        let chunks: Vec<UniqueIndex> = manifest.unique_indexes().collect();
        step.check_chunks(&chunks).unwrap();
        step.seal().unwrap();
    }

    #[test]
    fn a_step_is_one_until_somebody_wants_it_for_itself() {
        let home = tempfile::tempdir().unwrap();
        let (one, chunk) = snapshot(1);
        let (other, _) = snapshot(2);
        let store = open(home.path(), None);
        bring(&store, &one, &chunk);
        drop(store.begin_step(other.clone()).unwrap());
        drop(store);
        let store = open(home.path(), None);
        let origin = |manifest: &Manifest| store.get(&manifest.id()).unwrap().origin;
        assert_eq!([origin(&one), origin(&other)], [Origin::Step; 2]);
        let begun = store.begin_step(one.clone());
        assert!(matches!(begun, Err(StoreError::AlreadyComplete(_))));
        assert_eq!(origin(&one), Origin::Step);
        let begun = store.begin_download(one.clone());
        assert!(matches!(begun, Err(StoreError::AlreadyComplete(_))));
        drop(store.begin_download(other.clone()).unwrap());
        drop(store.begin_step(other.clone()).unwrap());
        assert_eq!([origin(&one), origin(&other)], [Origin::Fetched; 2]);
    }

    #[test]
    fn a_step_that_is_held_stays_and_what_needs_its_room_fails_until_it_is_let_go() {
        let home = tempfile::tempdir().unwrap();
        let (one, chunk) = snapshot(1);
        let (other, _) = snapshot(2);
        let store = open(home.path(), Some(CHUNK_BYTES as u64 * 3 / 2));
        let hold = store.hold(&[one.id()]);
        drop(store.hold(&[one.id()]));
        bring(&store, &one, &chunk);
        let refused = store.begin_download(other.clone());
        assert!(matches!(refused, Err(StoreError::OverQuota { .. })));
        assert!(store.get(&one.id()).is_some());
        drop(hold);
        store.begin_download(other).unwrap();
        assert!(store.get(&one.id()).is_none());
    }

    #[test]
    fn a_step_goes_where_another_one_needs_its_room() {
        let home = tempfile::tempdir().unwrap();
        let (one, chunk) = snapshot(1);
        let (other, _) = snapshot(2);
        let store = open(home.path(), Some(CHUNK_BYTES as u64 * 3 / 2));
        bring(&store, &one, &chunk);
        store.begin_download(other).unwrap();
        assert!(store.get(&one.id()).is_none());
    }
}
