//! Where things lie in an archive.
//!
//! An archive begins with a *user block*: bytes before the HDF5 content that HDF5
//! readers skip. It holds our own index, so that no reader of ours needs libhdf5
//! and none lets it parse a file. All numbers are little-endian:
//!
//! ```text
//!  0    8  "SNAPARC\n"
//!  8    4  version, 1
//! 12    4  number of chunks n, repeated ones counted each time
//! 16    8  bytes of the user block: a power of two, at least 4096
//! 24    8  bytes of the file
//! 32    8  where the manifest's bytes begin
//! 40    8  how many there are
//! 48   32  SHA-256 of the manifest: the digest of the snapshot's name
//! 80   8n  where each chunk begins, in ABCI order
//!      32  SHA-256 of all the above
//! ```
//!
//! The rest of the user block is zero. Equal chunks lie at a place each, as an
//! HDF5 reader expects.

use std::fs::File;
use std::path::Path;

use crate::snapshot::{
    ChunkIndex, Digest, MAX_CHUNKS, MAX_MANIFEST_BYTES, Manifest, ManifestId, hash,
};

use super::StoreError;
use super::disk::read_at;

const MAGIC: &[u8; 8] = b"SNAPARC\n";
const VERSION: u32 = 1;
/// Bytes before the chunk offsets.
const HEAD_BYTES: usize = 80;
const DIGEST_BYTES: usize = 32;

/// The smallest user block: one page, so that what follows stays aligned.
pub(super) const MIN_USER_BLOCK_BYTES: u64 = 4096;

/// The index of one archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    pub(super) manifest: ManifestId,
    pub(super) manifest_offset: u64,
    pub(super) manifest_len: u64,
    pub(super) file_len: u64,
    /// By ABCI index.
    pub(super) chunk_offsets: Vec<u64>,
}

impl Layout {
    /// Bytes of the user block of an archive with so many chunks.
    pub(super) fn user_block_bytes(chunks: u32) -> u64 {
        let index = HEAD_BYTES + chunks as usize * 8 + DIGEST_BYTES;
        (index as u64).next_power_of_two().max(MIN_USER_BLOCK_BYTES)
    }

    /// Where a chunk begins.
    pub(super) fn chunk_offset(&self, index: ChunkIndex) -> u64 {
        self.chunk_offsets[index.get() as usize]
    }

    /// The index as it stands at the beginning of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let chunks = self.chunk_offsets.len() as u32;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + chunks as usize * 8 + DIGEST_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&chunks.to_le_bytes());
        for number in [
            Self::user_block_bytes(chunks),
            self.file_len,
            self.manifest_offset,
            self.manifest_len,
        ] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.manifest.digest().as_bytes());
        for offset in &self.chunk_offsets {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        let digest = hash::sha256(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads the index of a file and checks it against itself and the file.
    pub(super) fn read(file: &File, path: &Path) -> Result<Self, StoreError> {
        let damaged = |problem: String| StoreError::damaged(path, problem);
        let mut head = [0; HEAD_BYTES];
        read_at(file, path, &mut head, 0)?;
        if &head[..8] != MAGIC {
            return Err(damaged("it does not begin like an archive".to_owned()));
        }
        let version = u32_at(&head, 8);
        if version != VERSION {
            return Err(damaged(format!(
                "archive version {version} is unknown here; version {VERSION} is known"
            )));
        }
        let chunks = u32_at(&head, 12);
        if chunks == 0 || chunks > MAX_CHUNKS {
            return Err(damaged(format!("its index speaks of {chunks} chunks")));
        }
        let mut bytes = head.to_vec();
        bytes.resize(HEAD_BYTES + chunks as usize * 8 + DIGEST_BYTES, 0);
        read_at(file, path, &mut bytes[HEAD_BYTES..], HEAD_BYTES as u64)?;
        let (content, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
        if hash::sha256(content).as_bytes()[..] != *digest {
            return Err(damaged("its index does not have its SHA-256".to_owned()));
        }
        let this = Self::parse(content);
        let found_len = file
            .metadata()
            .map_err(StoreError::io("read the size of", path))?
            .len();
        if found_len != this.file_len {
            return Err(damaged(format!(
                "it has {found_len} bytes, its index says {}",
                this.file_len
            )));
        }
        if this.manifest_len > u64::from(MAX_MANIFEST_BYTES) {
            return Err(damaged(format!(
                "its index speaks of a manifest of {} bytes",
                this.manifest_len
            )));
        }
        Ok(this)
    }

    /// `content` has the length that its chunk count says.
    fn parse(content: &[u8]) -> Self {
        Self {
            file_len: u64_at(content, 24),
            manifest_offset: u64_at(content, 32),
            manifest_len: u64_at(content, 40),
            manifest: ManifestId(Digest::from_slice(&content[48..80]).expect("32 bytes")),
            chunk_offsets: content[HEAD_BYTES..]
                .chunks_exact(8)
                .map(|offset| u64_at(offset, 0))
                .collect(),
        }
    }

    /// Checks that every chunk of the manifest has its place in the file.
    pub(super) fn check(&self, manifest: &Manifest, path: &Path) -> Result<(), StoreError> {
        let chunks = self.chunk_offsets.len();
        if chunks != manifest.chunk_count() as usize {
            return Err(StoreError::damaged(
                path,
                format!(
                    "its index has {chunks} chunks, its manifest {}",
                    manifest.chunk_count()
                ),
            ));
        }
        let begin = Self::user_block_bytes(manifest.chunk_count());
        for index in manifest.chunk_indexes() {
            let size = manifest.unique_chunk(manifest.unique_at(index)).size;
            let offset = self.chunk_offset(index);
            let end = offset.checked_add(u64::from(size));
            if offset < begin || end.is_none_or(|end| end > self.file_len) {
                return Err(StoreError::damaged(
                    path,
                    format!("chunk {} lies outside of the file", index.get()),
                ));
            }
        }
        Ok(())
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(chunks: usize) -> Layout {
        Layout {
            manifest: ManifestId(hash::sha256(b"manifest")),
            manifest_offset: 5000,
            manifest_len: 100,
            file_len: 9000,
            chunk_offsets: (0..chunks as u64).map(|n| 6000 + n).collect(),
        }
    }

    fn written(bytes: &[u8], len: u64) -> (tempfile::TempDir, std::path::PathBuf, File) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("archive");
        std::fs::write(&path, bytes).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        file.set_len(len).unwrap();
        (folder, path, file)
    }

    #[test]
    fn an_index_survives_its_bytes() {
        for chunks in [1, 2, 498, 499, 1000] {
            let layout = layout(chunks);
            let (_folder, path, file) = written(&layout.encode(), 9000);
            assert_eq!(Layout::read(&file, &path).unwrap(), layout);
        }
    }

    #[test]
    fn the_user_block_is_a_power_of_two_that_holds_the_index() {
        for chunks in [1, 497, 498, 499, 20_000, MAX_CHUNKS] {
            let bytes = Layout::user_block_bytes(chunks);
            assert!(bytes.is_power_of_two());
            assert!(bytes >= layout(chunks as usize).encode().len() as u64);
        }
        assert_eq!(Layout::user_block_bytes(498), 4096);
        assert_eq!(Layout::user_block_bytes(499), 8192);
    }

    #[test]
    fn any_changed_bit_and_any_other_length_is_damage() {
        let good = layout(3).encode();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (_folder, path, file) = written(&bytes, 9000);
            let error = Layout::read(&file, &path).unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "bit {bit}: {error}"
            );
        }
        for len in [0, 79, 80, 8999, 9001] {
            let (_folder, path, file) = written(&good, len);
            assert!(matches!(
                Layout::read(&file, &path).unwrap_err(),
                StoreError::Damaged { .. }
            ));
        }
    }
}
