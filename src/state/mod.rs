//! State that the service understands: records in chunks, deltas, selections.
//!
//! A state is a set of **records** ([`Record`]). Each stands at a **place**
//! ([`Place`]): a *scope*, as one contract, and a *key* in it. It has a *value*,
//! none where the chain keeps a tombstone, and a *stamp*: what the chain noted
//! of the time of writing, in the chain's own type. Places are ordered by scope,
//! then by the bytes of the key; a state has one record at a place.
//!
//! **State content** is a list of changes ([`Change`]) in the order of places, cut
//! into chunks. A *full* snapshot puts every record. A *delta* says what is there
//! otherwise than in its base, and what is gone: the merge of both is the new
//! state. The manifest names the base and, for each chunk, the scopes that it has
//! changes of; its metadata ([`StateNotes`]) say what the whole state hashes to.
//!
//! Laws:
//!
//! * One list of changes has one encoding, on every machine: the entries
//!   (`entry.rs`), where chunks end (`cut.rs`), and what zstd makes of them
//!   (`frame.rs`). Bytes that would change get a new number.
//! * A chunk can be read by itself, in an amount of memory that does not follow
//!   from what it says.
//! * Where chunks end follows from keys: what is written anew changes the chunks
//!   that it is in, and seldom the next one.
//! * A state has one digest ([`StateDigest`]), by whatever way it came: a restore
//!   that ends in another is refused.
//!
//! # The level of zstd
//!
//! Level 9 with a window of 8 MiB. Measured on the payloads of two states in Xian's
//! form, on one core: *small* is 21 MB, half of it 300 contracts in source and
//! compiled (Python's own modules stand for them); *large* is 77 MB, nearly all of
//! it addresses, amounts and times. Share of the payload that is left, and MiB of
//! payload in a second of computing time:
//!
//! | method | small | large | MiB/s |
//! |---|---|---|---|
//! | gzip 6 | 37.0 % | 47.7 % | 26-28 |
//! | zstd 1 | 36.4 % | 45.0 % | 320-340 |
//! | zstd 3 | 34.7 % | 44.7 % | 140-150 |
//! | zstd 5 | 34.1 % | 45.0 % | 80-90 |
//! | zstd 7 | 32.1 % | 44.5 % | 51-57 |
//! | zstd 8 | 31.7 % | 44.3 % | 42-47 |
//! | **zstd 9** | **26.8 %** | **43.7 %** | **32-41** |
//! | zstd 10 | 26.0 % | 43.2 % | 22-26 |
//! | zstd 12 | 25.8 % | 43.0 % | 11-16 |
//!
//! Addresses and times are random digits that no level shrinks further. From level
//! 9 on the tables are large enough to find an address again that stood in another
//! contract. It packs 250,000 records in a second, ten times as many as one core
//! reads out of HDF5 files, and whoever reads a chunk does not notice the level.
//! Twice the window would save 2 % more of a small state, and is more than every
//! decoder is asked to have.

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
pub use encode::{Encoder, StateChunk, StateEnd, encode};
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
