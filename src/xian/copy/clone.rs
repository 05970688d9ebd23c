//! Cloning a file: the copy shares its blocks with it until one of the two changes.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
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
    let mut name = to.as_os_str().to_owned();
    // A dot makes it no file of the state.
    name.push(OsString::from(".new"));
    let new = Path::new(&name);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(new)
        .map_err(XianError::io("create", new))?;
    // SAFETY: both are open files; the call takes no memory.
    let cloned = unsafe { call::ficlone(file.as_raw_fd(), from.as_raw_fd() as u64) };
    match cloned {
        Ok(_) => {
            fs::rename(new, to).map_err(XianError::io("replace", to))?;
            Ok(true)
        }
        // Not made for it, another file system, or not for these files.
        Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS) => {
            fs::remove_file(new).map_err(XianError::io("remove", new))?;
            Ok(false)
        }
        Err(error) => Err(XianError::io("clone into", to)(error.into())),
    }
}
