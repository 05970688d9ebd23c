//! Who alone copies into a folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::node::command::{Failure, FailureCode};

/// One that was told to stop ends within this.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A pid has at most this many digits.
const PID_DIGITS: u64 = 10;

/// No other adapter copies into the folder while this is held.
#[derive(Debug)]
pub(in crate::node::adapter) struct CopyLock {
    _file: File,
}

impl CopyLock {
    /// Takes the folder for oneself, by a file beside it that holds the pid: the folder
    /// itself is removed and made anew.
    pub(super) async fn take(copy: &Path) -> Result<Self, Failure> {
        Self::take_within(copy, PATIENCE).await
    }

    async fn take_within(copy: &Path, patience: Duration) -> Result<Self, Failure> {
        let path = copy.with_extension("lock");
        let since = Instant::now();
        loop {
            match lock(&path).map_err(|error| Failure::io(path.display(), &error))? {
                Ok(file) => return Ok(Self { _file: file }),
                Err(_) if since.elapsed() < patience => tokio::time::sleep(LOOK_AGAIN).await,
                Err(holder) => return Err(held(copy, &path, &holder)),
            }
        }
    }
}

/// The file with our pid in it, or who has it.
fn lock(path: &PathBuf) -> io::Result<Result<File, String>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let mut file = options.open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            write!(file, "{}", std::process::id())?;
            Ok(Ok(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.take(PID_DIGITS).read_to_string(&mut holder)?;
            Ok(Err(holder))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn held(copy: &Path, lock: &Path, holder: &str) -> Failure {
    let process = match holder.parse::<u32>() {
        Ok(pid) => format!(" (process {pid})"),
        Err(_) => String::new(),
    };
    Failure::new(
        FailureCode::Failed,
        format!(
            "another adapter{process} copies a storage into {}, and has {}",
            copy.display(),
            lock.display()
        ),
    )
    .hint("stop that one, or give this one a home of its own with --home")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_adapter_has_the_copy_and_the_other_is_told_who() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("later/xian-copy");
        let first = CopyLock::take(&copy).await.unwrap();
        let second = CopyLock::take_within(&copy, Duration::ZERO).await;
        let told = second.unwrap_err();
        let pid = format!("process {}", std::process::id());
        assert!(told.message.contains(&pid), "{}", told.message);
        drop(first);
        CopyLock::take(&copy).await.unwrap();
    }
}
