//! Making a manifest from chunks.

use bytes::Bytes;
use prost::Message;

use super::rules::{check_chunk_size, field};
use super::{
    ChunkId, MAX_CHUNKS, Manifest, ManifestError, ManifestId, PIECE_BYTES, Scope, ScopeRange, hash,
    proto,
};

/// What a manifest says beside its chunks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotFields {
    /// The chain.
    pub chain_id: String,
    /// The height whose state it is.
    pub height: u64,
    /// Application hash of that height (header H+1); absent or empty marks the
    /// snapshot unproven.
    pub app_hash: Option<Bytes>,
    /// ABCI snapshot format.
    pub format: u32,
    /// ABCI snapshot hash; absent: SHA-256 over all chunks in order, the rule of
    /// the Cosmos SDK.
    pub hash: Option<Bytes>,
    /// ABCI snapshot metadata.
    pub metadata: Bytes,
}

/// What the manifest of state content says besides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateFields {
    /// The snapshot that this one is a delta to; none of a full one.
    pub base: Option<ManifestId>,
    /// All scopes, ascending.
    pub scopes: Vec<Scope>,
    /// The scopes of each chunk.
    pub chunks: Vec<ScopeRange>,
}

/// Takes chunks in ABCI order and makes the manifest. Holds hashes only.
pub struct ManifestBuilder {
    chunks: Vec<proto::Chunk>,
    all: hash::Hasher,
}

impl Default for ManifestBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ManifestBuilder {
    /// Without a chunk so far.
    pub fn new() -> Self {
        Self {
            chunks: Vec::new(),
            all: hash::Hasher::new(),
        }
    }

    /// Adds the next chunk; gives its name. After an error the builder is as it
    /// was before.
    pub fn push(&mut self, chunk: &[u8]) -> Result<ChunkId, ManifestError> {
        if self.chunks.len() >= MAX_CHUNKS as usize {
            return Err(ManifestError::TooManyChunks);
        }
        check_chunk_size(self.chunks.len(), chunk.len())?;
        self.all.update(chunk);
        let id = ChunkId(hash::sha256(chunk));
        let pieces: Vec<&[u8]> = chunk.chunks(PIECE_BYTES as usize).collect();
        let pieces = hash::sha256_many(&pieces)
            .iter()
            .flat_map(|digest| digest.0)
            .collect::<Vec<u8>>();
        self.chunks.push(proto::Chunk {
            size: chunk.len() as u32,
            sha256: Bytes::copy_from_slice(id.digest().as_bytes()),
            pieces: pieces.into(),
            first_scope: 0,
            last_scope: 0,
        });
        Ok(id)
    }

    /// The manifest of all chunks pushed. It goes through the same checks as
    /// foreign bytes: what we make, everybody takes.
    pub fn finish(self, fields: SnapshotFields) -> Result<Manifest, ManifestError> {
        self.finish_as(proto::ContentKind::Opaque, fields, |_| {})
    }

    /// The manifest of all chunks pushed, which are state content: the format is
    /// [`STATE_FORMAT`](super::STATE_FORMAT).
    pub fn finish_state(
        mut self,
        fields: SnapshotFields,
        state: StateFields,
    ) -> Result<Manifest, ManifestError> {
        if state.chunks.len() != self.chunks.len() {
            let (said, pushed) = (state.chunks.len(), self.chunks.len());
            let problem = format!("are said of {said} chunks where there are {pushed}");
            return Err(field("scopes", problem));
        }
        for (chunk, scopes) in self.chunks.iter_mut().zip(&state.chunks) {
            chunk.first_scope = scopes.first;
            chunk.last_scope = scopes.last;
        }
        self.finish_as(proto::ContentKind::State, fields, |message| {
            let base = state
                .base
                .map(|base| Bytes::copy_from_slice(base.digest().as_bytes()));
            message.base = base.unwrap_or_default();
            message.scopes = state
                .scopes
                .iter()
                .map(|scope| scope.as_str().to_owned())
                .collect();
        })
    }

    fn finish_as(
        self,
        content: proto::ContentKind,
        fields: SnapshotFields,
        complete: impl FnOnce(&mut proto::Manifest),
    ) -> Result<Manifest, ManifestError> {
        let whole = self.all.finish();
        let app_hash = fields.app_hash.unwrap_or_default();
        let mut message = proto::Manifest {
            version: 1,
            chain_id: fields.chain_id,
            height: fields.height,
            unproven: app_hash.is_empty(),
            app_hash,
            format: fields.format,
            hash: fields
                .hash
                .unwrap_or_else(|| Bytes::copy_from_slice(whole.as_bytes())),
            metadata: fields.metadata,
            content: content as i32,
            chunks: self.chunks,
            base: Bytes::new(),
            scopes: Vec::new(),
        };
        complete(&mut message);
        let encoded = message.encode_to_vec();
        drop(message);
        Manifest::decode(encoded.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_grows_too_large_is_not_made() {
        let fields = || SnapshotFields {
            chain_id: "chain-1".to_owned(),
            height: 9,
            app_hash: None,
            format: 1,
            hash: None,
            metadata: Bytes::new(),
        };
        let with_chunks = |count: usize| {
            let mut builder = ManifestBuilder::new();
            builder
                .push(&vec![0; 15 * PIECE_BYTES as usize + 1])
                .unwrap();
            // The same entry again and again: hashing so much would take long.
            let entry = builder.chunks[0].clone();
            builder.chunks.resize(count, entry);
            builder.finish(fields())
        };
        let small = with_chunks(1).unwrap().encoded().len();
        let entry = with_chunks(2).unwrap().encoded().len() - small;
        let most = (super::super::MAX_MANIFEST_BYTES as usize - small) / entry + 1;
        assert!(with_chunks(most).is_ok());
        assert!(matches!(
            with_chunks(most + 1),
            Err(ManifestError::TooLarge(_))
        ));
    }
}
