//! Whole chunks of a download are read back and held against their SHA-256.

use std::sync::PoisonError;

use super::super::ChunkVerdict;
use super::super::disk::read_at;
use super::{Download, StoreError};
use crate::snapshot::hash::{self, Hasher, SIDE_BY_SIDE};
use crate::snapshot::{Digest, PIECE_BYTES, PieceIndex, UniqueIndex};

/// Chunks that are worth checking in one call.
pub const BATCH_CHUNKS: usize = SIDE_BY_SIDE;

/// Chunks that are hashed side by side are held whole, so only when they are no
/// larger together: four of 10 MiB, our own size.
const SIDE_BY_SIDE_BYTES: u64 = 40 << 20;

impl Download {
    /// Reads a chunk back and checks its SHA-256, writing its other places on
    /// the way. Only a checked chunk is served.
    ///
    /// Pieces that the disk changed are missing again afterwards; for a chunk
    /// that lacks pieces the verdict names them. The verdict
    /// that the manifest is false rests on one reading of the chunk in which
    /// each piece had its SHA-256 and the whole had not.
    pub fn check_chunk(&self, chunk: UniqueIndex) -> Result<ChunkVerdict, StoreError> {
        if let Some(verdict) = self.known_verdict(chunk)? {
            return Ok(verdict);
        }
        let whole = self.read_whole(chunk, |_, _| ())?;
        self.judge(chunk, whole)
    }

    /// The same for some different chunks; verdicts stand in the order given.
    pub fn check_chunks(&self, chunks: &[UniqueIndex]) -> Result<Vec<ChunkVerdict>, StoreError> {
        let mut verdicts = Vec::with_capacity(chunks.len());
        for batch in chunks.chunks(SIDE_BY_SIDE) {
            if self.may_go_side_by_side(batch)? {
                let digests = self.read_side_by_side(batch)?;
                for (chunk, digest) in batch.iter().zip(digests) {
                    verdicts.push(self.judge(*chunk, digest)?);
                }
            } else {
                for chunk in batch {
                    verdicts.push(self.check_chunk(*chunk)?);
                }
            }
        }
        Ok(verdicts)
    }

    /// As [`Self::check_chunks`], also for chunks that were checked before: they
    /// are read again, and not served until they are found right.
    pub fn recheck_chunks(&self, chunks: &[UniqueIndex]) -> Result<Vec<ChunkVerdict>, StoreError> {
        let mut progress = self.running()?;
        for chunk in chunks {
            progress.pieces.checked.remove(chunk.get());
        }
        drop(progress);
        self.check_chunks(chunks)
    }

    /// Whether all of them are to be read, and reading them at once pays and is
    /// not too large.
    fn may_go_side_by_side(&self, chunks: &[UniqueIndex]) -> Result<bool, StoreError> {
        let size = |chunk: &UniqueIndex| u64::from(self.manifest().unique_chunk(*chunk).size);
        let bytes: u64 = chunks.iter().map(size).sum();
        if chunks.len() < SIDE_BY_SIDE || bytes > SIDE_BY_SIDE_BYTES {
            return Ok(false);
        }
        for chunk in chunks {
            if self.known_verdict(*chunk)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What can be said of a chunk without reading it.
    fn known_verdict(&self, chunk: UniqueIndex) -> Result<Option<ChunkVerdict>, StoreError> {
        let progress = self.running()?;
        if progress.pieces.checked.contains(chunk.get()) {
            return Ok(Some(ChunkVerdict::Checked));
        }
        let missing = |piece: &PieceIndex| !progress.pieces.have.contains(piece.get());
        let missing: Vec<PieceIndex> = self.manifest().pieces_of(chunk).filter(missing).collect();
        Ok((!missing.is_empty()).then_some(ChunkVerdict::Damaged(missing)))
    }

    /// The verdict on a chunk that was read back with this SHA-256.
    fn judge(&self, chunk: UniqueIndex, whole: Digest) -> Result<ChunkVerdict, StoreError> {
        let expected = *self.manifest().unique_chunk(chunk).id.digest();
        let mut bad = Vec::new();
        let is_whole = whole == expected || {
            let again = self.read_whole(chunk, |piece, bytes| {
                if hash::sha256(bytes) != self.manifest().piece(piece).sha256 {
                    bad.push(piece);
                }
            })?;
            again == expected
        };
        if is_whole {
            let mut progress = self.running()?;
            progress.pieces.checked.insert(chunk.get());
            progress.ahead_of_sidecar = true;
            return Ok(ChunkVerdict::Checked);
        }
        if bad.is_empty() {
            return Ok(ChunkVerdict::ManifestFalse);
        }
        self.forget(chunk, &bad)?;
        Ok(ChunkVerdict::Damaged(bad))
    }

    /// Reads a chunk, shows each piece of it to `look`, copies it to its other
    /// places, and gives the SHA-256 of what was read.
    fn read_whole(
        &self,
        chunk: UniqueIndex,
        mut look: impl FnMut(PieceIndex, &[u8]),
    ) -> Result<Digest, StoreError> {
        let mut hasher = Hasher::new();
        let size = self.manifest().unique_chunk(chunk).size;
        let mut buffer = vec![0; size.min(PIECE_BYTES) as usize];
        for index in self.manifest().pieces_of(chunk) {
            let piece = self.manifest().piece(index);
            let buffer = &mut buffer[..piece.len as usize];
            self.read_and_copy(chunk, u64::from(piece.offset), buffer)?;
            hasher.update(buffer);
            look(index, buffer);
        }
        Ok(hasher.finish())
    }

    /// As [`Self::read_whole`], for some chunks, which are held whole.
    fn read_side_by_side(&self, chunks: &[UniqueIndex]) -> Result<Vec<Digest>, StoreError> {
        let size = |chunk: &UniqueIndex| self.manifest().unique_chunk(*chunk).size as usize;
        let mut buffer = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = chunks.iter().map(size).sum();
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        let mut rest = &mut buffer[..];
        let mut held: Vec<&[u8]> = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let (its, others) = rest.split_at_mut(size(chunk));
            self.read_and_copy(*chunk, 0, its)?;
            held.push(its);
            rest = others;
        }
        Ok(hash::sha256_many(&held))
    }

    /// Fills the buffer with what stands at `begin` of the chunk's first place, and
    /// writes it to the others.
    fn read_and_copy(
        &self,
        chunk: UniqueIndex,
        begin: u64,
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let path = &self.entry.path;
        let mut places = self.entry.contents.offsets_of(chunk);
        let first = places.next().expect("each chunk has a place");
        read_at(&self.file, path, buffer, first + begin)?;
        for place in places {
            self.store
                .disk
                .write_at(&self.file, path, buffer, place + begin)?;
        }
        Ok(())
    }
}
