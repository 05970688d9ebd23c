//! A consistent copy of the storage of a running node.
//!
//! The node writes its files in place while a block is carried out, and not at all
//! between its answer to Commit and the next block. So a copy is made in two parts:
//!
//! * **ahead**, as often as wanted, while the node is at work: whatever changed is
//!   copied, and may be half of something;
//! * **held**, while the caller keeps the answer to Commit back: what changed since is
//!   read again, and every file and `__latest_block.json` are looked at before and
//!   after, by size, times and inode. It is written into the copy when the node has gone
//!   on, so that nobody waits for the disk.
//!
//! The chain opens a file for writing even to read a key of it, so a query touches files
//! between two blocks: what was touched in the held part is read again, until nothing
//! was, or the time is over.
//!
//! # What the held part costs
//!
//! It is bounded by the caller, and what does not fit is given up (see
//! [`Copier::held`]). What is read is what has to be in the page cache, and the node has
//! it there; the copy is not read.
//!
//! * Elsewhere than on XFS and btrfs a file that changed is read as a whole, and the
//!   blocks whose hash differs from the last copy's are kept: 16 KiB of a 300 MB file
//!   where the block changed one key. That is 3 GB in a second for each core.
//! * On XFS a file is cloned ahead (`FICLONE`), and only what differs from its clone is
//!   read (`sharing`): a microsecond for each part that the file has on the disk, and
//!   that much of the file.
//! * On btrfs, and where Linux is older than 6.5, it is cloned again. That waits until the
//!   disk has what the node has just written, and takes 15 µs for each part.
//!
//! Where a clone and its file part, the file gets more parts. So one that is in very many
//! is not cloned any more, but read as elsewhere.
//!
//! A changed time stands for changed bytes, and the clock of a file system may stand
//! still for ten milliseconds: a file whose last change lies closer to the moment of
//! copying is not believed to be unchanged, and is read again.
//!
//! # Laws
//!
//! * Nothing in the storage is opened for writing, locked or changed; libhdf5 opens
//!   nothing there; no symbolic link is followed to a file.
//! * Memory: a megabyte for each gigabyte of files that are not cloned, some 60 bytes for
//!   each part of those that are, and up to 64 MiB of a held copy (in twice as much at the
//!   worst), of which 16 stay.
//! * Disk: as much as the storage has, less what it shares where files are cloned. A
//!   gigabyte stays free for the node, else nothing is copied.
//! * The copy of one time is brought up to date for the next: only what changed is read.

mod blocks;
mod clone;
mod held;
mod sharing;
#[cfg(test)]
mod tests;
mod waiting;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use self::blocks::{Hashes, Job, Shared, When};
pub use self::held::{Copied, Held};
use self::sharing::Pristine;
use super::layout::{CONTRACTS, RUN, StateFile, state_files};
use super::stamp::{self, FileStamp, open_regular};
use super::{LatestBlock, XianError};

/// Room on the disk that is left to the node.
const FREE_BYTES: u64 = 1 << 30;

/// A file in as many parts is read, and not cloned: for each the node waits some 15 µs
/// while a clone is made, and every clone makes them more, because what the node writes
/// afterwards goes elsewhere.
const MOST_EXTENTS: usize = 8 << 10;

/// What a copy did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopyStats {
    /// Files of the state.
    pub files: usize,
    /// Files that had changed.
    pub changed_files: usize,
    /// Bytes of those that were read.
    pub read_bytes: u64,
    /// Bytes that were written into the copy.
    pub written_bytes: u64,
    /// Files that were cloned, without reading them.
    pub cloned_files: usize,
    /// How long it took.
    pub took: Duration,
}

/// Copies a storage into a folder of ours, again and again.
pub struct Copier {
    storage: PathBuf,
    copy: PathBuf,
    threads: NonZeroUsize,
    /// By path in the storage.
    known: BTreeMap<PathBuf, Known>,
    /// Whether files can be cloned; known once one was tried.
    clones: Option<bool>,
    shared: Shared,
}

/// A file as it was copied.
#[derive(Default)]
struct Known {
    /// None where it has to be copied again.
    stamp: Option<FileStamp>,
    /// Empty where it is a clone.
    hashes: Hashes,
    /// It was one of the file; what was copied since is its own.
    is_clone: bool,
    /// Nothing was copied since.
    pristine: Option<Pristine>,
}

impl Copier {
    /// From `storage` into `copy`, a folder that is emptied now and is ours from then
    /// on; best on the same file system. `threads` read at a time in the held part. The
    /// copy is a storage of its own, and consistent from a [`Copier::held`] that was
    /// written until the next call of either part.
    pub fn new(storage: &Path, copy: &Path, threads: NonZeroUsize) -> Result<Self, XianError> {
        match fs::remove_dir_all(copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(XianError::io("empty", copy)(error));
            }
            _ => {}
        }
        for folder in [CONTRACTS, RUN] {
            let folder = copy.join(folder);
            fs::create_dir_all(&folder).map_err(XianError::io("create", &folder))?;
        }
        Ok(Self {
            storage: storage.to_owned(),
            copy: copy.to_owned(),
            threads,
            known: BTreeMap::new(),
            clones: None,
            shared: Shared::new(),
        })
    }

    /// Copies what changed, while the node may be at work. `stop` is asked often.
    pub fn ahead(&mut self, stop: &(dyn Fn() -> bool + Sync)) -> Result<CopyStats, XianError> {
        let started = Instant::now();
        let files = state_files(&self.storage)?;
        self.try_to_clone()?;
        self.check_room(&files)?;
        // What is half of a block is of none.
        let latest = LatestBlock::path(&self.copy);
        match fs::remove_file(&latest) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(XianError::io("remove", &latest)(error));
            }
            _ => {}
        }
        let mut stats = CopyStats {
            files: files.len(),
            ..CopyStats::default()
        };
        for file in self.changed(&files) {
            if stop() {
                return Err(XianError::Stopped);
            }
            match self.copy_ahead(&file, stop, &mut stats) {
                // It goes on changing, and is copied the next time; or it is gone.
                Err(XianError::Changed { .. }) => {}
                copied => copied?,
            }
        }
        self.forget_all_but(&files)?;
        stats.took = started.elapsed();
        Ok(stats)
    }

    /// Those of the files that are not known to be the same in the copy.
    fn changed(&self, files: &[StateFile]) -> Vec<StateFile> {
        let is_known = |file: &&StateFile| {
            let known = self.known.get(&self.relative(file));
            known.and_then(|known| known.stamp) == Some(file.stamp)
        };
        files
            .iter()
            .filter(|file| !is_known(file))
            .cloned()
            .collect()
    }

    /// Copies a file that changed, while the node may be at work.
    fn copy_ahead(
        &mut self,
        file: &StateFile,
        stop: &(dyn Fn() -> bool + Sync),
        stats: &mut CopyStats,
    ) -> Result<(), XianError> {
        stats.changed_files += 1;
        let mut job = self.job(file)?;
        if self.clone_ahead(&job)? {
            let (path, pristine) = (job.path.clone(), Pristine::of(&job.to));
            self.is_cloned(job, stats)?;
            self.known.entry(path).or_default().pristine = pristine;
            return Ok(());
        }
        // One thread: the node has the other cores.
        let how = (When::Now, NonZeroUsize::MIN);
        let job_alone = std::slice::from_mut(&mut job);
        let copied = blocks::copy(job_alone, how, &self.shared, stop, stats);
        let known = self.known.entry(job.path).or_default();
        (known.hashes, known.is_clone) = (job.hashes, false);
        if copied.is_ok() {
            known.stamp = settled(job.stamp, &job.from, &job.from_path, job.started)?;
        }
        copied.map(drop)
    }

    /// Opens a file that changed.
    fn job(&mut self, file: &StateFile) -> Result<Job, XianError> {
        let started = SystemTime::now();
        let from = open_regular(&file.path)?;
        let stamp = FileStamp::of(&from, &file.path)?;
        let path = self.relative(file);
        let to = self.copy.join(&path);
        let known = self.known.entry(path.clone()).or_default();
        known.stamp = None;
        Ok(Job {
            hashes: std::mem::take(&mut known.hashes),
            ranges: None,
            path,
            from,
            from_path: file.path.clone(),
            to,
            stamp,
            started,
        })
    }

    /// Clones a file, where that can be done and hurts nobody.
    fn clone_ahead(&self, job: &Job) -> Result<bool, XianError> {
        if self.clones != Some(true) || sharing::extents(&job.from) > MOST_EXTENTS {
            return Ok(false);
        }
        // The node cannot write a file that is being cloned: it need not wait for the
        // disk as well.
        sharing::write_back(&job.from);
        let before = stamp::open_to_write(&job.to).ok().flatten();
        let is_cloned = clone::clone(&job.from, &job.to)?;
        let has_no_name = |file: &fs::File| file.metadata().is_ok_and(|found| found.nlink() == 0);
        if let Some(replaced) = before.filter(|file| is_cloned && has_no_name(file)) {
            // XFS would free its blocks in the background, part by part, and whoever asks
            // for a map of a file that shared them would wait for each: the held part.
            // Where this fails, it does.
            let _ = replaced.set_len(0);
        }
        Ok(is_cloned)
    }

    /// A file was cloned.
    fn is_cloned(&mut self, job: Job, stats: &mut CopyStats) -> Result<(), XianError> {
        stats.cloned_files += 1;
        let known = Known {
            stamp: settled(job.stamp, &job.from, &job.from_path, job.started)?,
            hashes: Hashes::default(),
            is_clone: true,
            pristine: None,
        };
        self.known.insert(job.path, known);
        Ok(())
    }

    /// What is no more in the storage goes from the copy.
    fn forget_all_but(&mut self, files: &[StateFile]) -> Result<(), XianError> {
        let there: Vec<PathBuf> = files.iter().map(|file| self.relative(file)).collect();
        let gone: Vec<PathBuf> = (self.known.keys())
            .filter(|path| there.binary_search(path).is_err())
            .cloned()
            .collect();
        for path in gone {
            self.known.remove(&path);
            let path = self.copy.join(path);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(XianError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Finds out whether the file system clones files, by a small one.
    fn try_to_clone(&mut self) -> Result<(), XianError> {
        let path = LatestBlock::path(&self.storage);
        if self.clones.is_none() && path.exists() {
            let tried = self.copy.join(".tried");
            let cloned = clone::clone(&open_regular(&path)?, &tried)?;
            if cloned {
                fs::remove_file(&tried).map_err(XianError::io("remove", &tried))?;
            }
            self.clones = Some(cloned);
        }
        Ok(())
    }

    fn relative(&self, file: &StateFile) -> PathBuf {
        PathBuf::from(file.scope.as_str())
    }

    /// Leaves a gigabyte to the node. A clone takes room only when the node writes.
    fn check_room(&self, files: &[StateFile]) -> Result<(), XianError> {
        let mut needed = FREE_BYTES;
        for file in files.iter().filter(|_| self.clones != Some(true)) {
            let copied = fs::metadata(self.copy.join(self.relative(file)));
            needed += file
                .stamp
                .bytes
                .saturating_sub(copied.map_or(0, |meta| meta.len()));
        }
        super::room::check(&self.copy, needed)
    }
}

/// The stamp by which a file that was copied is known again: none where it changed
/// meanwhile, or may have without a trace.
fn settled(
    stamp: FileStamp,
    from: &fs::File,
    path: &Path,
    started: SystemTime,
) -> Result<Option<FileStamp>, XianError> {
    let same = FileStamp::of(from, path)? == stamp;
    Ok((same && stamp.is_older_than(started)).then_some(stamp))
}
