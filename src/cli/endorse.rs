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
    let mut out = format!(
        "Endorsed ({}) by {}: {}\n",
        text::safe(&endorsed.kind),
        text::safe(&endorsed.endorser),
        text::safe(&endorsed.manifest)
    );
    if !endorsed.complete {
        out += "Only a part of it is here: you vouch for all of it.\n";
    }
    if let Some(base) = &endorsed.base {
        out += &format!(
            "It is a delta from {}: whoever joins needs endorsements of the full snapshot of its \
             height.\n",
            text::safe(base)
        );
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::Endorsed;

    #[test]
    fn who_vouches_for_a_part_or_a_delta_is_told() {
        let whole = Endorsed {
            manifest: "bafk".to_owned(),
            endorser: "12D3".to_owned(),
            kind: "vouched".to_owned(),
            complete: true,
            base: None,
        };
        let lines = |endorsed: &Endorsed| {
            let text = text(&Outcome::Endorsed(endorsed.clone())).unwrap();
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&whole), ["Endorsed (vouched) by 12D3: bafk"]);
        let part = Endorsed {
            complete: false,
            base: Some("bafkbase".to_owned()),
            ..whole
        };
        let said = lines(&part);
        assert!(said[1].contains("part") && said[2].contains("a delta from bafkbase"));
    }
}
