//! `snapswarm limits`

use clap::Args;

use super::{failure, text};
use crate::{
    config::{ByteSize, UploadConfig},
    node::command::{Command, Failure, FailureCode, LimitsCommand, LimitsNow, Outcome},
};

/// Show or change the upload limits of the running daemon
///
/// They hold at once and until the daemon stops; `[upload]` in config.toml sets
/// what it starts with.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  snapswarm limits --upload-bytes-per-s 12MB --upload-slots 4\n  snapswarm limits"
)]
pub(super) struct Arguments {
    /// Bytes a second over all peers, such as 12000000 or 12MB; 0 is no limit
    #[arg(long, value_name = "SIZE")]
    upload_bytes_per_s: Option<ByteSize>,
    /// Peers served at once; 0 measures the uplink and decides
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(0..=i64::from(UploadConfig::MAX_SLOTS))
    )]
    upload_slots: Option<u32>,
}

impl Arguments {
    pub(super) fn command(&self) -> Command {
        Command::Limits(LimitsCommand {
            upload_bytes_per_s: self.upload_bytes_per_s.map(|size| size.0),
            upload_slots: self.upload_slots,
        })
    }
}

/// There is nothing to change without a daemon.
pub(super) fn no_daemon() -> Failure {
    failure(
        FailureCode::Failed,
        "no daemon runs on this home: there are no limits in force",
        Some("set bytes_per_s and slots under [upload] in config.toml, then `snapswarm start`"),
    )
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Limits(now) = outcome else {
        return None;
    };
    Some(format!("Upload limit: {}\n", sentence(now)))
}

/// `11.4 MiB/s (12000000 bytes a second), 4 slots`
pub(super) fn sentence(now: &LimitsNow) -> String {
    let rate = match now.upload_bytes_per_s {
        0 => "none".to_owned(),
        limit => format!("{} ({limit} bytes a second)", text::rate(limit)),
    };
    let slots = match now.upload_slots {
        0 => "slots as measured".to_owned(),
        slots => text::count(u64::from(slots), "slot", "slots"),
    };
    format!("{rate}, {slots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_told_with_their_units() {
        let said = |upload_bytes_per_s, upload_slots| {
            sentence(&LimitsNow {
                upload_bytes_per_s,
                upload_slots,
            })
        };
        assert_eq!(
            said(12_000_000, 4),
            "11.4 MiB/s (12000000 bytes a second), 4 slots"
        );
        assert_eq!(said(0, 0), "none, slots as measured");
    }
}
