//! What the manifest of state content says besides: its base and its scopes.

use super::rules::{Chunks, field};
use super::{
    ChunkIndex, Digest, ManifestError, ManifestId, STATE_FORMAT, Scope, ScopeError, ScopeRange,
    proto,
};

/// The base and the scopes of state content, checked.
#[derive(Clone)]
pub struct StateContent {
    base: Option<ManifestId>,
    scopes: Vec<Scope>,
    chunks: Vec<ScopeRange>,
}

impl StateContent {
    /// None of opaque content, which says nothing of the kind.
    pub(super) fn check(
        message: &proto::Manifest,
        chunks: &Chunks,
    ) -> Result<Option<Self>, ManifestError> {
        if message.content != proto::ContentKind::State as i32 {
            check_opaque(message)?;
            return Ok(None);
        }
        if message.format != STATE_FORMAT {
            let problem = format!(
                "{} is none of state content; {STATE_FORMAT} is",
                message.format
            );
            return Err(field("format", problem));
        }
        if chunks.unique.len() != chunks.positions.len() {
            return Err(field(
                "chunks",
                "two are equal, which state content has not",
            ));
        }
        let scopes = check_scopes(&message.scopes)?;
        Ok(Some(Self {
            // The shape says that it has 32 bytes.
            base: Digest::from_slice(&message.base).map(ManifestId),
            chunks: check_ranges(&message.chunks, scopes.len())?,
            scopes,
        }))
    }

    /// The snapshot that this one is a delta to; none of a full one.
    pub fn base(&self) -> Option<ManifestId> {
        self.base
    }

    /// All scopes, ascending.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The scopes of a chunk, as positions in the list. In a content without
    /// scopes it is of no meaning.
    pub fn range_of(&self, chunk: ChunkIndex) -> ScopeRange {
        self.chunks[chunk.get() as usize]
    }

    /// The scopes of a chunk: it has records of each of them.
    pub fn scopes_of(&self, chunk: ChunkIndex) -> &[Scope] {
        let ScopeRange { first, last } = self.range_of(chunk);
        // Without a scope in the content there is none in its chunk.
        self.scopes
            .get(first as usize..=last as usize)
            .unwrap_or_default()
    }
}

fn check_opaque(message: &proto::Manifest) -> Result<(), ManifestError> {
    let problem = "stands in state content only";
    if !message.base.is_empty() {
        return Err(field("base", problem));
    }
    let has_scopes = |chunk: &proto::Chunk| chunk.first_scope != 0 || chunk.last_scope != 0;
    if !message.scopes.is_empty() || message.chunks.iter().any(has_scopes) {
        return Err(field("scopes", problem));
    }
    Ok(())
}

fn check_scopes(texts: &[String]) -> Result<Vec<Scope>, ManifestError> {
    let mut scopes = Vec::with_capacity(texts.len());
    for text in texts {
        let scope = Scope::new(text).map_err(|ScopeError(problem)| field("scopes", problem))?;
        if scopes.last().is_some_and(|last| *last >= scope) {
            return Err(field("scopes", "stand twice or not in order"));
        }
        scopes.push(scope);
    }
    Ok(scopes)
}

/// Each chunk goes on where the one before ends, and together they have all.
fn check_ranges(chunks: &[proto::Chunk], scopes: usize) -> Result<Vec<ScopeRange>, ManifestError> {
    let error = |position, problem: &str| ManifestError::Chunk {
        position,
        problem: problem.to_owned(),
    };
    let mut ranges: Vec<ScopeRange> = Vec::with_capacity(chunks.len());
    for (position, chunk) in chunks.iter().enumerate() {
        let (first, last) = (chunk.first_scope, chunk.last_scope);
        let follows = match ranges.last() {
            None => first == 0,
            Some(before) => first == before.last || before.last.checked_add(1) == Some(first),
        };
        if !follows {
            return Err(error(position, "its scopes do not follow those before"));
        }
        if first > last || last as usize >= scopes.max(1) {
            return Err(error(position, "its scopes are not in the list"));
        }
        ranges.push(ScopeRange { first, last });
    }
    let last = chunks.len() - 1;
    if scopes == 0 && last > 0 {
        return Err(error(1, "stands in a content without scopes"));
    }
    if ranges[last].last as usize + 1 < scopes {
        return Err(error(last, "ends ahead of the last scope"));
    }
    Ok(ranges)
}
