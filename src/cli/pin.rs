//! `snapswarm pin`

use clap::Args;

use super::{Cid, text};
use crate::node::command::{Command, ManifestCommand, Outcome};

/// Keep a snapshot whatever its age
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm pin bafkrei...")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Pin(ManifestCommand {
            manifest: self.snapshot.cid.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Changed(changed) = outcome else {
        return None;
    };
    Some(format!("Pinned: {}\n", text::safe(&changed.manifest)))
}
