//! One snapshot that is here, and reading from its file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::snapshot::{
    Bitmap, ChunkId, ChunkIndex, Manifest, ManifestId, PIECE_BYTES, UniqueIndex, hash,
};

use super::disk::{Disk, read_at};
use super::layout::Layout;
use super::sidecar::Pieces;
use super::{Servable, StoreError};

/// Files that are kept open for serving. Well below the 1,024 that a process may
/// have open by default, sockets included.
const MAX_OPEN_FILES: usize = 64;

/// Pieces of a chunk that are checked together when one is first served: as many as
/// are hashed side by side (facts/performance.md). 4 MiB.
const CHECKED_TOGETHER: u32 = 4;

/// A snapshot that is here: complete, or under download.
pub(super) struct Entry {
    pub(super) contents: Arc<Contents>,
    pub(super) path: PathBuf,
    /// Nothing for a complete snapshot.
    progress: Option<Mutex<Progress>>,
    /// Pieces of this file that were found right since it is here; made when the
    /// first is served.
    found_right: Mutex<Option<Bitmap>>,
    /// A piece of it was found wrong, or could not be read.
    doubted: AtomicBool,
}

/// What a file holds and where. It stays the same when the file is sealed.
pub(super) struct Contents {
    pub(super) manifest: Arc<Manifest>,
    pub(super) layout: Layout,
    /// Distinct chunks ordered by digest: the index of the serving path, at four
    /// bytes a chunk.
    by_digest: Vec<u32>,
    /// All ABCI indexes, ordered by distinct chunk, then ascending.
    places: Vec<u32>,
    /// Where each distinct chunk begins in `places`; one more at the end.
    places_of: Vec<u32>,
}

/// How far a download is.
pub(super) struct Progress {
    pub(super) pieces: Pieces,
    /// The sidecar on disk says less than `pieces`.
    pub(super) ahead_of_sidecar: bool,
    /// Why nothing more is taken.
    pub(super) ended: Option<Ended>,
}

/// Why a download takes nothing more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// It was deleted.
    Deleted,
    /// The snapshot is complete, by this download or another way.
    Complete,
}

impl Contents {
    pub(super) fn new(manifest: Arc<Manifest>, layout: Layout) -> Self {
        let id_of = |number: &u32| {
            let index = manifest.unique_index(*number).expect("below the count");
            manifest.unique_chunk(index).id
        };
        let mut by_digest: Vec<u32> = (0..manifest.unique_count()).collect();
        by_digest.sort_unstable_by_key(id_of);
        let unique_at = |place: &u32| {
            let index = manifest.chunk_index(*place).expect("below the count");
            manifest.unique_at(index).get()
        };
        let mut places: Vec<u32> = (0..manifest.chunk_count()).collect();
        places.sort_by_key(unique_at);
        let places_of = (0..=manifest.unique_count())
            .map(|unique| places.partition_point(|place| unique_at(place) < unique) as u32)
            .collect();
        Self {
            manifest,
            layout,
            by_digest,
            places,
            places_of,
        }
    }

    /// The offsets of all copies of a chunk, the first place first.
    pub(super) fn offsets_of(&self, chunk: UniqueIndex) -> impl Iterator<Item = u64> + '_ {
        let at = chunk.get() as usize;
        self.places[self.places_of[at] as usize..self.places_of[at + 1] as usize]
            .iter()
            .map(|place| self.layout.chunk_offsets[*place as usize])
    }

    /// Where the first copy of a chunk begins in the file.
    pub(super) fn offset_of(&self, chunk: UniqueIndex) -> u64 {
        self.offsets_of(chunk)
            .next()
            .expect("each chunk has a place")
    }

    /// The distinct chunk of this name, if the snapshot has one.
    pub(super) fn unique_of(&self, chunk: &ChunkId) -> Option<UniqueIndex> {
        let id_of = |number: &u32| {
            let index = self.manifest.unique_index(*number)?;
            Some(self.manifest.unique_chunk(index).id)
        };
        let found = self
            .by_digest
            .binary_search_by_key(&Some(*chunk), id_of)
            .ok()?;
        self.manifest.unique_index(self.by_digest[found])
    }
}

impl Entry {
    /// A complete snapshot.
    pub(super) fn complete(contents: Arc<Contents>, path: PathBuf) -> Self {
        Self {
            contents,
            path,
            progress: None,
            found_right: Mutex::default(),
            doubted: AtomicBool::new(false),
        }
    }

    /// A download, of which `pieces` are here.
    pub(super) fn partial(contents: Arc<Contents>, path: PathBuf, pieces: Pieces) -> Self {
        Self {
            contents,
            path,
            progress: Some(Mutex::new(Progress {
                pieces,
                ahead_of_sidecar: false,
                ended: None,
            })),
            found_right: Mutex::default(),
            doubted: AtomicBool::new(false),
        }
    }

    pub(super) fn manifest(&self) -> &Arc<Manifest> {
        &self.contents.manifest
    }

    pub(super) fn id(&self) -> ManifestId {
        self.contents.manifest.id()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.progress.is_none()
    }

    /// How far the download is; nothing for a complete snapshot. A panic of
    /// another thread leaves whole bits, so a poisoned lock is no obstacle.
    pub(super) fn progress(&self) -> Option<MutexGuard<'_, Progress>> {
        Some(
            self.progress
                .as_ref()?
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Whether a chunk can be served: it was verified whole.
    pub(super) fn serves(&self, chunk: UniqueIndex) -> bool {
        self.progress()
            .is_none_or(|progress| progress.pieces.checked.contains(chunk.get()))
    }

    /// Pieces that can be served.
    pub(super) fn servable(&self) -> Servable {
        let Some(progress) = self.progress() else {
            return Servable::Complete;
        };
        let mut pieces = Bitmap::new(self.manifest().piece_count());
        for chunk in progress.pieces.checked.iter() {
            let chunk = self
                .manifest()
                .unique_index(chunk)
                .expect("below the count");
            for piece in self.manifest().pieces_of(chunk) {
                pieces.insert(piece.get());
            }
        }
        Servable::Pieces(pieces)
    }

    /// Pieces that are here.
    pub(super) fn have(&self) -> Bitmap {
        let all = || Bitmap::full(self.manifest().piece_count());
        self.progress()
            .map_or_else(all, |progress| progress.pieces.have.clone())
    }

    /// Bytes of distinct chunks that are here.
    pub(super) fn have_bytes(&self) -> u64 {
        let Some(progress) = self.progress() else {
            return self.manifest().unique_bytes();
        };
        let have = &progress.pieces.have;
        self.manifest()
            .piece_indexes()
            .filter(|piece| have.contains(piece.get()))
            .map(|piece| u64::from(self.manifest().piece(piece).len))
            .sum()
    }

    /// The bytes of a piece of a chunk, as they stand in `file`; nothing when the
    /// chunk has no such piece.
    pub(super) fn read_piece(
        &self,
        file: &File,
        chunk: UniqueIndex,
        piece: u32,
    ) -> Result<Option<Bytes>, StoreError> {
        let size = self.manifest().unique_chunk(chunk).size;
        let Some(begin) = piece.checked_mul(PIECE_BYTES).filter(|begin| *begin < size) else {
            return Ok(None);
        };
        let mut bytes = vec![0; (size - begin).min(PIECE_BYTES) as usize];
        let offset = self.contents.offset_of(chunk) + u64::from(begin);
        read_at(file, &self.path, &mut bytes, offset)?;
        Ok(Some(bytes.into()))
    }

    /// The same, checked when the piece is first read: a disk can change what was
    /// verified when it was written. Its neighbours are checked with it, because
    /// who asks for one asks for them next, and hashing them side by side costs
    /// half.
    pub(super) fn read_right_piece(
        &self,
        file: &File,
        chunk: UniqueIndex,
        piece: u32,
        checking: &Mutex<Vec<u8>>,
    ) -> Result<Option<Bytes>, StoreError> {
        let size = self.manifest().unique_chunk(chunk).size;
        if piece.saturating_mul(PIECE_BYTES) >= size {
            return Ok(None);
        }
        let first = self.manifest().unique_chunk(chunk).first_piece;
        let is_right = || {
            let known = self
                .found_right
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            known
                .as_ref()
                .is_some_and(|known| known.contains(first + piece))
        };
        if is_right() {
            return self.read_piece(file, chunk, piece);
        }
        // One check at a time, in a buffer that is kept: fresh memory costs as much
        // as the reading.
        let mut buffer = checking.lock().unwrap_or_else(PoisonError::into_inner);
        if is_right() {
            return self.read_piece(file, chunk, piece);
        }
        let group = piece - piece % CHECKED_TOGETHER;
        let begin = group * PIECE_BYTES;
        buffer.resize(
            (size - begin).min(CHECKED_TOGETHER * PIECE_BYTES) as usize,
            0,
        );
        let offset = self.contents.offset_of(chunk) + u64::from(begin);
        read_at(file, &self.path, &mut buffer, offset)?;
        let pieces: Vec<&[u8]> = buffer.chunks(PIECE_BYTES as usize).collect();
        let digests = hash::sha256_many(&pieces);
        let mut known = self
            .found_right
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_with(|| Bitmap::new(self.manifest().piece_count()));
        for (number, digest) in (first + group..).zip(digests) {
            let index = self.manifest().piece_index(number);
            if index.is_some_and(|index| self.manifest().piece(index).sha256 == digest) {
                known.insert(number);
            }
        }
        if known.contains(first + piece) {
            let bytes = pieces[(piece - group) as usize];
            return Ok(Some(Bytes::copy_from_slice(bytes)));
        }
        let problem = format!("piece {} does not have its SHA-256", first + piece);
        Err(StoreError::damaged(&self.path, problem))
    }

    /// Whether a piece was found wrong.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// A piece was found wrong, or none was; true when that is news.
    pub(super) fn set_doubted(&self, doubted: bool) -> bool {
        self.doubted.swap(doubted, Ordering::Relaxed) != doubted
    }

    /// Reads the chunk at a position and checks every piece of it.
    pub(super) fn read_chunk(&self, file: &File, index: ChunkIndex) -> Result<Vec<u8>, StoreError> {
        let unique = self.manifest().unique_at(index);
        let mut bytes = vec![0; self.manifest().unique_chunk(unique).size as usize];
        read_at(
            file,
            &self.path,
            &mut bytes,
            self.contents.layout.chunk_offset(index),
        )?;
        let buffers: Vec<&[u8]> = bytes.chunks(PIECE_BYTES as usize).collect();
        let digests = hash::sha256_many(&buffers);
        for (number, (piece, digest)) in self.manifest().pieces_of(unique).zip(digests).enumerate()
        {
            if self.manifest().piece(piece).sha256 != digest {
                return Err(StoreError::damaged(
                    &self.path,
                    format!(
                        "chunk {}, piece {number} does not have its SHA-256",
                        index.get()
                    ),
                ));
            }
        }
        Ok(bytes)
    }
}

/// Opens an archive or a download and checks its index and manifest, not its
/// chunks. `id` is the name that the file carries.
pub(super) fn read_head(
    file: &File,
    path: &Path,
    id: &ManifestId,
) -> Result<(Layout, Manifest), StoreError> {
    let layout = Layout::read(file, path)?;
    if layout.manifest != *id {
        return Err(StoreError::damaged(
            path,
            format!("it holds snapshot {}", layout.manifest),
        ));
    }
    let mut bytes = vec![0; layout.manifest_len as usize];
    read_at(file, path, &mut bytes, layout.manifest_offset)?;
    let manifest = Manifest::decode_as(id, bytes.into())
        .map_err(|error| StoreError::damaged(path, error.to_string()))?;
    layout.check(&manifest, path)?;
    Ok((layout, manifest))
}

/// Files open for serving, least recently used first.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<Vec<(ManifestId, bool, Arc<File>)>>);

impl OpenFiles {
    /// The open file of an entry.
    pub(super) fn get(&self, entry: &Entry) -> Result<Arc<File>, StoreError> {
        let key = (entry.id(), entry.is_complete());
        let mut open = self.lock();
        if let Some(at) = open.iter().position(|(id, full, _)| (*id, *full) == key) {
            let found = open.remove(at);
            let file = found.2.clone();
            open.push(found);
            return Ok(file);
        }
        let file = File::open(&entry.path).map_err(StoreError::io("open", &entry.path))?;
        let file = Arc::new(file);
        if open.len() >= MAX_OPEN_FILES {
            open.remove(0);
        }
        open.push((key.0, key.1, file.clone()));
        Ok(file)
    }

    /// Closes the files of a snapshot as soon as their readers are done.
    pub(super) fn forget(&self, id: &ManifestId) {
        self.lock().retain(|(open, _, _)| open != id);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(ManifestId, bool, Arc<File>)>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A complete snapshot, open for reading; clones share the open file. It stays
/// readable when the snapshot is deleted meanwhile.
#[derive(Clone)]
pub struct Archive {
    pub(super) entry: Arc<Entry>,
    pub(super) file: Arc<File>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Archive").field(&self.entry.path).finish()
    }
}

impl Archive {
    /// What it holds.
    pub fn manifest(&self) -> &Arc<Manifest> {
        self.entry.manifest()
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.entry.path
    }

    /// The chunk at an ABCI index of this snapshot's manifest. Its bytes are
    /// checked: what the disk changed is an error, not an answer.
    pub fn read_chunk(&self, index: ChunkIndex) -> Result<Bytes, StoreError> {
        Ok(self.entry.read_chunk(&self.file, index)?.into())
    }

    /// A piece of a chunk as it stands on disk, for a receiver that checks it;
    /// nothing when the snapshot has no such chunk or piece.
    pub fn read_piece(&self, chunk: &ChunkId, piece: u32) -> Result<Option<Bytes>, StoreError> {
        match self.entry.contents.unique_of(chunk) {
            Some(chunk) => self.entry.read_piece(&self.file, chunk, piece),
            None => Ok(None),
        }
    }
}

/// Moves a file that cannot be trusted aside; gives its new path.
pub(super) fn move_aside(disk: &Disk, path: &Path) -> Result<PathBuf, StoreError> {
    let aside = super::home::aside(path);
    disk.rename(path, &aside)?;
    disk.settle(path, &aside)?;
    Ok(aside)
}
