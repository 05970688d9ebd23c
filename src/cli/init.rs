//! `snapswarm init`

use clap::Args;

use super::{Door, answer, text};
use crate::{
    config,
    node::{self, command::Failure},
};

/// Make a home: identity, settings
///
/// A home that is made already is left as it is.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  snapswarm --home /var/lib/snapswarm init --network public")]
pub(super) struct Arguments {
    /// Nodes of different networks do not meet
    #[arg(long, value_name = "NAME", value_parser = network)]
    network: Option<String>,
}

fn network(name: &str) -> Result<String, String> {
    config::check_network_name(name)?;
    Ok(name.to_owned())
}

impl Arguments {
    pub(super) fn run(&self, door: &Door<'_>) -> Result<(), Failure> {
        let made = node::init(door.home, self.network.as_deref())?;
        let text = text::facts(&[
            ("home", door.home.display().to_string()),
            ("peer id", made.peer_id.clone()),
            ("settings", made.config.display().to_string()),
        ]);
        answer::outcome(
            door.json,
            &made,
            &format!("{text}Next: `snapswarm start` seeds, `snapswarm fetch` downloads.\n"),
        )
    }
}
