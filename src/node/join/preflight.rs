//! What can be seen of a node before anything is downloaded or changed, and that no way
//! to a state would help with.

use super::node::NodePlan;
use crate::comet::node_home::{NodeHome, may_be_emptied};
use crate::comet::settings::Settings;
use crate::node::command::{Failure, FailureCode};

/// Whether the node's home has what a start needs, and can be changed.
pub(super) fn home(home: &NodeHome, own: &Settings) -> Result<(), Failure> {
    may_be_written(home)?;
    has_signed_state(home, own)
}

/// Whether what the person named can be started, and emptied.
pub(super) fn commands(plan: &NodePlan, own: &Settings) -> Result<(), Failure> {
    if let Some(folder) = &plan.app_data {
        may_be_emptied(folder, &plan.home, own)?;
    }
    is_there("--node-cmd", &plan.node_cmd)?;
    match &plan.app_cmd {
        Some(command) => is_there("--app-cmd", command),
        None => Ok(()),
    }
}

/// Settings are changed in the home's folder and beside it: said before anything is
/// downloaded.
fn may_be_written(home: &NodeHome) -> Result<(), Failure> {
    for folder in [home.folder(), &home.folder().join("config")] {
        tempfile::Builder::new()
            .prefix(".snapswarm-")
            .tempfile_in(folder)
            .map_err(|error| {
                let message = format!("{} cannot be written: {error}", folder.display());
                Failure::new(FailureCode::Storage, message).hint(
                    "--node-home must be a folder that this user may write: `join` changes the \
                     node's config.toml for a while",
                )
            })?;
    }
    Ok(())
}

/// CometBFT does not start without the file of what its validator signed, and nobody but
/// its operator may make one: no way to a state helps.
fn has_signed_state(home: &NodeHome, own: &Settings) -> Result<(), Failure> {
    if !own.text("", "priv_validator_laddr").is_empty() {
        return Ok(());
    }
    let named = match own.text("", "priv_validator_state_file") {
        "" => "data/priv_validator_state.json",
        named => named,
    };
    let path = home.folder().join(named);
    if path.exists() {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Usage,
        format!(
            "{} is missing, and the node does not start without it",
            path.display()
        ),
    )
    .hint(
        "a validator's own must be put back, or it may sign twice; for a node that never \
         validated take the one that `cometbft init` makes",
    ))
}

/// Whether the shell finds what a command line begins with; said before anything is
/// downloaded. What begins otherwise than with a plain word is left to the shell.
fn is_there(option: &str, command: &str) -> Result<(), Failure> {
    let word = command
        .trim_start_matches("exec ")
        .split_whitespace()
        .next();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    let Some(word) = word.filter(|word| word.chars().all(is_plain)) else {
        return Ok(());
    };
    let asked = std::process::Command::new("/bin/sh")
        .args(["-c", "command -v -- \"$1\"", "sh", word])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    if asked.is_ok_and(|status| !status.success()) {
        return Err(Failure::new(
            FailureCode::Usage,
            format!("`{word}` is not found, which is to be started"),
        )
        .hint(format!(
            "install it, or say with {option} how it is started"
        )));
    }
    Ok(())
}
