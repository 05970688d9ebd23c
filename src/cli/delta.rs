//! `snapswarm delta`

use clap::Args;

use super::{arguments, text};
use crate::node::command::{Command, DeltaCommand, Outcome};

/// Make a snapshot of what changed from one state to another
///
/// Who has the earlier one needs no more than the delta; it is served as any other
/// snapshot. The same two states give the same delta everywhere.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm delta bafkrei... bafkrei...")]
pub(super) struct Arguments {
    /// What the delta builds on, as `list` shows it
    #[arg(value_name = "BASE", value_parser = arguments::cid)]
    base: String,
    /// The later state of the same chain
    #[arg(value_name = "CID", value_parser = arguments::cid)]
    to: String,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Delta(DeltaCommand {
            base: self.base.clone(),
            to: self.to.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Delta(made) = outcome else {
        return None;
    };
    Some(format!(
        "Made a delta of {} ({}, where the state itself has {}): {}\n",
        text::count(made.changes, "change", "changes"),
        text::bytes(made.bytes),
        text::bytes(made.full_bytes),
        text::safe(&made.manifest),
    ))
}
