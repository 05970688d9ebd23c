//! `snapswarm verify`

use clap::Args;

use super::{failure, home, text};
use crate::{
    config,
    node::command::{Command, Failure, FailureCode, Outcome, VerifyCommand},
};

/// Read a snapshot or a CAR file back and check every byte
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  snapswarm verify bafkrei...\n  snapswarm verify snapshot.car")]
pub(super) struct Arguments {
    /// A snapshot of the home, or a file
    #[arg(value_name = "CID|FILE.car")]
    what: String,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        if config::check_cid(&self.what).is_ok() {
            return Ok(Command::Verify(VerifyCommand::Manifest(self.what.clone())));
        }
        let file = home::absolute(self.what.as_ref())?;
        if file.exists() || self.what.ends_with(".car") {
            return Ok(Command::Verify(VerifyCommand::Car(file)));
        }
        Err(failure(
            FailureCode::Usage,
            format!("\"{}\" is neither a snapshot's CID nor a file", self.what),
            Some("`snapswarm list` shows the CIDs of this home"),
        ))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Verified(verified) = outcome else {
        return None;
    };
    let proof = match verified.state {
        true => "whether the state is right is for those who computed it to say: see `show`",
        false => "this does not prove the state (an application hash does: see `feed`)",
    };
    Some(format!(
        "All {} of {} were read back in {} and are what the manifest says: {}\n\
         Bytes checked; {proof}.\n",
        text::count(u64::from(verified.chunks), "chunk", "chunks"),
        text::bytes(verified.verified_bytes),
        text::seconds(verified.seconds),
        text::safe(&verified.manifest),
    ))
}
