//! A disk that is soon full.

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
