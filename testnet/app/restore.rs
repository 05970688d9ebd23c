//! A snapshot that is being restored: chunks in order, each held against its digest.

use bytes::Bytes;
use tendermint_proto::v0_38::abci::Snapshot;
use tendermint_proto::v0_38::abci::response_apply_snapshot_chunk::Result as Applied;
use tendermint_proto::v0_38::abci::response_offer_snapshot::Result as Offered;

use super::snapshots::{self, DIGEST_BYTES, FORMAT, digest};
use super::state::State;

/// All chunks together, which are held in memory until the last.
const MAX_RESTORE_BYTES: usize = 1 << 30;

/// An accepted offer and the chunks that came.
pub struct Restoring {
    snapshot: Snapshot,
    app_hash: Bytes,
    bytes: Vec<u8>,
    next: u32,
}

/// What comes of a chunk.
pub enum Step {
    /// The answer; when the sender is at fault, another one is to be asked.
    Answer { result: Applied, is_fault: bool },
    /// It was the last one.
    Complete(State),
}

impl Step {
    fn answer(result: Applied) -> Self {
        let is_fault = false;
        Self::Answer { result, is_fault }
    }
}

impl Restoring {
    /// Begins, or tells why not.
    pub fn begin(snapshot: Snapshot, app_hash: Bytes) -> Result<Self, Offered> {
        if snapshot.format != FORMAT {
            return Err(Offered::RejectFormat);
        }
        let digests_len = u64::from(snapshot.chunks) * DIGEST_BYTES as u64;
        let is_sound = i64::try_from(snapshot.height).is_ok_and(|height| height > 0)
            && snapshot.chunks > 0
            && snapshot.metadata.len() as u64 == digests_len;
        if !is_sound {
            return Err(Offered::Reject);
        }
        Ok(Self {
            snapshot,
            app_hash,
            bytes: Vec::new(),
            next: 0,
        })
    }

    /// Takes a chunk.
    pub fn apply(&mut self, index: u32, chunk: &[u8]) -> Step {
        if index > self.next || self.bytes.len() + chunk.len() > MAX_RESTORE_BYTES {
            return Step::answer(Applied::RejectSnapshot);
        }
        if self
            .snapshot
            .metadata
            .chunks(DIGEST_BYTES)
            .nth(index as usize)
            != Some(&digest(chunk))
        {
            let (result, is_fault) = (Applied::Retry, true);
            return Step::Answer { result, is_fault };
        }
        // One that was taken before changes nothing.
        if index == self.next {
            self.bytes.extend_from_slice(chunk);
            self.next += 1;
        }
        match self.next < self.snapshot.chunks {
            true => Step::answer(Applied::Accept),
            false => self.complete(),
        }
    }

    fn complete(&mut self) -> Step {
        let bytes = std::mem::take(&mut self.bytes);
        if self.snapshot.hash != digest(&bytes)[..] {
            return Step::answer(Applied::RejectSnapshot);
        }
        match snapshots::read(bytes.into()) {
            Ok(state)
                if state.height == self.snapshot.height && self.app_hash == state.app_hash[..] =>
            {
                Step::Complete(state)
            }
            _ => Step::answer(Applied::RejectSnapshot),
        }
    }
}
