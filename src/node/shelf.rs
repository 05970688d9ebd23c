//! The verbs that concern only what is on disk: list, show, verify, delete, pin,
//! unpin. All of them block.

use std::path::Path;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{
    Changed, ChunkDetail, DamagedSummary, Failure, FailureCode, SnapshotDetail, SnapshotList,
    SnapshotSummary, Verified, VerifyCommand,
};
use super::progress::{Reporter, byte_progress};
use super::trust::Trust;
use crate::snapshot::{Manifest, ManifestId};
use crate::state::StateNotes;
use crate::store::{DamagedFile, Store, StoreError, Stored};

/// Carries out `list`.
pub(super) fn list(store: &Store) -> SnapshotList {
    store.look_again();
    SnapshotList {
        snapshots: summaries(store),
        damaged: store.damaged().into_iter().map(damaged).collect(),
        missing: store.missing().iter().map(ToString::to_string).collect(),
    }
}

fn damaged(file: DamagedFile) -> DamagedSummary {
    DamagedSummary {
        manifest: file.manifest().map(|id| id.to_string()),
        file: file.path,
        problem: file.problem,
        unread: file.unread,
    }
}

/// A line for each snapshot, newest first.
pub(super) fn summaries(store: &Store) -> Vec<SnapshotSummary> {
    store.list().iter().map(summary).collect()
}

/// CID of what a delta builds on.
pub(super) fn base_of(manifest: &Manifest) -> Option<String> {
    manifest.base().map(|base| base.to_string())
}

fn summary(stored: &Stored) -> SnapshotSummary {
    let manifest = &stored.manifest;
    SnapshotSummary {
        manifest: manifest.id().to_string(),
        chain_id: manifest.chain_id().to_owned(),
        height: manifest.height(),
        format: manifest.format(),
        chunks: manifest.chunk_count(),
        bytes: manifest.total_bytes(),
        have_bytes: stored.have_bytes,
        complete: stored.complete,
        base: base_of(manifest),
        pinned: stored.pinned,
        proven: stored.proven && manifest.state().is_none(),
        app_hash_confirmed: stored.proven,
        origin: stored.origin.as_str().to_owned(),
        only: stored.only.iter().map(ToString::to_string).collect(),
    }
}

/// Carries out `show`.
pub(super) fn show(store: &Store, trust: &Trust, id: &str) -> Result<SnapshotDetail, Failure> {
    let stored = find(store, id)?;
    let manifest = &stored.manifest;
    let content = manifest.state();
    let chunks = manifest
        .chunk_indexes()
        .map(|index| {
            let chunk = manifest.unique_chunk(manifest.unique_at(index));
            ChunkDetail {
                index: index.get(),
                cid: chunk.id.to_string(),
                size: chunk.size,
            }
        })
        .collect();
    let endorsements = store.endorsements(&manifest.id());
    let notes = StateNotes::of(manifest).ok();
    Ok(SnapshotDetail {
        snapshot: summary(&stored),
        basis: content.and_then(|_| trust.basis(&manifest.id(), &endorsements)),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        hash: hex::encode(manifest.hash()),
        metadata: hex::encode(manifest.metadata()),
        manifest_bytes: manifest.encoded().len() as u32,
        file: stored.file.clone(),
        chunks,
        patches_sha256: notes.and_then(|notes| notes.patches_sha256.map(|hash| hash.to_string())),
        records: notes.map(|notes| notes.state.records),
        scopes: content
            .map(|content| content.scopes().iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        endorsements: trust.details(&endorsements),
    })
}

/// Carries out `verify`.
pub(super) fn verify(
    store: &Store,
    command: &VerifyCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Verified, Failure> {
    let started = Instant::now();
    let mut progress = byte_progress(reporter, cancel);
    reporter.phase("reading every chunk and checking its SHA-256");
    let verified = match command {
        VerifyCommand::Manifest(id) => {
            let id: ManifestId = id.parse()?;
            if store.get(&id).is_none()
                && let Some(file) = aside(store, &id)
            {
                return Err(moved_aside(&id, &file));
            }
            let stored = find(store, &id.to_string())?;
            if !stored.only.is_empty() {
                return Err(is_part(&stored));
            }
            let id = stored.manifest.id();
            let verified = store.verify(&id, &mut progress);
            verified.map_err(|error| match (error, aside(store, &id)) {
                (StoreError::Damaged { .. }, Some(file)) => moved_aside(&id, &file),
                (error, _) => error.into(),
            })?
        }
        VerifyCommand::Car(path) => {
            super::load::regular_file(path)?;
            Store::verify_car(path, &mut progress)?
        }
    };
    Ok(Verified {
        manifest: verified.id.to_string(),
        chunks: verified.chunks,
        verified_bytes: verified.bytes,
        seconds: started.elapsed().as_secs_f64(),
        state: verified.state,
    })
}

/// Nothing can be said of a part as a whole.
pub(super) fn is_part(stored: &Stored) -> Failure {
    let id = stored.manifest.id();
    let message = format!("{id} is here for some contracts only");
    Failure::new(FailureCode::NotFound, message).hint(format!(
        "`snapswarm dump {id} FILE --format jsonl` reads and checks those; \
         `snapswarm fetch {id}` gets the rest"
    ))
}

/// A file is written into a folder that is there.
pub(super) fn folder_of(file: &Path) -> Result<(), Failure> {
    let folder = file.parent().unwrap_or(file);
    let error = match std::fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => std::io::ErrorKind::NotADirectory.into(),
        Err(error) => error,
    };
    Err(Failure::given_path(folder, &error))
}

/// Carries out `delete`. What is being downloaded is not pulled away under its
/// `fetch`; what is left of a damaged snapshot goes, too.
pub(super) fn delete(store: &Store, id: &str) -> Result<Changed, Failure> {
    let id: ManifestId = id.parse()?;
    if store.get(&id).is_some_and(|stored| stored.downloading) {
        return Err(StoreError::DownloadOpen(id).into());
    }
    let mut changed = changed(store, &id, store.delete(&id), "deleted")?;
    let deltas = store.list().into_iter();
    let deltas = deltas.filter(|stored| stored.manifest.base() == Some(id));
    changed.needed_by = deltas
        .map(|delta| delta.manifest.id().to_string())
        .collect();
    Ok(changed)
}

/// Carries out `pin`.
pub(super) fn pin(store: &Store, id: &str) -> Result<Changed, Failure> {
    let id: ManifestId = id.parse()?;
    store.look_again();
    changed(store, &id, store.pin(&id), "pinned")
}

/// Carries out `unpin`.
pub(super) fn unpin(store: &Store, id: &str) -> Result<Changed, Failure> {
    let id: ManifestId = id.parse()?;
    changed(store, &id, store.unpin(&id), "unpinned")
}

/// What came of a change; with what is known of a snapshot that is not here.
fn changed(
    store: &Store,
    id: &ManifestId,
    result: Result<(), StoreError>,
    done: &str,
) -> Result<Changed, Failure> {
    match result {
        Err(StoreError::NotFound(_)) => find(store, &id.to_string()).map(|_| ())?,
        result => result?,
    }
    Ok(Changed {
        manifest: id.to_string(),
        done: done.to_owned(),
        needed_by: Vec::new(),
    })
}

/// The snapshot of a name that a person typed.
pub(super) fn find(store: &Store, id: &str) -> Result<Stored, Failure> {
    let id: ManifestId = id.parse()?;
    store.look_again();
    store.get(&id).ok_or_else(|| {
        let here = match aside(store, &id) {
            Some(file) if file.unread => {
                format!("; {} cannot be read: {}", file.path.display(), file.problem)
            }
            Some(file) => format!("; it was damaged, see {}", file.path.display()),
            None if store.missing().contains(&id) => {
                "; its file is missing, and what is known about it is kept (`snapswarm delete` \
                 forgets it)"
                    .to_owned()
            }
            None => String::new(),
        };
        Failure::new(
            FailureCode::NotFound,
            format!(
                "there is no snapshot {id} in {}{here}",
                store.home().display()
            ),
        )
        .hint("`snapswarm list` shows what is here, `snapswarm fetch` brings it from the swarm")
    })
}

/// The damaged file of a snapshot.
fn aside(store: &Store, id: &ManifestId) -> Option<DamagedFile> {
    let damaged = store.damaged().into_iter();
    damaged.rev().find(|file| file.manifest() == Some(*id))
}

fn moved_aside(id: &ManifestId, file: &DamagedFile) -> Failure {
    let path = file.path.display();
    if file.unread {
        let message = format!("{path} cannot be read: {}", file.problem);
        return Failure::new(FailureCode::Storage, message).hint(
            "let this user read it, or check the disk; nothing is known to be wrong with what it \
             holds",
        );
    }
    let is_aside = file.path.extension().is_some_and(|end| end == "damaged");
    let what = match is_aside {
        true => format!("{id} is damaged and was moved aside to {path}"),
        false => format!("{id} is damaged: {path} cannot be used"),
    };
    Failure::new(
        FailureCode::Verification,
        format!("{what}: {}", file.problem),
    )
    .hint(
        "fetch or load the snapshot again, and check the disk if this comes back; `snapswarm \
         delete CID` removes the damaged file",
    )
}
