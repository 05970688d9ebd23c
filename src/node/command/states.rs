//! What the verbs about states give back: `diff`, `delta`, `genesis`.

use std::ops::AddAssign;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Of `diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Diffed {
    /// The earlier state.
    pub from: StateName,
    /// The later one.
    pub to: StateName,
    /// Records that only the later one has, of all scopes.
    pub added: Amount,
    /// Records that both have and that differ; bytes of the later ones.
    pub changed: Amount,
    /// Records that only the earlier one has.
    pub removed: Amount,
    /// The scopes with a difference, in order.
    pub scopes: Vec<ScopeDiff>,
    /// Time taken.
    pub seconds: f64,
}

/// A state of `diff`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateName {
    /// CID of the snapshot.
    pub manifest: String,
    /// Its chain.
    pub chain_id: String,
    /// Its height.
    pub height: u64,
    /// How many records the state has.
    pub records: u64,
}

/// How much of a state.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Amount {
    /// Records.
    pub records: u64,
    /// Bytes of their keys, values and stamps' texts.
    pub bytes: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, more: Self) {
        self.records += more.records;
        self.bytes += more.bytes;
    }
}

/// What differs in one scope: in Xian, a contract.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScopeDiff {
    /// Its name.
    pub scope: String,
    /// As in [`Diffed`], of this scope.
    pub added: Amount,
    /// Likewise.
    pub changed: Amount,
    /// Likewise.
    pub removed: Amount,
}

/// Of `delta`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaMade {
    /// CID of the delta.
    pub manifest: String,
    /// CID of what it builds on.
    pub base: String,
    /// CID of the full snapshot, or another delta, of the state that it leads to.
    pub to: String,
    /// Height of that state.
    pub height: u64,
    /// Records that it puts or removes.
    pub changes: u64,
    /// Number of its chunks.
    pub chunks: u32,
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes of the chunks of `to`.
    pub full_bytes: u64,
    /// Time taken.
    pub seconds: f64,
}

/// Of `genesis`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenesisWritten {
    /// CID of the snapshot whose state it is.
    pub manifest: String,
    /// Its height.
    pub height: u64,
    /// Its application hash, hex.
    pub app_hash: String,
    /// The file written.
    pub file: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Keys that are left out: they have no value.
    pub without_value: u64,
}
