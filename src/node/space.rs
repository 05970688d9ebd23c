//! The room of a folder's disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::command::{Failure, FailureCode};

/// The disk that a folder is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free_bytes: u64,
    /// Its number: folders with the same share their room.
    pub device: u64,
    /// Whether it is memory, made to look like a disk.
    pub in_memory: bool,
}

/// The disk of a folder, or of the nearest one above it that is there.
pub(super) fn space(path: &Path) -> Option<Space> {
    path.ancestors().find_map(|path| {
        Some(Space {
            free_bytes: free(path)?,
            device: device(path)?,
            in_memory: in_memory(path),
        })
    })
}

/// A disk that has no room for what is to be written there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Short {
    /// One of the folders on it.
    pub(super) folder: PathBuf,
    /// Bytes that this user may still write.
    pub(super) free_bytes: u64,
    /// Bytes that all the folders on it get together.
    pub(super) needed_bytes: u64,
}

impl Short {
    /// What a person is told of it, who wants the snapshot of a height there.
    pub(super) fn failure(&self, height: u64) -> Failure {
        Failure::new(
            FailureCode::Storage,
            format!(
                "the disk of {} has {} bytes, and the snapshot of height {height} needs about {} \
                 on it",
                self.folder.display(),
                self.free_bytes,
                self.needed_bytes
            ),
        )
    }
}

/// The most bytes that each of these folders can get, beside what the others get.
pub(super) fn room_in<'a>(folders: impl IntoIterator<Item = &'a PathBuf>) -> Option<u64> {
    let mut disks: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for disk in folders.into_iter().filter_map(|folder| space(folder)) {
        let (_, count) = disks.entry(disk.device).or_insert((disk.free_bytes, 0));
        *count += 1;
    }
    let shares = disks.into_values().map(|(free, count)| free / count);
    shares.min()
}

/// The first disk that has no room for all that is to be written there, where each of
/// these folders gets so many bytes.
pub(super) fn short_of_room<'a>(
    folders: impl IntoIterator<Item = &'a PathBuf>,
    bytes: u64,
) -> Option<Short> {
    let mut disks: BTreeMap<u64, Short> = BTreeMap::new();
    for folder in folders {
        if let Some(disk) = space(folder) {
            let short = disks.entry(disk.device).or_insert_with(|| Short {
                folder: folder.clone(),
                free_bytes: disk.free_bytes,
                needed_bytes: 0,
            });
            short.needed_bytes = short.needed_bytes.saturating_add(bytes);
        }
    }
    let mut disks = disks.into_values();
    disks.find(|disk| disk.free_bytes < disk.needed_bytes)
}

fn free(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    let blocks = found.blocks_available();
    Some(blocks.saturating_mul(found.fragment_size()))
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    Some(std::fs::metadata(path).ok()?.dev())
}

#[cfg(target_os = "linux")]
fn in_memory(path: &Path) -> bool {
    use nix::sys::statfs::{TMPFS_MAGIC, statfs};
    statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn in_memory(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_has_the_room_of_the_one_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let above = space(folder.path()).unwrap();
        let below = space(&folder.path().join("not/yet")).unwrap();
        assert_eq!(above.device, below.device);
        assert!(below.free_bytes > 0);
    }

    #[test]
    fn folders_of_one_disk_share_its_room() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let free = space(&one).unwrap().free_bytes;
        let bytes = free / 4 * 3;
        assert_eq!(short_of_room([&one], bytes), None);
        assert!(room_in([&one]).unwrap() > bytes);
        assert!(room_in([&one, &other]).unwrap() < bytes);
        let short = short_of_room([&one, &other], bytes).unwrap();
        assert_eq!(short.needed_bytes, bytes * 2);
        assert!(short.folder.starts_with(folder.path()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_told_from_a_disk() {
        let in_memory = |path| space(Path::new(path)).map(|space| space.in_memory);
        assert_eq!(in_memory("/proc"), Some(false));
        if Path::new("/dev/shm").is_dir() {
            assert_eq!(in_memory("/dev/shm"), Some(true));
        }
    }
}
