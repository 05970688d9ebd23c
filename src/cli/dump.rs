//! `snapswarm dump`

use std::path::PathBuf;

use clap::Args;

use super::{Cid, home, text};
use crate::node::command::{Command, DumpCommand, Failure, Outcome};

/// Write a snapshot into a CAR file
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm dump bafkrei... snapshot.car")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
    /// The file to write; must not exist
    #[arg(value_name = "FILE.car")]
    file: PathBuf,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        Ok(Command::Dump(DumpCommand {
            manifest: self.snapshot.cid.clone(),
            file: home::absolute(&self.file)?,
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Dumped(dumped) = outcome else {
        return None;
    };
    Some(format!(
        "Wrote {} ({}): {}\n",
        text::safe(&dumped.file.display().to_string()),
        text::bytes(dumped.file_bytes),
        text::safe(&dumped.manifest),
    ))
}
