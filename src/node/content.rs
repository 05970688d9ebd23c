//! Snapshots of state content as records: what `diff`, `dump` and `genesis` read.
//!
//! A delta is read together with the snapshots that it builds on, down to a full one:
//! all of them have to be here. What comes out is held against the name that the
//! snapshot gives its state, so at the end of a reading all of it was right.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode};
use super::progress::{Reporter, byte_progress};
use super::shelf;
use crate::snapshot::{Manifest, ManifestId};
use crate::state::{
    Changes, MAX_DELTAS, OpenChunk, Record, RecordStream, Records, StateError, StateHasher,
    StateNotes, applied_all,
};
use crate::store::{Archive, Store, StoreError};

/// So many records are taken between two looks at whether to go on: a chunk can hold a
/// million.
const RECORDS_BETWEEN_LOOKS: u64 = 1024;

/// A state that is here, full or in deltas.
pub(super) struct Content {
    /// The full snapshot, then each delta on top of the ones before.
    archives: Vec<Archive>,
    manifest: Arc<Manifest>,
    notes: StateNotes,
}

impl Content {
    /// The state of the snapshot that a person named.
    pub(super) fn open(store: &Store, name: &str) -> Result<Self, Failure> {
        let manifest = shelf::find(store, name)?.manifest;
        let notes = StateNotes::of(&manifest).map_err(|error| no_records(&manifest, &error))?;
        let mut archives = vec![store.archive(&manifest.id())?];
        let mut of = manifest.clone();
        while let Some(base) = of.state().and_then(|content| content.base()) {
            if archives.len() > MAX_DELTAS {
                return Err(too_many_deltas(manifest.id()));
            }
            if store.get(&base).is_none() {
                return Err(no_base(of.id(), base));
            }
            let archive = store.archive(&base)?;
            of = archive.manifest().clone();
            archives.push(archive);
        }
        archives.reverse();
        Ok(Self {
            archives,
            manifest,
            notes,
        })
    }

    /// The snapshot that was named.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it says of its state.
    pub(super) fn notes(&self) -> &StateNotes {
        &self.notes
    }

    /// Bytes of all chunks that are read for it.
    pub(super) fn chunk_bytes(&self) -> u64 {
        let archives = self.archives.iter();
        archives
            .map(|archive| archive.manifest().total_bytes())
            .sum()
    }

    /// All records, in the order of places. Holds a chunk of each snapshot that is read
    /// and what its decoder takes, whatever the state's size.
    pub(super) fn records<'a>(
        &'a self,
        reading: &'a Reading,
    ) -> Result<impl Iterator<Item = Result<Record, Failure>> + 'a, Failure> {
        let id = self.manifest.id();
        let told = move |trouble: Trouble| trouble.into_failure(id);
        let of_state = |error| told(Trouble::State(error));
        let mut archives = self.archives.iter();
        let full: RecordStream<'a, Trouble> = match archives.next() {
            Some(full) => Box::new(Records::new(chunks(full, reading)).map_err(of_state)?),
            None => Box::new(std::iter::empty()),
        };
        let deltas: Result<Vec<_>, _> = archives
            .map(|delta| Changes::new(chunks(delta, reading)))
            .collect();
        let records = Checked {
            records: applied_all(full, deltas.map_err(of_state)?),
            hasher: Some(StateHasher::expecting(self.notes.state)),
            notes: self.notes,
            reading,
            taken: 0,
        };
        Ok(records.map(move |record| record.map_err(told)))
    }
}

/// A piece of work that reads chunks: how far it is, and whether it goes on.
pub(super) struct Reading {
    progress: RefCell<Box<dyn FnMut(u64, u64) -> ControlFlow<()>>>,
    cancel: CancellationToken,
    done: Cell<u64>,
    total: u64,
}

impl Reading {
    /// Of so many bytes of chunks.
    pub(super) fn new(reporter: &Reporter, cancel: &CancellationToken, total: u64) -> Self {
        Self {
            progress: RefCell::new(Box::new(byte_progress(reporter, cancel))),
            cancel: cancel.clone(),
            done: Cell::new(0),
            total,
        }
    }

    /// So many bytes more.
    fn more(&self, bytes: usize) -> Result<(), StoreError> {
        self.done.set(self.done.get() + bytes as u64);
        match self.progress.borrow_mut()(self.done.get(), self.total) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Stopped),
        }
    }
}

/// Why a reading ended early.
enum Trouble {
    State(StateError),
    Store(StoreError),
}

impl From<StateError> for Trouble {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl Trouble {
    fn into_failure(self, id: ManifestId) -> Failure {
        match self {
            Self::Store(error) => error.into(),
            Self::State(error) => Failure::new(
                FailureCode::Verification,
                format!("the records of {id} are not what it says: {error}"),
            )
            .hint("who made it made it wrong: take the snapshot of another provider"),
        }
    }
}

/// The chunks of an archive, in order.
fn chunks<'a>(
    archive: &'a Archive,
    reading: &'a Reading,
) -> impl Iterator<Item = Result<OpenChunk, Trouble>> + 'a {
    let manifest = archive.manifest();
    manifest.chunk_indexes().map(move |index| {
        let bytes = archive.read_chunk(index).map_err(Trouble::Store)?;
        reading.more(bytes.len()).map_err(Trouble::Store)?;
        let scopes = manifest.state().map(|content| content.scopes_of(index));
        let scopes = scopes.unwrap_or_default().to_vec();
        Ok(OpenChunk { bytes, scopes })
    })
}

/// Records that are held against the name of their state.
struct Checked<'a> {
    records: RecordStream<'a, Trouble>,
    /// None behind the last record.
    hasher: Option<StateHasher>,
    notes: StateNotes,
    reading: &'a Reading,
    taken: u64,
}

impl Iterator for Checked<'_> {
    type Item = Result<Record, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        let hasher = self.hasher.as_mut()?;
        let taken = self.records.next().transpose().and_then(|record| {
            self.taken += 1;
            let is_time = self.taken.is_multiple_of(RECORDS_BETWEEN_LOOKS);
            if is_time && self.reading.cancel.is_cancelled() {
                return Err(Trouble::Store(StoreError::Stopped));
            }
            if let Some(record) = &record {
                hasher.push(record)?;
            }
            Ok(record)
        });
        let ended = match taken {
            Ok(Some(record)) => return Some(Ok(record)),
            Ok(None) => Ok(()),
            Err(trouble) => Err(trouble),
        };
        let found = self.hasher.take()?.finish();
        let right = ended.and_then(|()| Ok(self.notes.check(&found)?));
        right.err().map(Err)
    }
}

/// The failure of asking a snapshot for records that has none.
pub(super) fn no_records(manifest: &Manifest, error: &StateError) -> Failure {
    let id = manifest.id();
    match error {
        StateError::Opaque => Failure::new(
            FailureCode::Usage,
            format!("{id} holds no records: its chunks are its application's own"),
        )
        .hint(
            "only state content has records: what `load --kind xian` and an adapter with --xian \
             make",
        ),
        error => Failure::new(FailureCode::Verification, format!("{id}: {error}")),
    }
}

fn no_base(delta: ManifestId, base: ManifestId) -> Failure {
    Failure::new(
        FailureCode::NotFound,
        format!("{delta} is a delta, and what it builds on is not here: {base}"),
    )
    .hint(format!("`snapswarm fetch {base}` brings it"))
}

fn too_many_deltas(id: ManifestId) -> Failure {
    Failure::new(
        FailureCode::Usage,
        format!("{id} stands on more than {MAX_DELTAS} deltas, which are not read together"),
    )
    .hint("take the full snapshot of its height")
}
