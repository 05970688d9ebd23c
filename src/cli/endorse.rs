//! `snapswarm endorse`

use clap::Args;

use super::{Cid, text};
use crate::node::command::{Command, ManifestCommand, Outcome};

/// Vouch for a snapshot with the key of this node
#[derive(Debug, Args)]
#[command(
    after_help = "A node says by itself what its own chain node computed; others count only \
                        that. That a person vouches for a snapshot is shown by `show`.\n\n\
                        Example:\n  snapswarm endorse bafkrei..."
)]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Endorse(ManifestCommand {
            manifest: self.snapshot.cid.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Endorsed(endorsed) = outcome else {
        return None;
    };
    Some(format!(
        "Endorsed ({}) by {}: {}\n",
        text::safe(&endorsed.kind),
        text::safe(&endorsed.endorser),
        text::safe(&endorsed.manifest)
    ))
}
