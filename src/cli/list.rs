//! `snapswarm list`

use clap::Args;

use super::text;
use crate::node::command::{Command, Outcome, STATE_FORMAT, SnapshotSummary};

/// Show all snapshots of the home
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm list --json | jq -r '.snapshots[].manifest'")]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::List
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::List(list) = outcome else {
        return None;
    };
    let mut out = table(&list.snapshots);
    for file in &list.damaged {
        let (path, problem) = (file.file.display().to_string(), &file.problem);
        if file.unread {
            let (path, problem) = (text::safe(&path), text::safe(problem));
            out += &format!(
                "Unreadable: {path} ({problem}); let this user read it, or check the disk: nothing \
                 is known to be wrong with what it holds\n"
            );
            continue;
        }
        out += &format!("Damaged: {} ({})", text::safe(&path), text::safe(problem));
        let is_listed = |one: &SnapshotSummary| Some(&one.manifest) == file.manifest.as_ref();
        out += match &file.manifest {
            Some(_) if list.snapshots.iter().any(is_listed) && path.ends_with(".damaged") => {
                "; the snapshot is here again, and this file is of no more use\n"
            }
            Some(_) if list.snapshots.iter().any(is_listed) => {
                "; `snapswarm verify CID` moves it aside if it is so, then fetch or load it again\n"
            }
            Some(_) => "; fetch or load it again, `snapswarm delete CID` removes it\n",
            None => "\n",
        };
    }
    for cid in &list.missing {
        out += &format!(
            "Missing: {} (pinned): put its file back, or fetch or load it again; `snapswarm delete \
             CID` forgets it\n",
            text::safe(cid)
        );
    }
    Some(out)
}

/// Snapshots as `list` and `status` show them, with what to do about those that
/// are here in part.
pub(super) fn table(snapshots: &[SnapshotSummary]) -> String {
    if snapshots.is_empty() {
        return "No snapshot is here yet: see `fetch`, `load` and `start --harvest`.\n".to_owned();
    }
    let mut table = text::Table::new(&[
        "CHAIN", ">HEIGHT", ">FORMAT", ">CHUNKS", ">SIZE", ">HERE", "STATE", "KEPT", "FROM", "CID",
    ]);
    for snapshot in snapshots {
        table.row([
            snapshot.chain_id.clone(),
            snapshot.height.to_string(),
            match snapshot.format {
                STATE_FORMAT => "state".to_owned(),
                format => format.to_string(),
            },
            snapshot.chunks.to_string(),
            text::bytes(snapshot.bytes),
            here(snapshot, snapshots),
            proof(snapshot).to_owned(),
            if snapshot.pinned { "pinned" } else { "" }.to_owned(),
            snapshot.origin.clone(),
            snapshot.manifest.clone(),
        ]);
    }
    let mut out = table.render();
    let is_begun = |snapshot: &SnapshotSummary| !snapshot.complete && snapshot.only.is_empty();
    if snapshots.iter().any(|snapshot| !snapshot.only.is_empty()) {
        out += "Of a snapshot that is here for some contracts only, `snapswarm dump CID FILE --format` \
                writes their records; no node can start from it.\n";
    }
    // What the daemon derives is for others.
    let is_wanted = |one: &&SnapshotSummary| one.complete && one.origin != "derived";
    let mut deltas = snapshots.iter().filter(|one| one.base.is_some());
    if let Some(delta) = deltas.find(|one| is_wanted(one) && base(one, snapshots).is_none()) {
        let cid = delta.base.as_deref().unwrap_or_default();
        out += &format!(
            "A delta can be read only where the snapshot is that it builds on: `snapswarm fetch \
             {}` brings it.\n",
            text::safe(cid)
        );
    }
    if snapshots.iter().any(is_begun) {
        out += "A snapshot that is here in part holds its whole size on the disk: `snapswarm fetch \
                CID` goes on with it, `snapswarm delete CID` gives it up.\n";
    }
    out
}

/// The snapshot that a delta builds on, if all of that is here.
fn base<'a>(delta: &SnapshotSummary, all: &'a [SnapshotSummary]) -> Option<&'a SnapshotSummary> {
    let mut all = all.iter();
    all.find(|one| one.complete && Some(&one.manifest) == delta.base.as_ref())
}

fn here(snapshot: &SnapshotSummary, all: &[SnapshotSummary]) -> String {
    if snapshot.complete {
        return match (&snapshot.base, base(snapshot, all)) {
            (None, _) => "all".to_owned(),
            (Some(_), Some(base)) => format!("all of a delta from {}", base.height),
            (Some(_), None) => "all of a delta, no base".to_owned(),
        };
    }
    let contracts = match snapshot.only.len() as u64 {
        0 => String::new(),
        some => format!("only {}, ", text::count(some, "contract", "contracts")),
    };
    // 100 % of the bytes is not yet a sealed archive.
    let percent = u128::from(snapshot.have_bytes) * 100 / u128::from(snapshot.bytes.max(1));
    format!(
        "{contracts}{} ({} %)",
        text::bytes(snapshot.have_bytes),
        percent.min(99)
    )
}

/// Whether more than transport damage was checked.
pub(super) fn proof(snapshot: &SnapshotSummary) -> &'static str {
    match (snapshot.format, snapshot.app_hash_confirmed) {
        // What it confirms is the height, and not the state.
        (STATE_FORMAT, true) => "hash fits",
        (_, true) => "proven",
        (_, false) => "not proven",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::{DamagedSummary, SnapshotList};

    #[test]
    fn a_chain_id_of_a_stranger_cannot_break_the_table() {
        let summary = SnapshotSummary {
            manifest: "bafk".to_owned(),
            chain_id: "x\n\u{1b}[31mfake".to_owned(),
            height: 7,
            format: 1,
            chunks: 2,
            bytes: 100,
            have_bytes: 100,
            complete: false,
            base: None,
            pinned: true,
            proven: false,
            app_hash_confirmed: false,
            origin: "fetched".to_owned(),
            only: Vec::new(),
        };
        let text = table(std::slice::from_ref(&summary));
        assert_eq!(text.lines().count(), 3);
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("100 B (99 %)") && text.contains("not proven"));
        assert!(text.contains("pinned") && text.contains("delete CID"));
        let part = SnapshotSummary {
            only: vec!["con_a".to_owned()],
            ..summary.clone()
        };
        let text = table(&[part]);
        assert!(text.contains("only 1 contract, 100 B"), "{text}");
        assert!(
            text.contains("no node can start") && !text.contains("in part"),
            "{text}"
        );
        let whole = SnapshotSummary {
            complete: true,
            ..summary
        };
        assert_eq!(table(std::slice::from_ref(&whole)).lines().count(), 2);
        let delta = SnapshotSummary {
            base: Some("bafb".to_owned()),
            ..whole.clone()
        };
        let alone = table(std::slice::from_ref(&delta));
        assert!(alone.contains("all of a delta, no base"), "{alone}");
        assert!(alone.contains("`snapswarm fetch bafb`"), "{alone}");
        let derived = SnapshotSummary {
            origin: "derived".to_owned(),
            ..delta.clone()
        };
        assert!(!table(&[derived]).contains("snapswarm fetch"));
        let base = SnapshotSummary {
            manifest: "bafb".to_owned(),
            height: 6,
            ..whole
        };
        let both = table(&[delta, base]);
        assert!(both.contains("all of a delta from 6") && !both.contains("fetch bafb"));
    }

    #[test]
    fn damaged_and_missing_files_are_told_below_the_table() {
        let list = SnapshotList {
            snapshots: Vec::new(),
            damaged: vec![DamagedSummary {
                manifest: Some("bafk".to_owned()),
                file: "/h/bafk.h5.damaged".into(),
                problem: "chunk 1\nis wrong".to_owned(),
                unread: false,
            }],
            missing: vec!["bafm".to_owned()],
        };
        let text = text(&Outcome::List(list)).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].contains("bafk.h5.damaged (chunk 1"), "{text}");
        assert!(lines[1].contains("bafm (pinned)"), "{text}");
        assert!(lines.iter().all(|line| line.contains("delete CID")));
    }

    #[test]
    fn what_cannot_be_read_is_not_said_to_be_damaged() {
        let list = SnapshotList {
            snapshots: Vec::new(),
            damaged: vec![DamagedSummary {
                manifest: Some("bafk".to_owned()),
                file: "/h/bafk.h5".into(),
                problem: "Permission denied".to_owned(),
                unread: true,
            }],
            missing: Vec::new(),
        };
        let text = text(&Outcome::List(list)).unwrap();
        assert!(text.contains("Unreadable: /h/bafk.h5 (Permission denied)"));
        assert!(
            !text.contains("Damaged") && !text.contains("delete"),
            "{text}"
        );
    }

    #[test]
    fn an_empty_home_says_how_to_fill_it() {
        assert!(table(&[]).contains("fetch"));
    }
}
