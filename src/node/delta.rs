//! `delta`: what leads from one state to another, as a snapshot of its own. Blocking.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{DeltaCommand, DeltaMade, Failure, FailureCode};
use super::content::{self, Content, Reading};
use super::progress::{Reporter, byte_progress};
use crate::snapshot::{Manifest, ManifestId, SnapshotFields, StateFields};
use crate::state::{Change, ChunkSize, Difference, Differences, encode};
use crate::store::{Origin, Spool, Store};

/// What comes after the chunks are made.
const SEALING: &str = "writing the archive and reading it back";

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
    let mut spool = store.publish()?;
    let keep = |chunk: &[u8]| {
        spool.push(chunk)?;
        Ok(())
    };
    let (state, changes) = differences(&base, &to, keep, reporter, cancel)?;
    let as_what = (Origin::Loaded, false);
    let made = seal(spool, &to, state, as_what, reporter, cancel)?;
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

/// Makes the delta to a snapshot that was harvested from the newest that was before it.
/// False where there is none, or where the delta would have more than half of the bytes.
pub(super) fn derive(
    store: &Store,
    to: &Manifest,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<bool, Failure> {
    let stored = store.list().into_iter();
    let earlier = stored.filter(|stored| {
        let manifest = &stored.manifest;
        let is_of_chain = manifest.chain_id() == to.chain_id() && manifest.state().is_some();
        is_of_chain && stored.origin == Origin::Harvested && manifest.height() < to.height()
    });
    let Some(base) = earlier.max_by_key(|stored| stored.manifest.height()) else {
        return Ok(false);
    };
    let base = Content::open(store, &base.manifest.id().to_string())?;
    let to = Content::open(store, &to.id().to_string())?;
    let most = to.manifest().total_bytes() / 2;
    let mut bytes = 0;
    let mut spool = store.publish()?.leaving_space();
    let keep = |chunk: &[u8]| {
        bytes += chunk.len() as u64;
        if bytes > most {
            let problem = format!("the delta has more than {most} bytes");
            return Err(Failure::new(FailureCode::Policy, problem));
        }
        spool.push(chunk)?;
        Ok(())
    };
    let state = match differences(&base, &to, keep, reporter, cancel) {
        Err(_) if bytes > most => return Ok(false),
        made => made?.0,
    };
    // What was harvested is.
    let as_what = (Origin::Derived, true);
    seal(spool, &to, state, as_what, reporter, cancel)?;
    Ok(true)
}

/// Reads both states, and makes chunks of what differs; how many records those change.
fn differences(
    base: &Content,
    to: &Content,
    keep: impl FnMut(&[u8]) -> Result<(), Failure>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(StateFields, u64), Failure> {
    reporter.phase_then("comparing the records of both states", SEALING);
    let reading = Reading::new(reporter, cancel, base.chunk_bytes() + to.chunk_bytes());
    let mut changes = 0;
    let differences = Differences::new(base.records(&reading)?, to.records(&reading)?);
    let differences = differences.map(|difference| {
        changes += 1;
        difference.map(Difference::into_change)
    });
    let base = base.manifest().id();
    let state = encode(ChunkSize::MAX, Some(base), differences, keep)?;
    Ok((state, changes))
}

/// Writes a delta to the state of `to`.
fn seal(
    spool: Spool,
    to: &Content,
    state: StateFields,
    (origin, proven): (Origin, bool),
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Arc<Manifest>, Failure> {
    reporter.phase(SEALING);
    let mut progress = byte_progress(reporter, cancel);
    let fields = SnapshotFields {
        // Over other chunks it is another.
        hash: None,
        ..fields(to.manifest())
    };
    let archive = spool.finish_state(fields, state, origin, proven, &mut progress)?;
    Ok(archive.manifest().clone())
}

/// Makes the full snapshot of a state that is here in deltas. True where it comes out as
/// `goal`; what else comes out is not kept.
pub(super) fn make_full(
    store: &Store,
    content: &Content,
    goal: &Manifest,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<bool, Failure> {
    reporter.phase_then(
        "making the snapshot of what is here and its deltas",
        SEALING,
    );
    let reading = Reading::new(reporter, cancel, content.chunk_bytes());
    let records = content.records(&reading)?;
    let here = store.list().into_iter().map(|stored| stored.manifest.id());
    let here: Vec<ManifestId> = here.collect();
    let mut spool = store.publish()?;
    let changes = records.map(|record| record.map(Change::Put));
    let state = encode(ChunkSize::MAX, None, changes, |chunk| {
        spool.push(chunk)?;
        Ok::<_, Failure>(())
    })?;
    reporter.phase(SEALING);
    let mut progress = byte_progress(reporter, cancel);
    let fields = fields(goal);
    let archive = spool.finish_state(fields, state, Origin::Fetched, false, &mut progress)?;
    let made = archive.manifest().id();
    if made != goal.id() && !here.contains(&made) {
        store.delete(&made)?;
    }
    Ok(made == goal.id())
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

/// What a snapshot of the same state says as well.
fn fields(to: &Manifest) -> SnapshotFields {
    SnapshotFields {
        chain_id: to.chain_id().to_owned(),
        height: to.height(),
        app_hash: to.app_hash().cloned(),
        format: to.format(),
        hash: Some(to.hash().clone()),
        metadata: to.metadata().clone(),
    }
}
