//! Copying files by the blocks that changed.

use std::fs::{File, OpenOptions};
use std::num::NonZeroUsize;
use std::ops::Range;
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
const READ_BYTES: usize = 4 * BLOCK_BYTES;
/// What a thread takes of a file at a time.
const PART_BLOCKS: usize = 32 << 20 >> BLOCK_BYTES.trailing_zeros();

/// What is kept in memory of a held copy, to be written afterwards. A block of the
/// chain's changes a few megabytes; what is more is written at once.
const MAX_LATER_BYTES: u64 = 64 << 20;

/// So much memory of a held copy is kept for the next: what the system has just given takes
/// longer to be written to than to be read from a file.
const MAX_SPARE_BYTES: usize = 16 << 20;

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
    /// Where it differs from the copy, if that is known: this alone is read, and all of it
    /// written. The copy has no hashes then.
    pub(super) ranges: Option<Vec<Range<u64>>>,
    pub(super) started: SystemTime,
}

/// Blocks that stand one behind the other and are to be written.
pub(super) struct Run {
    to: PathBuf,
    offset: u64,
    bytes: Vec<u8>,
    /// Of its blocks.
    hashes: Vec<u128>,
}

/// What all copies of a storage share.
pub(super) struct Shared {
    /// What the hashes are made with: nobody who writes values can know it.
    seed: u64,
    /// Memory of runs that were written.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            seed: rand::random(),
            spare: Mutex::default(),
        }
    }

    /// Memory for what is read at a time.
    fn take(&self) -> Vec<u8> {
        let taken = self.spare.lock().ok().and_then(|mut spare| spare.pop());
        taken.unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
    }

    /// Takes it back.
    fn give(&self, memory: Vec<u8>) {
        if let Ok(mut spare) = self.spare.lock()
            && memory.capacity() == READ_BYTES
            && spare.len() < MAX_SPARE_BYTES / READ_BYTES
        {
            spare.push(memory);
        }
    }

    /// Takes the memory of a run back that was written.
    pub(super) fn give_back(&self, run: Run) {
        self.give(run.bytes);
    }
}

/// When changed blocks are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Now,
    /// By [`write`]: whoever holds the node does not wait for the disk. So many bytes are
    /// kept already.
    Later {
        kept: u64,
    },
}

/// Copies files, until `stop` says so; gives what is to be written later. After an error
/// nobody knows which files were done; the hashes are always those of the copy as it is.
pub(super) fn copy(
    jobs: &mut [Job],
    (when, threads): (When, NonZeroUsize),
    shared: &Shared,
    stop: &(dyn Fn() -> bool + Sync),
    stats: &mut CopyStats,
) -> Result<Vec<Run>, XianError> {
    let kept = match when {
        When::Now => 0,
        When::Later { kept } => kept,
    };
    let work = Work {
        shared,
        stop,
        when,
        read: AtomicU64::new(0),
        written: AtomicU64::new(0),
        later_bytes: AtomicU64::new(kept),
        results: Mutex::new(Results::default()),
    };
    let parts = Mutex::new(jobs.iter_mut().flat_map(parts_of).collect());
    if threads == NonZeroUsize::MIN {
        work.run(&parts);
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads.get() {
                scope.spawn(|| work.run(&parts));
            }
        });
    }
    drop(parts);
    stats.read_bytes += work.read.into_inner();
    stats.written_bytes += work.written.into_inner();
    let results = work.results.into_inner();
    let results = results.unwrap_or_else(|broken| broken.into_inner());
    if let Some(error) = results.error {
        return Err(error);
    }
    if when == When::Now {
        for job in jobs {
            open_copy(&job.to)?
                .set_len(job.stamp.bytes)
                .map_err(XianError::io("grow", &job.to))?;
        }
    }
    Ok(results.later)
}

/// Writes what was left for later into one file, which has `bytes` then.
pub(super) fn write(
    to: &Path,
    runs: &[&Run],
    bytes: u64,
    hashes: &mut Hashes,
) -> Result<(), XianError> {
    let file = open_copy(to)?;
    for run in runs {
        write_run(&file, run, 0, hashes).map_err(XianError::io("write", to))?;
    }
    file.set_len(bytes).map_err(XianError::io("grow", to))
}

impl Run {
    /// The file of the copy that it belongs to.
    pub(super) fn to(&self) -> &Path {
        &self.to
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Writes a run; `hashes` are those of the blocks from `base` on. A hash is noted when
/// its block is in the copy, and not before.
fn write_run(file: &File, run: &Run, base: u64, hashes: &mut [u128]) -> std::io::Result<()> {
    let written = file.write_all_at(&run.bytes, run.offset);
    let first = (run.offset - base) as usize / BLOCK_BYTES;
    for (known, hash) in hashes.iter_mut().skip(first).zip(&run.hashes) {
        // A write that failed may have written some of it.
        *known = if written.is_ok() { *hash } else { 0 };
    }
    written
}

struct Work<'a> {
    shared: &'a Shared,
    stop: &'a (dyn Fn() -> bool + Sync),
    when: When,
    read: AtomicU64,
    written: AtomicU64,
    later_bytes: AtomicU64,
    results: Mutex<Results>,
}

#[derive(Default)]
struct Results {
    error: Option<XianError>,
    later: Vec<Run>,
}

/// A part of a file.
struct Part<'a> {
    from: &'a File,
    from_path: &'a Path,
    to: &'a Path,
    offset: u64,
    bytes: u64,
    /// None where all of it is known to have changed.
    hashes: Option<&'a mut [u128]>,
}

fn parts_of(job: &mut Job) -> Vec<Part<'_>> {
    let most = (PART_BLOCKS * BLOCK_BYTES) as u64;
    let (from, from_path, to) = (&job.from, &*job.from_path, &*job.to);
    let part = |offset, bytes, hashes| Part {
        from,
        from_path,
        to,
        offset,
        bytes,
        hashes,
    };
    if let Some(ranges) = &job.ranges {
        let of_range = |range: &Range<u64>| {
            let end = range.end;
            let starts = range.clone().step_by(PART_BLOCKS * BLOCK_BYTES);
            starts.map(move |start| (start, most.min(end - start)))
        };
        let parts = ranges.iter().flat_map(of_range);
        return parts
            .map(|(start, bytes)| part(start, bytes, None))
            .collect();
    }
    let bytes = job.stamp.bytes;
    let blocks = bytes.div_ceil(BLOCK_BYTES as u64) as usize;
    job.hashes.resize(blocks, 0);
    let parts = job.hashes.chunks_mut(PART_BLOCKS).enumerate();
    let of_hashes = |(number, hashes)| {
        let offset = number as u64 * most;
        part(offset, most.min(bytes - offset), Some(hashes))
    };
    parts.map(of_hashes).collect()
}

impl Work<'_> {
    fn run(&self, parts: &Mutex<Vec<Part<'_>>>) {
        let mut buffer = self.shared.take();
        loop {
            let part = parts.lock().ok().and_then(|mut parts| parts.pop());
            let Some(part) = part else {
                break;
            };
            let copied = self.copy_part(part, &mut buffer);
            let Ok(mut results) = self.results.lock() else {
                break;
            };
            match copied {
                Ok(later) => results.later.extend(later),
                Err(error) => {
                    results.error.get_or_insert(error);
                    if let Ok(mut parts) = parts.lock() {
                        parts.clear();
                    }
                }
            }
        }
        self.shared.give(buffer);
    }

    /// Reads a part of a file; writes what differs, or gives it back.
    fn copy_part(&self, mut part: Part<'_>, buffer: &mut Vec<u8>) -> Result<Vec<Run>, XianError> {
        let (mut done, mut file, mut later) = (0, None, Vec::new());
        while done < part.bytes {
            if (self.stop)() {
                return Err(XianError::Stopped);
            }
            let len = (part.bytes - done).min(READ_BYTES as u64) as usize;
            buffer.resize(len, 0);
            match part.from.read_exact_at(buffer, part.offset + done) {
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    let path = part.from_path.to_owned();
                    return Err(XianError::Changed { path });
                }
                read => read.map_err(XianError::io("read", part.from_path))?,
            }
            self.read.fetch_add(len as u64, Ordering::Relaxed);
            let first = done as usize / BLOCK_BYTES;
            let run = |start, bytes, hashes| Run {
                to: part.to.to_owned(),
                offset: part.offset + done + start as u64,
                bytes,
                hashes,
            };
            let runs = match &part.hashes {
                Some(known) => {
                    let changed = self.changed(buffer, &known[first..]).into_iter();
                    changed
                        .map(|(start, end, hashes)| run(start, buffer[start..end].to_vec(), hashes))
                        .collect()
                }
                // What is kept is counted by its bytes: there is little more memory than that.
                None if len >= READ_BYTES / 2 => {
                    let bytes = std::mem::replace(buffer, self.shared.take());
                    vec![run(0, bytes, Vec::new())]
                }
                None => vec![run(0, buffer.clone(), Vec::new())],
            };
            for run in runs {
                let size = run.bytes();
                self.written.fetch_add(size, Ordering::Relaxed);
                let kept = self.later_bytes.fetch_add(size, Ordering::Relaxed) + size;
                if self.when != When::Now && kept <= MAX_LATER_BYTES {
                    later.push(run);
                    continue;
                }
                let to = match &file {
                    Some(file) => file,
                    None => &*file.insert(open_copy(part.to)?),
                };
                let known = part.hashes.as_deref_mut().unwrap_or_default();
                write_run(to, &run, part.offset, known).map_err(XianError::io("write", part.to))?;
                self.shared.give_back(run);
            }
            done += len as u64;
        }
        Ok(later)
    }

    /// The runs of blocks whose hash is another: where each begins and ends, and its
    /// hashes.
    fn changed(&self, bytes: &[u8], known: &[u128]) -> Vec<(usize, usize, Vec<u128>)> {
        let mut runs: Vec<(usize, usize, Vec<u128>)> = Vec::new();
        for (number, (block, known)) in bytes.chunks(BLOCK_BYTES).zip(known).enumerate() {
            let hash = XxHash3_128::oneshot_with_seed(self.shared.seed, block);
            if hash == *known && hash != 0 {
                continue;
            }
            let start = number * BLOCK_BYTES;
            match runs.last_mut() {
                Some((_, end, hashes)) if *end == start => {
                    *end += block.len();
                    hashes.push(hash);
                }
                _ => runs.push((start, start + block.len(), vec![hash])),
            }
        }
        runs
    }
}

/// The file of the copy.
fn open_copy(path: &Path) -> Result<File, XianError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(XianError::io("create", path))
}
