//! Everything of ours on disk: archives, downloads in progress, what is known
//! about each of them, and how long they are kept.
//!
//! # The home folder
//!
//! ```text
//! lock                        held with flock while a store is open for writing; holds the pid
//! catalogue.json              pinned, proven, origin, time of arrival of each snapshot
//! snapshots/CID.h5            a complete snapshot: an archive, written once
//! snapshots/CID.endorsed      who speaks for it
//! downloads/CID.h5.part       an archive whose chunks are still coming, or of which a
//!                             person wants a part only: then it has holes
//! downloads/CID.bitmap        which of its pieces and chunks are there (the sidecar)
//! spool/                      temporaries; emptied when a store opens
//! *.damaged                   a file that could not be trusted, moved aside for a person;
//!                             removed with its snapshot's name
//! ```
//!
//! CID is the name of the manifest. The layout of each file is documented where
//! it is written: archives in `layout` and `skeleton`, the sidecar in `sidecar`,
//! the catalogue in `catalogue`, endorsements in `endorsed`, CAR files in `car`.
//!
//! # States of a snapshot
//!
//! ```text
//! publish:  spool ──finish──► archive in spool/ ──verified, synced──► snapshots/
//! download: skeleton in spool/ ──synced──► downloads/ ──seal──► snapshots/
//! ```
//!
//! Each arrow is a rename after an fsync and before an fsync of the folder, so a
//! crash leaves a snapshot on one side of it. A piece of a download is *missing*,
//! *had* (its bytes were verified and written) or, with all of its chunk,
//! *checked* (the whole chunk was read back and has its SHA-256). Only checked
//! chunks are served and only a download whose chunks are all checked is sealed.
//!
//! # Laws
//!
//! * Only a [`VerifiedPiece`](crate::snapshot::VerifiedPiece) is written.
//! * The sidecar never runs ahead of the data: data is synced first. What was
//!   written after the last sync is found again by its hash, so kill -9 costs
//!   nothing that was written.
//! * libhdf5 creates skeletons and reads nothing: every other byte goes by
//!   positional reads and writes, and offsets come from our own index.
//! * A damaged file is logged, moved aside and listed; the store goes on.
//! * Memory grows with the manifests that are here, never with the snapshots.
//! * A store for reading changes nothing in the home, takes no lock, and may look
//!   while another process writes: see [`Store::open_for_reading`].
//! * Every call may block on the disk and can be made from any thread.

mod car;
mod catalogue;
mod disk;
mod download;
mod endorsed;
mod entry;
mod error;
mod hold;
mod home;
mod layout;
mod limits;
mod lost;
mod open;
mod outside;
mod pid_lock;
mod retain;
mod selection;
mod sidecar;
mod skeleton;
mod spool;
mod staged;
mod state;
mod transfer;
mod types;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod testing;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::snapshot::{Bitmap, ChunkId, Endorsements, Manifest, ManifestId, Scope, UniqueIndex};

pub use car::check_car;
pub use download::{BATCH_CHUNKS, Download};
pub use entry::Archive;
pub use error::{ErrorKind, StoreError};
pub use hold::Hold;
pub use home::Stamp;
pub use outside::{NewFile, NewFolder};
pub use pid_lock::{PidLock, PidLockError};
pub use spool::Spool;
pub use types::{
    ChunkVerdict, DEFAULT_LEASE, DEFAULT_MAX_SNAPSHOTS, DamagedFile, Exported, FoundChunk,
    Imported, Origin, Progress, Removed, RemovedBecause, Servable, StoreSettings, Stored, Verified,
};

use entry::Entry;
use home::Home;
use state::{Inner, Record};

/// The store of one home; clones are handles to the same one. The home is free
/// for others when the last handle, spool and download are gone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl Store {
    /// Takes the home for this process, making it if it is missing: empties the
    /// spool, reads the index and manifest of every file, moves damaged ones
    /// aside.
    pub fn open(home: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        Inner::open(home, settings, |_| ()).map(|inner| Self(Arc::new(inner)))
    }

    /// Looks into a home without taking or changing it: it need not be writable,
    /// and another process may have it open meanwhile. What is asked of this
    /// store is what was there a moment ago; whatever would change the home
    /// fails.
    pub fn open_for_reading(home: &Path, settings: StoreSettings) -> Result<Self, StoreError> {
        Inner::open_for_reading(home, settings).map(|inner| Self(Arc::new(inner)))
    }

    /// Whether no process has taken the home.
    pub fn is_free(home: &Path) -> bool {
        Home::at(home).lock().is_ok()
    }

    /// When a home changed last, where it is one: as long as this is the same, and
    /// settled, [`Store::open_for_reading`] finds the same.
    pub fn stamp(home: &Path) -> Option<Stamp> {
        Stamp::of(&Home::at(home))
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        &self.0.home.root
    }

    /// The limits in force.
    pub fn settings(&self) -> &StoreSettings {
        &self.0.settings
    }

    /// All snapshots, complete or not: by chain, newest first.
    pub fn list(&self) -> Vec<Stored> {
        let mut all: Vec<Stored> = self.0.state().records.values().map(stored).collect();
        all.sort_by(|a, b| {
            let chains = a.manifest.chain_id().cmp(b.manifest.chain_id());
            chains.then(b.manifest.height().cmp(&a.manifest.height()))
        });
        all
    }

    /// One snapshot.
    pub fn get(&self, id: &ManifestId) -> Option<Stored> {
        self.0.state().records.get(id).map(stored)
    }

    /// The manifest of a snapshot that is here, complete or not.
    pub fn manifest(&self, id: &ManifestId) -> Option<Arc<Manifest>> {
        Some(self.0.entry(id)?.manifest().clone())
    }

    /// Who speaks for a snapshot, as far as it was kept.
    pub fn endorsements(&self, id: &ManifestId) -> Endorsements {
        self.0.endorsements(id)
    }

    /// Changes who speaks for a snapshot that is here, complete or not; tells whether
    /// anything changed. What is not kept durably is not kept at all.
    pub fn endorse(
        &self,
        id: &ManifestId,
        change: impl FnOnce(&mut Endorsements),
    ) -> Result<bool, StoreError> {
        self.0.endorse(id, change)
    }

    /// Files that were moved aside, by this run or an earlier one, and files that
    /// cannot be read.
    pub fn damaged(&self) -> Vec<DamagedFile> {
        self.0.state().damaged.clone()
    }

    /// Pinned snapshots whose files are neither here nor moved aside; their pins
    /// are kept for the day when they come back.
    pub fn missing(&self) -> Vec<ManifestId> {
        let state = self.0.state();
        let is_damaged = |id: &ManifestId| {
            let mut damaged = state.damaged.iter();
            damaged.any(|file| file.manifest() == Some(*id))
        };
        let pinned = state.missing.iter().filter(|(_, marks)| marks.pinned);
        let missing = pinned.map(|(id, _)| *id);
        missing.filter(|id| !is_damaged(id)).collect()
    }

    /// Bytes of archives and downloads together.
    pub fn disk_bytes(&self) -> u64 {
        let state = self.0.state();
        state.records.values().map(Record::file_bytes).sum()
    }

    /// The most bytes that a new snapshot can have now, as quota and disk are. A
    /// download that is begun has its bytes already.
    pub fn room(&self) -> u64 {
        self.0.room()
    }

    /// The most bytes that a new snapshot can have without any other going for it.
    pub fn spare_bytes(&self) -> u64 {
        self.0.spare_bytes()
    }

    /// Bytes that this user can still write to the disk of the home.
    pub fn free_bytes(&self) -> Option<u64> {
        disk::free_bytes(self.home())
    }

    /// Begins a snapshot whose chunks come one at a time.
    pub fn publish(&self) -> Result<Spool, StoreError> {
        Spool::create(self.0.clone())
    }

    /// Begins a download, or goes on with the one that is here. Pieces that an
    /// earlier run wrote are found, marked or not. Of a part that is here the rest gets
    /// its room, and it is a download as any other from then on.
    ///
    /// Fails with [`StoreError::AlreadyComplete`], and with
    /// [`StoreError::DownloadOpen`] while another handle has the download.
    pub fn begin_download(&self, manifest: Arc<Manifest>) -> Result<Download, StoreError> {
        Download::begin(&self.0, manifest, &[], Origin::Fetched)
    }

    /// As [`Store::begin_download`], of a snapshot that is wanted for the sake of another
    /// one only: it is known by its [`Origin`] until somebody wants it for itself, and
    /// goes for room as a download does that rests.
    pub fn begin_step(&self, manifest: Arc<Manifest>) -> Result<Download, StoreError> {
        Download::begin(&self.0, manifest, &[], Origin::Step)
    }

    /// As [`Store::begin_download`], of the chunks that hold these scopes, of which there
    /// is one at least: the file has holes in place of the others, and takes so much less
    /// of disk and quota. What is here of it stays, marked with the scopes of all such
    /// calls, until somebody deletes it or gets the rest.
    pub fn begin_selection(
        &self,
        manifest: Arc<Manifest>,
        only: &[Scope],
    ) -> Result<Download, StoreError> {
        Download::begin(&self.0, manifest, only, Origin::Fetched)
    }

    /// A complete snapshot, for reading.
    pub fn archive(&self, id: &ManifestId) -> Result<Archive, StoreError> {
        transfer::archive(&self.0, id)
    }

    /// What others can have of a snapshot from us.
    pub fn servable(&self, id: &ManifestId) -> Option<Servable> {
        Some(self.0.entry(id)?.servable())
    }

    /// Where a verified chunk lies, under whatever manifest; in a complete
    /// snapshot when there is one.
    pub fn find_chunk(&self, chunk: &ChunkId) -> Option<FoundChunk> {
        let (entry, unique) = self.locate(chunk, &[])?;
        Some(FoundChunk {
            manifest: entry.id(),
            unique,
            size: entry.manifest().unique_chunk(unique).size,
            offset: entry.contents.offset_of(unique),
            complete: entry.is_complete(),
        })
    }

    /// Which of these chunks are here, verified, under whatever manifest.
    pub fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        let mut held = Bitmap::new(chunks.len() as u32);
        for (number, chunk) in chunks.iter().enumerate() {
            if self.locate(chunk, &[]).is_some() {
                held.insert(number as u32);
            }
        }
        held
    }

    /// The bytes of a piece of a verified chunk, as they were verified; nothing
    /// when no such piece is here. A file that has other bytes by now is listed as
    /// damaged, and another one that has the chunk is read.
    pub fn read_piece(&self, chunk: &ChunkId, piece: u32) -> Result<Option<Bytes>, StoreError> {
        let mut tried: Vec<Arc<Entry>> = Vec::new();
        let mut failed = None;
        // A file can get its last name between the look and the read: then there
        // is another entry to read from.
        while let Some((entry, unique)) = self.locate(chunk, &tried) {
            let file = self.0.files.get(&entry);
            match file
                .and_then(|file| entry.read_right_piece(&file, unique, piece, &self.0.checking))
            {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    self.0.doubt(&entry, &error);
                    failed = Some(error);
                    tried.push(entry);
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }

    /// The best entry with a chunk, beside those that were tried.
    fn locate(&self, chunk: &ChunkId, tried: &[Arc<Entry>]) -> Option<(Arc<Entry>, UniqueIndex)> {
        let state = self.0.state();
        let mut second = None;
        for record in state.records.values() {
            let entry = &record.entry;
            let Some(unique) = entry.contents.unique_of(chunk) else {
                continue;
            };
            if !(entry.is_complete() || entry.serves(unique))
                || tried.iter().any(|tried| Arc::ptr_eq(tried, entry))
            {
                continue;
            }
            let found = (entry.clone(), unique);
            if entry.is_complete() && !entry.is_doubted() {
                return Some(found);
            }
            second = Some(found);
        }
        second
    }

    /// Removes a snapshot, pinned, leased or not, with its files that were moved
    /// aside. Its download, if there is one, ends.
    pub fn delete(&self, id: &ManifestId) -> Result<(), StoreError> {
        self.0.delete(id)
    }

    /// Keeps a snapshot whatever its age and the quota.
    pub fn pin(&self, id: &ManifestId) -> Result<(), StoreError> {
        self.0.mark(id, |marks| marks.pinned = true)
    }

    /// Lets a snapshot go when its time comes, also one whose file is missing.
    pub fn unpin(&self, id: &ManifestId) -> Result<(), StoreError> {
        self.0.unpin(id)
    }

    /// The chain itself confirmed the snapshot's application hash, in a header with
    /// this version of the application.
    pub fn set_proven(&self, id: &ManifestId, app_version: u64) -> Result<(), StoreError> {
        self.0.mark(id, |marks| {
            marks.proven = true;
            marks.app_version = Some(app_version);
        })
    }

    /// Someone downloads this snapshot from us: its removal waits a while, unless
    /// the quota needs its bytes. Unknown names are passed over.
    pub fn lease(&self, id: &ManifestId, now: Instant) {
        let until = now + self.0.settings.lease;
        if let Some(record) = self.0.state().records.get_mut(id) {
            record.leased_until = Some(until);
        }
    }

    /// Removes what the limits do not allow any more, of what came by itself: see
    /// [`StoreSettings::max_snapshots`]. Gives what was removed since the last
    /// call, also what had to make room meanwhile.
    ///
    /// Leases delay the removal of what is too old by
    /// [`StoreSettings::lease`] at most, counted from the first call that would
    /// have removed it.
    pub fn enforce(&self, now: Instant) -> Vec<Removed> {
        self.0.enforce(now)
    }

    /// Reads a complete snapshot back and checks every byte of every chunk. A
    /// damaged one is moved aside and not served any more, unless this store is
    /// for reading.
    pub fn verify(&self, id: &ManifestId, progress: Progress) -> Result<Verified, StoreError> {
        let verified = transfer::verify(&self.archive(id)?, progress);
        match &verified {
            Ok(_) => self.0.clear_doubt(id),
            Err(StoreError::Damaged { problem, .. }) => self.0.set_aside(id, problem),
            Err(_) => {}
        }
        verified
    }

    /// Looks whether the files of complete snapshots are still there; those that
    /// are not are told by the next [`Store::enforce`].
    pub fn look_again(&self) {
        self.0.let_go_of_vanished();
    }

    /// Reads a CAR file and checks every byte of it.
    pub fn verify_car(path: &Path, progress: Progress) -> Result<Verified, StoreError> {
        transfer::verify_car(path, progress)
    }

    /// Writes a complete snapshot into a new CAR file, which appears when it is
    /// whole. Every chunk is checked on the way.
    pub fn export_car(
        &self,
        id: &ManifestId,
        path: &Path,
        progress: Progress,
    ) -> Result<Exported, StoreError> {
        transfer::export_car(&self.archive(id)?, path, progress)
    }

    /// Takes a snapshot from a CAR file. `check` may refuse the manifest before
    /// anything is written.
    pub fn import_car(
        &self,
        path: &Path,
        check: &dyn Fn(&Manifest) -> Result<(), String>,
        origin: Origin,
        progress: Progress,
    ) -> Result<Imported, StoreError> {
        transfer::import_car(&self.0, path, check, origin, progress)
    }

    /// Writes each chunk as a file (`0000`, `0001`, …) into a new or an empty
    /// folder. Every chunk is checked on the way.
    pub fn export_files(
        &self,
        id: &ManifestId,
        folder: &Path,
        progress: Progress,
    ) -> Result<(), StoreError> {
        transfer::export_files(&self.archive(id)?, folder, progress)
    }
}

fn stored(record: &Record) -> Stored {
    let entry = &record.entry;
    Stored {
        manifest: entry.manifest().clone(),
        complete: entry.is_complete(),
        have_bytes: entry.have_bytes(),
        only: record.only(),
        pinned: record.marks.pinned,
        proven: record.marks.proven,
        app_version: record.marks.app_version,
        origin: record.marks.origin,
        added_unix_s: record.marks.added_unix_s,
        leased_until: record.leased_until,
        downloading: record.active,
        file: entry.path.clone(),
        file_bytes: record.file_bytes(),
    }
}
