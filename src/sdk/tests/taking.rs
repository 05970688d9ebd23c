//! What is read of a folder that changes meanwhile, and what is not read at all.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::Bytes;

use super::super::files::CHUNK_BYTES;
use super::super::source::QUIET;
use super::super::{SnapshotFolder, View};
use super::{Node, Spoil, all, heights, settled, stream, view};
use crate::snapshot::{ManifestBuilder, SnapshotFields, Source, SourceError};

#[test]
fn what_is_pruned_while_it_is_read_is_gone_and_no_error() {
    let mut node = Node::new();
    let whole = stream(CHUNK_BYTES as usize + 5000, 1);
    let chunks: Vec<&[u8]> = whole.chunks(CHUNK_BYTES as usize).collect();
    let place = node.write(70, &chunks);
    let mut folder = node.folder(2);
    let offer = settled(&mut node, &mut folder).remove(0);
    let mut reading = folder.open(&offer).unwrap();
    assert_eq!(reading.next_chunk().unwrap().unwrap(), chunks[0]);
    fs::remove_dir_all(&place).unwrap();
    assert!(matches!(
        reading.next_chunk(),
        Err(SourceError::Gone {
            height: 70,
            format: 3
        })
    ));
    drop(reading);
    assert!(matches!(folder.open(&offer), Err(SourceError::Gone { .. })));
    assert_eq!(settled(&mut node, &mut folder), []);
    // Also between the look and the opening.
    let place = node.finished(80);
    let offer = settled(&mut node, &mut folder).remove(0);
    fs::remove_dir_all(place.parent().unwrap()).unwrap();
    assert!(matches!(folder.open(&offer), Err(SourceError::Gone { .. })));
}

#[test]
fn a_chunk_that_is_not_what_was_examined_is_not_given() {
    let spoils: [Spoil; 4] = [
        // Of the same length, and of the same age.
        |file| {
            let meta = fs::metadata(file).unwrap();
            let mut bytes = fs::read(file).unwrap();
            bytes[500] ^= 1;
            fs::write(file, bytes).unwrap();
            let file = fs::File::options().write(true).open(file).unwrap();
            file.set_modified(meta.modified().unwrap()).unwrap();
        },
        |file| fs::write(file, stream(2000, 9)).unwrap(),
        |file| fs::write(file, "").unwrap(),
        |file| {
            let aside = file.with_file_name("aside");
            fs::rename(file, &aside).unwrap();
            symlink(aside, file).unwrap();
        },
    ];
    for spoil in spoils {
        let mut node = Node::new();
        let place = node.finished(5);
        let mut folder = node.folder(2);
        let offer = settled(&mut node, &mut folder).remove(0);
        spoil(&place.join("0"));
        assert!(matches!(
            all(&mut folder, &offer),
            Err(SourceError::Gone { .. })
        ));
    }
}

#[test]
fn what_the_store_has_is_offered_without_being_read() {
    let mut node = Node::new();
    let place = node.finished(5);
    let len = fs::metadata(place.join("0")).unwrap().len() as usize;
    let mut builder = ManifestBuilder::new();
    builder.push(&vec![1; len]).unwrap();
    let manifest = builder.finish(SnapshotFields {
        chain_id: "a".to_owned(),
        height: 5,
        app_hash: Some(Bytes::from_static(b"app")),
        format: 3,
        hash: Some(Bytes::from_static(b"of the store")),
        metadata: Bytes::from_static(b"metadata"),
    });
    let mut folder = node.folder(2);
    folder.see(View {
        heights: 1..=9,
        here: vec![Arc::new(manifest.unwrap())],
    });
    let offers = folder.look(node.now).unwrap();
    assert_eq!(offers[0].hash, &b"of the store"[..]);
    // Other sizes are another snapshot.
    fs::write(place.join("0"), stream(2000, 1)).unwrap();
    let offers = settled(&mut node, &mut folder);
    assert_eq!(offers[0].hash.len(), 32);
}

#[test]
fn reading_ends_when_it_is_asked_to() {
    let mut node = Node::new();
    node.finished(5);
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    let calls = AtomicU32::new(0);
    let mut folder = SnapshotFolder::new(&node.dir(), 2, move || {
        // Not before the reading begins.
        asked.load(Ordering::Relaxed) && calls.fetch_add(1, Ordering::Relaxed) > 0
    });
    folder.see(view(1..=9));
    assert_eq!(folder.look(node.now).unwrap(), []);
    node.after(QUIET);
    stop.store(true, Ordering::Relaxed);
    assert_eq!(folder.look(node.now).unwrap(), []);
    stop.store(false, Ordering::Relaxed);
    assert_eq!(heights(&folder.look(node.now).unwrap()), [5]);
}
