//! Cloning a file: the copy shares its blocks with it until one of the two changes.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;

use crate::xian::XianError;

mod call {
    // FICLONE of linux/fs.h: _IOW(0x94, 9, int).
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// Makes `to` a clone of `from`, in place of what stands there. False, and nothing
/// done, where the file system cannot.
pub(super) fn clone(from: &File, to: &Path) -> Result<bool, XianError> {
    let folder = to.parent().unwrap_or(Path::new("."));
    // A dot makes it no file of the state, whose own name may be as long as names can be.
    let new = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)
        .map_err(XianError::io("create a file in", folder))?;
    // SAFETY: both are open files; the call takes no memory.
    let cloned = unsafe { call::ficlone(new.as_file().as_raw_fd(), from.as_raw_fd() as u64) };
    match cloned {
        Ok(_) => {
            new.persist(to)
                .map_err(|error| XianError::io("replace", to)(error.error))?;
            Ok(true)
        }
        // Not made for it, another file system, or not for these files.
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS) => {
            Ok(false)
        }
        Err(error) => Err(XianError::io("clone into", to)(error.into())),
    }
}
