//! A storage as records, and as the chunks of one snapshot.

use std::path::{Path, PathBuf};

use super::layout::{StateFile, state_files};
use super::records::Records;
use super::{LatestBlock, Workers, XianError, patches_hash};
use crate::snapshot::{STATE_FORMAT, SnapshotFields, StateFields};
use crate::state::{Change, ChunkSize, Record, StateError, StateHasher, StateNotes, encode};

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

    /// What looks like damage may be half of a write of the node's.
    fn unless_changed(&self, error: XianError) -> XianError {
        match self.check_still() {
            Err(changed @ XianError::Changed { .. }) => changed,
            _ => error,
        }
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
            Err(error) => Some(Err(self.unless_changed(error))),
        }
    }
}

/// A storage as what one snapshot is made of: the state that it holds now, in full.
///
/// It is no [`Source`](crate::snapshot::Source): what it has to offer is known when all
/// of it was read, and chunks that lay somewhere until then would be written once more
/// than they need to be. So they are handed on as they are made, and whoever takes them
/// drops them where the end is an error.
pub struct XianSource {
    storage: PathBuf,
    reading: Reading,
    chunk_size: ChunkSize,
    patches: Option<PathBuf>,
    stop: Box<dyn Fn() -> bool + Send>,
}

/// A snapshot that was made of a storage: what its manifest says beside the chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// The block whose state it is.
    pub block: LatestBlock,
    /// The notes in its metadata.
    pub notes: StateNotes,
    /// The files of the storage, and those of each chunk.
    pub state: StateFields,
}

impl Made {
    /// As a snapshot of this chain.
    pub fn fields(&self, chain_id: &str) -> SnapshotFields {
        SnapshotFields {
            chain_id: chain_id.to_owned(),
            height: self.block.height,
            app_hash: Some(self.block.app_hash.clone()).filter(|hash| !hash.is_empty()),
            format: STATE_FORMAT,
            hash: None,
            metadata: self.notes.encode().into(),
        }
    }
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
        }
    }

    /// Reads the storage through; `keep` gets each chunk as soon as it is full. They are
    /// a snapshot when this has returned without an error.
    pub fn make<E>(&self, keep: impl FnMut(&[u8]) -> Result<(), E>) -> Result<Made, E>
    where
        E: From<XianError> + From<StateError>,
    {
        let records = StorageRecords::open(&self.storage, &self.reading)?;
        let block = records.block.clone();
        let mut hasher = StateHasher::new();
        let mut taken = 0_u64;
        let changes = records.map(|record| {
            let record = record?;
            taken += 1;
            if taken.is_multiple_of(RECORDS_BETWEEN_LOOKS) && (self.stop)() {
                return Err(XianError::Stopped.into());
            }
            hasher.push(&record)?;
            Ok(Change::Put(record))
        });
        let state = encode(self.chunk_size, None, changes, keep)?;
        let patches = self.patches.as_deref();
        let patches = patches.map(|path| patches_hash(path, block.height));
        Ok(Made {
            notes: StateNotes {
                state: hasher.finish(),
                patches_sha256: patches.transpose()?,
            },
            block,
            state,
        })
    }
}
