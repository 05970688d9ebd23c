//! Files and folders outside of the home: made beside the name that a person gave, and
//! under that name when they are whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use super::StoreError;
use super::disk::free_bytes;

/// How names of what is not whole yet begin.
const PREFIX: &str = ".snapswarm-";

/// A file that is being written for a person. Dropping it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    temporary: NamedTempFile,
    path: PathBuf,
    needed: u64,
}

impl NewFile {
    /// Begins the file `path`, which must not exist, and of which it is known that it
    /// needs so many bytes.
    pub fn create(path: &Path, needed: u64) -> Result<Self, StoreError> {
        let folder = begin(path, needed)?;
        // Readable by whom the umask allows, as any file that a person makes.
        let temporary = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(fs::Permissions::from_mode(0o666))
            .tempfile_in(&folder)
            .map_err(StoreError::outside(&folder, needed))?;
        Ok(Self {
            temporary,
            path: path.to_owned(),
            needed,
        })
    }

    /// The name that it will have.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is now, for who writes it by name.
    pub fn beside(&self) -> &Path {
        self.temporary.path()
    }

    /// An empty file beside it, without a name: for what has its place behind that which
    /// is not written yet.
    pub fn spool(&self) -> Result<File, StoreError> {
        let folder = folder_of(&self.path);
        tempfile::tempfile_in(&folder).map_err(StoreError::outside(&folder, self.needed))
    }

    /// What a failed write means. What was written makes room again when this is dropped.
    pub fn failed(&self, source: io::Error) -> StoreError {
        let written = self.temporary.as_file().metadata();
        let written = written.map_or(0, |found| found.len());
        match StoreError::outside(&self.path, self.needed.max(written + 1))(source) {
            StoreError::OutsideFull {
                path,
                needed,
                available,
            } => StoreError::OutsideFull {
                path,
                needed,
                available: available.saturating_add(written),
            },
            other => other,
        }
    }

    /// It is whole: makes it survive a loss of power and gives it its name; gives how
    /// many bytes it has.
    pub fn finish(self) -> Result<u64, StoreError> {
        let Self {
            temporary,
            path,
            needed,
        } = self;
        let failed = &StoreError::outside(&path, needed);
        temporary.as_file().sync_all().map_err(failed)?;
        let file =
            temporary
                .persist_noclobber(&path)
                .map_err(|error| match error.error.kind() {
                    io::ErrorKind::AlreadyExists => StoreError::Exists(path.clone()),
                    _ => failed(error.error),
                })?;
        sync_folder(&folder_of(&path))?;
        let meta = file.metadata();
        Ok(meta
            .map_err(StoreError::io("read the size of", &path))?
            .len())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.temporary.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.flush()
    }
}

/// A folder that is being filled for a person. Dropping it leaves nothing.
#[derive(Debug)]
pub struct NewFolder {
    around: TempDir,
    beside: PathBuf,
    path: PathBuf,
    needed: u64,
}

impl NewFolder {
    /// Begins the folder `path`, which must not exist, and of which it is known that it
    /// needs so many bytes.
    pub fn create(path: &Path, needed: u64) -> Result<Self, StoreError> {
        let folder = begin(path, needed)?;
        let failed = &StoreError::outside(&folder, needed);
        let around = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&folder)
            .map_err(failed)?;
        // Open to whom the umask allows, which the folder around it is not.
        let beside = around.path().join("new");
        fs::create_dir(&beside).map_err(failed)?;
        Ok(Self {
            around,
            beside,
            path: path.to_owned(),
            needed,
        })
    }

    /// Where it is now.
    pub fn beside(&self) -> &Path {
        &self.beside
    }

    /// All files are in it and synced: gives it its name.
    pub fn finish(self) -> Result<(), StoreError> {
        if exists(&self.path) {
            return Err(StoreError::Exists(self.path));
        }
        sync_folder(&self.beside)?;
        fs::rename(&self.beside, &self.path)
            .map_err(StoreError::outside(&self.path, self.needed))?;
        sync_folder(&folder_of(&self.path))?;
        drop(self.around);
        Ok(())
    }
}

/// Whether a name is free and has room; gives its folder.
fn begin(path: &Path, needed: u64) -> Result<PathBuf, StoreError> {
    if exists(path) {
        return Err(StoreError::Exists(path.to_owned()));
    }
    let folder = folder_of(path);
    require_space(&folder, needed)?;
    Ok(folder)
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Fails when a place outside of the home has no room for so many bytes.
pub(super) fn require_space(path: &Path, needed: u64) -> Result<(), StoreError> {
    match free_bytes(path) {
        Some(available) if available < needed => Err(StoreError::OutsideFull {
            path: path.to_owned(),
            needed,
            available,
        }),
        _ => Ok(()),
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::io("sync", folder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::names;

    #[test]
    fn a_file_has_its_name_when_it_is_whole_and_leaves_nothing_before() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out");
        let mut file = NewFile::create(&path, 3).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert!(names(room.path()).is_empty());
        let mut file = NewFile::create(&path, 3).unwrap();
        file.write_all(b"whole").unwrap();
        assert_eq!(file.finish().unwrap(), 5);
        assert_eq!(names(room.path()), ["out"]);
        let refused = NewFile::create(&path, 3).unwrap_err();
        assert!(matches!(refused, StoreError::Exists(_)));
    }

    #[test]
    fn where_the_disk_gets_full_what_was_written_counts_as_free() {
        let room = tempfile::tempdir().unwrap();
        let mut file = NewFile::create(&room.path().join("out"), 3).unwrap();
        file.write_all(b"written").unwrap();
        let full = file.failed(io::ErrorKind::StorageFull.into());
        let StoreError::OutsideFull {
            needed, available, ..
        } = full
        else {
            panic!("{full}");
        };
        assert!(needed == 8 && available >= 7, "{needed} of {available}");
    }

    #[test]
    fn a_file_that_came_meanwhile_stays() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out");
        let file = NewFile::create(&path, 0).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(matches!(file.finish(), Err(StoreError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(names(room.path()), ["out"]);
    }

    #[test]
    fn a_folder_has_its_name_when_it_is_whole_and_leaves_nothing_before() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out");
        let folder = NewFolder::create(&path, 0).unwrap();
        fs::write(folder.beside().join("a"), "a").unwrap();
        drop(folder);
        assert!(names(room.path()).is_empty());
        let folder = NewFolder::create(&path, 0).unwrap();
        fs::write(folder.beside().join("a"), "a").unwrap();
        folder.finish().unwrap();
        assert_eq!(names(room.path()), ["out"]);
        assert_eq!(names(&path), ["a"]);
        assert!(NewFolder::create(&path, 0).is_err());
    }

    #[test]
    fn what_the_disk_has_no_room_for_is_not_begun() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out");
        let full = NewFile::create(&path, u64::MAX).unwrap_err();
        assert!(matches!(full, StoreError::OutsideFull { .. }));
        assert!(names(room.path()).is_empty());
    }
}
