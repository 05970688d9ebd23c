//! `delta`: what leads from one state to another, as a snapshot of its own. Blocking.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{DeltaCommand, DeltaMade, Failure, FailureCode};
use super::content::{self, Content, Reading};
use super::progress::{Reporter, byte_progress};
use crate::snapshot::{Manifest, SnapshotFields, StateFields};
use crate::state::{ChunkSize, Differences, Encoder, StateChunk};
use crate::store::{Origin, Spool, Store};

/// Carries out `delta`: both states are read side by side, and what differs becomes
/// chunks. Its manifest says of the state what the later snapshot says, and the same
/// two snapshots give the same delta everywhere.
pub(super) fn delta(
    store: &Store,
    command: &DeltaCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<DeltaMade, Failure> {
    let started = Instant::now();
    let base = Content::open(store, &command.base)?;
    let to = Content::open(store, &command.to)?;
    check(base.manifest(), to.manifest())?;
    if !base.takes_a_delta() {
        return Err(content::too_many_deltas(base.manifest().id()));
    }
    reporter.phase_then(
        "comparing the records of both states",
        "writing the archive and reading it back",
    );
    let reading = Reading::new(reporter, cancel, base.chunk_bytes() + to.chunk_bytes());
    let mut spool = store.publish()?;
    let mut encoder = Encoder::new(ChunkSize::MAX)?;
    let mut ranges = Vec::new();
    let mut push = |spool: &mut Spool, chunk: &StateChunk| -> Result<(), Failure> {
        spool.push(&chunk.bytes)?;
        ranges.push(chunk.scopes);
        Ok(())
    };
    let mut changes = 0;
    for difference in Differences::new(base.records(&reading)?, to.records(&reading)?) {
        changes += 1;
        if let Some(chunk) = encoder.push(&difference?.into_change())? {
            push(&mut spool, &chunk)?;
        }
    }
    let end = encoder.finish()?;
    push(&mut spool, &end.chunk)?;
    let state = StateFields {
        base: Some(base.manifest().id()),
        scopes: end.scopes,
        chunks: ranges,
    };
    reporter.phase("writing the archive and reading it back");
    let mut progress = byte_progress(reporter, cancel);
    let fields = fields(to.manifest());
    let archive = spool.finish_state(fields, state, Origin::Loaded, false, &mut progress)?;
    let made = archive.manifest();
    Ok(DeltaMade {
        manifest: made.id().to_string(),
        base: base.manifest().id().to_string(),
        to: to.manifest().id().to_string(),
        height: made.height(),
        changes,
        chunks: made.chunk_count(),
        bytes: made.total_bytes(),
        full_bytes: to.manifest().total_bytes(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A delta leads on in the history of one chain.
fn check(base: &Manifest, to: &Manifest) -> Result<(), Failure> {
    let wrong = |problem: String| Err(Failure::new(FailureCode::Usage, problem));
    if base.chain_id() != to.chain_id() {
        let (one, other) = (base.chain_id(), to.chain_id());
        return wrong(format!(
            "the states are of different chains: {one} and {other}"
        ));
    }
    if base.height() >= to.height() {
        let (from, to) = (base.height(), to.height());
        return wrong(format!(
            "the base is of height {from}, which does not come before {to}"
        ));
    }
    Ok(())
}

/// What the delta says of the later state is what that says of itself.
fn fields(to: &Manifest) -> SnapshotFields {
    SnapshotFields {
        chain_id: to.chain_id().to_owned(),
        height: to.height(),
        app_hash: to.app_hash().cloned(),
        format: to.format(),
        hash: None,
        metadata: to.metadata().clone(),
    }
}
