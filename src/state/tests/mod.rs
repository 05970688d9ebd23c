//! What the parts of this room do together.

mod chunks;
mod deltas;
mod hostile;
mod plans;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::snapshot::{
    Manifest, ManifestBuilder, ManifestId, STATE_FORMAT, ScopeRange, SnapshotFields, StateFields,
};

fn place(scope: &str, key: &[u8]) -> Place {
    Place {
        scope: Scope::new(scope).unwrap(),
        key: Key::new(Bytes::copy_from_slice(key)).unwrap(),
    }
}

fn record(scope: &str, key: &[u8], value: &[u8], stamp: i64) -> Record {
    let value = Bytes::copy_from_slice(value);
    Record::new(place(scope, key), Some(value), Stamp::Int(stamp)).unwrap()
}

/// Balances: addresses of 64 digits, values of a few.
fn balances(count: usize, seed: u64) -> Vec<Record> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let scopes = [
        "contract_state/con_a",
        "contract_state/currency",
        "run_state/__n",
    ];
    let mut records: Vec<Record> = (0..count)
        .map(|_| balance(scopes[rng.random_range(0..3)], &mut rng))
        .collect();
    records.sort_by(|a, b| a.place().cmp(b.place()));
    records
}

fn balance(scope: &str, rng: &mut ChaCha8Rng) -> Record {
    let address = hex::encode(rng.random::<[u8; 32]>());
    let value = format!("{{\"__fixed__\":\"{}.5\"}}", rng.random_range(0..1_000_000));
    record(
        scope,
        format!("balances\0{address}").as_bytes(),
        value.as_bytes(),
        7,
    )
}

/// A content in chunks.
struct Content {
    chunks: Vec<StateChunk>,
    scopes: Vec<Scope>,
}

fn least() -> ChunkSize {
    ChunkSize::MIN
}

fn encode(changes: &[Change], chunk_size: ChunkSize) -> Content {
    let mut encoder = Encoder::new(chunk_size).unwrap();
    let mut chunks = Vec::new();
    for change in changes {
        chunks.extend(encoder.push(change).unwrap());
    }
    let end = encoder.finish().unwrap();
    chunks.push(end.chunk);
    Content {
        chunks,
        scopes: end.scopes,
    }
}

fn puts(records: &[Record]) -> Vec<Change> {
    records.iter().cloned().map(Change::Put).collect()
}

impl Content {
    fn open(&self) -> Vec<OpenChunk> {
        let open = |chunk: &StateChunk| OpenChunk {
            bytes: chunk.bytes.clone(),
            scopes: self.scopes_of(chunk.scopes),
        };
        self.chunks.iter().map(open).collect()
    }

    fn scopes_of(&self, range: ScopeRange) -> Vec<Scope> {
        let range = range.first as usize..=range.last as usize;
        self.scopes.get(range).unwrap_or_default().to_vec()
    }

    /// The manifest of this content, of this state.
    fn manifest(&self, base: Option<ManifestId>, state: StateDigest) -> Manifest {
        let mut builder = ManifestBuilder::new();
        for chunk in &self.chunks {
            builder.push(&chunk.bytes).unwrap();
        }
        let notes = StateNotes {
            state,
            patches_sha256: None,
        };
        let fields = SnapshotFields {
            chain_id: "chain-1".to_owned(),
            height: 1000,
            app_hash: None,
            format: STATE_FORMAT,
            hash: None,
            metadata: notes.encode().into(),
        };
        let state = StateFields {
            base,
            scopes: self.scopes.clone(),
            chunks: self.chunks.iter().map(|chunk| chunk.scopes).collect(),
        };
        builder.finish_state(fields, state).unwrap()
    }
}

fn changes_of(chunks: Vec<OpenChunk>) -> Result<Vec<Change>, StateError> {
    Changes::new(chunks.into_iter().map(Ok::<_, StateError>))?.collect()
}

fn records_of(chunks: Vec<OpenChunk>) -> Result<Vec<Record>, StateError> {
    Records::new(chunks.into_iter().map(Ok::<_, StateError>))?.collect()
}

fn digest_of(records: &[Record]) -> StateDigest {
    let mut hasher = StateHasher::new();
    for record in records {
        hasher.push(record).unwrap();
    }
    hasher.finish()
}
