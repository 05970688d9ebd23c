//! A storage as a [`Target`]: the chunks of a full snapshot become its records.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::restore::{Restore, RestoreStats};
use super::{LatestBlock, Workers, XianError, room};
use crate::snapshot::{ChunkIndex, Manifest, StateContent, Target, TargetError};
use crate::state::{Change, Decoder, OpenChunk, StateError, StateHasher, StateNotes};

/// What a record takes in a file beside its key and value: a little less than was
/// measured (280 bytes), for it decides what is refused.
const LEAST_RECORD_BYTES: u64 = 250;

/// Restores a snapshot into a node's storage. The node must not run when it is
/// finished.
///
/// Nothing of the node's is touched before all chunks were read and found to be the
/// state that the manifest's notes name.
pub struct XianTarget {
    storage: PathBuf,
    workers: Workers,
    under_way: Option<UnderWay>,
    stats: Option<RestoreStats>,
}

struct UnderWay {
    restore: Restore,
    content: StateContent,
    notes: StateNotes,
    decoder: Decoder,
    hasher: StateHasher,
}

impl XianTarget {
    /// Into `storage`, which may be missing.
    pub fn new(storage: &Path, workers: &Workers) -> Self {
        Self {
            storage: storage.to_owned(),
            workers: workers.clone(),
            under_way: None,
            stats: None,
        }
    }

    /// What the last restore did.
    pub fn stats(&self) -> Option<RestoreStats> {
        self.stats
    }

    /// The least room that the state of a snapshot takes in a storage; 0 where it tells
    /// of no state.
    pub fn needed_bytes(manifest: &Manifest) -> u64 {
        StateNotes::of(manifest).map_or(0, |notes| needed_bytes(&notes))
    }

    fn prepare(&self, manifest: &Manifest) -> Result<UnderWay, TargetError> {
        let refused = |why: &str| TargetError::Refused(why.to_owned());
        let content = manifest.state();
        let content = content.ok_or_else(|| refused("it holds no records of a state"))?;
        if content.base().is_some() {
            return Err(refused("it is a delta, which its base has to be added to"));
        }
        let app_hash = manifest.app_hash();
        let app_hash = app_hash.ok_or_else(|| {
            refused("it says no application hash, without which the node does not start")
        })?;
        let notes = StateNotes::of(manifest).map_err(wrong)?;
        let block = LatestBlock {
            height: manifest.height(),
            app_hash: app_hash.clone(),
        };
        let restore = Restore::begin(&self.storage, &block, &self.workers).map_err(failed)?;
        room::check(&self.storage, needed_bytes(&notes)).map_err(failed)?;
        Ok(UnderWay {
            restore,
            content: content.clone(),
            notes,
            decoder: Decoder::new().map_err(wrong)?,
            hasher: StateHasher::expecting(notes.state),
        })
    }

    fn under_way(&mut self) -> Result<&mut UnderWay, TargetError> {
        let none = || TargetError::Refused("no snapshot was begun".to_owned());
        self.under_way.as_mut().ok_or_else(none)
    }
}

fn needed_bytes(notes: &StateNotes) -> u64 {
    let records = notes.state.records.saturating_mul(LEAST_RECORD_BYTES);
    records.saturating_add(notes.state.bytes)
}

impl Target for XianTarget {
    fn begin(&mut self, manifest: &Manifest) -> Result<(), TargetError> {
        self.under_way = None;
        self.under_way = Some(self.prepare(manifest)?);
        Ok(())
    }

    fn chunk(&mut self, index: ChunkIndex, bytes: &[u8]) -> Result<(), TargetError> {
        let work = self.under_way()?;
        let chunk = OpenChunk {
            bytes: Bytes::copy_from_slice(bytes),
            scopes: work.content.scopes_of(index).to_vec(),
        };
        work.decoder.begin(chunk).map_err(wrong)?;
        while let Some(change) = work.decoder.next_change().map_err(wrong)? {
            let record = match change {
                Change::Put(record) => record,
                Change::Removed(place) => {
                    return Err(wrong(StateError::Removal(place.to_string())));
                }
            };
            work.hasher.push(&record).map_err(wrong)?;
            work.restore.put(&record).map_err(failed)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TargetError> {
        self.under_way()?;
        let Some(work) = self.under_way.take() else {
            return Ok(());
        };
        work.notes.check(&work.hasher.finish()).map_err(wrong)?;
        self.stats = Some(work.restore.finish().map_err(failed)?);
        Ok(())
    }
}

/// What came is not what a snapshot should be.
fn wrong(error: StateError) -> TargetError {
    TargetError::Refused(error.to_string())
}

fn failed(error: XianError) -> TargetError {
    match error {
        XianError::Records { .. } | XianError::Content { .. } => {
            TargetError::Refused(error.to_string())
        }
        error => TargetError::Failed(Box::new(error)),
    }
}
