//! Changes into chunks.

use std::mem;

use bytes::Bytes;

use super::cut::{CutRule, Filled};
use super::entry::{Entry, Last, PAYLOAD_VERSION};
use super::frame::FrameWriter;
use super::record::Change;
use super::{ChunkSize, StateError};
use crate::snapshot::{MAX_SCOPES, ManifestId, Scope, ScopeRange, StateFields};

/// Makes chunks of changes that come in the order of their places. Holds the chunk
/// that is being filled, a block and an entry that are not compressed yet, and the
/// 20 MiB in which the compressor searches: 90 MiB at most, 40 where no entry is
/// long.
pub struct Encoder {
    rule: CutRule,
    filling: Filling,
    scopes: Vec<Scope>,
    last: Last,
}

/// A chunk of state content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateChunk {
    /// Its bytes.
    pub bytes: Bytes,
    /// The scopes of its changes, as numbers in the content's list of scopes.
    pub scopes: ScopeRange,
}

/// The end of a content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateEnd {
    /// The last chunk.
    pub chunk: StateChunk,
    /// All scopes of the content, in order.
    pub scopes: Vec<Scope>,
}

/// Makes chunks of all changes, in the order of their places; `keep` gets each as soon
/// as it is full. Gives what a manifest says of them: of a delta to `base`, or without
/// one of a full state.
pub fn encode<E: From<StateError>>(
    chunk_size: ChunkSize,
    base: Option<ManifestId>,
    changes: impl IntoIterator<Item = Result<Change, E>>,
    mut keep: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<StateFields, E> {
    let mut encoder = Encoder::new(chunk_size)?;
    let mut chunks = Vec::new();
    let mut hand_on = |chunk: StateChunk| {
        chunks.push(chunk.scopes);
        keep(&chunk.bytes)
    };
    for change in changes {
        if let Some(chunk) = encoder.push(&change?)? {
            hand_on(chunk)?;
        }
    }
    let end = encoder.finish()?;
    hand_on(end.chunk)?;
    Ok(StateFields {
        base,
        scopes: end.scopes,
        chunks,
    })
}

/// The chunk that is being filled.
struct Filling {
    frame: FrameWriter,
    weight: u64,
    /// The number of its first scope, once it has a change.
    first_scope: Option<u32>,
}

impl Filling {
    fn new() -> Result<Self, StateError> {
        Ok(Self {
            frame: FrameWriter::new(&[PAYLOAD_VERSION])?,
            weight: 0,
            first_scope: None,
        })
    }

    fn ends_ahead_of(&self, entry: &Entry, rule: CutRule) -> bool {
        let filled = Filled {
            bytes: self.frame.bytes() as u64,
            weight: self.weight,
        };
        self.first_scope.is_some()
            && (!self.frame.has_room(entry.bytes_at_most())
                || rule.ends_ahead_of(entry.place, entry.weight(), filled))
    }

    fn push(&mut self, entry: &Entry, last: &Last, scope: u32) -> Result<(), StateError> {
        self.weight += entry.weight() as u64;
        // A chunk can be read by itself: its first entry refers to nothing.
        let beginning = Last::default();
        let last = if self.first_scope.is_some() {
            last
        } else {
            &beginning
        };
        self.first_scope.get_or_insert(scope);
        self.frame.append(|out| entry.write(last, out))
    }

    fn finish(self, scopes: &[Scope]) -> Result<StateChunk, StateError> {
        let last = scopes.len().saturating_sub(1) as u32;
        let first = self.first_scope.unwrap_or(last);
        Ok(StateChunk {
            bytes: self.frame.finish()?,
            scopes: ScopeRange { first, last },
        })
    }
}

impl Encoder {
    /// Without a change so far.
    pub fn new(chunk_size: ChunkSize) -> Result<Self, StateError> {
        Ok(Self {
            rule: CutRule::new(chunk_size),
            filling: Filling::new()?,
            scopes: Vec::new(),
            last: Last::default(),
        })
    }

    /// Adds the next change. Gives a chunk where one ends ahead of it. After an
    /// error no more may be added.
    pub fn push(&mut self, change: &Change) -> Result<Option<StateChunk>, StateError> {
        let entry = Entry::from(change);
        self.last.check_order(entry.place)?;
        let mut ended = None;
        if self.filling.ends_ahead_of(&entry, self.rule) {
            let full = mem::replace(&mut self.filling, Filling::new()?);
            ended = Some(full.finish(&self.scopes)?);
        }
        if self.scopes.last() != Some(&entry.place.scope) {
            if self.scopes.len() >= MAX_SCOPES {
                let problem = format!("there are more than {MAX_SCOPES}");
                return Err(StateError::limit("scopes", problem));
            }
            self.scopes.push(entry.place.scope.clone());
        }
        let scope = self.scopes.len() as u32 - 1;
        self.filling.push(&entry, &self.last, scope)?;
        self.last.set(entry.place);
        Ok(ended)
    }

    /// The last chunk, and the scopes of all. A content without a change has one
    /// chunk without an entry.
    pub fn finish(self) -> Result<StateEnd, StateError> {
        Ok(StateEnd {
            chunk: self.filling.finish(&self.scopes)?,
            scopes: self.scopes,
        })
    }
}
