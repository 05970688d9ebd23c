//! A disk that is soon full.

#![allow(dead_code)] // each test file uses its own part

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::Command;

/// Lets a machine that cannot mount pass over the tests that need a small disk.
const WITHOUT_MOUNT: &str = "SNAPSWARM_TESTS_WITHOUT_MOUNT";

/// A file system of this size on a folder, as `mount` takes it; nothing where none can
/// be mounted and the person has said that this is all right.
pub fn small_disk<'a>(folder: &'a Path, size: &str) -> Option<Unmount<'a>> {
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
        .arg(folder)
        .status();
    if mounted.is_ok_and(|status| status.success()) {
        return Some(Unmount(folder));
    }
    assert!(
        std::env::var_os(WITHOUT_MOUNT).is_some_and(|value| value == "1"),
        "no small file system can be mounted here: run the tests as root, or set \
         {WITHOUT_MOUNT}=1 to leave out those of a full and of a read-only disk"
    );
    println!("nothing was tested: {WITHOUT_MOUNT}=1");
    None
}

pub struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Writes a file until the disk is full.
pub fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    // The last bytes fit only in small parts.
    for part in [1 << 20, 4096, 1] {
        let part = vec![0; part];
        let full = loop {
            if let Err(full) = file.write_all(&part) {
                break full;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }
}
