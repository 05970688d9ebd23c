//! Copying files by the blocks that changed.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use twox_hash::XxHash3_128;

use super::CopyStats;
use crate::xian::XianError;
use crate::xian::stamp::FileStamp;

/// What is written where something in it changed: four pages, as one change of the
/// chain's touches several places.
const BLOCK_BYTES: usize = 16 << 10;
/// What is read at a time: it stays in the nearest cache while it is hashed.
const READ_BYTES: usize = 16 * BLOCK_BYTES;
/// What a thread takes of a file at a time.
const PART_BLOCKS: usize = 32 << 20 >> BLOCK_BYTES.trailing_zeros();

/// A hash of each block of the copy; 0 where it is not known.
pub(super) type Hashes = Vec<u128>;

/// A file to be copied.
pub(super) struct Job {
    /// In the storage.
    pub(super) path: PathBuf,
    pub(super) from: File,
    pub(super) from_path: PathBuf,
    pub(super) to: PathBuf,
    pub(super) stamp: FileStamp,
    pub(super) hashes: Hashes,
    pub(super) started: SystemTime,
}

/// Copies files, until `stop` says so. After an error nobody knows which of them were
/// done; what was is found again by its hashes.
pub(super) fn copy(
    jobs: &mut [Job],
    threads: NonZeroUsize,
    seed: u64,
    stop: &(dyn Fn() -> bool + Sync),
    stats: &mut CopyStats,
) -> Result<(), XianError> {
    let work = Work {
        seed,
        stop,
        read: AtomicU64::new(0),
        written: AtomicU64::new(0),
        error: Mutex::new(None),
    };
    let copied = copy_all(jobs, threads, &work);
    stats.read_bytes += work.read.into_inner();
    stats.written_bytes += work.written.into_inner();
    let error = work
        .error
        .into_inner()
        .unwrap_or_else(|broken| broken.into_inner());
    copied.and_then(|()| error.map_or(Ok(()), Err))
}

struct Work<'a> {
    seed: u64,
    stop: &'a (dyn Fn() -> bool + Sync),
    read: AtomicU64,
    written: AtomicU64,
    error: Mutex<Option<XianError>>,
}

/// A part of a file.
struct Part<'a> {
    from: &'a File,
    from_path: &'a Path,
    to: File,
    to_path: &'a Path,
    offset: u64,
    bytes: u64,
    hashes: &'a mut [u128],
}

fn copy_all(jobs: &mut [Job], threads: NonZeroUsize, work: &Work<'_>) -> Result<(), XianError> {
    let mut parts = Vec::new();
    for job in jobs {
        let to = open_copy(&job.to, job.stamp.bytes)?;
        let blocks = job.stamp.bytes.div_ceil(BLOCK_BYTES as u64) as usize;
        job.hashes.resize(blocks, 0);
        for (number, hashes) in job.hashes.chunks_mut(PART_BLOCKS).enumerate() {
            let offset = (number * PART_BLOCKS * BLOCK_BYTES) as u64;
            let most = (PART_BLOCKS * BLOCK_BYTES) as u64;
            parts.push(Part {
                from: &job.from,
                from_path: &job.from_path,
                to: to.try_clone().map_err(XianError::io("open", &job.to))?,
                to_path: &job.to,
                offset,
                bytes: most.min(job.stamp.bytes - offset),
                hashes,
            });
        }
    }
    let threads = threads.get().min(parts.len());
    let parts = Mutex::new(parts);
    if threads <= 1 {
        work.run(&parts);
        return Ok(());
    }
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work.run(&parts));
        }
    });
    Ok(())
}

impl Work<'_> {
    fn run(&self, parts: &Mutex<Vec<Part<'_>>>) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let part = parts.lock().ok().and_then(|mut parts| parts.pop());
            let Some(part) = part else {
                return;
            };
            if let Err(error) = self.copy_part(part, &mut buffer) {
                if let Ok(mut first) = self.error.lock() {
                    first.get_or_insert(error);
                }
                if let Ok(mut parts) = parts.lock() {
                    parts.clear();
                }
                return;
            }
        }
    }

    fn copy_part(&self, part: Part<'_>, buffer: &mut [u8]) -> Result<(), XianError> {
        let mut part = part;
        let copied = self.copy_blocks(&mut part, buffer);
        if copied
            .as_ref()
            .is_err_and(|error| !matches!(error, XianError::Stopped))
        {
            // What stands in the copy is not known any more.
            part.hashes.fill(0);
        }
        copied
    }

    fn copy_blocks(&self, part: &mut Part<'_>, buffer: &mut [u8]) -> Result<(), XianError> {
        let mut done = 0;
        let mut hashes = &mut *part.hashes;
        while done < part.bytes {
            if (self.stop)() {
                return Err(XianError::Stopped);
            }
            let len = (part.bytes - done).min(READ_BYTES as u64) as usize;
            let (bytes, offset) = (&mut buffer[..len], part.offset + done);
            match part.from.read_exact_at(bytes, offset) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    let path = part.from_path.to_owned();
                    return Err(XianError::Changed { path });
                }
                read => read.map_err(XianError::io("read", part.from_path))?,
            }
            self.read.fetch_add(len as u64, Ordering::Relaxed);
            let (these, rest) = hashes.split_at_mut(len.div_ceil(BLOCK_BYTES));
            hashes = rest;
            self.write_changed(bytes, offset, these, &part.to)
                .map_err(XianError::io("write", part.to_path))?;
            done += len as u64;
        }
        Ok(())
    }

    /// Writes each run of blocks whose hash is another.
    fn write_changed(
        &self,
        bytes: &[u8],
        offset: u64,
        hashes: &mut [u128],
        to: &File,
    ) -> std::io::Result<()> {
        let mut run: Option<(usize, usize)> = None;
        let blocks = bytes.chunks(BLOCK_BYTES).zip(hashes);
        for (number, (block, known)) in blocks.enumerate() {
            let hash = XxHash3_128::oneshot_with_seed(self.seed, block);
            if hash == *known && hash != 0 {
                self.write_run(bytes, offset, run.take(), to)?;
                continue;
            }
            *known = hash;
            let at = number * BLOCK_BYTES;
            run = Some((run.map_or(at, |(start, _)| start), at + block.len()));
        }
        self.write_run(bytes, offset, run, to)
    }

    fn write_run(
        &self,
        bytes: &[u8],
        offset: u64,
        run: Option<(usize, usize)>,
        to: &File,
    ) -> std::io::Result<()> {
        let Some((start, end)) = run else {
            return Ok(());
        };
        to.write_all_at(&bytes[start..end], offset + start as u64)?;
        self.written
            .fetch_add((end - start) as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The file of the copy, as long as it has to be.
fn open_copy(path: &Path, bytes: u64) -> Result<File, XianError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(XianError::io("create", path))?;
    file.set_len(bytes).map_err(XianError::io("grow", path))?;
    Ok(file)
}
