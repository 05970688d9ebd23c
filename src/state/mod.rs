//! State that the service understands: records.
//!
//! A state is a set of **records** ([`Record`]). Each stands at a **place**
//! ([`Place`]): a *scope*, as one contract, and a *key* in it. It has a *value*,
//! none where the chain keeps a tombstone, and a *stamp*: what the chain noted
//! of the time of writing, in the chain's own type. Places are ordered by scope,
//! then by the bytes of the key; a state has one record at a place.

// Tests may begin at a real moment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod cut;
mod decode;
mod delta;
mod encode;
mod entry;
mod error;
mod frame;
mod notes;
mod plan;
mod record;
mod select;
mod size;
#[cfg(test)]
mod tests;

pub use crate::snapshot::{MAX_SCOPE_BYTES, Scope};
pub use decode::{Changes, Decoder, OpenChunk, Records};
pub use delta::{
    Applied, Difference, Differences, RecordStream, ScopeSummary, Summary, Tally, applied_all,
};
pub use encode::{Encoder, StateChunk, StateEnd};
pub use error::StateError;
pub use notes::{StateDigest, StateHasher, StateNotes};
pub use plan::{AtHand, MAX_DELTAS, Plan, plan};
pub use record::{
    Change, Key, MAX_KEY_BYTES, MAX_STAMP_BYTES, MAX_VALUE_BYTES, Place, Record, Stamp, StampText,
};
pub use select::Selection;
pub use size::ChunkSize;

/// The longest payload: what a chunk decompresses to at most. A chunk ends where
/// its payload has eight times the greatest size, 120 MiB; a block, a record and
/// their framing may stand behind that. Who reads a chunk never holds all of it.
pub const MAX_PAYLOAD_BYTES: usize = 136 << 20;
