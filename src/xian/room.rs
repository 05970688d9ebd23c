//! Room on the disk.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use super::XianError;

/// Bytes that the file system of `path` has left for us.
pub(super) fn free_bytes(path: &Path) -> Result<u64, XianError> {
    let stat = statvfs(path).map_err(|error| XianError::io("look at", path)(error.into()))?;
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// Whether there is room for so many bytes.
pub(super) fn check(path: &Path, needed: u64) -> Result<(), XianError> {
    let available = free_bytes(path)?;
    if needed <= available {
        return Ok(());
    }
    Err(XianError::NoSpace {
        path: path.to_owned(),
        needed,
        available,
    })
}
