//! The held part of a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::blocks::{self, Job, Run, When};
use super::{Copier, CopyStats, clone, sharing, state_files};
use crate::xian::layout::StateFile;
use crate::xian::stamp::{self, CLOCK_TICK, FileStamp};
use crate::xian::{LatestBlock, XianError};

/// A file that was never copied is read in the held part up to this size: cloning it would
/// wait for the disk.
const SMALL_BYTES: u64 = 4 << 20;

/// Files that are open at a time.
const OPEN_FILES: usize = 64;

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
    pub(super) stats: CopyStats,
    files: Vec<StateFile>,
    began: SystemTime,
    pub(super) later: Later,
}

/// What is left to be written.
#[derive(Default)]
pub(super) struct Later {
    /// Files that changed, by path in the storage.
    files: BTreeMap<PathBuf, FileStamp>,
    /// Their blocks that changed.
    pub(super) runs: Vec<Run>,
}

impl Held<'_> {
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
        for run in self.later.runs {
            copier.shared.give_back(run);
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

/// How a file that changed is copied in the held part.
enum Way {
    /// It is cloned.
    Clone,
    /// What differs from its clone is read.
    ReadRanges(Vec<Range<u64>>),
    /// It is read, and its hashes tell what changed.
    Read,
}

impl Copier {
    /// Reads what changed since, while the caller keeps the node from writing after the
    /// block of this height; the node may go on as soon as this has returned. Gives up
    /// after `limit`, with [`XianError::HeldTooLong`].
    ///
    /// A file that is touched meanwhile is read again, until none was.
    pub fn held(&mut self, height: u64, limit: Duration) -> Result<Held<'_>, XianError> {
        let (started, began) = (Instant::now(), SystemTime::now());
        self.try_to_clone()?;
        let (block, block_stamp) = self.latest()?;
        if block.height != height {
            return Err(XianError::OtherHeight {
                found: block.height,
                expected: height,
            });
        }
        let mut files = state_files(&self.storage)?;
        let mut stats = CopyStats {
            files: files.len(),
            ..CopyStats::default()
        };
        let late = || started.elapsed() >= limit;
        let mut later = Later::default();
        let mut changed = self.changed(&files);
        loop {
            match self.read_held(&changed, &mut later, &late, &mut stats) {
                Err(XianError::Stopped) => {
                    return Err(XianError::HeldTooLong {
                        limit_ms: limit.as_millis() as u64,
                        read_bytes: stats.read_bytes,
                    });
                }
                read => read?,
            }
            let now = state_files(&self.storage)?;
            if self.latest()? != (block.clone(), block_stamp) {
                return Err(XianError::Changed {
                    path: LatestBlock::path(&self.storage),
                });
            }
            if now == files {
                break;
            }
            changed = now.clone();
            changed.retain(|file| {
                let before = files.binary_search_by(|before| before.scope.cmp(&file.scope));
                before.is_err() || before.is_ok_and(|at| files[at] != *file)
            });
            files = now;
            // Whoever touches files may do it again, and the clock has to show it.
            std::thread::sleep(CLOCK_TICK);
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

    /// The block whose state the storage has, and by what a change of it would show.
    fn latest(&self) -> Result<(LatestBlock, FileStamp), XianError> {
        let block = LatestBlock::read(&self.storage)?;
        Ok((block, stamp::of_path(&LatestBlock::path(&self.storage))?))
    }

    /// Reads files that changed, while the node keeps still.
    fn read_held(
        &mut self,
        files: &[StateFile],
        later: &mut Later,
        stop: &(dyn Fn() -> bool + Sync),
        stats: &mut CopyStats,
    ) -> Result<(), XianError> {
        stats.changed_files += files.len();
        let again = files.iter().map(|file| self.copy.join(self.relative(file)));
        let again: BTreeSet<PathBuf> = again.collect();
        // What was read of them before is of no more use.
        later.runs.retain(|run| !again.contains(run.to()));
        for files in files.chunks(OPEN_FILES) {
            let jobs = files.iter().map(|file| self.job(file));
            let jobs = jobs.collect::<Result<Vec<Job>, _>>()?;
            let ways = self.ways(&jobs)?;
            let mut left = Vec::new();
            for (mut job, way) in jobs.into_iter().zip(ways) {
                match way {
                    Way::Clone => {
                        later.files.remove(&job.path);
                        self.is_cloned(job, stats)?;
                        continue;
                    }
                    Way::Read => self.known.entry(job.path.clone()).or_default().is_clone = false,
                    Way::ReadRanges(ranges) => job.ranges = Some(ranges),
                }
                left.push(job);
            }
            if stop() {
                return Err(XianError::Stopped);
            }
            let kept = later.runs.iter().map(Run::bytes).sum();
            let how = (When::Later { kept }, self.threads);
            let read = blocks::copy(&mut left, how, &self.shared, stop, stats);
            for job in left {
                self.known.entry(job.path.clone()).or_default().hashes = job.hashes;
                later.files.insert(job.path, job.stamp);
            }
            later.runs.extend(read?);
        }
        match stop() {
            true => Err(XianError::Stopped),
            false => Ok(()),
        }
    }

    /// Finds out how each of the files is copied in the held part.
    fn ways(&mut self, jobs: &[Job]) -> Result<Vec<Way>, XianError> {
        let differing = |job: &Job| self.differing(job);
        let mut ways: Vec<Way> = jobs.iter().map(differing).collect();
        // All at once: each waits for the disk.
        std::thread::scope(|scope| {
            let to_clone = ways.iter_mut().zip(jobs);
            let to_clone = to_clone.filter(|(way, _)| matches!(way, Way::Clone));
            let one = |(way, job): (&mut Way, &Job)| {
                if !clone::clone(&job.from, &job.to)? {
                    *way = Way::Read;
                }
                Ok::<(), XianError>(())
            };
            let threads: Vec<_> = to_clone
                .map(|of_job| scope.spawn(move || one(of_job)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(ways)
    }

    /// One file after the other: where several threads read maps of one file system, they
    /// wait for each other longer than all of it takes.
    fn differing(&mut self, job: &Job) -> Way {
        let known = self.known.entry(job.path.clone()).or_default();
        let pristine = known.pristine.take();
        let ranges = match known.is_clone {
            true => sharing::differing(&job.from, &job.to, pristine, job.stamp.bytes),
            false => None,
        };
        let is_new = job.hashes.is_empty() && job.stamp.bytes > SMALL_BYTES;
        match ranges {
            Some(ranges) => Way::ReadRanges(ranges),
            None if self.clones == Some(true) && (known.is_clone || is_new) => Way::Clone,
            None => Way::Read,
        }
    }
}
