//! `load --kind xian`: the storage of a Xian node that does not run.

use std::io;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::comet::node_home::{NodeHome, NodeHomeError};
use crate::comet::settings::Settings;
use crate::node::command::{Failure, FailureCode, LoadCommand};
use crate::node::progress::Reporter;
use crate::node::xian::{Making, Published, publish};
use crate::store::{Origin, Store};
use crate::xian::LatestBlock;

/// What to do where something else was named.
const STORAGE_HINT: &str = "name the storage of a Xian node, as ~/.cometbft/xian";

/// Makes the snapshot. Height and application hash that were given must be the storage's.
pub(super) fn load_xian(
    store: &Store,
    command: &LoadCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Published, Failure> {
    check_flags(command)?;
    let storage = &command.path;
    let found = std::fs::metadata(storage).map_err(|error| Failure::given_path(storage, &error))?;
    if !found.is_dir() {
        let message = format!("{} is no folder", storage.display());
        return Err(Failure::new(FailureCode::Usage, message).hint(STORAGE_HINT));
    }
    if !LatestBlock::path(storage).exists() {
        let message = format!(
            "{} holds no {}: it is no storage of a Xian node",
            storage.display(),
            LatestBlock::NAME
        );
        return Err(Failure::new(FailureCode::Usage, message).hint(STORAGE_HINT));
    }
    let making = Making {
        storage,
        state_patches: command.state_patches.as_deref(),
        chain_id: match &command.chain_id {
            Some(chain_id) => {
                is_not_of_another(storage, chain_id)?;
                chain_id.clone()
            }
            None => chain_beside(storage)?,
        },
        origin: Origin::Loaded,
        proven: false,
    };
    publish(
        store,
        &making,
        |block| check_block(command, block),
        reporter,
        cancel,
    )
}

/// What a storage says by itself is not to be given.
fn check_flags(command: &LoadCommand) -> Result<(), Failure> {
    let given = [
        ("--format", command.format.is_some()),
        ("--hash", command.hash.is_some()),
        ("--metadata", command.metadata.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => Err(Failure::new(
            FailureCode::Usage,
            format!("{flag} is not for --kind xian: the state of a storage has its own"),
        )),
    }
}

/// Whether the storage is of the block that the person means.
fn check_block(command: &LoadCommand, block: &LatestBlock) -> Result<(), Failure> {
    let other = |what: &str, found: &str, given: &str| {
        let storage = command.path.display();
        let failure = format!("{storage} has the state of {what} {found}, not {given}");
        Err(Failure::new(FailureCode::Usage, failure).hint(
            "give the right --height and --app-hash, or leave them out: a storage names its own",
        ))
    };
    if let Some(height) = command.height
        && height != block.height
    {
        return other("height", &block.height.to_string(), &height.to_string());
    }
    let found = hex::encode(&block.app_hash);
    match &command.app_hash {
        Some(given) if !given.eq_ignore_ascii_case(&found) => {
            other("application hash", &found, given)
        }
        _ => Ok(()),
    }
}

/// Fails where the node to which the storage belongs is of another chain.
fn is_not_of_another(storage: &Path, given: &str) -> Result<(), Failure> {
    match chain_beside(storage) {
        Ok(found) if found != given => Err(Failure::new(
            FailureCode::Usage,
            format!(
                "the genesis of the node beside {} is that of {found}, not of {given}",
                storage.display()
            ),
        )
        .hint("give the right --chain-id, or leave it out: the genesis names it")),
        _ => Ok(()),
    }
}

/// The chain of the node to which the storage belongs: it lies in the node's home.
fn chain_beside(storage: &Path) -> Result<String, Failure> {
    let node = NodeHome::new(storage.parent().unwrap_or(Path::new("/")));
    let settings = node.settings().unwrap_or_else(|_| Settings::default());
    node.chain_id(&settings).map_err(|error| {
        let is_missing = |source: &io::Error| source.kind() == io::ErrorKind::NotFound;
        let why = match error {
            NodeHomeError::File { source, .. } if is_missing(&source) => {
                format!("no genesis of a node lies beside {}", storage.display())
            }
            error => Failure::from(error).message,
        };
        let message = format!("the chain's id is not known: {why}");
        Failure::new(FailureCode::Usage, message).hint("give --chain-id")
    })
}
