//! `snapswarm genesis`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{arguments, home, text};
use crate::node::command::{Command, Failure, GenesisCommand, GenesisFormat, Outcome};

/// Write the state of a snapshot as the beginning of a new network
#[derive(Debug, Args)]
#[command(
    after_help = "xian: the abci_genesis {\"hash\", \"number\", \"origin\", \"genesis\", \"nonces\"} \
    of the genesis file.\nExample:\n  \
    snapswarm genesis --from bafkrei... --format xian --out abci_genesis.json"
)]
pub(super) struct Arguments {
    /// The snapshot, as `list` shows it
    #[arg(long, value_name = "CID", value_parser = arguments::cid)]
    from: String,
    /// The kind of chain
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write; must not exist
    #[arg(long, value_name = "FILE", default_value = "abci_genesis.json")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Xian,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        Ok(Command::Genesis(GenesisCommand {
            manifest: self.from.clone(),
            format: match self.format {
                Format::Xian => GenesisFormat::Xian,
            },
            file: home::absolute(&self.out)?,
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Genesis(genesis) = outcome else {
        return None;
    };
    let mut told = format!(
        "Wrote {} ({}): the state of height {}, {}\n",
        text::safe(&genesis.file.display().to_string()),
        text::bytes(genesis.file_bytes),
        genesis.height,
        text::safe(&genesis.manifest),
    );
    if genesis.without_value > 0 {
        told += &format!(
            "Left out: {} without a value\n",
            text::count(genesis.without_value, "key", "keys")
        );
    }
    Some(told)
}
