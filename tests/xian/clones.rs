//! Copies on a file system that clones files.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use snapswarm::xian::{Copier, LatestBlock};

/// Lets a machine that cannot mount pass over this test.
const WITHOUT_MOUNT: &str = "SNAPSWARM_TESTS_WITHOUT_MOUNT";

struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// XFS in a file, mounted on a folder.
fn xfs<'a>(image: &Path, folder: &'a Path) -> Option<Mounted<'a>> {
    let file = File::create(image).unwrap();
    file.set_len(2 << 30).unwrap();
    let runs = |program: &str, arguments: &[&Path]| {
        let ended = Command::new(program).args(arguments).output();
        ended.is_ok_and(|output| output.status.success())
    };
    let quiet = Path::new("-q");
    if runs("mkfs.xfs", &[quiet, image]) && runs("mount", &[Path::new("-oloop"), image, folder]) {
        return Some(Mounted(folder));
    }
    assert!(
        std::env::var_os(WITHOUT_MOUNT).is_some_and(|value| value == "1"),
        "no XFS can be made and mounted here: run the tests as root with mkfs.xfs installed \
         (Debian: xfsprogs), or set {WITHOUT_MOUNT}=1 to leave this one out"
    );
    println!("nothing was tested: {WITHOUT_MOUNT}=1");
    None
}

#[test]
fn files_that_changed_are_cloned_and_the_clone_keeps_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let Some(_mounted) = xfs(&folder.path().join("image"), &disk) else {
        return;
    };
    let (node, work) = (disk.join("node"), disk.join("work"));
    fs::create_dir_all(node.join("contract_state")).unwrap();
    let latest = LatestBlock::path(&node);
    fs::write(&latest, r#"{"hash": "61", "height": 1}"#).unwrap();
    let currency = node.join("contract_state/currency");
    fs::write(&currency, vec![7; 50 << 20]).unwrap();

    let mut copier = Copier::new(&node, &work, NonZeroUsize::MIN).unwrap();
    let ahead = copier.ahead(&|| false).unwrap();
    assert_eq!((ahead.cloned_files, ahead.read_bytes), (1, 0), "{ahead:?}");
    let file = File::options().write(true).open(&currency).unwrap();
    file.write_all_at(b"changed", 20 << 20).unwrap();
    let held = copier.held(Duration::from_secs(60)).unwrap();
    let held = held.write().unwrap();
    assert_eq!((held.block.height, held.stats.cloned_files), (1, 1));
    let copied = copier.folder().join("contract_state/currency");
    let expected = fs::read(&currency).unwrap();
    assert!(fs::read(&copied).unwrap() == expected);

    // The node goes on; the copy stays what it was.
    file.write_all_at(b"again", 30 << 20).unwrap();
    assert!(fs::read(&copied).unwrap() == expected);
    assert!(fs::read(&currency).unwrap() != expected);
    let names = fs::read_dir(copier.folder().join("contract_state")).unwrap();
    assert_eq!(names.count(), 1, "nothing but the copy is left");
}
