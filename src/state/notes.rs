//! What a whole state hashes to, and what a snapshot's metadata says of it.

use prost::Message;

use super::StateError;
use super::entry::{Entry, Last};
use super::record::Record;
use crate::snapshot::shape::{DIGEST, Shape, ShapeError, U64, one};
use crate::snapshot::{Digest, Manifest, hash, proto};

/// What names a state, however it came to a node: in a full snapshot, or in deltas
/// on top of an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct StateDigest {
    /// SHA-256 of the record stream: the entries of all records as one payload,
    /// without a version byte.
    pub sha256: Digest,
    /// How many records it has.
    pub records: u64,
    /// How many bytes the record stream has.
    pub bytes: u64,
}

/// Takes the records of a state in their order and names it.
#[derive(Default)]
pub struct StateHasher {
    hasher: hash::Hasher,
    last: Last,
    records: u64,
    bytes: u64,
    entry: Vec<u8>,
    /// What the state should be; it may not be more.
    expected: Option<StateDigest>,
}

impl StateHasher {
    /// Of the empty state, so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`StateHasher::new`], of a state that its snapshot names: a record beyond
    /// what was named is an error at once. A few chunks can unpack to more than a
    /// disk has.
    pub fn expecting(state: StateDigest) -> Self {
        Self {
            expected: Some(state),
            ..Self::default()
        }
    }

    /// Adds the next record.
    pub fn push(&mut self, record: &Record) -> Result<(), StateError> {
        let entry = Entry::from(record);
        self.last.check_order(entry.place)?;
        self.entry.clear();
        entry.write(&self.last, &mut self.entry);
        self.last.set(entry.place);
        self.hasher.update(&self.entry);
        self.records += 1;
        self.bytes += self.entry.len() as u64;
        match &self.expected {
            Some(most) if self.records > most.records || self.bytes > most.bytes => {
                Err(StateError::MoreThanNamed {
                    records: most.records,
                    bytes: most.bytes,
                })
            }
            _ => Ok(()),
        }
    }

    /// The name of the state of all records.
    pub fn finish(self) -> StateDigest {
        StateDigest {
            sha256: self.hasher.finish(),
            records: self.records,
            bytes: self.bytes,
        }
    }
}

/// The metadata of a snapshot with state content: `StateNotes` of
/// `proto/snapswarm/v1/state.proto`. It is the maker's claim, and a restore checks
/// it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateNotes {
    /// The whole state of the snapshot: of a delta, what it makes of its base.
    pub state: StateDigest,
    /// SHA-256 over the state patches that the chain has applied up to this
    /// height, where it has such a thing.
    pub patches_sha256: Option<Digest>,
}

const SHAPE: Shape = Shape {
    fields: &[
        one(1, "records_sha256", DIGEST),
        one(2, "records", U64),
        one(3, "record_bytes", U64),
        one(4, "patches_sha256", DIGEST),
    ],
    one_of: false,
};

impl StateNotes {
    /// Those of a snapshot.
    pub fn of(manifest: &Manifest) -> Result<Self, StateError> {
        if manifest.state().is_none() {
            return Err(StateError::Opaque);
        }
        Self::decode(manifest.metadata())
    }

    /// Reads foreign bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        SHAPE.check(bytes).map_err(|error| {
            StateError::Notes(match error {
                ShapeError::TooMany { what, limit } => format!("{what} are more than {limit}"),
                ShapeError::TooLong { what, limit, .. } => {
                    format!("{what} has more than {limit} bytes")
                }
                ShapeError::Value { what, problem } => format!("{what} {problem}"),
                ShapeError::Syntax(problem) => problem,
            })
        })?;
        let message = proto::StateNotes::decode(bytes)
            .map_err(|error| StateError::Notes(error.to_string()))?;
        if message.encode_to_vec() != bytes {
            return Err(StateError::Notes(
                "they are not canonically encoded".to_owned(),
            ));
        }
        let sha256 = Digest::from_slice(&message.records_sha256)
            .ok_or_else(|| StateError::Notes("records_sha256 is missing".to_owned()))?;
        Ok(Self {
            state: StateDigest {
                sha256,
                records: message.records,
                bytes: message.record_bytes,
            },
            patches_sha256: Digest::from_slice(&message.patches_sha256),
        })
    }

    /// Their bytes.
    pub fn encode(&self) -> Vec<u8> {
        let bytes = |digest: &Digest| digest.as_bytes().to_vec().into();
        let patches = self.patches_sha256.as_ref().map(bytes);
        proto::StateNotes {
            records_sha256: bytes(&self.state.sha256),
            records: self.state.records,
            record_bytes: self.state.bytes,
            patches_sha256: patches.unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Holds the state that came out against what the snapshot says.
    pub fn check(&self, found: &StateDigest) -> Result<(), StateError> {
        if self.state == *found {
            return Ok(());
        }
        Err(StateError::OtherState {
            expected: Box::new(self.state),
            found: Box::new(*found),
        })
    }
}
