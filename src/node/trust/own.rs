//! What this node says itself.

use super::Trust;
use crate::net::Identity;
use crate::node::command::{Endorsed, Failure};
use crate::node::shelf;
use crate::snapshot::{EndorsementKind, EndorserKey, Manifest, SnapshotName, UntrustedEndorsement};
use crate::store::{Origin, Store, StoreError};

/// Endorses a snapshot that is here.
fn endorse(
    store: &Store,
    identity: &Identity,
    trust: &Trust,
    manifest: &Manifest,
    kind: EndorsementKind,
) -> Result<bool, StoreError> {
    let about = SnapshotName::from(manifest);
    let told = UntrustedEndorsement {
        key: EndorserKey(identity.public_key()),
        kind,
        signature: identity.sign(&about.bytes_to_sign(kind)),
    };
    let own = told.check(&about).expect("what was just signed");
    store.endorse(&manifest.id(), |set| trust.insert(set, own))
}

/// Says of everything that was harvested that this node computed it: what a run that
/// was killed did not say any more, and what was harvested under another key.
pub(in crate::node) fn endorse_own(store: &Store, identity: &Identity, trust: &Trust) {
    let stored = store.list().into_iter();
    for stored in stored.filter(|stored| stored.complete && stored.origin == Origin::Harvested) {
        say_computed(store, identity, trust, &stored.manifest);
    }
}

/// Says that this node computed a snapshot. Who cannot say it has it all the same.
pub(in crate::node) fn say_computed(
    store: &Store,
    identity: &Identity,
    trust: &Trust,
    manifest: &Manifest,
) {
    let computed = EndorsementKind::Computed;
    if let Err(error) = endorse(store, identity, trust, manifest, computed) {
        tracing::warn!(
            manifest = %manifest.id(), %error,
            "The snapshot is not endorsed; the next start tries again"
        );
    }
}

/// Carries out `endorse`: a person vouches.
pub(in crate::node) fn vouch(
    store: &Store,
    identity: &Identity,
    trust: &Trust,
    id: &str,
) -> Result<Endorsed, Failure> {
    let stored = shelf::find(store, id)?;
    let manifest = stored.manifest;
    endorse(store, identity, trust, &manifest, EndorsementKind::Vouched)?;
    let set = store.endorsements(&manifest.id());
    let own = set.of(&EndorserKey(identity.public_key()));
    // Removed in this very moment: it was endorsed.
    let kind = own.map_or(EndorsementKind::Vouched, |own| own.kind());
    Ok(Endorsed {
        manifest: manifest.id().to_string(),
        endorser: identity.peer_id().to_string(),
        kind: kind.as_str().to_owned(),
        complete: stored.complete,
        base: shelf::base_of(&manifest),
    })
}
