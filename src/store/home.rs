//! Names of files and folders in a home, and its lock.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::snapshot::ManifestId;

use super::StoreError;
use super::pid_lock::{PidLock, PidLockError};

/// Ending of a complete snapshot's file.
pub(super) const ARCHIVE: &str = ".h5";
/// Ending of a download's file.
pub(super) const PART: &str = ".h5.part";
/// Ending of a download's sidecar.
pub(super) const SIDECAR: &str = ".bitmap";
/// Ending of the file with who speaks for a snapshot.
pub(super) const ENDORSED: &str = ".endorsed";
/// Ending of a file that was moved aside.
pub(super) const DAMAGED: &str = ".damaged";

/// A home that is in use may be free in a moment: a process holds what its parent had until
/// it becomes another program, and the parent may have let go of it.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// The folders of one home.
pub(super) struct Home {
    pub(super) root: PathBuf,
    pub(super) snapshots: PathBuf,
    pub(super) downloads: PathBuf,
    pub(super) spool: PathBuf,
    pub(super) catalogue: PathBuf,
}

impl Home {
    /// The home at `root`, whether it is there or not.
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            snapshots: root.join("snapshots"),
            downloads: root.join("downloads"),
            spool: root.join("spool"),
            catalogue: root.join("catalogue.json"),
        }
    }

    /// Makes the folders that are missing, durably.
    pub(super) fn create(root: &Path) -> Result<Self, StoreError> {
        let home = Self::at(root);
        for folder in [&home.root, &home.snapshots, &home.downloads, &home.spool] {
            std::fs::create_dir_all(folder).map_err(StoreError::io("create the folder", folder))?;
        }
        Ok(home)
    }

    pub(super) fn archive(&self, id: &ManifestId) -> PathBuf {
        self.snapshots.join(format!("{id}{ARCHIVE}"))
    }

    pub(super) fn endorsed(&self, id: &ManifestId) -> PathBuf {
        self.snapshots.join(format!("{id}{ENDORSED}"))
    }

    pub(super) fn part(&self, id: &ManifestId) -> PathBuf {
        self.downloads.join(format!("{id}{PART}"))
    }

    pub(super) fn sidecar(&self, id: &ManifestId) -> PathBuf {
        self.downloads.join(format!("{id}{SIDECAR}"))
    }

    /// Takes the home for this process.
    pub(super) fn lock(&self) -> Result<PidLock, StoreError> {
        let path = self.root.join("lock");
        PidLock::take(&path, LOCK_PATIENCE).map_err(|error| match error {
            PidLockError::Held(pid) => StoreError::Locked {
                home: self.root.clone(),
                pid,
            },
            PidLockError::Io(source) => StoreError::io("lock", &path)(source),
        })
    }
}

/// When files came or went in a home last, or a line of its catalogue changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp([Option<SystemTime>; 3]);

/// A change that is younger than this may be followed by one that leaves no trace: the
/// times of files have grains, of two seconds on the coarsest file systems.
const GRAIN: Duration = Duration::from_secs(3);

impl Stamp {
    pub(super) fn of(home: &Home) -> Option<Self> {
        let changed = |path: &Path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        };
        let folders = [&home.snapshots, &home.downloads, &home.catalogue];
        let times = folders.map(|path| changed(path));
        times[0].is_some().then_some(Self(times))
    }

    /// Whether every later change shows.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let is_old = |time: &SystemTime| now.duration_since(*time).is_ok_and(|age| age > GRAIN);
        self.0.iter().flatten().all(is_old)
    }
}

/// The snapshot that a file is named after, by its ending.
pub(super) fn named_id(path: &Path, ending: &str) -> Option<ManifestId> {
    path.file_name()?
        .to_str()?
        .strip_suffix(ending)?
        .parse()
        .ok()
}

/// The snapshot to which a file of ours belongs, moved aside or not.
pub(super) fn owner(path: &Path) -> Option<ManifestId> {
    let name = path.file_name()?.to_str()?;
    let path = Path::new(name.strip_suffix(DAMAGED).unwrap_or(name));
    [ARCHIVE, PART, SIDECAR]
        .iter()
        .find_map(|ending| named_id(path, ending))
}

/// The entries of a folder, in order of their names.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = std::fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(StoreError::io("list", folder))?;
    paths.sort();
    Ok(paths)
}

/// The path that `path` gets when it is moved aside.
pub(super) fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DAMAGED);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_taken_by_one_at_a_time_and_says_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(&folder.path().join("deep/home")).unwrap();
        let lock = home.lock().unwrap();
        match home.lock().unwrap_err() {
            StoreError::Locked { pid, .. } => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other}"),
        }
        drop(lock);
        home.lock().unwrap();
    }

    #[test]
    fn a_pid_file_from_an_earlier_run_does_not_hold_the_home() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::create(folder.path()).unwrap();
        std::fs::write(folder.path().join("lock"), "4000000000\nlonger than a pid").unwrap();
        drop(home.lock().unwrap());
        let text = std::fs::read_to_string(folder.path().join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }
}
