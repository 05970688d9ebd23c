//! Which pieces and chunks of a download are there: the file beside it.
//!
//! ```text
//!  0    8  "SNAPBMP\n"
//!  8    4  version, 1                                 (all little-endian)
//! 12    4  number of pieces p
//! 16    4  number of distinct chunks u
//! 20   32  SHA-256 of the manifest: the digest of the snapshot's name
//! 52   …   bitmap of p bits: pieces whose bytes are in the file
//!      …   bitmap of u bits: chunks that were read back whole
//!      32  SHA-256 of all the above
//! ```
//!
//! It is written after the data it speaks of was synced, as a whole, and renamed
//! into place. It can lag behind the data and never runs ahead of it. A checked
//! chunk has all its pieces.

use std::io::Read;
use std::path::Path;

use crate::snapshot::{Bitmap, Digest, Manifest, ManifestId, hash};

use super::StoreError;

const MAGIC: &[u8; 8] = b"SNAPBMP\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 52;
const DIGEST_BYTES: usize = 32;

/// What of a download is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pieces {
    /// By piece number: verified and written.
    pub(super) have: Bitmap,
    /// By unique chunk number: read back whole, standing at each of its places.
    pub(super) checked: Bitmap,
}

impl Pieces {
    /// Nothing so far.
    pub(super) fn none(manifest: &Manifest) -> Self {
        Self {
            have: Bitmap::new(manifest.piece_count()),
            checked: Bitmap::new(manifest.unique_count()),
        }
    }

    /// The sidecar's bytes.
    pub(super) fn encode(&self, id: &ManifestId) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(encoded_len(self.have.len(), self.checked.len()));
        bytes.extend_from_slice(MAGIC);
        for number in [VERSION, self.have.len(), self.checked.len()] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(id.digest().as_bytes());
        bytes.extend_from_slice(self.have.as_bytes());
        bytes.extend_from_slice(self.checked.as_bytes());
        let digest = hash::sha256(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        bytes
    }

    /// Reads what [`Pieces::encode`] gave for the same manifest; anything else
    /// is an error that says what is wrong.
    pub(super) fn decode(manifest: &Manifest, bytes: &[u8]) -> Result<Self, String> {
        let (pieces, chunks) = (manifest.piece_count(), manifest.unique_count());
        let expected = encoded_len(pieces, chunks);
        if bytes.len() != expected {
            return Err(format!("it has {} bytes, not {expected}", bytes.len()));
        }
        let (content, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
        if hash::sha256(content).as_bytes()[..] != *digest {
            return Err("it does not have its SHA-256".to_owned());
        }
        let mut head = MAGIC.to_vec();
        for number in [VERSION, pieces, chunks] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        if content[..20] != head {
            return Err("it is the sidecar of another version or size".to_owned());
        }
        if Digest::from_slice(&content[20..HEAD_BYTES]) != Some(*manifest.id().digest()) {
            return Err("it belongs to another snapshot".to_owned());
        }
        let (have, checked) = content[HEAD_BYTES..].split_at(Bitmap::byte_len(pieces));
        let this = Self {
            have: Bitmap::from_bytes(pieces, have).map_err(|error| error.to_string())?,
            checked: Bitmap::from_bytes(chunks, checked).map_err(|error| error.to_string())?,
        };
        for chunk in manifest.unique_indexes() {
            let whole = || {
                manifest
                    .pieces_of(chunk)
                    .all(|piece| this.have.contains(piece.get()))
            };
            if this.checked.contains(chunk.get()) && !whole() {
                return Err(format!(
                    "chunk {} is marked as checked and lacks a piece",
                    chunk.get()
                ));
            }
        }
        Ok(this)
    }

    /// Reads the sidecar at `path`; nothing when there is none.
    pub(super) fn load(manifest: &Manifest, path: &Path) -> Result<Option<Self>, StoreError> {
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StoreError::io("read", path)(source)),
        };
        let limit = encoded_len(manifest.piece_count(), manifest.unique_count()) + 1;
        let mut bytes = Vec::with_capacity(limit);
        file.take(limit as u64)
            .read_to_end(&mut bytes)
            .map_err(StoreError::io("read", path))?;
        Self::decode(manifest, &bytes)
            .map(Some)
            .map_err(|problem| StoreError::damaged(path, problem))
    }
}

fn encoded_len(pieces: u32, chunks: u32) -> usize {
    HEAD_BYTES + Bitmap::byte_len(pieces) + Bitmap::byte_len(chunks) + DIGEST_BYTES
}

#[cfg(test)]
mod tests {
    use super::super::testing::{manifest_at, manifest_of, noise};
    use super::*;

    fn some() -> (Manifest, Pieces) {
        let big = noise(1, (1 << 20) + 1);
        let manifest = manifest_of(&[b"one", &big, b"three"]);
        let mut pieces = Pieces::none(&manifest);
        for piece in [0, 1, 2] {
            pieces.have.insert(piece);
        }
        pieces.checked.insert(1);
        (manifest, pieces)
    }

    #[test]
    fn what_is_there_survives_the_file() {
        let (manifest, pieces) = some();
        let bytes = pieces.encode(&manifest.id());
        assert_eq!(Pieces::decode(&manifest, &bytes), Ok(pieces));
    }

    #[test]
    fn any_changed_bit_any_other_length_and_any_other_snapshot_are_refused() {
        let (manifest, pieces) = some();
        let good = pieces.encode(&manifest.id());
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            Pieces::decode(&manifest, &bytes).unwrap_err();
        }
        for len in 0..good.len() {
            Pieces::decode(&manifest, &good[..len]).unwrap_err();
        }
        let other = manifest_at(2, &[b"one", &noise(1, (1 << 20) + 1), b"three"]);
        let error = Pieces::decode(&other, &good).unwrap_err();
        assert!(error.contains("another snapshot"), "{error}");
    }

    #[test]
    fn a_checked_chunk_that_lacks_a_piece_is_refused() {
        let (manifest, mut pieces) = some();
        pieces.have.remove(2);
        let error = Pieces::decode(&manifest, &pieces.encode(&manifest.id())).unwrap_err();
        assert!(error.contains("lacks a piece"), "{error}");
    }

    #[test]
    fn a_hundred_thousand_hostile_sidecars_are_refused() {
        use rand::{RngExt, SeedableRng};
        let (manifest, pieces) = some();
        let good = pieces.encode(&manifest.id());
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for _ in 0..100_000 {
            let mut bytes = good.clone();
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            if random.random() && bytes.len() > DIGEST_BYTES {
                // One that was made on purpose has its SHA-256.
                let content = bytes.len() - DIGEST_BYTES;
                let digest = hash::sha256(&bytes[..content]);
                bytes[content..].copy_from_slice(digest.as_bytes());
            }
            if let Ok(decoded) = Pieces::decode(&manifest, &bytes) {
                assert_eq!(decoded.encode(&manifest.id()), bytes);
            }
        }
    }
}
