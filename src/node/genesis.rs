//! `genesis`: a state as the beginning of a new network. Blocking.

use std::io::BufWriter;

use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode, GenesisCommand, GenesisFormat, GenesisWritten};
use super::content::{Content, Reading};
use super::progress::Reporter;
use super::shelf;
use crate::snapshot::Manifest;
use crate::store::{NewFile, Store};
use crate::xian::{GenesisWriter, LatestBlock};

/// Writes are gathered to this size.
const BUFFER_BYTES: usize = 256 << 10;

/// Carries out `genesis`.
pub(super) fn genesis(
    store: &Store,
    command: &GenesisCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<GenesisWritten, Failure> {
    match command.format {
        GenesisFormat::Xian => of_xian(store, command, reporter, cancel),
    }
}

fn of_xian(
    store: &Store,
    command: &GenesisCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<GenesisWritten, Failure> {
    let content = Content::open(store, &command.manifest)?;
    let block = latest_block(content.manifest())?;
    shelf::folder_of(&command.file)?;
    let file = NewFile::create(&command.file, content.least_bytes())?;
    reporter.phase(format!("writing {}", command.file.display()));
    let reading = Reading::new(reporter, cancel, content.chunk_bytes());
    let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut genesis = GenesisWriter::new(writer, &block)?;
    for record in content.records(&reading)? {
        genesis.put(&record?)?;
    }
    let file = genesis.finish()?.into_inner().map_err(|error| {
        let (error, writer) = error.into_parts();
        Failure::from(writer.get_ref().failed(error))
    })?;
    Ok(GenesisWritten {
        manifest: content.manifest().id().to_string(),
        height: block.height,
        app_hash: hex::encode_upper(&block.app_hash),
        file_bytes: file.finish()?,
        file: command.file.clone(),
    })
}

/// The block of a snapshot, as a Xian node notes it.
pub(super) fn latest_block(manifest: &Manifest) -> Result<LatestBlock, Failure> {
    let app_hash = manifest.app_hash().ok_or_else(|| {
        Failure::new(
            FailureCode::Usage,
            format!(
                "{} says no application hash, without which a node does not start",
                manifest.id()
            ),
        )
    })?;
    Ok(LatestBlock {
        height: manifest.height(),
        app_hash: app_hash.clone(),
    })
}
