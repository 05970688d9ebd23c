//! State that the service understands: records.
//!
//! A state is a set of **records** ([`Record`]). Each stands at a **place**
//! ([`Place`]): a *scope*, as one contract, and a *key* in it. It has a *value*,
//! none where the chain keeps a tombstone, and a *stamp*: what the chain noted
//! of the time of writing, in the chain's own type. Places are ordered by scope,
//! then by the bytes of the key; a state has one record at a place.

// Tests may begin at a real moment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod error;
mod record;

pub use error::StateError;
pub use record::{
    Change, Key, MAX_KEY_BYTES, MAX_SCOPE_BYTES, MAX_STAMP_BYTES, MAX_VALUE_BYTES, Place, Record,
    Scope, Stamp, StampText,
};
