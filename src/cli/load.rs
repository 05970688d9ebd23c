//! `snapswarm load`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{home, text};
use crate::node::command::{Command, Failure, LoadCommand, LoadKind, Outcome};

/// Publish a snapshot from files
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm load chunks/ --kind files --chain-id my-chain --height 1000 --app-hash 6F0A...\n  \
    snapswarm load snapshot.car --kind car")]
pub(super) struct Arguments {
    /// A folder or a file
    path: PathBuf,
    /// What it is
    #[arg(long, value_enum)]
    kind: Kind,
    /// The chain's id
    #[arg(long, value_name = "ID", required_if_eq_any([("kind", "files"), ("kind", "file")]))]
    chain_id: Option<String>,
    /// The height that the snapshot was taken at
    #[arg(
        long,
        value_name = "H",
        value_parser = clap::value_parser!(u64).range(1..),
        required_if_eq_any([("kind", "files"), ("kind", "file")])
    )]
    height: Option<u64>,
    /// The application hash: of header H+1
    #[arg(long, value_name = "HEX", value_parser = super::arguments::hex_bytes)]
    app_hash: Option<String>,
    /// The ABCI snapshot's format
    #[arg(long, value_name = "N")]
    format: Option<u32>,
    /// The ABCI snapshot's hash [default: SHA-256 over all chunks]
    #[arg(long, value_name = "HEX", value_parser = super::arguments::hex_bytes)]
    hash: Option<String>,
    /// The ABCI snapshot's metadata
    #[arg(long, value_name = "HEX", value_parser = super::arguments::hex_bytes)]
    metadata: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A folder: each file is a chunk; names of digits in numeric order, others by bytes
    Files,
    /// One file: the only chunk
    File,
    /// A CAR file that `dump` wrote
    Car,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        Ok(Command::Load(LoadCommand {
            path: home::absolute(&self.path)?,
            kind: match self.kind {
                Kind::Files => LoadKind::Files,
                Kind::File => LoadKind::File,
                Kind::Car => LoadKind::Car,
            },
            chain_id: self.chain_id.clone(),
            height: self.height,
            app_hash: self.app_hash.clone(),
            format: self.format,
            hash: self.hash.clone(),
            metadata: self.metadata.clone(),
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Loaded(loaded) = outcome else {
        return None;
    };
    let proof = if loaded.proven {
        "It carries an application hash; whoever feeds it compares that with the chain."
    } else {
        "It carries no application hash (--app-hash): bytes are named, the state is not proven."
    };
    Some(format!(
        "Loaded {} of {} in {}: {}\n{proof}\n",
        text::count(u64::from(loaded.chunks), "chunk", "chunks"),
        text::bytes(loaded.bytes),
        text::seconds(loaded.seconds),
        text::safe(&loaded.manifest),
    ))
}
