//! `snapswarm unpin`

use clap::Args;

use super::{Cid, text};
use crate::node::command::{Command, ManifestCommand, Outcome};

/// Let a snapshot go when its time comes
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm unpin bafkrei...")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Unpin(ManifestCommand {
            manifest: self.snapshot.cid.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Changed(changed) = outcome else {
        return None;
    };
    Some(format!("Unpinned: {}\n", text::safe(&changed.manifest)))
}
