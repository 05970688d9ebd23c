//! Whom to believe that a state is the chain's, where the chain itself does not tell.
//!
//! The application hash of a chain that commits to its state decides about the state: it
//! is compared in the end. One that does not, as generation 1 of Xian has it, is right
//! whatever the records are. So a snapshot of state content is joined with, or restored,
//! only where a person has decided: the CID stands in `trust.pinned_manifests`, or was
//! named for this very work.

use std::fmt;
use std::path::Path;

use super::command::{Failure, FailureCode};
use crate::config::TrustConfig;
use crate::snapshot::Manifest;
use crate::state::StateNotes;
use crate::xian::patches_hash;

/// Why a state is believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// The application hash decides, for all that is known here: the content is the
    /// application's own.
    AppHash,
    /// The person named the snapshot.
    Named,
    /// The settings name it.
    Pinned,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AppHash => "the chain's application hash decides about the state",
            Self::Named => "you named its CID; the chain's application hash does not prove it",
            Self::Pinned => {
                "trust.pinned_manifests names its CID; the chain's application hash does not \
                 prove it"
            }
        })
    }
}

/// Whether the state of a snapshot may be taken for the chain's, and why.
pub(super) fn believe(
    trust: &TrustConfig,
    manifest: &Manifest,
    is_named: bool,
) -> Result<Basis, Failure> {
    if manifest.state().is_none() {
        return Ok(Basis::AppHash);
    }
    let id = manifest.id().to_string();
    if is_named {
        return Ok(Basis::Named);
    }
    if trust.pinned_manifests.contains(&id) {
        return Ok(Basis::Pinned);
    }
    Err(Failure::new(
        FailureCode::Policy,
        format!(
            "nothing proves the state of {id}: the chain's application hash does not commit to \
             it, and nobody whom you trust vouches for it"
        ),
    )
    .hint(format!(
        "ask somebody whom you trust for the CID of height {}; where it is this one, give --cid \
         {id}, or add it to trust.pinned_manifests in config.toml",
        manifest.height()
    )))
}

/// Whether there is anybody to be believed, before anything is downloaded.
pub(super) fn somebody_is_believed(trust: &TrustConfig, is_named: bool) -> Result<(), Failure> {
    if is_named || !trust.pinned_manifests.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        FailureCode::Policy,
        "the application hash of a Xian chain does not commit to the state, and nobody is named \
         whom to believe",
    )
    .hint(
        "ask somebody whom you trust for the CID of a snapshot (`snapswarm list` on their node \
         shows it) and give --cid CID, or add it to trust.pinned_manifests in config.toml",
    ))
}

/// What the chain's own patches of its state say about a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Patches {
    /// They are those that the maker of the snapshot had.
    Same,
    /// The snapshot says nothing of them.
    NotNoted,
    /// No file was named here.
    NotNamed,
}

impl fmt::Display for Patches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "the state patches are those of the snapshot",
            Self::NotNoted => "the snapshot does not say with which state patches it was made",
            Self::NotNamed => {
                "without --state-patches FILE the chain's state patches are not compared"
            }
        })
    }
}

/// Holds the node's state patches against those with which a snapshot was made.
pub(super) fn compare_patches(
    manifest: &Manifest,
    file: Option<&Path>,
) -> Result<Patches, Failure> {
    let notes = StateNotes::of(manifest)
        .map_err(|error| Failure::new(FailureCode::Verification, error.to_string()))?;
    let Some(noted) = notes.patches_sha256 else {
        return Ok(Patches::NotNoted);
    };
    let Some(file) = file else {
        return Ok(Patches::NotNamed);
    };
    let height = manifest.height();
    let own = patches_hash(file, height)?;
    if own == noted {
        return Ok(Patches::Same);
    }
    Err(Failure::new(
        FailureCode::Verification,
        format!(
            "{} has other state patches up to height {height} than the maker of {} had (their \
             hash is {own}, and {noted} is noted)",
            file.display(),
            manifest.id()
        ),
    )
    .hint(
        "a node with other patches comes to another state than its chain: take the \
         state_patches.json that the chain's validators run with, or another snapshot",
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::snapshot::hash::sha256;
    use crate::snapshot::{
        Digest, ManifestBuilder, STATE_FORMAT, Scope, ScopeRange, SnapshotFields, StateFields,
    };
    use crate::state::StateDigest;

    fn manifest(patches: Option<Digest>) -> Manifest {
        let notes = StateNotes {
            state: StateDigest {
                sha256: sha256(b"records"),
                records: 1,
                bytes: 9,
            },
            patches_sha256: patches,
        };
        let mut builder = ManifestBuilder::new();
        builder.push(b"chunk").unwrap();
        let fields = SnapshotFields {
            chain_id: "xian-1".to_owned(),
            height: 7,
            app_hash: Some("hash".into()),
            format: STATE_FORMAT,
            hash: None,
            metadata: notes.encode().into(),
        };
        let state = StateFields {
            base: None,
            scopes: vec![Scope::new("contract_state/currency").unwrap()],
            chunks: vec![ScopeRange { first: 0, last: 0 }],
        };
        builder.finish_state(fields, state).unwrap()
    }

    fn opaque() -> Manifest {
        let mut builder = ManifestBuilder::new();
        builder.push(b"chunk").unwrap();
        let fields = SnapshotFields {
            chain_id: "a".to_owned(),
            height: 1,
            app_hash: None,
            format: 1,
            hash: None,
            metadata: Bytes::new(),
        };
        builder.finish(fields).unwrap()
    }

    #[test]
    fn a_state_that_nothing_proves_is_believed_only_where_a_person_says_so() {
        let manifest = manifest(None);
        let id = manifest.id().to_string();
        let mut trust = TrustConfig::default();
        assert!(somebody_is_believed(&trust, false).is_err());
        assert!(somebody_is_believed(&trust, true).is_ok());
        let refused = believe(&trust, &manifest, false).unwrap_err();
        assert_eq!(refused.code, FailureCode::Policy);
        let hint = refused.hint.unwrap();
        assert!(hint.contains(&format!("--cid {id}")), "{hint}");
        assert_eq!(believe(&trust, &manifest, true).unwrap(), Basis::Named);
        trust.pinned_manifests = vec![opaque().id().to_string()];
        assert!(believe(&trust, &manifest, false).is_err());
        trust.pinned_manifests.push(id);
        assert_eq!(believe(&trust, &manifest, false).unwrap(), Basis::Pinned);
        assert_eq!(believe(&trust, &opaque(), false).unwrap(), Basis::AppHash);
    }

    #[test]
    fn other_patches_are_told_and_missing_ones_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state_patches.json");
        std::fs::write(&file, r#"{"7": [{"key": "currency.x", "value": 1}]}"#).unwrap();
        let noted = patches_hash(&file, 7).unwrap();
        let with = |file| compare_patches(&manifest(Some(noted)), file);
        assert_eq!(with(Some(file.as_path())).unwrap(), Patches::Same);
        assert_eq!(with(None).unwrap(), Patches::NotNamed);
        let unnoted = compare_patches(&manifest(None), Some(&file));
        assert_eq!(unnoted.unwrap(), Patches::NotNoted);
        std::fs::write(&file, r#"{"7": [{"key": "currency.x", "value": 2}]}"#).unwrap();
        let other = with(Some(file.as_path())).unwrap_err();
        assert_eq!(other.code, FailureCode::Verification);
        assert!(other.message.contains("up to height 7"), "{other:?}");
    }
}
