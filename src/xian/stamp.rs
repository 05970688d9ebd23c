//! By what a file is known to be the same.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;

use super::XianError;

/// How far the clock by which a file system stamps files may be behind: a tick of the
/// kernel's has at most 10 ms.
pub(super) const CLOCK_TICK: Duration = Duration::from_millis(20);

/// The same where it stamps in whole seconds, or in two of them.
const COARSE_TICK: Duration = Duration::from_secs(3);
const SECOND: i128 = 1_000_000_000;

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileStamp {
    pub(super) bytes: u64,
    /// Nanoseconds since 1970 of the last change of its bytes, and of anything.
    changed: (i128, i128),
    inode: (u64, u64),
}

impl FileStamp {
    pub(super) fn of(file: &File, path: &Path) -> Result<Self, XianError> {
        let meta = file.metadata().map_err(XianError::io("look at", path))?;
        Ok(Self::of_meta(&meta))
    }

    pub(super) fn of_meta(meta: &std::fs::Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * SECOND + i128::from(nanos);
        Self {
            bytes: meta.len(),
            changed: (
                nanos(meta.mtime(), meta.mtime_nsec()),
                nanos(meta.ctime(), meta.ctime_nsec()),
            ),
            inode: (meta.dev(), meta.ino()),
        }
    }

    /// Whether a change after `moment` would show.
    pub(super) fn is_older_than(&self, moment: SystemTime) -> bool {
        let moment = moment.duration_since(UNIX_EPOCH).unwrap_or_default();
        let is_coarse = self.changed.0 % SECOND == 0 && self.changed.1 % SECOND == 0;
        let tick = if is_coarse { COARSE_TICK } else { CLOCK_TICK };
        let moment = moment.saturating_sub(tick).as_nanos() as i128;
        self.changed.0 < moment && self.changed.1 < moment
    }
}

/// Opens a file for reading, if it is one; a link fails.
pub(super) fn open_file(path: &Path) -> io::Result<Option<File>> {
    open_if_file(path, OpenOptions::new().read(true))
}

/// The same, for writing.
pub(super) fn open_to_write(path: &Path) -> io::Result<Option<File>> {
    open_if_file(path, OpenOptions::new().write(true))
}

fn open_if_file(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = options.custom_flags(flags.bits()).open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// Opens what was a file a moment ago.
pub(super) fn open_regular(path: &Path) -> Result<File, XianError> {
    let file = open_file(path).map_err(|error| changed_or(error, "open", path))?;
    file.ok_or_else(|| XianError::Changed {
        path: path.to_owned(),
    })
}

/// The stamp of a file that stands at a path.
pub(super) fn of_path(path: &Path) -> Result<FileStamp, XianError> {
    let meta = path.symlink_metadata();
    let meta = meta.map_err(|error| changed_or(error, "look at", path))?;
    Ok(FileStamp::of_meta(&meta))
}

/// A file that stood there a moment ago and does not any more has changed.
fn changed_or(error: io::Error, op: &'static str, path: &Path) -> XianError {
    match error.kind() {
        io::ErrorKind::NotFound => XianError::Changed {
            path: path.to_owned(),
        },
        _ => XianError::io(op, path)(error),
    }
}
