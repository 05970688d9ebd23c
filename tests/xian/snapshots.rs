//! A storage as the source of a snapshot, and as its target.

use std::path::Path;

use bytes::Bytes;
use snapswarm::snapshot::{Manifest, ManifestBuilder, SnapshotFields, Target, TargetError};
use snapswarm::state::ChunkSize;
use snapswarm::xian::{LatestBlock, XianError, XianSource, XianTarget};

use crate::support::*;

/// The manifest and the chunks of a storage.
fn snapshot(storage: &Path, patches: Option<&Path>) -> (Manifest, Vec<Bytes>) {
    snapshot_of("xian-1", storage, patches)
}

/// Makes a storage of 3,000 records.
fn generate(storage: &Path, files: &str) {
    let flags = ["--records", "3000", "--files", files].map(Path::new);
    python("generate.py", &[&[storage][..], &flags].concat(), None);
}

fn restore_into(
    storage: &Path,
    manifest: &Manifest,
    chunks: &[Bytes],
) -> Result<XianTarget, TargetError> {
    let mut target = XianTarget::new(storage, &workers());
    target.begin(manifest)?;
    for (index, chunk) in manifest.chunk_indexes().zip(chunks) {
        target.chunk(index, chunk)?;
    }
    target.finish()?;
    Ok(target)
}

#[test]
fn the_same_state_has_the_same_name_whatever_became_of_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let [node, restored, again] =
        ["node", "restored", "again"].map(|name| folder.path().join(name));
    generate(&node, "3");
    let (manifest, chunks) = snapshot(&node, None);
    assert!(chunks.len() > 3, "{}", chunks.len());
    assert_eq!(manifest.height(), 1000);

    let target = restore_into(&restored, &manifest, &chunks).unwrap();
    assert_eq!(target.stats().unwrap().records, 3000);
    assert_eq!(read(&restored).unwrap(), read(&node).unwrap());
    assert_eq!(
        LatestBlock::read(&restored).unwrap(),
        LatestBlock::read(&node).unwrap()
    );
    let (same, _) = snapshot(&restored, None);
    assert_eq!(same.id(), manifest.id());
    restore_into(&again, &same, &chunks).unwrap();
    assert_eq!(snapshot(&again, None).0.id(), manifest.id());
}

#[test]
fn the_notes_tell_of_the_patches_of_the_chain() {
    let golden = storage("golden/xian/storage");
    let folder = tempfile::tempdir().unwrap();
    let patches = folder.path().join("state_patches.json");
    let notes = |patches| {
        let (manifest, _) = snapshot(&golden, patches);
        snapswarm::state::StateNotes::of(&manifest)
            .unwrap()
            .patches_sha256
    };
    assert_eq!(notes(None), None);
    let none = notes(Some(patches.as_path()));
    assert!(none.is_some());
    let entry = |height| format!(r#"{{"{height}": [{{"key": "currency.x", "value": 1}}]}}"#);
    std::fs::write(&patches, entry(5)).unwrap();
    assert_eq!(
        notes(Some(patches.as_path())),
        none,
        "the state is that of block 4"
    );
    std::fs::write(&patches, entry(4)).unwrap();
    assert_ne!(notes(Some(patches.as_path())), none);
}

#[test]
fn what_changes_while_it_is_read_is_no_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), "3");
    let source = XianSource::new(folder.path(), &reading(), ChunkSize::MIN, None, || false);
    let mut chunks = 0;
    let made = source.make(|_| {
        chunks += 1;
        let latest = folder.path().join("__latest_block.json");
        std::fs::write(latest, r#"{"hash": "61", "height": 1001}"#).unwrap();
        Ok(())
    });
    assert!(matches!(made, Err(XianError::Changed { .. })));
    assert!(chunks > 2, "they were handed on before: {chunks}");
}

#[test]
fn a_chunk_that_nobody_takes_ends_the_reading() {
    let golden = storage("golden/xian/storage");
    let source = XianSource::new(&golden, &reading(), ChunkSize::MIN, None, || false);
    let made = source.make(|_| Err(XianError::Stopped));
    assert!(matches!(made, Err(XianError::Stopped)));
}

#[test]
fn a_source_stops_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    generate(folder.path(), "1");
    let source = XianSource::new(folder.path(), &reading(), ChunkSize::MAX, None, || true);
    let made = source.make(|_| Ok(()));
    assert!(matches!(made, Err(XianError::Stopped)));
}

#[test]
fn a_target_takes_nothing_but_the_state_that_the_manifest_names() {
    let golden = storage("golden/xian/storage");
    let folder = tempfile::tempdir().unwrap();
    restore(&golden, folder.path()).unwrap();
    let before = read(folder.path()).unwrap();
    let (manifest, chunks) = snapshot(&golden, None);
    let refused = |result: Result<XianTarget, TargetError>| match result {
        Err(TargetError::Refused(why)) => why,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was taken"),
    };
    // Not all of its chunks.
    let why = refused(restore_into(
        folder.path(),
        &manifest,
        &chunks[..chunks.len() - 1],
    ));
    assert!(why.contains("hash"), "{why}");
    // Other chunks.
    let mut others = chunks.clone();
    others[0] = Bytes::from_static(b"no chunk");
    refused(restore_into(folder.path(), &manifest, &others));
    // Chunks of an application's own.
    let mut opaque = ManifestBuilder::new();
    opaque.push(b"chunk").unwrap();
    let fields = SnapshotFields {
        chain_id: "xian-1".to_owned(),
        height: 1,
        app_hash: Some(Bytes::from_static(b"x")),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    let opaque = opaque.finish(fields).unwrap();
    let why = refused(restore_into(folder.path(), &opaque, &[]));
    assert!(why.contains("no records"), "{why}");
    assert_eq!(read(folder.path()).unwrap(), before);
    let mut none = XianTarget::new(folder.path(), &workers());
    assert!(matches!(none.finish(), Err(TargetError::Refused(_))));
}
