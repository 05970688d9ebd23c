//! Lines about the calls, on stderr and in a file.

use std::fmt::Arguments;
use std::fs::File;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::Options;

/// Where lines go.
pub struct Log {
    file: Option<File>,
    is_quiet: bool,
}

impl Log {
    /// Opens the file, if there is one.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let open = |path: &std::path::PathBuf| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("the log {} cannot be opened", path.display()))
        };
        Ok(Self {
            file: options.log.as_ref().map(open).transpose()?,
            is_quiet: options.quiet,
        })
    }

    /// Writes one line: seconds since 1970, then the text. A log that cannot be
    /// written stops nothing.
    pub fn line(&mut self, text: Arguments<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let line = format!("{:.3} {text}\n", now.unwrap_or_default().as_secs_f64());
        if !self.is_quiet {
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
        if let Some(file) = &mut self.file {
            // One write: lines of two processes do not mix.
            let _ = file.write_all(line.as_bytes());
        }
    }
}
