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
//! # What the held part costs
//!
//! Where the file system can (XFS, btrfs), a file that changed is cloned (`FICLONE`):
//! a few milliseconds, whatever its size. Elsewhere it is read, and the blocks whose
//! hash differs from the last copy's are kept: 16 KiB of a 300 MB file where the
//! block changed one key. The copy itself is not read, so what has to be in the page
//! cache is what the node has there itself. So the time is that of reading the changed
//! files from memory, about 3 GB/s for each core; it is bounded by the caller, and what
//! does not fit is given up (see [`Copier::held`]).
//!
//! A changed time stands for changed bytes, and the clock of a file system may stand
//! still for ten milliseconds: a file whose last change lies closer to the moment of
//! copying is not believed to be unchanged, and is read again.
//!
//! # Laws
//!
//! * Nothing in the storage is opened for writing, locked or changed; libhdf5 opens
//!   nothing there; no symbolic link is followed to a file.
//! * Memory, where files are not cloned: a megabyte for each gigabyte of them, and up to
//!   64 MiB of a held copy.
//! * Disk: as much as the storage has, less what it shares where files are cloned. A
//!   gigabyte stays free for the node, else nothing is copied.
//! * The copy of one time is brought up to date for the next: only what changed is read.

mod blocks;
mod clone;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use self::blocks::{Hashes, Job, Run, When};
use super::layout::{CONTRACTS, RUN, StateFile, state_files};
use super::stamp::{FileStamp, open_regular};
use super::{LatestBlock, XianError, stamp};

/// Room on the disk that is left to the node.
const FREE_BYTES: u64 = 1 << 30;

/// Files that are open at a time.
const OPEN_FILES: usize = 64;

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

/// A consistent copy that was made of a storage which was held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The block whose state it is.
    pub block: LatestBlock,
    /// What the held part did, and how long the storage was held.
    pub stats: CopyStats,
}

/// All that is needed for a consistent copy was read: the node may go on. What changed
/// is in memory still.
#[must_use = "the copy is consistent after `write`"]
pub struct Held<'c> {
    copier: &'c mut Copier,
    block: LatestBlock,
    stats: CopyStats,
    files: Vec<StateFile>,
    began: SystemTime,
    later: Later,
}

/// What is left to be written.
#[derive(Default)]
struct Later {
    /// Files that changed, by path in the storage.
    files: BTreeMap<PathBuf, FileStamp>,
    /// Their blocks that changed.
    runs: Vec<Run>,
}

impl Held<'_> {
    /// How long the storage was held, and what for.
    pub fn stats(&self) -> &CopyStats {
        &self.stats
    }

    /// The block whose state it is.
    pub fn block(&self) -> &LatestBlock {
        &self.block
    }

    /// Writes what is left into the copy, which is consistent then.
    pub fn write(self) -> Result<Copied, XianError> {
        let copier = self.copier;
        let mut of_file: BTreeMap<&Path, Vec<&Run>> = BTreeMap::new();
        for run in &self.later.runs {
            of_file.entry(run.to()).or_default().push(run);
        }
        for (path, stamp) in &self.later.files {
            let to = copier.copy.join(path);
            let runs = of_file.remove(&*to).unwrap_or_default();
            let known = copier.known.entry(path.clone()).or_default();
            blocks::write(&to, &runs, stamp.bytes, &mut known.hashes)?;
            known.stamp = stamp.is_older_than(self.began).then_some(*stamp);
        }
        copier.forget_all_but(&self.files)?;
        let path = LatestBlock::path(&copier.copy);
        let json = self.block.to_json();
        fs::write(&path, json).map_err(XianError::io("write", &path))?;
        Ok(Copied {
            block: self.block,
            stats: self.stats,
        })
    }
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
    /// What the hashes are made with: nobody who writes values can know it.
    seed: u64,
}

/// A file as it was copied.
#[derive(Default)]
struct Known {
    /// None where it has to be copied again.
    stamp: Option<FileStamp>,
    hashes: Hashes,
}

impl Copier {
    /// From `storage` into `copy`, a folder that is emptied now and is ours from then
    /// on; best on the same file system. `threads` read at a time in the held part.
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
            seed: rand::random(),
        })
    }

    /// Where the copy is. It is a storage of its own, and consistent from a
    /// [`Copier::held`] that worked until the next call of either part.
    pub fn folder(&self) -> &Path {
        &self.copy
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
        for file in &files {
            if stop() {
                return Err(XianError::Stopped);
            }
            // One thread: the node has the other cores.
            let how = (When::Now, NonZeroUsize::MIN);
            match self.copy_changed(std::slice::from_ref(file), how, stop, &mut stats) {
                // It goes on changing, and is copied the next time; or it is gone.
                Err(XianError::Changed { .. }) => {}
                copied => drop(copied?),
            }
        }
        self.forget_all_but(&files)?;
        stats.took = started.elapsed();
        Ok(stats)
    }

    /// Reads what changed since, while the caller keeps the node from writing; the node
    /// may go on as soon as this has returned. Gives up after `limit`, with
    /// [`XianError::HeldTooLong`]. The storage has to be still: else it is
    /// [`XianError::Changed`].
    pub fn held(&mut self, limit: Duration) -> Result<Held<'_>, XianError> {
        let (started, began) = (Instant::now(), SystemTime::now());
        self.try_to_clone()?;
        let block = LatestBlock::read(&self.storage)?;
        let block_stamp = stamp::of_path(&LatestBlock::path(&self.storage))?;
        let files = state_files(&self.storage)?;
        let mut stats = CopyStats {
            files: files.len(),
            ..CopyStats::default()
        };
        let late = || started.elapsed() >= limit;
        let how = (When::Later, self.threads);
        let later = match self.copy_changed(&files, how, &late, &mut stats) {
            Err(XianError::Stopped) => {
                return Err(XianError::HeldTooLong {
                    limit_ms: limit.as_millis() as u64,
                    read_bytes: stats.read_bytes,
                });
            }
            later => later?,
        };
        let is_still = state_files(&self.storage)? == files
            && stamp::of_path(&LatestBlock::path(&self.storage))? == block_stamp
            && LatestBlock::read(&self.storage)? == block;
        if !is_still {
            return Err(XianError::Changed {
                path: self.storage.clone(),
            });
        }
        stats.took = started.elapsed();
        Ok(Held {
            copier: self,
            block,
            stats,
            files,
            began,
            later,
        })
    }

    /// Copies those of the files that are not known to be the same.
    fn copy_changed(
        &mut self,
        files: &[StateFile],
        (when, threads): (When, NonZeroUsize),
        stop: &(dyn Fn() -> bool + Sync),
        stats: &mut CopyStats,
    ) -> Result<Later, XianError> {
        let mut changed = Vec::new();
        for file in files {
            let known = self.known.get(&self.relative(file));
            if known.and_then(|known| known.stamp) != Some(file.stamp) {
                changed.push(file);
            }
        }
        stats.changed_files += changed.len();
        let mut later = Later::default();
        for files in changed.chunks(OPEN_FILES) {
            let jobs = files.iter().map(|file| self.job(file));
            let jobs = jobs.collect::<Result<Vec<Job>, _>>()?;
            let mut jobs = self.clone_all(jobs, stats)?;
            if stop() {
                return Err(XianError::Stopped);
            }
            let copied = blocks::copy(&mut jobs, when, threads, self.seed, stop, stats);
            for job in jobs {
                let known = self.known.entry(job.path.clone()).or_default();
                known.hashes = job.hashes;
                if when == When::Later {
                    later.files.insert(job.path, job.stamp);
                } else if copied.is_ok() {
                    known.stamp = settled(job.stamp, &job.from, &job.from_path, job.started)?;
                }
            }
            later.runs.extend(copied?);
        }
        Ok(later)
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
            path,
            from,
            from_path: file.path.clone(),
            to,
            stamp,
            started,
        })
    }

    /// Clones files, all at once: each waits for the disk to have what the node has just
    /// written. Gives back those that cannot be cloned.
    fn clone_all(&mut self, jobs: Vec<Job>, stats: &mut CopyStats) -> Result<Vec<Job>, XianError> {
        if self.clones != Some(true) {
            return Ok(jobs);
        }
        let cloned: Vec<Result<bool, XianError>> = std::thread::scope(|scope| {
            let one = |job: &'_ Job| clone::clone(&job.from, &job.to);
            let threads: Vec<_> = jobs
                .iter()
                .map(|job| scope.spawn(move || one(job)))
                .collect();
            let wait = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(wait).collect()
        });
        let mut left = Vec::new();
        for (job, cloned) in jobs.into_iter().zip(cloned) {
            if !cloned? {
                left.push(job);
                continue;
            }
            stats.cloned_files += 1;
            let stamp = settled(job.stamp, &job.from, &job.from_path, job.started)?;
            let hashes = Hashes::default();
            self.known.insert(job.path, Known { stamp, hashes });
        }
        Ok(left)
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

    /// Leaves a gigabyte to the node.
    fn check_room(&self, files: &[StateFile]) -> Result<(), XianError> {
        if self.clones == Some(true) {
            return Ok(());
        }
        let mut needed = FREE_BYTES;
        for file in files {
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
