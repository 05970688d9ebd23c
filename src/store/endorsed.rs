//! Who speaks for the snapshots that are here: `snapshots/CID.endorsed`.
//!
//! The file is the message `Endorsements` of `proto/snapswarm/v1/endorsement.proto`
//! and lies beside the archive, or where that will be. It is replaced as a whole, and
//! read with its snapshot: each signature in it is checked again then, so that a
//! file that was damaged, or put there by somebody, speaks for nothing. It goes with
//! its snapshot; one that is left over is removed when a store opens.

use std::io::Read;
use std::path::Path;
use std::sync::PoisonError;

use tracing::warn;

use crate::snapshot::{Endorsements, Manifest, ManifestId, SnapshotName, UntrustedEndorsements};

use super::StoreError;
use super::state::Inner;

/// Reads the file at `path`, which speaks for this snapshot; nothing when there is
/// none.
pub(super) fn load(manifest: &Manifest, path: &Path) -> Result<Option<Endorsements>, StoreError> {
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::io("read", path)(source)),
    };
    let mut bytes = Vec::new();
    file.take(UntrustedEndorsements::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", path))?;
    let told = UntrustedEndorsements::decode(bytes.into());
    told.and_then(|told| told.check(&SnapshotName::from(manifest)))
        .map(Some)
        .map_err(|error| StoreError::damaged(path, error.to_string()))
}

impl Inner {
    /// Who speaks for a snapshot.
    pub(super) fn endorsements(&self, id: &ManifestId) -> Endorsements {
        let found = self.state().endorsed.get(id).cloned();
        found.unwrap_or_else(|| Endorsements::none(*id))
    }

    /// Changes who speaks for a snapshot that is here, durably or not at all; tells
    /// whether anything changed.
    pub(super) fn endorse(
        &self,
        id: &ManifestId,
        change: impl FnOnce(&mut Endorsements),
    ) -> Result<bool, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.entry(id).is_none() {
            return Err(StoreError::NotFound(*id));
        }
        let before = self.endorsements(id);
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(false);
        }
        let path = self.home.endorsed(id);
        self.disk.replace(&path, &after.encode())?;
        let mut state = self.state();
        if state.records.contains_key(id) {
            state.endorsed.insert(*id, after);
            return Ok(true);
        }
        drop(state);
        // It was removed meanwhile, and nothing of it stays.
        self.disk.remove(&path)?;
        Err(StoreError::NotFound(*id))
    }

    /// Nobody speaks any more for a snapshot that was removed.
    pub(super) fn forget_endorsements(&self, id: &ManifestId) {
        if self.state().endorsed.remove(id).is_none() {
            return;
        }
        if let Err(error) = self.disk.remove(&self.home.endorsed(id)) {
            warn!(%error, "The endorsements of a removed snapshot stay until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use ed25519_consensus::SigningKey;

    use super::super::disk::{Faults, Step};
    use super::super::testing::{fields, manifest_at, names};
    use super::super::{Origin, Store, StoreSettings};
    use super::*;
    use crate::snapshot::{Endorsement, EndorsementKind, EndorserKey, UntrustedEndorsement};

    fn endorsement(seed: u8, kind: EndorsementKind, manifest: &Manifest) -> Endorsement {
        let (key, about) = (SigningKey::from([seed; 32]), SnapshotName::from(manifest));
        let told = UntrustedEndorsement {
            key: EndorserKey(key.verification_key().to_bytes()),
            kind,
            signature: key.sign(&about.bytes_to_sign(kind)).to_bytes(),
        };
        told.check(&about).unwrap()
    }

    fn open(home: &Path) -> Store {
        Store::open(home, StoreSettings::default()).unwrap()
    }

    fn publish(store: &Store) -> Arc<Manifest> {
        let mut spool = store.publish().unwrap();
        spool.push(b"chunk").unwrap();
        let mut go_on = |_, _| std::ops::ControlFlow::Continue(());
        let archive = spool.finish(fields(1), Origin::Harvested, true, &mut go_on);
        archive.unwrap().manifest().clone()
    }

    #[test]
    fn endorsements_stay_with_their_snapshot_and_go_with_it() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let manifest = publish(&store);
        let id = manifest.id();
        let one = endorsement(1, EndorsementKind::Computed, &manifest);
        let insert = |set: &mut Endorsements| {
            set.insert(one);
        };
        assert!(store.endorsements(&id).is_empty());
        assert!(store.endorse(&id, insert).unwrap());
        assert!(!store.endorse(&id, insert).unwrap());
        drop(store);

        let looking = Store::open_for_reading(home.path(), StoreSettings::default()).unwrap();
        assert_eq!(looking.endorsements(&id).of(&one.key()), Some(&one));
        let store = open(home.path());
        assert_eq!(store.endorsements(&id).len(), 1);
        let folder = home.path().join("snapshots");
        assert_eq!(names(&folder).len(), 2);
        store.delete(&id).unwrap();
        assert!(store.endorsements(&id).is_empty());
        assert_eq!(names(&folder).len(), 0);
        assert!(matches!(
            store.endorse(&id, insert),
            Err(StoreError::NotFound(_))
        ));
        assert_eq!(names(&folder).len(), 0);
    }

    #[test]
    fn a_file_that_is_left_over_is_removed_and_one_that_is_forged_speaks_for_nothing() {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let manifest = publish(&store);
        let (file, other) = {
            let home = &store.0.home;
            let other = manifest_at(2, &[b"gone"]);
            (home.endorsed(&manifest.id()), home.endorsed(&other.id()))
        };
        drop(store);
        let mut set = Endorsements::none(manifest.id());
        set.insert(endorsement(1, EndorsementKind::Vouched, &manifest));
        let mut bytes = set.encode();
        std::fs::write(&other, &bytes).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&file, &bytes).unwrap();

        let store = open(home.path());
        assert!(store.endorsements(&manifest.id()).is_empty());
        assert!(!other.exists() && !file.exists());
        let damaged = store.damaged();
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].problem.contains("is not signed"), "{damaged:?}");
        let archive = store.archive(&manifest.id()).unwrap();
        assert_eq!(archive.manifest().id(), manifest.id());
    }

    /// Stops every step from number `at` on.
    struct StopAt {
        at: usize,
        steps: AtomicUsize,
    }

    impl Faults for StopAt {
        fn before(&self, _: Step, _: &Path) -> std::io::Result<()> {
            match self.steps.fetch_add(1, Ordering::SeqCst) < self.at {
                true => Ok(()),
                false => Err(std::io::Error::other("the machine is off")),
            }
        }

        fn after(&self, _: Step, _: &Path) {}
    }

    #[test]
    fn a_crash_before_any_step_leaves_the_endorsements_of_before_or_of_after() {
        for at in 0.. {
            let home = tempfile::tempdir().unwrap();
            let store = open(home.path());
            let manifest = publish(&store);
            let add = |store: &Store, seed| {
                let one = endorsement(seed, EndorsementKind::Computed, &manifest);
                store.endorse(&manifest.id(), |set| {
                    set.insert(one);
                })
            };
            add(&store, 1).unwrap();
            drop(store);
            let faults = Arc::new(StopAt {
                at,
                steps: AtomicUsize::new(0),
            });
            let mut inner = Inner::open(home.path(), StoreSettings::default(), |_| ()).unwrap();
            inner.disk.faults = Some(faults);
            let store = Store(Arc::new(inner));
            let added = add(&store, 2);
            drop(store);
            let kept = open(home.path()).endorsements(&manifest.id()).len();
            if added.is_ok() {
                assert_eq!(kept, 2);
                assert!(at > 3, "only {at} steps were stopped");
                return;
            }
            assert!((1..=2).contains(&kept), "{kept} after a crash at step {at}");
        }
    }
}
