//! What a client has asked for, and which answers fit it. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{AskError, Fault};
use crate::snapshot::{Bitmap, ManifestId, PIECE_BYTES};
use crate::wire::{MAX_OPEN_REQUESTS, MAX_OPEN_SNAPSHOTS, MAX_PROBE_CHUNKS, RequestId};

/// Probes open on one stream; each is answered from memory.
const MAX_OPEN_PROBES: usize = 4;

/// Cancelled requests that are remembered because answers may still come. That
/// so many are cancelled within one round trip does not happen.
const MAX_FORGOTTEN: usize = 1024;

/// The books of one stream.
///
/// A request is *open* from its asking to its refusal, its end or its cancel;
/// then it is *forgotten*, and answers to it are passed over.
#[derive(Default)]
pub(super) struct Ledger {
    last_id: u32,
    open: BTreeMap<RequestId, u32>,
    forgotten: BTreeSet<RequestId>,
    probes: BTreeMap<RequestId, u32>,
    snapshots: BTreeSet<ManifestId>,
    under_way: Option<RequestId>,
}

impl Ledger {
    /// Enters a request for a piece of `size` bytes.
    pub(super) fn request(&mut self, size: u32) -> Result<RequestId, AskError> {
        if size == 0 || size > PIECE_BYTES {
            return Err(over_limit("bytes in a piece", PIECE_BYTES as usize));
        }
        if self.open.len() >= MAX_OPEN_REQUESTS {
            return Err(over_limit("open requests", MAX_OPEN_REQUESTS));
        }
        let id = self.next_id();
        self.open.insert(id, size);
        Ok(id)
    }

    /// Enters a probe of so many chunks.
    pub(super) fn probe(&mut self, chunks: usize) -> Result<RequestId, AskError> {
        if chunks == 0 || chunks > MAX_PROBE_CHUNKS {
            return Err(over_limit("chunks in a probe", MAX_PROBE_CHUNKS));
        }
        if self.probes.len() >= MAX_OPEN_PROBES {
            return Err(over_limit("open probes", MAX_OPEN_PROBES));
        }
        let id = self.next_id();
        self.probes.insert(id, chunks as u32);
        Ok(id)
    }

    /// Enters a snapshot; false when it is open already.
    pub(super) fn open_snapshot(&mut self, manifest: ManifestId) -> Result<bool, AskError> {
        if self.snapshots.contains(&manifest) {
            return Ok(false);
        }
        if self.snapshots.len() >= MAX_OPEN_SNAPSHOTS {
            return Err(over_limit("open snapshots", MAX_OPEN_SNAPSHOTS));
        }
        Ok(self.snapshots.insert(manifest))
    }

    /// Takes a request back; false when it is not open.
    pub(super) fn cancel(&mut self, id: RequestId) -> bool {
        if self.open.remove(&id).is_none() {
            return false;
        }
        self.forgotten.insert(id);
        while self.forgotten.len() > MAX_FORGOTTEN {
            self.forgotten.pop_first();
        }
        true
    }

    /// A piece starts; whether it is still wanted.
    pub(super) fn started(&mut self, id: RequestId, size: u32) -> Result<bool, Fault> {
        if let Some(current) = self.under_way {
            return Err(Fault::Overlap { current, next: id });
        }
        let wanted = match self.open.get(&id) {
            Some(expected) if *expected != size => {
                return Err(Fault::Size {
                    id,
                    expected: *expected,
                    found: size,
                });
            }
            Some(_) => true,
            None if self.forgotten.contains(&id) => false,
            None => return Err(Fault::UnknownRequest(id)),
        };
        self.under_way = Some(id);
        Ok(wanted)
    }

    /// Whether a request is open.
    pub(super) fn is_open(&self, id: RequestId) -> bool {
        self.open.contains_key(&id)
    }

    /// The piece under way is here; whether it is still wanted.
    pub(super) fn received(&mut self, id: RequestId) -> bool {
        self.under_way = None;
        self.close(id)
    }

    /// The piece under way ends early; whether it is still wanted.
    pub(super) fn aborted(&mut self, id: RequestId) -> Result<bool, Fault> {
        if self.under_way != Some(id) {
            return Err(Fault::UnknownRequest(id));
        }
        self.under_way = None;
        Ok(self.close(id))
    }

    /// A request is refused; whether it is still wanted.
    pub(super) fn refused(&mut self, id: RequestId) -> Result<bool, Fault> {
        let known = self.open.contains_key(&id) || self.forgotten.contains(&id);
        if !known || self.under_way == Some(id) {
            return Err(Fault::UnknownRequest(id));
        }
        Ok(self.close(id))
    }

    /// A probe is answered.
    pub(super) fn held(&mut self, id: RequestId, bits: &[u8]) -> Result<Bitmap, Fault> {
        let chunks = self.probes.remove(&id).ok_or(Fault::UnknownRequest(id))?;
        Bitmap::from_bytes(chunks, bits).map_err(|_| Fault::ProbeAnswer(id))
    }

    /// News of a snapshot.
    pub(super) fn news(&self, manifest: &ManifestId) -> Result<(), Fault> {
        if self.snapshots.contains(manifest) {
            Ok(())
        } else {
            Err(Fault::UnknownSnapshot(*manifest))
        }
    }

    /// Requests that are open.
    pub(super) fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Ends a request for good; whether it was still wanted. An id is answered
    /// once: a second answer is one to an unknown request.
    fn close(&mut self, id: RequestId) -> bool {
        self.forgotten.remove(&id);
        self.open.remove(&id).is_some()
    }

    fn next_id(&mut self) -> RequestId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            let id = RequestId(self.last_id);
            let used = self.open.contains_key(&id)
                || self.probes.contains_key(&id)
                || self.forgotten.contains(&id);
            if !used {
                return id;
            }
        }
    }
}

fn over_limit(what: &'static str, limit: usize) -> AskError {
    AskError::OverLimit { what, limit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    #[test]
    fn a_window_holds_its_limit_and_not_one_more() {
        let mut ledger = Ledger::default();
        let ids: Vec<_> = (0..MAX_OPEN_REQUESTS)
            .map(|_| ledger.request(1).unwrap())
            .collect();
        assert!(ledger.request(1).is_err());
        assert!(ledger.cancel(ids[0]));
        assert!(!ledger.cancel(ids[0]));
        assert!(ledger.request(1).is_ok());

        for n in 0..MAX_OPEN_SNAPSHOTS {
            let id = ManifestId(sha256(&[n as u8]));
            assert_eq!(ledger.open_snapshot(id), Ok(true));
            assert_eq!(ledger.open_snapshot(id), Ok(false));
        }
        assert!(ledger.open_snapshot(ManifestId(sha256(b"x"))).is_err());
        assert!(ledger.probe(MAX_PROBE_CHUNKS + 1).is_err());
        assert!(ledger.probe(MAX_PROBE_CHUNKS).is_ok());
        assert!(ledger.request(0).is_err());
        assert!(ledger.request(PIECE_BYTES + 1).is_err());
    }

    #[test]
    fn answers_that_nobody_asked_for_are_faults() {
        let mut ledger = Ledger::default();
        let id = ledger.request(10).unwrap();
        let other = ledger.request(10).unwrap();
        let unknown = RequestId(99);
        assert_eq!(
            ledger.started(unknown, 10),
            Err(Fault::UnknownRequest(unknown))
        );
        assert!(matches!(ledger.started(id, 11), Err(Fault::Size { .. })));
        assert_eq!(ledger.aborted(id), Err(Fault::UnknownRequest(id)));
        assert_eq!(ledger.started(id, 10), Ok(true));
        assert!(matches!(
            ledger.started(other, 10),
            Err(Fault::Overlap { .. })
        ));
        assert_eq!(ledger.refused(id), Err(Fault::UnknownRequest(id)));
        assert_eq!(ledger.aborted(other), Err(Fault::UnknownRequest(other)));
        assert!(ledger.received(id));
        assert_eq!(ledger.started(id, 10), Err(Fault::UnknownRequest(id)));
        assert_eq!(ledger.refused(other), Ok(true));
        assert_eq!(ledger.refused(other), Err(Fault::UnknownRequest(other)));

        let probe = ledger.probe(9).unwrap();
        assert_eq!(ledger.held(probe, &[1]), Err(Fault::ProbeAnswer(probe)));
        assert_eq!(
            ledger.held(probe, &[1, 1]),
            Err(Fault::UnknownRequest(probe))
        );
        let snapshot = ManifestId(sha256(b"x"));
        assert_eq!(
            ledger.news(&snapshot),
            Err(Fault::UnknownSnapshot(snapshot))
        );
    }

    #[test]
    fn answers_to_cancelled_requests_are_passed_over_once() {
        let mut ledger = Ledger::default();
        let ids: Vec<_> = (0..3).map(|_| ledger.request(10).unwrap()).collect();
        for id in &ids {
            assert!(ledger.cancel(*id));
        }
        assert_eq!(ledger.started(ids[0], 10), Ok(false));
        assert_eq!(ledger.aborted(ids[0]), Ok(false));
        assert_eq!(ledger.started(ids[1], 10), Ok(false));
        assert!(!ledger.received(ids[1]));
        assert_eq!(ledger.refused(ids[2]), Ok(false));
        assert_eq!(ledger.refused(ids[2]), Err(Fault::UnknownRequest(ids[2])));
    }

    #[test]
    fn memory_of_cancelled_requests_is_bounded() {
        let mut ledger = Ledger::default();
        let first = ledger.request(10).unwrap();
        ledger.cancel(first);
        for _ in 0..MAX_FORGOTTEN {
            let id = ledger.request(10).unwrap();
            ledger.cancel(id);
        }
        assert_eq!(ledger.forgotten.len(), MAX_FORGOTTEN);
        assert_eq!(ledger.refused(first), Err(Fault::UnknownRequest(first)));
    }
}
