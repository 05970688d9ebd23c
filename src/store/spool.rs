//! Publishing: chunks come one at a time and become an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tracing::info;

use crate::snapshot::{
    ChunkId, MAX_CHUNK_BYTES, Manifest, ManifestBuilder, ManifestError, PIECE_BYTES,
    SnapshotFields, StateFields,
};
use crate::state::StateNotes;

use super::disk::read_at;
use super::entry::Archive;
use super::staged::Staged;
use super::state::Inner;
use super::{Origin, Progress, StoreError};

/// What [`Spool::leaving_space`] leaves at most: a node beside us writes a block's
/// worth at a time, and its operator has the time to look.
const MAX_LEFT_FREE_BYTES: u64 = 1 << 30;

/// Chunks on their way into a snapshot. Only hashes are held in memory; equal
/// chunks are spooled once. Dropping it leaves nothing behind.
pub struct Spool {
    store: Arc<Inner>,
    file: File,
    path: PathBuf,
    builder: ManifestBuilder,
    /// Where each distinct chunk begins in the file.
    offsets: BTreeMap<ChunkId, u64>,
    len: u64,
    chunks: usize,
    /// Bytes of all chunks: what the archive will have.
    total: u64,
    /// Bytes of the disk that are left to others.
    leave_free: u64,
    began: Instant,
}

impl Spool {
    pub(super) fn create(store: Arc<Inner>) -> Result<Self, StoreError> {
        let path = store.disk.temporary("chunks");
        let file = store.disk.create(&path)?;
        Ok(Self {
            store,
            file,
            path,
            builder: ManifestBuilder::new(),
            offsets: BTreeMap::new(),
            len: 0,
            chunks: 0,
            total: 0,
            leave_free: 0,
            began: Instant::now(),
        })
    }

    /// Never fills the disk: a twentieth of it, at most 1 GiB, is left to others. For
    /// work that nobody watches.
    #[must_use]
    pub fn leaving_space(mut self) -> Self {
        let size = self.store.disk.size_bytes(&self.path);
        self.leave_free = (size / 20).min(MAX_LEFT_FREE_BYTES);
        self
    }

    /// Fails when a snapshot of `total` bytes finds no room, of which `unique` are in
    /// distinct chunks: these are spooled before the archive is made, so the disk
    /// holds them twice for a while.
    pub fn require_room(&self, total: u64, unique: u64) -> Result<(), StoreError> {
        self.store.require_quota(total)?;
        let spooled = unique.saturating_sub(self.len);
        let needed = total
            .saturating_add(spooled)
            .saturating_add(self.leave_free);
        self.store.disk.require_space(&self.path, needed)
    }

    /// Takes the next chunk, in ABCI order: 1 to
    /// [`MAX_CHUNK_BYTES`] bytes. Fails as soon as there is no room for a snapshot of
    /// what is here.
    pub fn push(&mut self, chunk: &[u8]) -> Result<ChunkId, StoreError> {
        if chunk.is_empty() || chunk.len() > MAX_CHUNK_BYTES as usize {
            return Err(StoreError::Manifest(ManifestError::Chunk {
                position: self.chunks,
                problem: format!(
                    "has {} bytes; 1 to {MAX_CHUNK_BYTES} are possible",
                    chunk.len()
                ),
            }));
        }
        let id = self.builder.push(chunk)?;
        self.chunks += 1;
        self.total += chunk.len() as u64;
        self.require_room(self.total, self.len + chunk.len() as u64)?;
        if !self.offsets.contains_key(&id) {
            self.store
                .disk
                .write_at(&self.file, &self.path, chunk, self.len)?;
            self.offsets.insert(id, self.len);
            self.len += chunk.len() as u64;
        }
        Ok(id)
    }

    /// Makes the archive of all chunks: written, synced, read back and verified,
    /// then named. When the same snapshot is complete here already, that one is
    /// given. An error leaves nothing behind. `progress` counts what is written
    /// and what is read back.
    pub fn finish(
        mut self,
        fields: SnapshotFields,
        origin: Origin,
        proven: bool,
        progress: Progress,
    ) -> Result<Archive, StoreError> {
        let manifest = std::mem::take(&mut self.builder).finish(fields)?;
        self.seal(manifest, origin, proven, progress)
    }

    /// As [`Spool::finish`], of chunks that are state content.
    pub fn finish_state(
        mut self,
        fields: SnapshotFields,
        state: StateFields,
        origin: Origin,
        proven: bool,
        progress: Progress,
    ) -> Result<Archive, StoreError> {
        let manifest = std::mem::take(&mut self.builder).finish_state(fields, state)?;
        self.seal(manifest, origin, proven, progress)
    }

    fn seal(
        self,
        manifest: Manifest,
        origin: Origin,
        proven: bool,
        progress: Progress,
    ) -> Result<Archive, StoreError> {
        let manifest = Arc::new(manifest);
        if let Some(archive) = self
            .store
            .complete_already(&manifest.id(), origin, proven)?
        {
            return Ok(archive);
        }
        let staged = Staged::create(&self.store, manifest.clone())?;
        let mut sealing = Sealing::new(&manifest, progress);
        self.copy_into(&staged, &manifest, &mut sealing)?;
        staged.sync()?;
        read_back(&staged, &mut sealing)?;
        let archive = self.store.publish(staged, origin, proven)?;
        let notes = StateNotes::of(&manifest).ok();
        info!(
            height = manifest.height(),
            chain = manifest.chain_id(),
            app_hash = manifest.app_hash().map(hex::encode_upper),
            records = notes.map(|notes| notes.state.records),
            chunks = manifest.chunk_count(),
            bytes = manifest.total_bytes(),
            seconds = self.began.elapsed().as_secs_f64(),
            manifest = %manifest.id(),
            base = manifest.base().map(|base| base.to_string()),
            "Created state snapshot"
        );
        Ok(archive)
    }

    fn copy_into(
        &self,
        staged: &Staged,
        manifest: &Manifest,
        sealing: &mut Sealing,
    ) -> Result<(), StoreError> {
        let mut buffer = vec![0; PIECE_BYTES as usize];
        for chunk in manifest.unique_indexes() {
            let from = self.offsets[&manifest.unique_chunk(chunk).id];
            for piece in manifest.pieces_of(chunk) {
                let piece = manifest.piece(piece);
                let begin = u64::from(piece.offset);
                let buffer = &mut buffer[..piece.len as usize];
                read_at(&self.file, &self.path, buffer, from + begin)?;
                staged.write(chunk, begin, buffer)?;
                sealing.more(buffer.len())?;
            }
        }
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What stays is swept at the next open.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Reads every chunk of a new archive at each of its places. The piece hashes
/// come from the same bytes as the chunk hashes, so they vouch for both.
pub(super) fn read_back(staged: &Staged, sealing: &mut Sealing) -> Result<(), StoreError> {
    let entry = staged.entry();
    for index in entry.manifest().chunk_indexes() {
        let chunk = entry.read_chunk(&staged.file, index)?;
        sealing.more(chunk.len())?;
    }
    Ok(())
}

/// The progress of making an archive: every distinct chunk is written once by
/// the caller, and every chunk is read back.
pub(super) struct Sealing<'a> {
    progress: Progress<'a>,
    done: u64,
    total: u64,
}

impl<'a> Sealing<'a> {
    pub(super) fn new(manifest: &Manifest, progress: Progress<'a>) -> Self {
        Self {
            progress,
            done: 0,
            total: manifest.unique_bytes() + manifest.total_bytes(),
        }
    }

    /// So many bytes more; an error when the caller wants to stop.
    pub(super) fn more(&mut self, bytes: usize) -> Result<(), StoreError> {
        self.done += bytes as u64;
        match (self.progress)(self.done, self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Stopped),
        }
    }
}
