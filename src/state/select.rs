//! Which chunks hold what is asked for.

use super::StateError;
use crate::snapshot::{ChunkIndex, Manifest, Scope};

/// The chunks of a snapshot that hold all records of some scopes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    /// The chunks, in order. They hold records of other scopes as well.
    pub chunks: Vec<ChunkIndex>,
    /// Their bytes.
    pub bytes: u64,
}

impl Selection {
    /// The chunks that hold any of these scopes. A scope that the snapshot does not
    /// have is an error. In a delta, that is one without a change.
    pub fn new(manifest: &Manifest, wanted: &[Scope]) -> Result<Self, StateError> {
        let Some(content) = manifest.state() else {
            return Err(StateError::Opaque);
        };
        let mut numbers = Vec::with_capacity(wanted.len());
        for scope in wanted {
            match content.scopes().binary_search(scope) {
                Ok(number) => numbers.push(number as u32),
                Err(_) => return Err(StateError::UnknownScope(scope.clone())),
            }
        }
        numbers.sort_unstable();
        let holds = |chunk: &ChunkIndex| {
            let range = content.range_of(*chunk);
            let at = numbers.partition_point(|number| *number < range.first);
            numbers.get(at).is_some_and(|number| *number <= range.last)
        };
        let chunks: Vec<ChunkIndex> = manifest.chunk_indexes().filter(holds).collect();
        let size = |chunk: &ChunkIndex| {
            let unique = manifest.unique_chunk(manifest.unique_at(*chunk));
            u64::from(unique.size)
        };
        Ok(Self {
            bytes: chunks.iter().map(size).sum(),
            chunks,
        })
    }
}
