//! Everything of ours on disk: archives, downloads in progress, what is known
//! about each of them, and how long they are kept.
//!
//! # The home folder
//!
//! ```text
//! lock                        held with flock while a store is open; holds the pid
//! catalogue.json              pinned, proven, origin, time of arrival of each snapshot
//! snapshots/CID.h5            a complete snapshot: an archive, written once
//! downloads/CID.h5.part       an archive whose chunks are still coming
//! downloads/CID.bitmap        which of its pieces and chunks are there (the sidecar)
//! spool/                      temporaries; emptied when a store opens
//! *.damaged                   a file that could not be trusted, moved aside for a person
//! ```
//!
//! CID is the name of the manifest. The layout of each file is documented where
//! it is written: archives in `layout` and `skeleton`, the sidecar in `sidecar`,
//! the catalogue in `catalogue`, CAR files in `car`.
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
//! * Every call may block on the disk and can be made from any thread.

mod error;
mod types;

pub use error::{ErrorKind, StoreError};
pub use types::{
    ChunkVerdict, DamagedFile, Exported, FoundChunk, Imported, Origin, Progress, Removed,
    RemovedBecause, Servable, StoreSettings, Stored, Verified,
};

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::snapshot::{
    Bitmap, ChunkId, ChunkIndex, Manifest, ManifestId, SnapshotFields, UniqueIndex, VerifiedPiece,
};

/// The store of one home; clones are handles to the same one.
#[derive(Clone)]
pub struct Store(());

/// Chunks on their way into a snapshot.
pub struct Spool(());

/// A snapshot under download. Dropping it leaves the download resumable.
pub struct Download(());

/// A complete snapshot, open for reading; clones share the open file.
#[derive(Clone)]
pub struct Archive(());

#[allow(unused_variables, missing_docs)]
impl Store {
    pub fn open(home: &Path, settings: StoreSettings) -> Result<Store, StoreError> {
        unimplemented!()
    }
    pub fn home(&self) -> &Path {
        unimplemented!()
    }
    /// Newest first.
    pub fn list(&self) -> Vec<Stored> {
        unimplemented!()
    }
    pub fn get(&self, id: &ManifestId) -> Option<Stored> {
        unimplemented!()
    }
    pub fn manifest(&self, id: &ManifestId) -> Option<Arc<Manifest>> {
        unimplemented!()
    }
    pub fn damaged(&self) -> Vec<DamagedFile> {
        unimplemented!()
    }
    /// Bytes of archives and downloads.
    pub fn disk_bytes(&self) -> u64 {
        unimplemented!()
    }
    pub fn publish(&self) -> Result<Spool, StoreError> {
        unimplemented!()
    }
    /// Resumes where one is there.
    pub fn begin_download(&self, manifest: Arc<Manifest>) -> Result<Download, StoreError> {
        unimplemented!()
    }
    pub fn archive(&self, id: &ManifestId) -> Result<Archive, StoreError> {
        unimplemented!()
    }
    pub fn servable(&self, id: &ManifestId) -> Option<Servable> {
        unimplemented!()
    }
    pub fn find_chunk(&self, id: &ChunkId) -> Option<FoundChunk> {
        unimplemented!()
    }
    pub fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        unimplemented!()
    }
    pub fn read_piece(&self, chunk: &ChunkId, piece: u32) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }
    pub fn delete(&self, id: &ManifestId) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn pin(&self, id: &ManifestId) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn unpin(&self, id: &ManifestId) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn set_proven(&self, id: &ManifestId) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Someone downloads it from us; unknown names are ignored.
    pub fn lease(&self, id: &ManifestId, now: Instant) {
        unimplemented!()
    }
    pub fn enforce(&self, now: Instant) -> Vec<Removed> {
        unimplemented!()
    }
    pub fn verify(&self, id: &ManifestId, progress: Progress) -> Result<Verified, StoreError> {
        unimplemented!()
    }
    pub fn verify_car(path: &Path, progress: Progress) -> Result<Verified, StoreError> {
        unimplemented!()
    }
    pub fn export_car(
        &self,
        id: &ManifestId,
        path: &Path,
        progress: Progress,
    ) -> Result<Exported, StoreError> {
        unimplemented!()
    }
    pub fn import_car(
        &self,
        path: &Path,
        check: &dyn Fn(&Manifest) -> Result<(), String>,
        origin: Origin,
        progress: Progress,
    ) -> Result<Imported, StoreError> {
        unimplemented!()
    }
    pub fn export_files(
        &self,
        id: &ManifestId,
        dir: &Path,
        progress: Progress,
    ) -> Result<(), StoreError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl Spool {
    pub fn push(&mut self, chunk: &[u8]) -> Result<ChunkId, StoreError> {
        unimplemented!()
    }
    /// Idempotent if the snapshot is here already.
    pub fn finish(
        self,
        fields: SnapshotFields,
        origin: Origin,
        proven: bool,
    ) -> Result<Archive, StoreError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl Download {
    pub fn manifest(&self) -> &Arc<Manifest> {
        unimplemented!()
    }
    /// Pieces that are written and verified, by piece number.
    pub fn have(&self) -> Bitmap {
        unimplemented!()
    }
    /// Distinct chunks that were read back whole, by unique number.
    pub fn checked(&self) -> Bitmap {
        unimplemented!()
    }
    /// From any thread, many at once; no fsync.
    pub fn write(&self, pieces: &[VerifiedPiece]) -> Result<(), StoreError> {
        unimplemented!()
    }
    /// Data, then sidecar, durably.
    pub fn sync(&self) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn check_chunk(&self, chunk: UniqueIndex) -> Result<ChunkVerdict, StoreError> {
        unimplemented!()
    }
    pub fn drop_chunk(&self, chunk: UniqueIndex) -> Result<(), StoreError> {
        unimplemented!()
    }
    pub fn seal(self) -> Result<Archive, StoreError> {
        unimplemented!()
    }
}

#[allow(unused_variables, missing_docs)]
impl Archive {
    pub fn manifest(&self) -> &Arc<Manifest> {
        unimplemented!()
    }
    pub fn path(&self) -> &Path {
        unimplemented!()
    }
    pub fn read_chunk(&self, index: ChunkIndex) -> Result<Bytes, StoreError> {
        unimplemented!()
    }
    pub fn read_piece(&self, chunk: &ChunkId, piece: u32) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }
}
