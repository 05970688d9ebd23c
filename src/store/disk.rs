//! The file system, one method for each step that a crash can fall between.
//!
//! All changes that the store makes to the home go through a [`Disk`], so that
//! tests can stop it before any step, or make any step fail. libhdf5's making of
//! a skeleton is one step ([`Step::Skeleton`]): its file counts for nothing until
//! it was synced.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::statvfs::Statvfs;
use nix::unistd::Whence;

use super::StoreError;

/// What a step needs of a full disk that is not known to need more.
const BLOCK_BYTES: u64 = 4096;

/// What is about to be done to a file or folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Create,
    Skeleton,
    Allocate,
    GiveBack,
    Write,
    SyncFile,
    Rename,
    SyncFolder,
    Remove,
}

/// Watches and stops steps; tests only.
#[cfg(test)]
pub(super) trait Faults: Send + Sync {
    /// Before a step; an error is what the step returns, undone.
    fn before(&self, step: Step, path: &Path) -> io::Result<()>;
    /// After a step that worked.
    fn after(&self, step: Step, path: &Path);
}

/// The file system below one home.
#[derive(Clone)]
pub(super) struct Disk {
    /// Where temporaries live; on the file system of the home.
    spool: PathBuf,
    /// Temporaries made so far: their names.
    temporaries: Arc<AtomicU64>,
    /// Every step is refused.
    for_reading: bool,
    #[cfg(test)]
    pub(super) faults: Option<Arc<dyn Faults>>,
}

impl Disk {
    pub(super) fn new(spool: PathBuf) -> Self {
        Self {
            spool,
            temporaries: Arc::default(),
            for_reading: false,
            #[cfg(test)]
            faults: None,
        }
    }

    /// One that changes nothing: whatever would is refused.
    pub(super) fn for_reading(spool: PathBuf) -> Self {
        Self {
            for_reading: true,
            ..Self::new(spool)
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_for_reading(&self) -> bool {
        self.for_reading
    }

    /// Runs `action` as one step on `path`.
    pub(super) fn step<T>(
        &self,
        step: Step,
        path: &Path,
        action: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        self.sized_step(step, path, BLOCK_BYTES, action)
    }

    /// As [`Disk::step`], for a step that needs so many bytes of the disk.
    fn sized_step<T>(
        &self,
        step: Step,
        path: &Path,
        needed: u64,
        action: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let failed = |source| failed(step, path, needed, source);
        if self.for_reading {
            return Err(failed(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.before(step, path).map_err(failed)?;
        }
        let result = action().map_err(failed)?;
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.after(step, path);
        }
        Ok(result)
    }

    /// A name in the spool that no other temporary has. The spool is emptied
    /// when a store opens, so the names of earlier runs do not matter.
    pub(super) fn temporary(&self, kind: &str) -> PathBuf {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        self.spool.join(format!("{number:06}.{kind}"))
    }

    /// A new file, open for reading and writing.
    pub(super) fn create(&self, path: &Path) -> Result<File, StoreError> {
        self.step(Step::Create, path, || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
        })
    }

    pub(super) fn write_at(
        &self,
        file: &File,
        path: &Path,
        bytes: &[u8],
        offset: u64,
    ) -> Result<(), StoreError> {
        let needed = bytes.len() as u64;
        self.sized_step(Step::Write, path, needed, || {
            file.write_all_at(bytes, offset)
        })
    }

    pub(super) fn sync_file(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.step(Step::SyncFile, path, || file.sync_all())
    }

    /// Syncs bytes and what is needed to read them (fdatasync).
    pub(super) fn sync_data(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.step(Step::SyncFile, path, || file.sync_data())
    }

    /// Makes a change of names in `folder` durable.
    pub(super) fn sync_folder(&self, folder: &Path) -> Result<(), StoreError> {
        self.step(Step::SyncFolder, folder, || File::open(folder)?.sync_all())
    }

    /// Moves a file; durable after [`Disk::settle`].
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.step(Step::Rename, to, || std::fs::rename(from, to))
    }

    /// Makes a move durable.
    pub(super) fn settle(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        for folder in [to.parent(), from.parent()].into_iter().flatten() {
            self.sync_folder(folder)?;
        }
        Ok(())
    }

    /// Removes a file; one that is not there is no error.
    pub(super) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.step(Step::Remove, path, || match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// Replaces a small file: a reader finds the old bytes or the new ones,
    /// whatever happens meanwhile. Durable when it returns.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let temporary = self.temporary("new");
        let replaced = (|| {
            let file = self.create(&temporary)?;
            self.write_at(&file, &temporary, bytes, 0)?;
            self.sync_file(&file, &temporary)?;
            self.rename(&temporary, path)?;
            self.settle(&temporary, path)
        })();
        if replaced.is_err() {
            // What stays is swept at the next open.
            let _ = std::fs::remove_file(&temporary);
        }
        replaced
    }

    /// Gives a file its length and its blocks, so that a full disk is found before
    /// any byte is moved. A file system that cannot do it, or that lies in memory,
    /// where it would clear every page first, is only asked for its free space.
    pub(super) fn allocate(&self, file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
        self.sized_step(Step::Allocate, path, len, || {
            file.set_len(len)?;
            if lies_in_memory(file) {
                return Ok(());
            }
            match fallocate(file, len) {
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(()),
                other => other.map_err(io::Error::from),
            }
        })
    }

    /// Gives the blocks of a range of a file back; it is a hole then. Where
    /// [`Disk::allocate`] can reserve none, there are none to give.
    pub(super) fn give_back(
        &self,
        file: &File,
        path: &Path,
        range: std::ops::Range<u64>,
    ) -> Result<(), StoreError> {
        self.step(Step::GiveBack, path, || match punch(file, range) {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL) => Ok(()),
            other => other.map_err(io::Error::from),
        })
    }

    /// The size of the file system of `path`.
    pub(super) fn size_bytes(&self, path: &Path) -> u64 {
        statvfs(path).map_or(0, |stat| size_of(stat.blocks(), &stat))
    }

    /// Fails when the file system of `path` has fewer bytes left than `needed`.
    pub(super) fn require_space(&self, path: &Path, needed: u64) -> Result<(), StoreError> {
        match free_bytes(path) {
            Some(available) if available < needed => Err(StoreError::NoSpace {
                path: path.to_owned(),
                needed,
                available,
            }),
            _ => Ok(()),
        }
    }
}

/// Fills `buffer` from `offset`; a file that ends before is an error that names
/// it.
pub(super) fn read_at(
    file: &File,
    path: &Path,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), StoreError> {
    file.read_exact_at(buffer, offset).map_err(|source| {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            StoreError::damaged(
                path,
                format!(
                    "it ends before byte {} that belongs to it",
                    offset + buffer.len() as u64
                ),
            )
        } else {
            StoreError::io("read", path)(source)
        }
    })
}

/// Whether all of `range` was written, as far as the file system knows. It may
/// say yes for bytes that were not (it cannot tell, or a neighbour shares the
/// block), never no for bytes that were. `known_data_end` carries the end of the
/// data found by the last call, which began at or below this range.
pub(super) fn may_be_written(
    file: &File,
    range: std::ops::Range<u64>,
    known_data_end: &mut u64,
) -> bool {
    if range.end <= *known_data_end {
        return true;
    }
    let begin = i64::try_from(range.start).unwrap_or(i64::MAX);
    match nix::unistd::lseek(file, begin, Whence::SeekHole) {
        Ok(hole) => {
            let hole = hole as u64;
            if hole > range.start {
                *known_data_end = hole;
            }
            hole >= range.end
        }
        Err(_) => true,
    }
}

#[cfg(target_os = "linux")]
fn lies_in_memory(file: &File) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
    fstatfs(file).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn lies_in_memory(_file: &File) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn fallocate(file: &File, len: u64) -> Result<(), Errno> {
    let len = i64::try_from(len).map_err(|_| Errno::EFBIG)?;
    nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, len)
}

#[cfg(not(target_os = "linux"))]
fn fallocate(_file: &File, _len: u64) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(target_os = "linux")]
fn punch(file: &File, range: std::ops::Range<u64>) -> Result<(), Errno> {
    use nix::fcntl::FallocateFlags as Flags;
    let begin = i64::try_from(range.start).map_err(|_| Errno::EFBIG)?;
    let len = i64::try_from(range.end - range.start).map_err(|_| Errno::EFBIG)?;
    let flags = Flags::FALLOC_FL_PUNCH_HOLE | Flags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(file, flags, begin, len)
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: &File, _range: std::ops::Range<u64>) -> Result<(), Errno> {
    Err(Errno::ENOSYS)
}

/// Bytes that this user can still write to the file system of `path`, or of the
/// nearest parent that exists.
pub(super) fn free_bytes(path: &Path) -> Option<u64> {
    statvfs(path).map(|stat| size_of(stat.blocks_available(), &stat))
}

fn statvfs(path: &Path) -> Option<Statvfs> {
    path.ancestors()
        .find_map(|path| nix::sys::statvfs::statvfs(path).ok())
}

// The width of these fields differs between platforms.
#[allow(clippy::unnecessary_cast)]
fn size_of(blocks: nix::libc::fsblkcnt_t, stat: &Statvfs) -> u64 {
    (blocks as u64).saturating_mul(stat.fragment_size() as u64)
}

/// The store's error for a failed step.
fn failed(step: Step, path: &Path, needed: u64, source: io::Error) -> StoreError {
    let full = matches!(
        source.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    if full {
        return StoreError::NoSpace {
            path: path.to_owned(),
            needed,
            available: free_bytes(path).unwrap_or(0),
        };
    }
    let op = match step {
        Step::Create | Step::Skeleton => "create",
        Step::Allocate => "reserve space for",
        Step::GiveBack => "give space back of",
        Step::Write => "write",
        Step::SyncFile | Step::SyncFolder => "sync",
        Step::Rename => "rename a file to",
        Step::Remove => "remove",
    };
    StoreError::io(op, path)(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_ranges_are_never_taken_for_holes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let disk = Disk::new(folder.path().to_owned());
        let file = disk.create(&path).unwrap();
        disk.allocate(&file, &path, 64 << 20).unwrap();
        let written = [
            (0u64, 5000u64),
            (1 << 20, 1 << 20),
            (40 << 20, 100),
            ((64 << 20) - 7, 7),
        ];
        for (begin, len) in written {
            disk.write_at(&file, &path, &vec![0; len as usize], begin)
                .unwrap();
        }
        let mut known = 0;
        for (begin, len) in written {
            assert!(may_be_written(&file, begin..begin + len, &mut known));
        }
    }

    #[test]
    fn a_replaced_file_has_the_new_bytes_and_leaves_no_temporary() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("spool");
        std::fs::create_dir(&spool).unwrap();
        let disk = Disk::new(spool.clone());
        let path = folder.path().join("file");
        disk.replace(&path, b"old").unwrap();
        disk.replace(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(&spool).unwrap().count(), 0);
    }

    #[test]
    fn too_little_space_is_told_with_both_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_owned());
        let error = disk.require_space(folder.path(), u64::MAX).unwrap_err();
        assert!(
            matches!(error, StoreError::NoSpace { needed: u64::MAX, available, .. } if available > 0),
            "{error}"
        );
    }
}
