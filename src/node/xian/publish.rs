//! A storage that nobody writes becomes a snapshot of a store: a stopped node's, or the
//! copy of a running one's.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::workers;
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::{Reporter, byte_progress};
use crate::snapshot::Manifest;
use crate::state::ChunkSize;
use crate::store::{Origin, Store};
use crate::xian::{LatestBlock, RUN, Reading, XianError, XianSource};

/// What is read ahead of the records that are being taken, at most: it lets all cores
/// read while one takes.
const MAX_AHEAD_BYTES: u64 = 4 << 30;
/// Of the free disk, that takes a quarter at most: chunks and archive need room as well.
const AHEAD_PART: u64 = 4;

/// What becomes a snapshot, and as what.
pub(in crate::node) struct Making<'a> {
    /// The storage.
    pub(in crate::node) storage: &'a Path,
    /// The chain's `state_patches.json`; it may be missing.
    pub(in crate::node) state_patches: Option<&'a Path>,
    pub(in crate::node) chain_id: String,
    pub(in crate::node) origin: Origin,
    /// Whether the chain confirmed the application hash.
    pub(in crate::node) proven: bool,
}

/// A snapshot that was made.
pub(in crate::node) struct Published {
    pub(in crate::node) manifest: Arc<Manifest>,
    /// How many records it has.
    pub(in crate::node) records: u64,
}

/// Reads the storage through, and publishes its state. `expected` looks at the block
/// whose state it is before anything else is read. Blocking; an error leaves nothing
/// behind.
pub(in crate::node) fn publish(
    store: &Store,
    making: &Making<'_>,
    expected: impl Fn(&LatestBlock) -> Result<(), Failure>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Published, Failure> {
    let block = LatestBlock::read(making.storage)?;
    if block.height == 0 {
        let storage = making.storage.display();
        let failure = format!("{storage} is of a node that has no block yet");
        return Err(Failure::new(FailureCode::Usage, failure));
    }
    expected(&block)?;
    if !making.storage.join(RUN).is_dir() {
        reporter.note(format!(
            "{} has no {RUN}: the snapshot is one without nonces",
            making.storage.display()
        ));
    }
    reporter.phase_then(
        format!("reading the state of height {}", block.height),
        "writing the archive and reading it back",
    );
    // Of now: it notes how long all of it takes.
    let mut spool = store.publish()?.leaving_space();
    let made = source(store, making, cancel).make(|chunk| {
        spool.push(chunk)?;
        Ok::<_, Failure>(())
    })?;
    if made.block != block {
        let path = making.storage.to_owned();
        return Err(XianError::Changed { path }.into());
    }
    if made.notes.state.records == 0 {
        let storage = making.storage.display();
        reporter.note(format!("{storage} holds no records: the state is empty"));
    }
    reporter.phase("writing the archive and reading it back");
    let fields = made.fields(&making.chain_id);
    let (origin, proven) = (making.origin, making.proven);
    let mut progress = byte_progress(reporter, cancel);
    let archive = spool.finish_state(fields, made.state, origin, proven, &mut progress)?;
    Ok(Published {
        manifest: archive.manifest().clone(),
        records: made.notes.state.records,
    })
}

fn source(store: &Store, making: &Making<'_>, cancel: &CancellationToken) -> XianSource {
    let part = store.free_bytes().map(|free| free / AHEAD_PART);
    let reading = Reading {
        workers: workers(),
        spool: store.home().to_owned(),
        spool_bytes: part.unwrap_or(0).min(MAX_AHEAD_BYTES),
    };
    let cancel = cancel.clone();
    let stop = move || cancel.is_cancelled();
    let patches = making.state_patches;
    XianSource::new(making.storage, &reading, ChunkSize::MAX, patches, stop)
}
