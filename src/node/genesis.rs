//! `genesis`: a state as the beginning of a new network. Blocking.

use std::io::BufWriter;

use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode, GenesisCommand, GenesisFormat, GenesisWritten};
use super::content::{Content, Reading};
use super::progress::Reporter;
use super::shelf;
use crate::snapshot::{ChunkIndex, Manifest};
use crate::store::{NewFile, Store};
use crate::xian::{GenesisWriter, LatestBlock, NONCES};

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
    let needed = content.least_bytes() + least_waiting_bytes(content.manifest());
    let file = NewFile::create(&command.file, needed)?;
    let nonces = file.spool()?;
    reporter.phase(format!("writing {}", command.file.display()));
    let reading = Reading::new(reporter, cancel, content.chunk_bytes());
    let writer = BufWriter::with_capacity(BUFFER_BYTES, file);
    let mut genesis = GenesisWriter::new(writer, &block, nonces)?;
    for record in content.records(&reading)? {
        genesis.put(&record?)?;
    }
    let without_value = genesis.without_value();
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
        without_value,
    })
}

/// What the nonces take at least while they wait beside the file: the chunks that hold
/// nothing else.
fn least_waiting_bytes(manifest: &Manifest) -> u64 {
    let Some(content) = manifest.state() else {
        return 0;
    };
    let is_theirs = |chunk: &ChunkIndex| {
        let mut scopes = content.scopes_of(*chunk).iter();
        scopes.all(|scope| scope.as_str() == NONCES)
    };
    let size = |chunk| u64::from(manifest.unique_chunk(manifest.unique_at(chunk)).size);
    manifest.chunk_indexes().filter(is_theirs).map(size).sum()
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
