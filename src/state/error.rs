//! What can be wrong with a state and with state content.

use super::notes::StateDigest;
use crate::snapshot::{Scope, ScopeError};

/// Why something is no part of a state, or no state content.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// A part of a record or of a content outside its limits.
    #[error("{what}: {problem}")]
    Limit {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A text that is no scope.
    #[error(transparent)]
    Scope(#[from] ScopeError),
    /// A place that stands again, or behind a later one.
    #[error("places are not in order: {0} stands again or behind a later one")]
    Order(String),
    /// Bytes that are no compressed payload.
    #[error("the chunk is no zstd frame as state content has them: {0}")]
    Zstd(String),
    /// A payload that is none.
    #[error("the chunk is no list of changes: {0}")]
    Payload(String),
    /// A payload of another version.
    #[error(
        "version {0} of state content is unknown here; version 1 is known, a newer snapswarm may \
         know it"
    )]
    Version(u8),
    /// Metadata that is none of state content.
    #[error("the snapshot's metadata are no notes of a state: {0}")]
    Notes(String),
    /// Another state than the snapshot says.
    #[error(
        "the records hash to {}, the snapshot says {}: it was made wrong, or its base is another",
        found.sha256,
        expected.sha256
    )]
    OtherState {
        /// What the snapshot says.
        expected: Box<StateDigest>,
        /// What came out.
        found: Box<StateDigest>,
    },
    /// More than the snapshot says that the state has.
    #[error("there is more than the {records} records, {bytes} bytes, that the snapshot says")]
    MoreThanNamed {
        /// Records that it says.
        records: u64,
        /// Bytes of the record stream that it says.
        bytes: u64,
    },
    /// A delta that does not fit its base.
    #[error("the delta removes {0}, which its base does not have: it is the delta of another one")]
    OtherBase(String),
    /// A snapshot without records.
    #[error("the snapshot has chunks of its application's own: no scopes, no notes, and no deltas")]
    Opaque,
    /// A scope that the snapshot does not have.
    #[error("the snapshot has no scope {0}; `show` lists those that it has")]
    UnknownScope(Scope),
    /// A full snapshot that removes a record.
    #[error("a full snapshot removes nothing, this one removes {0}")]
    Removal(String),
}

impl StateError {
    pub(super) fn limit(what: &'static str, problem: impl Into<String>) -> Self {
        Self::Limit {
            what,
            problem: problem.into(),
        }
    }
}
