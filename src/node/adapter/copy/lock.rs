//! Who alone copies into a folder.

use std::path::Path;
use std::time::Duration;

use crate::node::command::{Failure, FailureCode};
use crate::store::{PidLock, PidLockError};

/// One that was told to stop ends within this.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the folder for this process, by a file beside it: the folder itself is removed and
/// made anew. Who has it is waited for so long. Blocking.
pub(super) fn take(copy: &Path, patience: Duration) -> Result<PidLock, Failure> {
    let path = copy.with_extension("lock");
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| Failure::io(folder.display(), &error))?;
    }
    PidLock::take(&path, patience).map_err(|error| match error {
        PidLockError::Held(pid) => held(copy, &path, pid),
        PidLockError::Io(error) => Failure::io(path.display(), &error),
    })
}

fn held(copy: &Path, lock: &Path, pid: Option<u32>) -> Failure {
    let process = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    let (copy, lock) = (copy.display(), lock.display());
    Failure::new(
        FailureCode::Failed,
        format!("another adapter{process} copies a storage into {copy}, and has {lock}"),
    )
    .hint("stop that one, or give this one a home of its own with --home")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_adapter_has_the_copy_and_the_other_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("later/xian-copy");
        let first = take(&copy, PATIENCE).unwrap();
        let told = take(&copy, Duration::ZERO).unwrap_err();
        let pid = format!("process {}", std::process::id());
        assert!(told.message.contains(&pid), "{}", told.message);
        drop(first);
        take(&copy, PATIENCE).unwrap();
    }
}
