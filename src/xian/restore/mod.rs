//! Making a storage of records, and putting it in the place of the node's.
//!
//! ```text
//! STORAGE/.snapswarm-restore/new/      what is being made, laid out as a storage
//! STORAGE/.snapswarm-restore/old/      what the node had, until it is told to go
//! STORAGE/.snapswarm-restore/swap      stands from the moment that new/ is whole until
//!                                      it is in place: see [`swap`]
//! ```
//!
//! Each file is written by a process of its own ([`worker`](super::worker)), in the
//! order of scopes; while one is being closed and synced, the next is written.
//!
//! Laws:
//!
//! * Nothing of the node's own is touched before all records are in new files on the
//!   disk. From then on a crash is followed by going on: [`recover`], which every
//!   restore begins with, and which is to be called before a node is started.
//! * The node must not run while its storage is swapped.
//! * What the node had is kept in `old/` until [`discard_old`]. Of several restores
//!   the first counts: what stands between is made from snapshots. [`undo`] goes back.

mod swap;
mod writers;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use self::swap::{Folders, Steps};
use self::writers::Writers;
use super::layout::{self, CONTRACTS, RUN};
use super::worker::Workers;
use super::{LatestBlock, XianError};
use crate::state::Record;

pub use swap::{
    KEPT, accept, discard_old, has_left_something, is_as_restored, is_unaccepted, keeps_old,
    recover, undo,
};

/// A worker ends within this when its master is gone.
const WORKER_ENDS: Duration = Duration::from_secs(5);
/// Between two tries to remove what it writes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a restore did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RestoreStats {
    /// Records written.
    pub records: u64,
    /// Files that hold them.
    pub files: usize,
    /// Bytes of those.
    pub bytes: u64,
    /// From the first record to the end of the swap.
    pub took: Duration,
}

/// A storage that is being made.
pub struct Restore {
    folders: Folders,
    block: LatestBlock,
    writers: Writers,
    records: u64,
    files: usize,
    started: Instant,
}

impl Restore {
    /// Begins one beside `storage`, which may be missing. Ends what an earlier one left.
    pub fn begin(
        storage: &Path,
        block: &LatestBlock,
        workers: &Workers,
    ) -> Result<Self, XianError> {
        recover(storage)?;
        let folders = Folders::of(storage);
        folders.check_storage()?;
        for folder in [CONTRACTS, RUN] {
            let folder = folders.new.join(folder);
            fs::create_dir_all(&folder).map_err(XianError::io("create", &folder))?;
        }
        Ok(Self {
            writers: Writers::new(workers, &folders.new),
            folders,
            block: block.clone(),
            records: 0,
            files: 0,
            started: Instant::now(),
        })
    }

    /// Adds the next record, in the order of places.
    pub fn put(&mut self, record: &Record) -> Result<(), XianError> {
        if self.writers.is_other(record.scope()) {
            // A scope may come from anywhere: it is checked before it is a path.
            let path = layout::path_of(record.scope())?;
            self.writers.begin(record.scope(), path)?;
            self.files += 1;
        }
        self.records += 1;
        self.writers.put(record)
    }

    /// All records are there: waits until the disk has them, and puts them in the place
    /// of what the node has. The node must not run.
    pub fn finish(mut self) -> Result<RestoreStats, XianError> {
        self.writers.finish()?;
        let path = LatestBlock::path(&self.folders.new);
        write_synced(&path, self.block.to_json().as_bytes())?;
        let bytes = bytes_of(&self.folders.new)?;
        swap::swap(&self.folders, &Steps::default())?;
        Ok(RestoreStats {
            records: self.records,
            files: self.files,
            bytes,
            took: self.started.elapsed(),
        })
    }
}

/// Bytes of the files of a storage.
fn bytes_of(storage: &Path) -> Result<u64, XianError> {
    let files = layout::state_files(storage)?;
    Ok(files.iter().map(|file| file.stamp.bytes).sum())
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), XianError> {
    let written = fs::write(path, bytes).and_then(|()| fs::File::open(path)?.sync_all());
    written.map_err(XianError::io("write", path))
}

/// Removes a folder and all in it, if it is there. A worker whose master was killed may
/// still be about to write into it: it ends in a moment.
fn remove_all(path: &Path) -> Result<(), XianError> {
    let begun = Instant::now();
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty
                    && begun.elapsed() < WORKER_ENDS =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            removed => return removed.map_err(XianError::io("remove", path)),
        }
    }
}

fn exists(path: &Path) -> Result<bool, XianError> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(XianError::io("look at", path)(error)),
    }
}
