//! A storage as records, and as a [`Source`] of one snapshot.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::layout::{StateFile, state_files};
use super::records::Records;
use super::{LatestBlock, Workers, XianError, patches_hash};
use crate::snapshot::hash::Hasher;
use crate::snapshot::{Offer, OpenSnapshot, STATE_FORMAT, ScopeRange, Source, SourceError};
use crate::state::{ChunkSize, Encoder, Record, Scope, StateHasher, StateNotes};

/// So many records are taken between two looks at whether to go on.
const RECORDS_BETWEEN_LOOKS: u64 = 1024;

/// How a storage is read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The processes that read.
    pub workers: Workers,
    /// A folder for temporary files; they have no names and are gone with the process.
    pub spool: PathBuf,
    /// What those take at most. Files are read one after the other where there is no
    /// room to read one ahead.
    pub spool_bytes: u64,
}

/// All records of a storage that nobody writes, a stopped node's or a copy, in the
/// order of places. Ends after an error.
pub struct StorageRecords {
    storage: PathBuf,
    block: LatestBlock,
    before: Vec<StateFile>,
    records: Option<Records>,
}

impl StorageRecords {
    /// Begins to read `storage`.
    pub fn open(storage: &Path, reading: &Reading) -> Result<Self, XianError> {
        let block = LatestBlock::read(storage)?;
        let before = state_files(storage)?;
        let files = before.clone();
        let Reading {
            workers,
            spool,
            spool_bytes,
        } = reading;
        Ok(Self {
            storage: storage.to_owned(),
            block,
            before,
            records: Some(Records::read(workers, files, spool, *spool_bytes)),
        })
    }

    /// Whether `storage` is what was read, byte for byte.
    fn is_of(&self, storage: &Path) -> Result<bool, XianError> {
        Ok(state_files(storage)? == self.before && LatestBlock::read(storage)? == self.block)
    }

    /// The block whose state it is.
    pub fn block(&self) -> &LatestBlock {
        &self.block
    }

    /// Fails where the storage is not as it was when reading began.
    fn check_still(&self) -> Result<(), XianError> {
        match self.is_of(&self.storage)? {
            true => Ok(()),
            false => Err(XianError::Changed {
                path: self.storage.clone(),
            }),
        }
    }
}

impl Iterator for StorageRecords {
    type Item = Result<Record, XianError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.records.as_mut()?.next();
        if !matches!(read, Ok(Some(_))) {
            self.records = None;
        }
        match read {
            Ok(Some(record)) => Some(Ok(record)),
            Ok(None) => self.check_still().err().map(Err),
            Err(error) => Some(Err(error)),
        }
    }
}

/// A storage as a source of one snapshot: the state that it holds now, in full. The
/// chunks are made when the source is asked what it has, and lie in a temporary file
/// without a name until they are taken.
pub struct XianSource {
    storage: PathBuf,
    reading: Reading,
    chunk_size: ChunkSize,
    patches: Option<PathBuf>,
    stop: Box<dyn Fn() -> bool + Send>,
    made: Option<(Made, Spooled)>,
}

/// A snapshot that was made of a storage: what its manifest says beside the chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// The block whose state it is.
    pub block: LatestBlock,
    /// What the source offers.
    pub offer: Offer,
    /// The notes in the offer's metadata.
    pub notes: StateNotes,
    /// The files of the storage, in order.
    pub scopes: Vec<Scope>,
    /// The scopes of each chunk.
    pub chunks: Vec<ScopeRange>,
}

/// Chunks in a file.
struct Spooled {
    file: File,
    /// Where each ends.
    ends: Vec<u64>,
    /// The files that they were made of.
    of: Vec<StateFile>,
}

impl XianSource {
    /// Of a storage that nobody writes. `patches` is the chain's `state_patches.json`,
    /// which may be missing. Work ends early when `stop` says so.
    pub fn new(
        storage: &Path,
        reading: &Reading,
        chunk_size: ChunkSize,
        patches: Option<&Path>,
        stop: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        Self {
            storage: storage.to_owned(),
            reading: reading.clone(),
            chunk_size,
            patches: patches.map(Path::to_owned),
            stop: Box::new(stop),
            made: None,
        }
    }

    /// The snapshot that was made last: after a [`Source::list`].
    pub fn made(&self) -> Option<&Made> {
        self.made.as_ref().map(|(made, _)| made)
    }

    /// Makes the snapshot, unless it was made of the files as they are now.
    pub fn make(&mut self) -> Result<&Made, XianError> {
        let now = (
            LatestBlock::read(&self.storage)?,
            state_files(&self.storage)?,
        );
        let is_made =
            |(made, spooled): &(Made, Spooled)| made.block == now.0 && spooled.of == now.1;
        let made = match self.made.take().filter(is_made) {
            Some(made) => made,
            None => self.read()?,
        };
        Ok(&self.made.insert(made).0)
    }

    fn read(&self) -> Result<(Made, Spooled), XianError> {
        let spool = |error| XianError::io("spool chunks in", &self.reading.spool)(error);
        let mut file = tempfile::tempfile_in(&self.reading.spool).map_err(spool)?;
        let (mut ends, mut chunks, mut end) = (Vec::new(), Vec::new(), 0);
        let mut whole = Hasher::new();
        let mut keep = |chunk: crate::state::StateChunk| -> Result<(), XianError> {
            whole.update(&chunk.bytes);
            file.write_all(&chunk.bytes).map_err(spool)?;
            end += chunk.bytes.len() as u64;
            ends.push(end);
            chunks.push(chunk.scopes);
            Ok(())
        };
        let mut records = StorageRecords::open(&self.storage, &self.reading)?;
        let (mut encoder, mut hasher) = (Encoder::new(self.chunk_size)?, StateHasher::new());
        let mut taken = 0_u64;
        for record in &mut records {
            let record = record?;
            taken += 1;
            if taken.is_multiple_of(RECORDS_BETWEEN_LOOKS) && (self.stop)() {
                return Err(XianError::Stopped);
            }
            hasher.push(&record)?;
            if let Some(chunk) = encoder.push_record(&record)? {
                keep(chunk)?;
            }
        }
        let last = encoder.finish()?;
        keep(last.chunk)?;
        let patches = self.patches.as_deref();
        let patches = patches.map(|path| patches_hash(path, records.block.height));
        let notes = StateNotes {
            state: hasher.finish(),
            patches_sha256: patches.transpose()?,
        };
        let made = Made {
            offer: Offer {
                height: records.block.height,
                format: STATE_FORMAT,
                chunks: ends.len() as u32,
                hash: Bytes::copy_from_slice(whole.finish().as_bytes()),
                metadata: notes.encode().into(),
            },
            block: records.block,
            notes,
            scopes: last.scopes,
            chunks,
        };
        let of = records.before;
        Ok((made, Spooled { file, ends, of }))
    }
}

impl Source for XianSource {
    fn list(&mut self) -> Result<Vec<Offer>, SourceError> {
        let made = self.make().map_err(failed)?;
        Ok(vec![made.offer.clone()])
    }

    fn open(&mut self, offer: &Offer) -> Result<Box<dyn OpenSnapshot + '_>, SourceError> {
        match &self.made {
            Some((made, spooled)) if made.offer == *offer => {
                Ok(Box::new(Chunks { spooled, next: 0 }))
            }
            _ => Err(SourceError::Gone {
                height: offer.height,
                format: offer.format,
            }),
        }
    }
}

fn failed(error: XianError) -> SourceError {
    SourceError::Failed(Box::new(error))
}

/// The chunks of a snapshot that was made.
struct Chunks<'a> {
    spooled: &'a Spooled,
    next: usize,
}

impl OpenSnapshot for Chunks<'_> {
    fn next_chunk(&mut self) -> Result<Option<Bytes>, SourceError> {
        let ends = &self.spooled.ends;
        let Some(end) = ends.get(self.next) else {
            return Ok(None);
        };
        let start = self.next.checked_sub(1).map_or(0, |before| ends[before]);
        let mut chunk = vec![0; (end - start) as usize];
        let read = self.spooled.file.read_exact_at(&mut chunk, start);
        let what = Path::new("the spooled chunks");
        read.map_err(|error| failed(XianError::io("read", what)(error)))?;
        self.next += 1;
        Ok(Some(chunk.into()))
    }
}
