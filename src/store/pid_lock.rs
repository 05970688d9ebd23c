//! A file that one process at a time holds, with its pid in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two tries.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// A pid has at most this many digits; no more is read of a lock file.
const MAX_PID_BYTES: u64 = 20;

/// Held until it is dropped. The kernel lets go of it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct PidLock {
    _file: File,
}

/// Why a file is not held.
#[derive(Debug, thiserror::Error)]
pub enum PidLockError {
    /// Another process holds it; by its pid, where it can be read.
    #[error("another process holds it")]
    Held(Option<u32>),
    /// It cannot be made, locked or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl PidLock {
    /// Takes the file, which is made where it is missing; another process is waited for so
    /// long.
    pub fn take(path: &Path, patience: Duration) -> Result<Self, PidLockError> {
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path)?;
        let since = Instant::now();
        while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) && since.elapsed() < patience
        {
            std::thread::sleep(LOCK_AGAIN);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who holds it is only for the message.
                let _ = (&file).take(MAX_PID_BYTES).read_to_string(&mut text);
                return Err(PidLockError::Held(text.trim().parse().ok()));
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
        Ok(Self { _file: file })
    }
}
