//! Snapshots of state content as records: what `diff`, `dump` and `genesis` read.
//!
//! A delta is read together with the snapshots that it builds on, down to a full one:
//! all of them have to be here. What comes out is held against the name that the
//! snapshot gives its state, so at the end of a reading all of it was right. Of a
//! snapshot that is here for some scopes only, their chunks are right, and nothing can be
//! said of the state.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::command::{Failure, FailureCode};
use super::progress::{Reporter, byte_progress};
use super::shelf;
use crate::snapshot::{ChunkIndex, Manifest, ManifestId, Scope};
use crate::state::{
    Changes, MAX_DELTAS, OpenChunk, Record, RecordStream, Records, Selection, StateError,
    StateHasher, StateNotes, applied_all,
};
use crate::store::{Archive, Store, StoreError};

/// So many records are taken between two looks at whether to go on: a chunk can hold a
/// million.
const RECORDS_BETWEEN_LOOKS: u64 = 1024;

/// A state that is here, full or in deltas, or a part of one.
pub(super) struct Content {
    /// The full snapshot, then each delta on top of the ones before.
    layers: Vec<Layer>,
    manifest: Arc<Manifest>,
    notes: StateNotes,
    /// The scopes that are here, in order; empty: all.
    only: Vec<Scope>,
}

/// The chunks of one snapshot that are read.
struct Layer {
    manifest: Arc<Manifest>,
    chunks: Vec<ChunkIndex>,
    shelf: Shelf,
}

/// Where they are.
enum Shelf {
    Whole(Archive),
    Part(Store),
}

impl Content {
    /// The state of the snapshot that a person named.
    pub(super) fn open(store: &Store, name: &str) -> Result<Self, Failure> {
        let stored = shelf::find(store, name)?;
        if !stored.complete && !stored.only.is_empty() {
            return Err(shelf::is_part(&stored));
        }
        let manifest = stored.manifest;
        let notes = StateNotes::of(&manifest).map_err(|error| no_records(&manifest, &error))?;
        let mut layers = vec![Layer::whole(store.archive(&manifest.id())?)];
        let mut of = manifest.clone();
        while let Some(base) = of.base() {
            if layers.len() > MAX_DELTAS {
                return Err(too_many_deltas(manifest.id()));
            }
            if store.get(&base).is_none() {
                return Err(no_base(of.id(), base));
            }
            let layer = Layer::whole(store.archive(&base)?);
            of = layer.manifest.clone();
            layers.push(layer);
        }
        layers.reverse();
        Ok(Self {
            layers,
            manifest,
            notes,
            only: Vec::new(),
        })
    }

    /// As [`Content::open`], or the part of it that was fetched on its own.
    pub(super) fn open_part(store: &Store, name: &str) -> Result<Self, Failure> {
        let stored = shelf::find(store, name)?;
        let manifest = stored.manifest;
        if stored.complete || stored.only.is_empty() {
            return Self::open(store, name);
        }
        let notes = StateNotes::of(&manifest).map_err(|error| no_records(&manifest, &error))?;
        let chunks = Selection::new(&manifest, &stored.only)?.chunks;
        let ids = chunks.iter().map(|index| {
            let unique = manifest.unique_at(*index);
            manifest.unique_chunk(unique).id
        });
        if !store.holds(&ids.collect::<Vec<_>>()).is_full() {
            return Err(half_a_part(manifest.id(), &stored.only));
        }
        let layer = Layer {
            manifest: manifest.clone(),
            chunks,
            shelf: Shelf::Part(store.clone()),
        };
        Ok(Self {
            layers: vec![layer],
            manifest,
            notes,
            only: stored.only,
        })
    }

    /// Puts a delta on top of it, whatever that calls its base.
    pub(super) fn put_on(&mut self, store: &Store, delta: &ManifestId) -> Result<(), Failure> {
        if !self.takes_a_delta() {
            return Err(too_many_deltas(self.manifest.id()));
        }
        let layer = Layer::whole(store.archive(delta)?);
        self.notes = StateNotes::of(&layer.manifest)?;
        self.manifest = layer.manifest.clone();
        self.layers.push(layer);
        Ok(())
    }

    /// The snapshot that was named.
    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it says of its state.
    pub(super) fn notes(&self) -> &StateNotes {
        &self.notes
    }

    /// Whether a delta can be put on top of it.
    pub(super) fn takes_a_delta(&self) -> bool {
        self.layers.len() <= MAX_DELTAS
    }

    /// The scopes that are here, in order; empty: all.
    pub(super) fn only(&self) -> &[Scope] {
        &self.only
    }

    /// Bytes of all chunks that are read for it.
    pub(super) fn chunk_bytes(&self) -> u64 {
        self.layers.iter().map(Layer::bytes).sum()
    }

    /// What its records take at least, written down.
    pub(super) fn least_bytes(&self) -> u64 {
        match self.only.is_empty() {
            true => self.notes.state.bytes,
            false => 0,
        }
    }

    /// How many there are at least.
    pub(super) fn least_records(&self) -> u64 {
        match self.only.is_empty() {
            true => self.notes.state.records,
            false => 0,
        }
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
        let mut layers = self.layers.iter();
        let full: RecordStream<'a, Trouble> = match layers.next() {
            Some(full) => Box::new(Records::new(full.chunks(reading)).map_err(of_state)?),
            None => Box::new(std::iter::empty()),
        };
        let deltas: Result<Vec<_>, _> = layers
            .map(|delta| Changes::new(delta.chunks(reading)))
            .collect();
        let records = Checked {
            records: applied_all(full, deltas.map_err(of_state)?),
            hasher: StateHasher::expecting(self.notes.state),
            content: self,
            reading,
            taken: 0,
            is_at_end: false,
        };
        Ok(records.map(move |record| record.map_err(told)))
    }
}

impl Layer {
    fn whole(archive: Archive) -> Self {
        Self {
            manifest: archive.manifest().clone(),
            chunks: archive.manifest().chunk_indexes().collect(),
            shelf: Shelf::Whole(archive),
        }
    }

    fn bytes(&self) -> u64 {
        let size = |index: &ChunkIndex| {
            let unique = self.manifest.unique_at(*index);
            u64::from(self.manifest.unique_chunk(unique).size)
        };
        self.chunks.iter().map(size).sum()
    }

    fn read(&self, index: ChunkIndex) -> Result<Bytes, StoreError> {
        let store = match &self.shelf {
            Shelf::Whole(archive) => return archive.read_chunk(index),
            Shelf::Part(store) => store,
        };
        let chunk = self.manifest.unique_chunk(self.manifest.unique_at(index));
        let mut bytes = BytesMut::with_capacity(chunk.size as usize);
        for piece in 0..chunk.piece_count() {
            let piece = store.read_piece(&chunk.id, piece)?;
            let gone = || StoreError::Incomplete(self.manifest.id());
            bytes.extend_from_slice(&piece.ok_or_else(gone)?);
        }
        Ok(bytes.freeze())
    }

    /// In order, ready to be decoded.
    fn chunks<'a>(
        &'a self,
        reading: &'a Reading,
    ) -> impl Iterator<Item = Result<OpenChunk, Trouble>> + 'a {
        self.chunks.iter().map(move |index| {
            let bytes = self.read(*index).map_err(Trouble::Store)?;
            reading.more(bytes.len()).map_err(Trouble::Store)?;
            let scopes = self.manifest.state();
            let scopes = scopes.map(|content| content.scopes_of(*index));
            let scopes = scopes.unwrap_or_default().to_vec();
            Ok(OpenChunk { bytes, scopes })
        })
    }
}

/// Is told the bytes done and the bytes in all, and says whether to go on.
type Progress = Box<dyn FnMut(u64, u64) -> ControlFlow<()>>;

/// A piece of work that reads chunks: how far it is, and whether it goes on.
pub(super) struct Reading {
    progress: RefCell<Progress>,
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

/// The records that were asked for. Those of a whole state are held against its name.
struct Checked<'a> {
    records: RecordStream<'a, Trouble>,
    hasher: StateHasher,
    content: &'a Content,
    reading: &'a Reading,
    taken: u64,
    is_at_end: bool,
}

impl Checked<'_> {
    fn read(&mut self) -> Result<Option<Record>, Trouble> {
        let only = &self.content.only;
        while let Some(record) = self.records.next().transpose()? {
            self.taken += 1;
            let is_time = self.taken.is_multiple_of(RECORDS_BETWEEN_LOOKS);
            if is_time && self.reading.cancel.is_cancelled() {
                return Err(Trouble::Store(StoreError::Stopped));
            }
            if only.is_empty() {
                self.hasher.push(&record)?;
                return Ok(Some(record));
            }
            // A chunk of one scope can have records of others.
            if only.binary_search(record.scope()).is_ok() {
                return Ok(Some(record));
            }
        }
        if only.is_empty() {
            let found = std::mem::take(&mut self.hasher).finish();
            self.content.notes.check(&found)?;
        }
        Ok(None)
    }
}

impl Iterator for Checked<'_> {
    type Item = Result<Record, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_at_end {
            return None;
        }
        let read = self.read();
        self.is_at_end = !matches!(read, Ok(Some(_)));
        read.transpose()
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

fn half_a_part(id: ManifestId, only: &[Scope]) -> Failure {
    let only: Vec<&str> = only.iter().map(Scope::as_str).collect();
    let only = only.join(",");
    Failure::new(
        FailureCode::NotFound,
        format!("what was asked for of {id} is not all here yet"),
    )
    .hint(format!(
        "`snapswarm fetch {id} --only {only}` goes on with it"
    ))
}

fn no_base(delta: ManifestId, base: ManifestId) -> Failure {
    Failure::new(
        FailureCode::NotFound,
        format!("{delta} is a delta, and what it builds on is not here: {base}"),
    )
    .hint(format!("`snapswarm fetch {base}` brings it"))
}

pub(super) fn too_many_deltas(id: ManifestId) -> Failure {
    Failure::new(
        FailureCode::Usage,
        format!("{id} stands on too many deltas: {MAX_DELTAS} are read together at most"),
    )
    .hint("take the full snapshot of its height")
}
