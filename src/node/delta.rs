//! `delta`: what leads from one state to another, as a snapshot of its own. Blocking.

use std::sync::Arc;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{DeltaCommand, DeltaMade, Failure, FailureCode};
use super::content::{self, Content, Reading};
use super::progress::{Reporter, byte_progress};
use crate::snapshot::{Manifest, ManifestId, SnapshotFields, StateFields};
use crate::state::{Change, ChunkSize, Difference, Differences, StateError, encode};
use crate::store::{Origin, Spool, Store};

/// What an archive has beside chunks of a delta, at the most that still matters.
const MAX_ARCHIVE_OVERHEAD: u64 = 1 << 20;

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
        Ok::<_, Failure>(())
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

/// What a delta to a snapshot builds on: the newest state of its chain that is here whole
/// and was before it.
pub(super) fn newest_before(store: &Store, to: &Manifest) -> Result<Option<Content>, Failure> {
    let stored = store.list().into_iter();
    let earlier = stored.filter(|stored| {
        let manifest = &stored.manifest;
        let is_full_state =
            stored.complete && manifest.state().is_some() && manifest.base().is_none();
        is_full_state && manifest.chain_id() == to.chain_id() && manifest.height() < to.height()
    });
    let base = earlier.max_by_key(|stored| stored.manifest.height());
    base.map(|base| Content::open(store, &base.manifest.id().to_string()))
        .transpose()
}

/// Makes the delta from there, for which nothing else has to go. None where it would have
/// more than half of the snapshot's bytes, or finds no room.
pub(super) fn derive(
    store: &Store,
    base: &Content,
    to: &Manifest,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Option<Arc<Manifest>>, Failure> {
    let to = Content::open(store, &to.id().to_string())?;
    let most = to.manifest().total_bytes() / 2;
    let mut bytes = 0;
    let mut spool = store.publish()?.leaving_space();
    let keep = |chunk: &[u8]| {
        bytes += chunk.len() as u64;
        if bytes > most {
            return Err(Halt::TooLarge);
        }
        spool
            .push(chunk)
            .map_err(|error| Halt::Failed(error.into()))?;
        Ok(())
    };
    let (state, _) = match differences(base, &to, keep, reporter, cancel) {
        Ok(made) => made,
        Err(Halt::TooLarge) => return Ok(None),
        Err(Halt::Failed(failure)) => return Err(failure),
    };
    if store.spare_bytes() < bytes + MAX_ARCHIVE_OVERHEAD {
        return Ok(None);
    }
    // Its application hash is that of a block that was confirmed.
    let as_what = (Origin::Derived, true);
    seal(spool, &to, state, as_what, reporter, cancel).map(Some)
}

/// Why a delta is not made to its end.
enum Halt {
    TooLarge,
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<StateError> for Halt {
    fn from(error: StateError) -> Self {
        Self::Failed(error.into())
    }
}

/// Reads both states, and makes chunks of what differs; how many records those change.
fn differences<E: From<Failure> + From<StateError>>(
    base: &Content,
    to: &Content,
    keep: impl FnMut(&[u8]) -> Result<(), E>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(StateFields, u64), E> {
    reporter.phase_then("comparing the records of both states", SEALING);
    let reading = Reading::new(reporter, cancel, base.chunk_bytes() + to.chunk_bytes());
    let mut changes = 0;
    let differences = Differences::new(base.records(&reading)?, to.records(&reading)?);
    let differences = differences.map(|difference| {
        changes += 1;
        difference.map(Difference::into_change).map_err(E::from)
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

#[cfg(test)]
pub(super) mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::*;
    use crate::snapshot::{STATE_FORMAT, Scope, hash};
    use crate::state::{Key, Place, Record, Stamp, StateHasher, StateNotes};
    use crate::store::StoreSettings;

    /// A state of so many records with values that have nothing in common.
    fn records(count: u32, seed: &str) -> Vec<Record> {
        let record = |number: u32| {
            let place = Place {
                scope: Scope::new("contract_state/con_a").unwrap(),
                key: Key::new(Bytes::from(format!("{number:06}"))).unwrap(),
            };
            let value = hash::sha256(format!("{seed}{number}").as_bytes()).to_string();
            Record::new(place, Some(value.into()), Stamp::Int(1)).unwrap()
        };
        (0..count).map(record).collect()
    }

    /// Publishes it as the harvest does.
    fn publish(store: &Store, height: u64, records: &[Record]) -> Arc<Manifest> {
        let mut spool = store.publish().unwrap();
        let mut hasher = StateHasher::new();
        for record in records {
            hasher.push(record).unwrap();
        }
        let changes = records
            .iter()
            .cloned()
            .map(|record| Ok(Change::Put(record)));
        let state = encode(ChunkSize::MAX, None, changes, |chunk| {
            spool.push(chunk).unwrap();
            Ok::<_, StateError>(())
        });
        let notes = StateNotes {
            state: hasher.finish(),
            patches_sha256: None,
        };
        let fields = SnapshotFields {
            chain_id: "xian-1".to_owned(),
            height,
            app_hash: Some(Bytes::from_static(b"hash")),
            format: STATE_FORMAT,
            hash: None,
            metadata: notes.encode().into(),
        };
        let mut go_on = |_, _| ControlFlow::Continue(());
        let archive =
            spool.finish_state(fields, state.unwrap(), Origin::Harvested, true, &mut go_on);
        archive.unwrap().manifest().clone()
    }

    fn open(home: &Path, quota_bytes: Option<u64>) -> Store {
        let settings = StoreSettings {
            quota_bytes,
            ..StoreSettings::default()
        };
        Store::open(home, settings).unwrap()
    }

    /// Publishes a state of height 7, and one of height 8 in which one record is another.
    fn publish_two(store: &Store) -> Arc<Manifest> {
        let mut records = records(2000, "a");
        publish(store, 7, &records);
        records[9] = self::records(10, "b").remove(9);
        publish(store, 8, &records)
    }

    /// A home with two states, and the delta between them.
    pub(in crate::node) fn with_a_delta(home: &Path) -> (Store, Arc<Manifest>) {
        let store = open(home, None);
        let to = publish_two(&store);
        let made = derive_to(&store, &to);
        (store, made.unwrap())
    }

    fn derive_to(store: &Store, to: &Manifest) -> Option<Arc<Manifest>> {
        let reporter = Reporter::new(mpsc::channel(1).0);
        let base = newest_before(store, to).unwrap()?;
        derive(store, &base, to, &reporter, &CancellationToken::new()).unwrap()
    }

    fn spooled(home: &Path) -> usize {
        std::fs::read_dir(home.join("spool")).map_or(0, Iterator::count)
    }

    #[test]
    fn a_delta_is_derived_from_the_newest_state_before() {
        let home = tempfile::tempdir().unwrap();
        let (store, made) = with_a_delta(home.path());
        let all = store.list();
        let full = |height| {
            let is_it = |stored: &&crate::store::Stored| {
                stored.manifest.height() == height && stored.manifest.base().is_none()
            };
            all.iter().find(is_it).unwrap().manifest.clone()
        };
        assert_eq!(made.base(), Some(full(7).id()));
        assert!(made.total_bytes() * 100 < full(8).total_bytes());
        let stored = store.get(&made.id()).unwrap();
        assert_eq!((stored.origin, stored.proven), (Origin::Derived, true));
        // Of its own height there is none before, and a delta is nobody's base.
        assert!(newest_before(&store, &full(7)).unwrap().is_none());
        let later = publish(&store, 9, &records(10, "a"));
        let base = newest_before(&store, &later).unwrap().unwrap();
        assert_eq!(base.manifest().id(), full(8).id());
    }

    #[test]
    fn no_delta_stays_that_saves_little_or_for_which_another_snapshot_had_to_go() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), None);
        publish(&store, 7, &records(2000, "a"));
        let to = publish(&store, 8, &records(2000, "b"));
        assert!(derive_to(&store, &to).is_none());
        assert_eq!((store.list().len(), spooled(home.path())), (2, 0));

        let home = tempfile::tempdir().unwrap();
        let store = open(home.path(), None);
        let to = publish_two(&store);
        let taken: u64 = store.list().iter().map(|stored| stored.file_bytes).sum();
        drop(store);
        let store = open(home.path(), Some(taken + 1000));
        assert!(derive_to(&store, &to).is_none());
        assert_eq!((store.list().len(), spooled(home.path())), (2, 0));
    }
}
