//! `snapswarm load`

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{home, text};
use crate::node::command::{Command, Failure, LoadCommand, LoadKind, Outcome};

/// Publish a snapshot from files, or from a Xian node's storage
///
/// With --kind xian the node must not run: its state is read from its HDF5 files, and
/// height and application hash come from __latest_block.json in the storage. The same
/// state gives the same snapshot on every node. Of a running node the adapter makes
/// snapshots: see `adapter --xian`.
///
/// It stays until it is deleted. It counts as proven only when the chain's RPC
/// confirms its application hash: see `feed --chain-rpc`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    snapswarm load chunks/ --kind files --chain-id my-chain --height 1000 --app-hash 6F0A...\n  \
    snapswarm load snapshot.car --kind car\n  \
    snapswarm load ~/.cometbft/xian --kind xian")]
pub(super) struct Arguments {
    /// A folder or a file
    path: PathBuf,
    /// What it is
    #[arg(long, value_enum)]
    kind: Kind,
    /// The chain's id [default with --kind xian: as in config/genesis.json beside the storage]
    #[arg(
        long,
        value_name = "ID",
        value_parser = super::arguments::chain_id,
        required_if_eq_any([("kind", "files"), ("kind", "file")])
    )]
    chain_id: Option<String>,
    /// The height that the snapshot was taken at
    #[arg(
        long,
        value_name = "H",
        value_parser = super::arguments::height(),
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
    /// With --kind xian: the chain's state_patches.json, over which the snapshot notes a hash
    #[arg(long, value_name = "FILE", value_parser = super::arguments::file)]
    state_patches: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// A folder: each file is a chunk; names of digits in numeric order, others by bytes
    Files,
    /// One file: the only chunk
    File,
    /// A CAR file that `dump` wrote
    Car,
    /// The storage of a Xian node that does not run, as ~/.cometbft/xian
    Xian,
}

impl Arguments {
    pub(super) fn command(&self) -> Result<Command, Failure> {
        Ok(Command::Load(LoadCommand {
            path: home::absolute(&self.path)?,
            kind: match self.kind {
                Kind::Files => LoadKind::Files,
                Kind::File => LoadKind::File,
                Kind::Car => LoadKind::Car,
                Kind::Xian => LoadKind::Xian,
            },
            chain_id: self.chain_id.clone(),
            height: self.height,
            app_hash: self.app_hash.clone(),
            format: self.format,
            hash: self.hash.clone(),
            metadata: self.metadata.clone(),
            state_patches: (self.state_patches.as_deref())
                .map(home::absolute)
                .transpose()?,
        }))
    }
}

pub(super) fn text(outcome: &Outcome) -> Option<String> {
    let Outcome::Loaded(loaded) = outcome else {
        return None;
    };
    let proof = match (&loaded.app_hash, loaded.proven) {
        // It is the chain's own word for a height, and no more.
        _ if loaded.records.is_some() => "",
        (_, true) => "Its application hash was confirmed by the chain's RPC before.",
        (Some(_), false) => {
            "Not proven: it carries an application hash, which no RPC of the chain confirmed yet \
             (`feed --chain-rpc`)."
        }
        (None, false) => {
            "It is without application hash (--app-hash): nothing can prove its state, and `feed` \
             does not take it."
        }
    };
    let (records, trust) = match loaded.records {
        Some(records) => (
            format!("{} in ", text::count(records, "record", "records")),
            "An application hash of Xian says nothing of the state: whoever takes this snapshot \
             trusts its maker.",
        ),
        None => (String::new(), ""),
    };
    let cid = text::safe(&loaded.manifest);
    if loaded.was_here {
        return Some(format!(
            "It is here already: {cid}\nThe file was not read beyond its manifest (snapswarm \
             verify FILE reads all of it).\n"
        ));
    }
    Some(format!(
        "Loaded {records}{} of {} in {}: {cid}\n{proof}{trust}\n",
        text::count(u64::from(loaded.chunks), "chunk", "chunks"),
        text::bytes(loaded.bytes),
        text::seconds(loaded.seconds),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::command::Loaded;

    #[test]
    fn proven_confirmed_and_without_application_hash_are_three_things() {
        let said = |app_hash: Option<&str>, proven| {
            let loaded = Loaded {
                manifest: "bafk".to_owned(),
                chunks: 1,
                bytes: 1,
                records: None,
                was_here: false,
                seconds: 0.1,
                proven,
                app_hash: app_hash.map(str::to_owned),
            };
            text(&Outcome::Loaded(loaded)).unwrap()
        };
        assert!(said(Some("AB"), false).contains("Not proven"));
        assert!(said(None, false).contains("without application hash"));
        assert!(said(Some("AB"), true).contains("confirmed by the chain's RPC"));
    }
}
