//! `snapswarm show`

use clap::Args;

use super::{Cid, list, text};
use crate::node::command::{
    Command, EndorsementDetail, ManifestCommand, Outcome, STATE_FORMAT, SnapshotDetail,
};

/// Chunks that the text form lists; a screen holds no more, `--json` has all.
const CHUNK_LINES: usize = 40;

/// Contracts that the text form names.
const SCOPES_SHOWN: usize = 10;

/// Show one snapshot with its chunks
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm show bafkrei...")]
pub(super) struct Arguments {
    #[command(flatten)]
    snapshot: Cid,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Show(ManifestCommand {
            manifest: self.snapshot.cid.clone(),
        })
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Shown(shown) = outcome else {
        return None;
    };
    let snapshot = &shown.snapshot;
    let app_hash = match &shown.app_hash {
        Some(hash) if snapshot.app_hash_confirmed => {
            format!("{hash} (confirmed by the chain's RPC)")
        }
        Some(hash) => format!("{hash} (as its maker says; not proven)"),
        None => "none: nothing can prove the state".to_owned(),
    };
    let mut out = text::facts(&[
        ("snapshot", snapshot.manifest.clone()),
        ("chain", snapshot.chain_id.clone()),
        ("height", snapshot.height.to_string()),
        ("app hash", app_hash),
        ("format", format(snapshot.format)),
        ("hash", shown.hash.clone()),
        ("metadata", shown.metadata.clone()),
        (
            "size",
            format!(
                "{} in {}, {} here{}",
                text::bytes(snapshot.bytes),
                text::count(u64::from(snapshot.chunks), "chunk", "chunks"),
                text::bytes(snapshot.have_bytes),
                match (snapshot.complete, snapshot.only.is_empty()) {
                    (true, _) => ", complete",
                    (false, true) => "",
                    (false, false) => ", a part that no node can start from",
                },
            ),
        ),
        ("manifest", text::bytes(u64::from(shown.manifest_bytes))),
        ("state", proof(shown)),
        (
            "pinned",
            if snapshot.pinned { "yes" } else { "no" }.to_owned(),
        ),
        ("from", snapshot.origin.clone()),
        ("file", shown.file.display().to_string()),
    ]);
    out += &of_state(shown);
    out += &endorsements(&shown.endorsements);
    let mut table = text::Table::new(&[">CHUNK", ">BYTES", "CID"]);
    for chunk in shown.chunks.iter().take(CHUNK_LINES) {
        table.row([
            chunk.index.to_string(),
            chunk.size.to_string(),
            chunk.cid.clone(),
        ]);
    }
    out.push('\n');
    out += &table.render();
    if let Some(more) = shown
        .chunks
        .len()
        .checked_sub(CHUNK_LINES)
        .filter(|more| *more > 0)
    {
        out += &format!("… and {more} more (--json lists all)\n");
    }
    Some(out)
}

/// As `list` shows it.
fn format(number: u32) -> String {
    match number {
        STATE_FORMAT => "state".to_owned(),
        number => number.to_string(),
    }
}

/// What the state is believed for.
fn proof(shown: &SnapshotDetail) -> String {
    if shown.snapshot.format != STATE_FORMAT {
        return list::proof(&shown.snapshot).to_owned();
    }
    match &shown.basis {
        Some(basis) => format!(
            "no application hash proves it; believed: {}",
            text::safe(&basis.to_string())
        ),
        None => "no application hash proves it; not believed by the settings ([trust])".to_owned(),
    }
}

/// What is said of state content besides.
fn of_state(shown: &SnapshotDetail) -> String {
    let Some(records) = shown.records else {
        return String::new();
    };
    let mut facts = match &shown.snapshot.base {
        None => vec![("records", records.to_string())],
        // The number is that of the state which it leads to.
        Some(base) => vec![
            ("delta from", base.clone()),
            ("leads to", text::count(records, "record", "records")),
        ],
    };
    facts.push(("contracts", named(&shown.scopes)));
    if let Some(hash) = &shown.patches_sha256 {
        facts.push(("state patches", hash.clone()));
    }
    if !shown.snapshot.only.is_empty() {
        facts.push(("here", named(&shown.snapshot.only)));
    }
    text::facts(&facts)
}

fn named(scopes: &[String]) -> String {
    let some = scopes.iter().take(SCOPES_SHOWN).map(String::as_str);
    let some: Vec<&str> = some.collect();
    match scopes.len() - some.len() {
        0 => some.join(", "),
        more => format!("{}, and {more} more (--json lists all)", some.join(", ")),
    }
}

/// What counts of those that are listed.
const COMPUTED: &str = "computed";

/// Who speaks for it; nothing where nobody does.
fn endorsements(all: &[EndorsementDetail]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = text::Table::new(&["ENDORSED BY", "SAYS", "COUNTS"]);
    for one in all {
        let counts = match (one.listed && one.kind == COMPUTED, one.own) {
            (true, true) => "listed in config.toml; this node",
            (true, false) => "listed in config.toml",
            (false, true) => "this node",
            (false, false) if one.listed => "no: for people alone",
            (false, false) => "not listed",
        };
        table.row([one.endorser.clone(), one.kind.clone(), counts.to_owned()]);
    }
    format!("\n{}", table.render())
}
