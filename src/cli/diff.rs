//! `snapswarm diff`

use clap::Args;

use super::{arguments, text};
use crate::node::command::{Amount, Command, DiffCommand, Outcome, StateName};

/// Show what changed from one state to another, by contract
#[derive(Debug, Args)]
#[command(
    after_help = "Both are snapshots of state content of this home; a delta needs what it builds \
    on.\nExample:\n  snapswarm diff bafkrei... bafkrei..."
)]
pub(super) struct Arguments {
    /// The earlier state, as `list` shows it
    #[arg(value_name = "CID", value_parser = arguments::cid)]
    from: String,
    /// The later state
    #[arg(value_name = "CID", value_parser = arguments::cid)]
    to: String,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Diff(DiffCommand {
            from: self.from.clone(),
            to: self.to.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Diffed(diffed) = outcome else {
        return None;
    };
    let mut out = text::facts(&[("from", name(&diffed.from)), ("to", name(&diffed.to))]);
    if diffed.scopes.is_empty() {
        out += "No record differs.\n";
        return Some(out);
    }
    let mut table = text::Table::new(&[
        ">ADDED", ">BYTES", ">CHANGED", ">BYTES", ">REMOVED", ">BYTES", "SCOPE",
    ]);
    let mut row = |amounts: [&Amount; 3], scope: &str| {
        let [added, changed, removed] = amounts.map(|amount| {
            let bytes = text::bytes(amount.bytes);
            [amount.records.to_string(), bytes]
        });
        let [[a, b], [c, d], [e, f]] = [added, changed, removed];
        table.row([a, b, c, d, e, f, scope.to_owned()]);
    };
    for scope in &diffed.scopes {
        row([&scope.added, &scope.changed, &scope.removed], &scope.scope);
    }
    row([&diffed.added, &diffed.changed, &diffed.removed], "in all");
    out.push('\n');
    out += &table.render();
    Some(out)
}

fn name(state: &StateName) -> String {
    let records = text::count(state.records, "record", "records");
    let StateName {
        manifest,
        chain_id,
        height,
        ..
    } = state;
    format!("{manifest} ({chain_id}, height {height}, {records})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::{Diffed, ScopeDiff};

    fn diffed(scopes: Vec<ScopeDiff>) -> Outcome {
        let name = |height| StateName {
            manifest: "bafk".to_owned(),
            chain_id: "c\u{1b}[2J".to_owned(),
            height,
            records: 2,
        };
        Outcome::Diffed(Diffed {
            from: name(7),
            to: name(8),
            added: Amount::default(),
            changed: Amount::default(),
            removed: Amount {
                records: 1,
                bytes: 2048,
            },
            scopes,
            seconds: 0.1,
        })
    }

    #[test]
    fn each_scope_has_its_line_and_the_sum_comes_last() {
        let text = text(&diffed(vec![ScopeDiff {
            scope: "con_\u{202e}x".to_owned(),
            added: Amount::default(),
            changed: Amount::default(),
            removed: Amount {
                records: 1,
                bytes: 2048,
            },
        }]));
        let text = text.unwrap();
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(lines[4].ends_with("con_\\u{202e}x"), "{text}");
        assert!(
            lines[5].contains("2.0 KiB") && lines[5].ends_with("in all"),
            "{text}"
        );
    }

    #[test]
    fn states_that_are_the_same_are_said_to_be() {
        let text = text(&diffed(Vec::new())).unwrap();
        assert!(text.ends_with("No record differs.\n"), "{text}");
    }
}
