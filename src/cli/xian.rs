//! `snapswarm __xian`: the program as a worker of its own.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::node::command::{Failure, FailureCode};
use crate::node::xian::{self, Work};

/// Read or write a file of a Xian node's storage, for another process of this program
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// What to do with it
    work: Wanted,
    /// The file
    file: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wanted {
    Walk,
    Write,
}

impl Arguments {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let work = match self.work {
            Wanted::Walk => Work::Walk,
            Wanted::Write => Work::Write,
        };
        // Who started it hears of everything else through the pipe.
        xian::work(work, &self.file).map_err(|error| {
            super::failure(
                FailureCode::Failed,
                format!("nobody listens: {error}"),
                None,
            )
        })
    }
}
