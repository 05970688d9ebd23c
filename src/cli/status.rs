//! `snapswarm status`

use clap::Args;

use super::{limits, list, text};
use crate::node::command::{
    Command, FolderStatus, HarvestStatus, JoinStatus, Outcome, Status, XianStatus,
};

/// Show what the home holds and what its daemon does
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm status --json | jq .peers")]
pub(super) struct Arguments {}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Status
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Status(status) = outcome else {
        return None;
    };
    let mut facts = vec![
        (
            "daemon",
            if status.running {
                format!("runs, version {}", status.version)
            } else {
                "does not run (`snapswarm start` starts it)".to_owned()
            },
        ),
        (
            "peer id",
            match status.peer_id.as_str() {
                "" => "not known (identity.key cannot be read)".to_owned(),
                peer_id => peer_id.to_owned(),
            },
        ),
    ];
    facts.extend(
        status
            .listen
            .iter()
            .map(|address| ("listens on", address.clone())),
    );
    if status.running {
        facts.push(("peers", status.peers.to_string()));
        facts.push((
            "uploads",
            format!(
                "{} under way, {} sent, limit {}",
                status.upload.active,
                text::bytes(status.upload.bytes),
                limits::sentence(&status.upload.limits),
            ),
        ));
    }
    if let Some(join) = &status.join {
        facts.push(("join", join_line(join)));
    }
    if let Some(harvest) = &status.harvest {
        facts.push(("harvest", harvest_line(harvest)));
    }
    if let Some(folder) = &status.sdk_snapshots {
        facts.push(("harvest", folder_line(folder)));
    }
    if let Some(xian) = &status.xian {
        facts.push(("state", xian_line(xian)));
    }
    facts.push(("disk", disk(status)));
    let mut out = text::facts(&facts);
    out.push('\n');
    out += &list::table(&status.snapshots);
    if !status.downloads.is_empty() {
        let mut table = text::Table::new(&["DOWNLOAD", ">HERE", ">OF", ">RATE", ">PEERS"]);
        for download in &status.downloads {
            table.row([
                download.manifest.clone(),
                text::bytes(download.done),
                text::bytes(download.total),
                text::rate(download.rate),
                download.peers.to_string(),
            ]);
        }
        out.push('\n');
        out += &table.render();
    }
    Some(out)
}

fn disk(status: &Status) -> String {
    let used = text::bytes(status.disk_bytes);
    match status.quota_bytes {
        Some(quota) => format!("{used} of {} (quota)", text::bytes(quota)),
        None => used,
    }
}

/// `swarm, feed, snapshot of height 10; before: swarm (why)`
fn join_line(join: &JoinStatus) -> String {
    let mut line = format!(
        "{}: {}, {}",
        join.node_home.display(),
        join.rung,
        join.phase
    );
    if let Some(height) = join.height {
        line += &format!(", snapshot of height {height}");
    }
    for step in &join.steps {
        line += &format!("; {} did not hold: {}", step.rung, step.why);
    }
    text::safe(&line)
}

fn harvest_line(harvest: &HarvestStatus) -> String {
    let state = if harvest.connected {
        "connected"
    } else {
        "not connected"
    };
    let more = newest_and_error(harvest.newest_height, harvest.last_error.as_deref());
    format!("{}: {state}{more}", harvest.node)
}

fn folder_line(folder: &FolderStatus) -> String {
    let more = newest_and_error(folder.newest_height, folder.last_error.as_deref());
    let waiting = folder
        .waiting
        .as_ref()
        .map_or_else(String::new, |why| format!(", not taken: {why}"));
    format!("{}: read{more}{waiting}", folder.folder)
}

/// `/x: every 1000 blocks, newest height 3000, Commit held 12 ms, 1 skipped, 0 failed`
fn xian_line(xian: &XianStatus) -> String {
    let making = xian
        .making
        .map_or_else(String::new, |height| format!(", making height {height}"));
    let held = xian
        .last_hold_ms
        .map_or_else(String::new, |ms| format!(", Commit held {ms:.0} ms"));
    format!(
        "{}: every {}{making}{held}, {} skipped, {} failed{}",
        xian.storage.display(),
        text::count(xian.snapshot_interval, "block", "blocks"),
        xian.skipped,
        xian.failed,
        newest_and_error(xian.newest_height, xian.last_error.as_deref()),
    )
}

fn newest_and_error(newest_height: Option<u64>, last_error: Option<&str>) -> String {
    let newest =
        newest_height.map_or_else(String::new, |height| format!(", newest height {height}"));
    let error = last_error.map_or_else(String::new, |error| format!(", last error: {error}"));
    format!("{newest}{error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::{LimitsNow, UploadStatus};

    #[test]
    fn a_status_tells_what_runs_and_an_error_of_the_node_cannot_steer_the_terminal() {
        let status = Status {
            running: true,
            version: "1.2.3".to_owned(),
            peer_id: "12D3".to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/1".to_owned()],
            peers: 3,
            disk_bytes: 2048,
            quota_bytes: Some(4096),
            snapshots: Vec::new(),
            downloads: Vec::new(),
            upload: UploadStatus {
                bytes: 1024,
                active: 1,
                limits: LimitsNow {
                    upload_bytes_per_s: 0,
                    upload_slots: 0,
                },
            },
            join: None,
            harvest: Some(HarvestStatus {
                node: "id@host:1".to_owned(),
                connected: false,
                newest_height: Some(9),
                last_error: Some("\u{1b}[2Jgone".to_owned()),
            }),
            sdk_snapshots: Some(FolderStatus {
                folder: "/data/\u{1b}[2J".to_owned(),
                newest_height: Some(8),
                waiting: Some("height 10, format 3: why".to_owned()),
                last_error: None,
            }),
            xian: Some(XianStatus {
                storage: "/data/xian".into(),
                snapshot_interval: 1000,
                newest_height: Some(3000),
                last_hold_ms: Some(12.4),
                skipped: 1,
                last_error: Some("\u{1b}[2Jdamaged".to_owned()),
                ..XianStatus::default()
            }),
            network: None,
        };
        let text = text(&Outcome::Status(Box::new(status))).unwrap();
        for part in [
            "version 1.2.3",
            "not connected",
            "newest height 9",
            "newest height 8, not taken: height 10, format 3: why",
            "every 1000 blocks, Commit held 12 ms, 1 skipped, 0 failed, newest height 3000, last",
            "2.0 KiB of 4.0 KiB",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
