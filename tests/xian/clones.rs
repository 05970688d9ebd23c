//! Copies on a file system that clones files.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, fallocate};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::xian::{Copier, LatestBlock, XianError};

/// Lets a machine that cannot mount pass over this test.
const WITHOUT_MOUNT: &str = "SNAPSWARM_TESTS_WITHOUT_MOUNT";

/// Of the disk: as much again as a copier leaves free.
const DISK_BYTES: u64 = 2 << 30;
/// A file in so many parts is in too many.
const MANY_EXTENTS: u64 = 17_000;
/// Far longer than anything takes.
const LIMIT: Duration = Duration::from_secs(60);

fn never() -> bool {
    false
}

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// One that clones files.
#[derive(Clone, Copy)]
enum FileSystem {
    Xfs,
    Btrfs,
}

/// A file system in a file, mounted on a folder.
fn mount<'a>(system: FileSystem, image: &Path, folder: &'a Path) -> Option<Mounted<'a>> {
    let (mkfs, package) = match system {
        FileSystem::Xfs => ("mkfs.xfs", "xfsprogs"),
        FileSystem::Btrfs => ("mkfs.btrfs", "btrfs-progs"),
    };
    let file = File::create(image).unwrap();
    file.set_len(DISK_BYTES).unwrap();
    let runs = |program: &str, arguments: &[&Path]| {
        let ended = Command::new(program).args(arguments).output();
        ended.is_ok_and(|output| output.status.success())
    };
    let quiet = Path::new("-q");
    if runs(mkfs, &[quiet, image]) && runs("mount", &[Path::new("-oloop"), image, folder]) {
        return Some(Mounted(folder));
    }
    assert!(
        std::env::var_os(WITHOUT_MOUNT).is_some_and(|value| value == "1"),
        "no such file system can be made and mounted here: run the tests as root with {mkfs} \
         installed (Debian: {package}) and a kernel that has it, or set {WITHOUT_MOUNT}=1 to \
         leave this one out"
    );
    println!("nothing was tested: {WITHOUT_MOUNT}=1");
    None
}

/// A node on a disk that clones files.
struct Node<'a> {
    disk: &'a Path,
    currency: PathBuf,
    _mounted: Mounted<'a>,
}

impl<'a> Node<'a> {
    fn new(system: FileSystem, image: &Path, disk: &'a Path) -> Option<Self> {
        fs::create_dir(disk).unwrap();
        let mounted = mount(system, image, disk)?;
        let storage = disk.join("node");
        fs::create_dir_all(storage.join("contract_state")).unwrap();
        let latest = LatestBlock::path(&storage);
        fs::write(&latest, r#"{"hash": "61", "height": 1}"#).unwrap();
        Some(Self {
            disk,
            currency: storage.join("contract_state/currency"),
            _mounted: mounted,
        })
    }

    fn copier(&self) -> Copier {
        let (node, copy) = (self.disk.join("node"), self.disk.join("copy"));
        Copier::new(&node, &copy, NonZeroUsize::new(2).unwrap()).unwrap()
    }

    fn file(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        options.open(&self.currency).unwrap()
    }

    /// The copy has the same bytes.
    fn assert_same(&self, about: &str) {
        let copy = self.disk.join("copy/contract_state/currency");
        let (file, copy) = (fs::read(&self.currency).unwrap(), fs::read(copy).unwrap());
        assert_eq!(file.len(), copy.len(), "{about}");
        let differs = |at: &usize| file[*at] != copy[*at];
        let first = (0..file.len()).find(differs);
        let last = (0..file.len()).rfind(differs);
        assert_eq!(first, None, "up to {last:?} of {}: {about}", file.len());
    }
}

/// Whether the system tells which pages wait to be written: Linux 6.5 does.
fn tells_what_waits() -> bool {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next()) >= (6, 5)
}

#[test]
fn of_a_cloned_file_only_what_changed_is_read_and_the_copy_keeps_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(node) = Node::new(FileSystem::Xfs, &folder.path().join("image"), &disk) else {
        return;
    };
    fs::write(&node.currency, vec![7; 50 << 20]).unwrap();
    let mut copier = node.copier();
    let ahead = copier.ahead(&never).unwrap();
    assert_eq!((ahead.cloned_files, ahead.read_bytes), (1, 0), "{ahead:?}");
    let file = node.file();
    file.write_all_at(b"changed", 20 << 20).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"changed as well", 40 << 20).unwrap();
    let held = copier.held(1, LIMIT).unwrap().write().unwrap();
    assert_eq!(held.block.height, 1);
    let stats = held.stats;
    match tells_what_waits() {
        true => assert!(
            stats.cloned_files == 0 && (1..10 << 20).contains(&stats.read_bytes),
            "{stats:?}"
        ),
        // The file is cloned again.
        false => assert_eq!(stats.cloned_files, 1, "{stats:?}"),
    }
    node.assert_same("after the held part");

    // The node goes on; the copy stays what it was.
    let copied = disk.join("copy/contract_state/currency");
    let expected = fs::read(&copied).unwrap();
    file.write_all_at(b"again", 30 << 20).unwrap();
    file.sync_all().unwrap();
    assert!(fs::read(&copied).unwrap() == expected);
    assert!(fs::read(&node.currency).unwrap() != expected);
    let names = fs::read_dir(disk.join("copy/contract_state")).unwrap();
    assert_eq!(names.count(), 1, "nothing but the copy is left");

    // The next copy gives the blocks of what it replaces back at once: as long as the file
    // system does that, whoever looks at the node's file waits for it.
    let replaced = File::open(&copied).unwrap();
    let held = || {
        replaced
            .metadata()
            .map(|found| (found.nlink(), found.blocks() > 0))
    };
    assert_eq!(held().unwrap(), (1, true));
    assert_eq!(copier.ahead(&never).unwrap().cloned_files, 1);
    assert_eq!(held().unwrap(), (0, false));
    node.assert_same("after the next copy");

    // But not of a file that has another name, as a backup gives it one.
    let backup = disk.join("backup");
    fs::hard_link(&copied, &backup).unwrap();
    let expected = fs::read(&backup).unwrap();
    file.write_all_at(b"and again", 30 << 20).unwrap();
    file.sync_all().unwrap();
    assert_eq!(copier.ahead(&never).unwrap().cloned_files, 1);
    assert!(fs::read(&backup).unwrap() == expected);
}

/// What may become of a file, by a node or by whoever looks after it.
fn change(file: &File, random: &mut ChaCha8Rng) -> &'static str {
    let bytes = file.metadata().unwrap().len();
    let place = random.random_range(0..bytes);
    let length = random.random_range(1..300_000_u64);
    let range = (place as i64, length as i64);
    let allocate = |flags| fallocate(file, flags, range.0, range.1).unwrap();
    match random.random_range(0..9) {
        0 | 1 => {
            for _ in 0..5 {
                let mut page = vec![0; random.random_range(1..9000)];
                random.fill_bytes(&mut page);
                let place = random.random_range(0..bytes);
                file.write_all_at(&page, place).unwrap();
            }
            "some places were written"
        }
        2 => {
            let mut much = vec![0; length as usize];
            random.fill_bytes(&mut much);
            file.write_all_at(&much, bytes).unwrap();
            "it grew"
        }
        3 => {
            file.set_len(bytes - (place % 500_000).min(bytes / 2))
                .unwrap();
            "it was cut"
        }
        4 => {
            file.set_len(bytes + length).unwrap();
            "it grew by nothing"
        }
        5 => {
            file.sync_all().unwrap();
            "it was put on the disk"
        }
        6 => {
            allocate(FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE);
            "it got a hole"
        }
        7 => {
            allocate(FallocateFlags::FALLOC_FL_ZERO_RANGE);
            "zeros came into it"
        }
        _ => {
            allocate(FallocateFlags::empty());
            "it got room"
        }
    }
}

#[test]
fn on_xfs_the_copy_is_the_file_whatever_became_of_it() {
    the_copy_is_the_file_whatever_became_of_it(FileSystem::Xfs);
}

#[test]
fn on_btrfs_the_copy_is_the_file_whatever_became_of_it() {
    the_copy_is_the_file_whatever_became_of_it(FileSystem::Btrfs);
}

fn the_copy_is_the_file_whatever_became_of_it(system: FileSystem) {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(node) = Node::new(system, &folder.path().join("image"), &disk) else {
        return;
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut bytes = vec![0; 6 << 20];
    random.fill_bytes(&mut bytes);
    let file = node.file();
    file.write_all_at(&bytes, 0).unwrap();
    let mut copier = node.copier();
    copier.ahead(&never).unwrap();
    let mut done = Vec::new();
    for round in 0..400 {
        for _ in 0..random.random_range(1..4) {
            done.push(change(&file, &mut random));
        }
        if random.random_range(0..3) == 0 {
            copier.ahead(&never).unwrap();
            done.push("it was copied ahead");
            done.push(change(&file, &mut random));
        }
        let held = copier.held(1, LIMIT).unwrap();
        // One that nobody wanted leaves no trace.
        if random.random_range(0..5) == 0 {
            drop(held);
            done.push("a copy was given up");
            continue;
        }
        held.write().unwrap();
        let last = &done[done.len().saturating_sub(12)..];
        node.assert_same(&format!("round {round}: {last:?}"));
    }
}

#[test]
fn a_file_in_many_parts_is_read_and_becomes_no_clone() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(node) = Node::new(FileSystem::Xfs, &folder.path().join("image"), &disk) else {
        return;
    };
    let file = node.file();
    // Every second block is a hole.
    for number in 0..MANY_EXTENTS {
        file.write_all_at(&[1; 4096], number * 8192).unwrap();
    }
    file.sync_all().unwrap();
    let mut copier = node.copier();
    let ahead = copier.ahead(&never).unwrap();
    assert_eq!(ahead.cloned_files, 0, "{ahead:?}");
    for round in 0..3 {
        file.write_all_at(&[2 + round; 5000], u64::from(round) * 100_000)
            .unwrap();
        let held = copier.held(1, LIMIT).unwrap().write().unwrap();
        assert_eq!(held.stats.cloned_files, 0);
        node.assert_same("it is read");
        copier.ahead(&never).unwrap();
    }
}

#[test]
fn a_gigabyte_stays_free_where_files_are_cloned_too() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    let Some(node) = Node::new(FileSystem::Xfs, &folder.path().join("image"), &disk) else {
        return;
    };
    fs::write(&node.currency, b"bytes").unwrap();
    let mut copier = node.copier();
    copier.ahead(&never).unwrap();
    let other = File::create(disk.join("other")).unwrap();
    fallocate(&other, FallocateFlags::empty(), 0, (DISK_BYTES / 2) as i64).unwrap();
    let full = copier.ahead(&never).unwrap_err();
    assert!(matches!(full, XianError::NoSpace { .. }), "{full}");
    other.set_len(0).unwrap();
    copier.ahead(&never).unwrap();
}
