//! The verbs that concern only what is on disk: list, show, verify, dump,
//! delete, pin, unpin. All of them block.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::command::{
    Changed, ChunkDetail, DumpCommand, Dumped, Failure, FailureCode, SnapshotDetail, SnapshotList,
    SnapshotSummary, Verified, VerifyCommand,
};
use super::progress::{Reporter, byte_progress};
use crate::snapshot::ManifestId;
use crate::store::{Store, Stored};

/// Carries out `list`.
pub(super) fn list(store: &Store) -> SnapshotList {
    SnapshotList {
        snapshots: summaries(store),
    }
}

/// A line for each snapshot, newest first.
pub(super) fn summaries(store: &Store) -> Vec<SnapshotSummary> {
    store.list().iter().map(summary).collect()
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
        pinned: stored.pinned,
        proven: stored.proven,
        origin: stored.origin.as_str().to_owned(),
    }
}

/// Carries out `show`.
pub(super) fn show(store: &Store, id: &str) -> Result<SnapshotDetail, Failure> {
    let stored = find(store, id)?;
    let manifest = &stored.manifest;
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
    Ok(SnapshotDetail {
        snapshot: summary(&stored),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        hash: hex::encode(manifest.hash()),
        metadata: hex::encode(manifest.metadata()),
        manifest_bytes: manifest.encoded().len() as u32,
        file: stored.file.clone(),
        chunks,
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
            let stored = find(store, id)?;
            store.verify(&stored.manifest.id(), &mut progress)?
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
    })
}

/// Carries out `dump`.
pub(super) fn dump(
    store: &Store,
    command: &DumpCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Dumped, Failure> {
    let stored = find(store, &command.manifest)?;
    reporter.phase(format!("writing {}", command.file.display()));
    let mut progress = byte_progress(reporter, cancel);
    let exported = store.export_car(&stored.manifest.id(), &command.file, &mut progress)?;
    Ok(Dumped {
        manifest: stored.manifest.id().to_string(),
        file: exported.file,
        file_bytes: exported.file_bytes,
    })
}

/// Carries out `delete`.
pub(super) fn delete(store: &Store, id: &str) -> Result<Changed, Failure> {
    let stored = find(store, id)?;
    store.delete(&stored.manifest.id())?;
    Ok(changed(&stored, "deleted"))
}

/// Carries out `pin`.
pub(super) fn pin(store: &Store, id: &str) -> Result<Changed, Failure> {
    let stored = find(store, id)?;
    store.pin(&stored.manifest.id())?;
    Ok(changed(&stored, "pinned"))
}

/// Carries out `unpin`.
pub(super) fn unpin(store: &Store, id: &str) -> Result<Changed, Failure> {
    let stored = find(store, id)?;
    store.unpin(&stored.manifest.id())?;
    Ok(changed(&stored, "unpinned"))
}

fn changed(stored: &Stored, done: &str) -> Changed {
    Changed {
        manifest: stored.manifest.id().to_string(),
        done: done.to_owned(),
    }
}

/// The snapshot of a name that a person typed.
pub(super) fn find(store: &Store, id: &str) -> Result<Stored, Failure> {
    let id: ManifestId = id.parse()?;
    store.get(&id).ok_or_else(|| {
        Failure::new(
            FailureCode::NotFound,
            format!("there is no snapshot {id} in {}", store.home().display()),
        )
        .hint("`snapswarm list` shows what is here, `snapswarm fetch` brings it from the swarm")
    })
}
