//! `snapswarm delete`

use clap::Args;

use super::{Cid, text};
use crate::node::command::{Command, ManifestCommand, Outcome};

/// Remove a snapshot from the home
///
/// Also one that is here in part, and what is left of a damaged one. A download
/// under way is not removed: stop its `fetch` first.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm delete bafkrei...")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Delete(ManifestCommand {
            manifest: self.snapshot.cid.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Changed(changed) = outcome else {
        return None;
    };
    let mut told = format!("Deleted: {}\n", text::safe(&changed.manifest));
    for delta in &changed.needed_by {
        told += &format!(
            "The delta {} builds on it: nothing here can read that one now; whoever has the base can\n",
            text::safe(delta)
        );
    }
    Some(told)
}
