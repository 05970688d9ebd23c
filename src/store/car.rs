//! A snapshot as a CAR file, version 1: the form in which it leaves the swarm.
//!
//! ```text
//! varint 58, header: DAG-CBOR {"roots": [manifest CID], "version": 1}
//! varint,    block:  manifest CID (36 bytes), the manifest's canonical bytes
//! varint,    block:  chunk CID (36 bytes), the chunk's bytes
//! …                  each distinct chunk once, in the order of first positions
//! ```
//!
//! Every CID is version 1, raw, sha2-256, so the header has one shape only and
//! the whole file follows from the manifest. The reader takes exactly these
//! bytes: blocks in another order, repeated blocks and anything after the last
//! are refused. It holds one chunk in memory, and reads no length that it has not
//! compared with what must come.

use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::snapshot::{
    Digest, MAX_MANIFEST_BYTES, Manifest, ManifestId, PIECE_BYTES, UniqueIndex, hash,
};

use super::{Progress, StoreError, Verified};

/// A CIDv1, raw, sha2-256: these four bytes, then the digest.
const CID_PREFIX: [u8; 4] = [0x01, 0x55, 0x12, 0x20];
const CID_BYTES: usize = 36;
/// `{"roots": [42(h'00…` up to the CID.
const HEADER_BEFORE_CID: &[u8] = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00";
/// `…')], "version": 1}`.
const HEADER_AFTER_CID: &[u8] = b"\x67version\x01";
const HEADER_BYTES: usize = HEADER_BEFORE_CID.len() + CID_BYTES + HEADER_AFTER_CID.len();

/// A buffer grows by this much at a time, so that a length in a short file costs
/// no memory.
const GROWTH_BYTES: usize = 1 << 20;

fn cid_bytes(digest: &Digest) -> [u8; CID_BYTES] {
    let mut bytes = [0; CID_BYTES];
    bytes[..4].copy_from_slice(&CID_PREFIX);
    bytes[4..].copy_from_slice(digest.as_bytes());
    bytes
}

fn header(root: &ManifestId) -> Vec<u8> {
    [
        HEADER_BEFORE_CID,
        &cid_bytes(root.digest()),
        HEADER_AFTER_CID,
    ]
    .concat()
}

/// Bytes that the CAR of a snapshot has.
pub(super) fn car_bytes(manifest: &Manifest) -> u64 {
    let framed = |len: usize| {
        let mut buffer = unsigned_varint::encode::u64_buffer();
        (unsigned_varint::encode::u64(len as u64, &mut buffer).len() + len) as u64
    };
    let chunks = manifest.unique_indexes();
    framed(HEADER_BYTES)
        + framed(CID_BYTES + manifest.encoded().len())
        + chunks
            .map(|chunk| framed(CID_BYTES + manifest.unique_chunk(chunk).size as usize))
            .sum::<u64>()
}

/// Writes the parts of a CAR in order.
pub(super) struct CarWriter<W>(W);

impl<W: Write> CarWriter<W> {
    /// Writes header and manifest.
    pub(super) fn new(writer: W, manifest: &Manifest) -> io::Result<Self> {
        let mut this = Self(writer);
        let header = header(&manifest.id());
        this.varint(header.len())?;
        this.0.write_all(&header)?;
        this.block(manifest.id().digest(), manifest.encoded())?;
        Ok(this)
    }

    /// Writes a block.
    pub(super) fn block(&mut self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        self.varint(CID_BYTES + bytes.len())?;
        self.0.write_all(&cid_bytes(digest))?;
        self.0.write_all(bytes)
    }

    /// All blocks are written.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.0.flush()?;
        Ok(self.0)
    }

    fn varint(&mut self, number: usize) -> io::Result<()> {
        let mut buffer = unsigned_varint::encode::u64_buffer();
        self.0
            .write_all(unsigned_varint::encode::u64(number as u64, &mut buffer))
    }
}

/// Reads a CAR that may come from anywhere. Every chunk it gives has its SHA-256
/// and the piece hashes of the manifest.
pub(super) struct CarReader<R> {
    reader: R,
    path: PathBuf,
    offset: u64,
    manifest: Arc<Manifest>,
    /// The next chunk to come.
    next: u32,
    buffer: Vec<u8>,
}

impl<R: Read> CarReader<R> {
    /// Reads header and manifest. `path` is for messages.
    pub(super) fn open(reader: R, path: &Path) -> Result<Self, StoreError> {
        let mut source = Source {
            reader,
            path,
            offset: 0,
        };
        let len = source.varint("the header's length")?;
        if len != HEADER_BYTES as u64 {
            return Err(source.problem(
                0,
                format!("a header of {len} bytes; that of a snapshot has {HEADER_BYTES}"),
            ));
        }
        let mut buffer = Vec::new();
        let begin = source.offset;
        source.fill(&mut buffer, HEADER_BYTES, "the header")?;
        let root = parse_header(&buffer).ok_or_else(|| {
            source.problem(
                begin,
                "not the header of a CAR with one root that is a raw sha2-256 CID",
            )
        })?;

        let begin = source.offset;
        let limit = MAX_MANIFEST_BYTES as usize;
        let len = source.block_len("the manifest", 1..=limit)?;
        source.cid(&root, "the manifest")?;
        source.fill(&mut buffer, len, "the manifest")?;
        let bytes = std::mem::take(&mut buffer);
        let manifest = Manifest::decode_as(&ManifestId(root), bytes.into())
            .map_err(|error| source.problem(begin, format!("the first block: {error}")))?;
        Ok(Self {
            offset: source.offset,
            reader: source.reader,
            path: path.to_owned(),
            manifest: Arc::new(manifest),
            next: 0,
            buffer,
        })
    }

    /// The manifest, which was checked.
    pub(super) fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// The next chunk, checked; nothing after the last, when nothing follows it.
    pub(super) fn next_chunk(&mut self) -> Result<Option<(UniqueIndex, &[u8])>, StoreError> {
        let mut source = Source {
            reader: &mut self.reader,
            path: &self.path,
            offset: self.offset,
        };
        let Some(index) = self.manifest.unique_index(self.next) else {
            let mut more = [0];
            return match source.read(&mut more)? {
                0 => Ok(None),
                _ => Err(source.problem(self.offset, "something follows the last chunk")),
            };
        };
        let what = format!("chunk block {}", self.next);
        let chunk = self.manifest.unique_chunk(index);
        let size = chunk.size as usize;
        let begin = source.offset;
        source.block_len(&what, size..=size)?;
        source.cid(chunk.id.digest(), &what)?;
        source.fill(&mut self.buffer, size, &what)?;
        if hash::sha256(&self.buffer) != *chunk.id.digest() {
            return Err(source.problem(begin, format!("{what} does not have its SHA-256")));
        }
        let pieces: Vec<&[u8]> = self.buffer.chunks(PIECE_BYTES as usize).collect();
        let digests = hash::sha256_many(&pieces);
        for (piece, digest) in self.manifest.pieces_of(index).zip(digests) {
            if self.manifest.piece(piece).sha256 != digest {
                return Err(source.problem(
                    begin,
                    format!("{what} is right, and the manifest's piece hashes do not fit it"),
                ));
            }
        }
        self.offset = source.offset;
        self.next += 1;
        Ok(Some((index, &self.buffer)))
    }
}

/// Reads a whole CAR and checks every byte of it. `path` is for messages.
pub fn check_car(
    reader: impl Read,
    path: &Path,
    progress: Progress,
) -> Result<Verified, StoreError> {
    let mut car = CarReader::open(reader, path)?;
    let manifest = car.manifest().clone();
    let mut done = 0;
    while let Some((_, bytes)) = car.next_chunk()? {
        done += bytes.len() as u64;
        if progress(done, manifest.unique_bytes()) == ControlFlow::Break(()) {
            return Err(StoreError::Stopped);
        }
    }
    Ok(Verified {
        id: manifest.id(),
        chunks: manifest.unique_count(),
        bytes: done,
        state: manifest.state().is_some(),
    })
}

fn parse_header(bytes: &[u8]) -> Option<Digest> {
    let cid = bytes
        .strip_prefix(HEADER_BEFORE_CID)?
        .strip_suffix(HEADER_AFTER_CID)?;
    Digest::from_slice(cid.strip_prefix(&CID_PREFIX)?)
}

/// A reader that knows where it is.
struct Source<'a, R> {
    reader: R,
    path: &'a Path,
    offset: u64,
}

impl<R: Read> Source<'_, R> {
    fn problem(&self, offset: u64, problem: impl Into<String>) -> StoreError {
        StoreError::Car {
            path: self.path.to_owned(),
            offset,
            problem: problem.into(),
        }
    }

    /// Reads some bytes; none at the end of the file.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        loop {
            match self.reader.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io("read", self.path)(error)),
                Ok(len) => {
                    self.offset += len as u64;
                    return Ok(len);
                }
            }
        }
    }

    fn exact(&mut self, mut buffer: &mut [u8], what: &str) -> Result<(), StoreError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(self.problem(self.offset, format!("the file ends in {what}"))),
                len => buffer = &mut buffer[len..],
            }
        }
        Ok(())
    }

    /// Fills the buffer with exactly `len` bytes.
    fn fill(&mut self, buffer: &mut Vec<u8>, len: usize, what: &str) -> Result<(), StoreError> {
        buffer.clear();
        while buffer.len() < len {
            let begin = buffer.len();
            let end = len.min(begin + GROWTH_BYTES);
            buffer.reserve_exact(end - begin);
            buffer.resize(end, 0);
            self.exact(&mut buffer[begin..], what)?;
        }
        Ok(())
    }

    fn varint(&mut self, what: &str) -> Result<u64, StoreError> {
        let begin = self.offset;
        let mut bytes = unsigned_varint::encode::u64_buffer();
        for at in 0..bytes.len() {
            self.exact(&mut bytes[at..=at], what)?;
            if unsigned_varint::decode::is_last(bytes[at]) {
                return unsigned_varint::decode::u64(&bytes[..=at])
                    .map(|(number, _)| number)
                    .map_err(|error| self.problem(begin, format!("{what}: {error}")));
            }
        }
        Err(self.problem(begin, format!("{what}: the number is too long")))
    }

    /// The length of the next block's content, which must be one of `allowed`.
    fn block_len(
        &mut self,
        what: &str,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, StoreError> {
        let begin = self.offset;
        let framed = self.varint(what)?;
        usize::try_from(framed)
            .ok()
            .and_then(|framed| framed.checked_sub(CID_BYTES))
            .filter(|len| allowed.contains(len))
            .ok_or_else(|| {
                let (low, high) = (allowed.start() + CID_BYTES, allowed.end() + CID_BYTES);
                self.problem(
                    begin,
                    format!("{what} is a block of {framed} bytes; {low} to {high} are possible"),
                )
            })
    }

    /// The CID of the next block, which must be that of `expected`.
    fn cid(&mut self, expected: &Digest, what: &str) -> Result<(), StoreError> {
        let begin = self.offset;
        let mut cid = [0; CID_BYTES];
        self.exact(&mut cid, what)?;
        if cid == cid_bytes(expected) {
            return Ok(());
        }
        Err(self.problem(
            begin,
            format!("{what} has another CID than {}", expected.to_cid()),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{manifest_of, noise};
    use super::*;

    fn car_of(chunks: &[&[u8]]) -> (Manifest, Vec<u8>) {
        let manifest = manifest_of(chunks);
        let mut writer = CarWriter::new(Vec::new(), &manifest).unwrap();
        let mut written = std::collections::BTreeSet::new();
        for chunk in chunks {
            let digest = hash::sha256(chunk);
            if written.insert(digest) {
                writer.block(&digest, chunk).unwrap();
            }
        }
        (manifest, writer.finish().unwrap())
    }

    fn check(bytes: &[u8]) -> Result<Verified, StoreError> {
        check_car(bytes, Path::new("x.car"), &mut |_, _| {
            ControlFlow::Continue(())
        })
    }

    #[test]
    fn a_car_has_each_distinct_chunk_once_and_reads_back() {
        let big = noise(1, (1 << 20) + 5);
        let (manifest, bytes) = car_of(&[b"one", &big, b"one", b"two"]);
        assert_eq!(bytes.len() as u64, car_bytes(&manifest));
        let verified = check(&bytes).unwrap();
        assert_eq!(
            verified,
            Verified {
                id: manifest.id(),
                chunks: 3,
                bytes: big.len() as u64 + 6,
                state: false,
            }
        );
        assert_eq!(&bytes[..2], &[58, 0xa2]);
    }

    #[test]
    fn any_changed_bit_and_any_other_length_is_refused_where_it_is() {
        let (manifest, good) = car_of(&[b"one", b"two"]);
        // A false root shows when the first block does not have its CID.
        let first_cid = 1 + HEADER_BYTES + 3;
        let last_block = good.len() - 3 - CID_BYTES - 1;
        assert!(
            manifest.encoded().len() > 127,
            "the second length has two bytes, three with a bit more"
        );
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            match check(&bytes).unwrap_err() {
                StoreError::Car { offset, .. } => {
                    let (offset, byte) = (offset as usize, bit / 8);
                    // A length that grew shows where the file ends.
                    let in_place = offset <= byte.max(first_cid) || offset == good.len();
                    assert!(in_place, "bit {bit}: {offset}");
                    assert!(
                        byte < last_block || offset >= last_block,
                        "bit {bit}: {offset}"
                    );
                }
                other => panic!("bit {bit}: {other}"),
            }
        }
        for len in 0..good.len() {
            let error = check(&good[..len]).unwrap_err();
            assert!(error.to_string().contains("x.car"), "{error}");
        }
        let longer = [&good[..], b"x"].concat();
        let error = check(&longer).unwrap_err().to_string();
        assert!(error.contains("follows the last chunk"), "{error}");
    }

    #[test]
    fn a_long_length_in_a_short_file_costs_no_memory() {
        let (manifest, good) = car_of(&[b"one"]);
        let mut bytes = good[..1 + HEADER_BYTES].to_vec();
        let mut buffer = unsigned_varint::encode::u64_buffer();
        let len = u64::from(MAX_MANIFEST_BYTES) + CID_BYTES as u64;
        bytes.extend_from_slice(unsigned_varint::encode::u64(len, &mut buffer));
        bytes.extend_from_slice(&cid_bytes(manifest.id().digest()));
        let error = check(&bytes).unwrap_err().to_string();
        assert!(error.contains("the file ends in the manifest"), "{error}");

        let mut bytes = good[..1 + HEADER_BYTES].to_vec();
        bytes.extend_from_slice(unsigned_varint::encode::u64(len + 1, &mut buffer));
        let error = check(&bytes).unwrap_err().to_string();
        assert!(error.contains("are possible"), "{error}");
    }
}
