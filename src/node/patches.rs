//! The state patches of a chain, held against those with which a snapshot was made.

use std::fmt;
use std::path::Path;

use super::command::{Failure, FailureCode};
use crate::snapshot::Manifest;
use crate::state::StateNotes;
use crate::xian::patches_hash;

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
