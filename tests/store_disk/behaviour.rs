//! What goes in comes out.

use std::ops::ControlFlow;
use std::sync::Arc;

use snapswarm::snapshot::{Bitmap, ChunkId, hash};
use snapswarm::store::{ChunkVerdict, ErrorKind, Origin, Servable, Store, StoreError};

use crate::support::*;

/// Chunks of every kind: tiny, of more than one piece, repeated.
fn chunks() -> Vec<Vec<u8>> {
    vec![
        b"tiny".to_vec(),
        noise(1, (2 << 20) + 77),
        noise(2, 1 << 20),
        b"tiny".to_vec(),
        noise(3, 5000),
        noise(2, 1 << 20),
    ]
}

/// The distinct ones, in order of first position.
fn distinct() -> Vec<Vec<u8>> {
    let mut chunks = chunks();
    chunks.remove(5);
    chunks.remove(3);
    chunks
}

#[test]
fn a_published_snapshot_reads_back_by_position_and_by_piece_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let id = publish(&store, 7, &chunks()).unwrap().manifest().id();
    drop(store);

    let store = open(home.path());
    let stored = store.get(&id).unwrap();
    assert!(stored.complete && !stored.pinned && !stored.proven);
    assert_eq!(stored.origin, Origin::Loaded);
    assert_eq!(stored.have_bytes, stored.manifest.unique_bytes());
    assert_eq!(store.disk_bytes(), stored.file_bytes);
    let archive = store.archive(&id).unwrap();
    for (index, chunk) in archive.manifest().chunk_indexes().zip(chunks()) {
        assert_eq!(archive.read_chunk(index).unwrap(), chunk);
    }
    let chunk = ChunkId(hash::sha256(&chunks()[1]));
    for (number, piece) in chunks()[1].chunks(1 << 20).enumerate() {
        let read = store.read_piece(&chunk, number as u32).unwrap().unwrap();
        assert_eq!(read, piece);
    }
    assert_eq!(store.read_piece(&chunk, 3).unwrap(), None);
    assert_eq!(store.read_piece(&chunk, u32::MAX).unwrap(), None);
    let unknown = ChunkId(hash::sha256(b"unknown"));
    assert_eq!(store.read_piece(&unknown, 0).unwrap(), None);
    assert_eq!(
        store.holds(&[unknown, chunk]).iter().collect::<Vec<_>>(),
        [1]
    );
    let found = store.find_chunk(&chunk).unwrap();
    assert_eq!(found.offset, offset_in(archive.path(), 1));
    assert!(found.complete);
    verify(&store, &id).unwrap();
}

#[test]
fn publishing_the_same_snapshot_again_gives_the_one_that_is_here() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let first = publish(&store, 7, &chunks()).unwrap();
    let mut spool = store.publish().unwrap();
    for chunk in chunks() {
        spool.push(&chunk).unwrap();
    }
    let second = spool
        .finish(fields(7), Origin::Harvested, true, &mut quiet)
        .unwrap();
    assert_eq!(first.path(), second.path());
    let stored = store.get(&first.manifest().id()).unwrap();
    assert_eq!(stored.origin, Origin::Loaded);
    assert!(stored.proven, "the second publication proved it");
    assert_eq!(names(&home.path().join("spool")), [""; 0]);
}

#[test]
fn chunks_outside_the_limits_and_no_chunks_at_all_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let mut spool = store.publish().unwrap();
    spool.push(b"good").unwrap();
    let error = spool.push(b"").unwrap_err();
    assert!(error.to_string().contains("chunk 1"), "{error}");
    let largest = vec![1; snapswarm::snapshot::MAX_CHUNK_BYTES as usize + 1];
    assert_eq!(spool.push(&largest).unwrap_err().kind(), ErrorKind::Usage);
    spool.push(&largest[1..]).unwrap();
    let archive = spool
        .finish(fields(1), Origin::Loaded, false, &mut quiet)
        .unwrap();
    assert_eq!(archive.manifest().chunk_count(), 2);

    let empty = store.publish().unwrap();
    assert!(matches!(
        empty.finish(fields(1), Origin::Loaded, false, &mut quiet),
        Err(StoreError::Manifest(_))
    ));
    assert_eq!(names(&home.path().join("spool")), [""; 0]);
}

#[test]
fn sealing_tells_its_progress_and_a_stop_at_any_point_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let seal = |progress: snapswarm::store::Progress| {
        let mut spool = store.publish().unwrap();
        for chunk in chunks() {
            spool.push(&chunk).unwrap();
        }
        spool.finish(fields(7), Origin::Loaded, false, progress)
    };
    // Six distinct pieces are written, six chunks read back.
    let steps = 6 + chunks().len();
    for stop_at in 1..=steps {
        let mut calls = 0;
        let stopped = seal(&mut |_, _| {
            calls += 1;
            if calls == stop_at {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(stopped, Err(StoreError::Stopped)), "{stop_at}");
        assert_eq!(store.list().len(), 0);
        assert_eq!(names(&home.path().join("spool")), [""; 0]);
    }
    let mut told = Vec::new();
    seal(&mut |done, total| {
        told.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(told.len(), steps);
    assert!(told.windows(2).all(|two| two[0].0 < two[1].0));
    let (done, total) = *told.last().unwrap();
    assert_eq!(done, total);
}

#[test]
fn a_piece_that_was_checked_against_another_manifest_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    // The same bytes at two heights: numbers, lengths and hashes are alike.
    let [own, other] = [7, 8].map(|height| manifest_of(height, &chunks()));
    let index = own.piece_index(0).unwrap();
    let [own_piece, foreign] = [&own, &other].map(|m| piece(m, &distinct(), index));
    let download = store.begin_download(Arc::new(own)).unwrap();
    assert!(matches!(
        download.write(&[foreign]),
        Err(StoreError::ForeignPiece { piece: 0, .. })
    ));
    assert!(download.have().is_empty());
    download.write(&[own_piece]).unwrap();
}

#[test]
fn a_download_serves_a_chunk_from_its_check_on_and_becomes_an_archive() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let manifest = Arc::new(manifest_of(7, &chunks()));
    let download = store.begin_download(manifest.clone()).unwrap();
    assert!(matches!(
        store.begin_download(manifest.clone()),
        Err(StoreError::DownloadOpen(_))
    ));
    let big = manifest.unique_index(1).unwrap();
    let id = manifest.unique_chunk(big).id;
    for index in manifest.pieces_of(big) {
        assert!(matches!(
            download.check_chunk(big).unwrap(),
            ChunkVerdict::Damaged(missing) if missing.contains(&index)
        ));
        download
            .write(&[piece(&manifest, &distinct(), index)])
            .unwrap();
        assert_eq!(store.read_piece(&id, 0).unwrap(), None, "not checked yet");
    }
    assert_eq!(download.check_chunk(big).unwrap(), ChunkVerdict::Checked);
    assert_eq!(
        store.read_piece(&id, 2).unwrap().unwrap(),
        chunks()[1][2 << 20..]
    );
    let Some(Servable::Pieces(pieces)) = store.servable(&manifest.id()) else {
        panic!("a download can be served in part");
    };
    assert_eq!(pieces.iter().collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(
        download.seal(),
        Err(StoreError::Unchecked { missing: 3, .. })
    ));
    assert_eq!(
        store.archive(&manifest.id()).unwrap_err().kind(),
        ErrorKind::NotFound
    );

    let all: Vec<_> = manifest
        .piece_indexes()
        .map(|index| piece(&manifest, &distinct(), index))
        .collect();
    download.write(&all).unwrap();
    for chunk in manifest.unique_indexes() {
        assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
    }
    let archive = download.seal().unwrap();
    assert_eq!(download.seal().unwrap().path(), archive.path());
    assert!(matches!(
        download.write(&all),
        Err(StoreError::AlreadyComplete(_))
    ));
    assert_eq!(store.servable(&manifest.id()), Some(Servable::Complete));
    assert_eq!(store.get(&manifest.id()).unwrap().origin, Origin::Fetched);
    for (index, chunk) in manifest.chunk_indexes().zip(chunks()) {
        assert_eq!(archive.read_chunk(index).unwrap(), chunk);
    }
    assert!(store.read_piece(&id, 2).unwrap().is_some());
    assert_eq!(names(&home.path().join("downloads")), [""; 0]);
}

#[test]
fn a_download_and_a_publication_of_the_same_snapshot_give_the_same_file() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let published = publish(&open(one.path()), 7, &chunks()).unwrap();
    let store = open(two.path());
    let manifest = published.manifest();
    let download = store.begin_download(manifest.clone()).unwrap();
    for index in manifest.piece_indexes() {
        download
            .write(&[piece(manifest, &distinct(), index)])
            .unwrap();
    }
    for chunk in manifest.unique_indexes() {
        download.check_chunk(chunk).unwrap();
    }
    let sealed = download.seal().unwrap();
    assert!(
        std::fs::read(published.path()).unwrap() == std::fs::read(sealed.path()).unwrap(),
        "two makers of one snapshot wrote different archives"
    );
}

#[test]
fn a_resumed_download_has_what_was_synced_and_what_was_only_written() {
    let home = tempfile::tempdir().unwrap();
    let manifest = Arc::new(manifest_of(7, &chunks()));
    let pieces: Vec<_> = manifest
        .piece_indexes()
        .map(|index| piece(&manifest, &distinct(), index))
        .collect();
    {
        let store = open(home.path());
        let download = store.begin_download(manifest.clone()).unwrap();
        download.write(&pieces[..2]).unwrap();
        let tiny = manifest.unique_index(0).unwrap();
        download.check_chunk(tiny).unwrap();
        download.sync().unwrap();
        download.write(&pieces[3..5]).unwrap();
    }
    let store = open(home.path());
    let stored = store.get(&manifest.id()).unwrap();
    assert!(!stored.complete);
    assert_eq!(stored.have_bytes, 4 + (1 << 20), "what the sidecar says");
    // A checked chunk is served before anybody goes on with the download.
    let tiny = manifest.unique_chunk(manifest.unique_index(0).unwrap()).id;
    assert_eq!(store.read_piece(&tiny, 0).unwrap().unwrap(), &b"tiny"[..]);

    let download = store.begin_download(manifest.clone()).unwrap();
    assert_eq!(download.have().iter().collect::<Vec<_>>(), [0, 1, 3, 4]);
    assert_eq!(download.checked().iter().collect::<Vec<_>>(), [0]);
    download.write(&pieces).unwrap();
    for chunk in manifest.unique_indexes() {
        assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
    }
    download.seal().unwrap();
    verify(&store, &manifest.id()).unwrap();
}

#[test]
fn a_manifest_whose_pieces_do_not_make_its_chunk_is_found_false() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let bytes = noise(1, (1 << 20) + 1);
    let mut lie = RawChunk::of(&bytes);
    lie.sha256 = hash::sha256(b"something else").0.to_vec();
    let manifest = Arc::new(raw_manifest(vec![lie]));
    let download = store.begin_download(manifest.clone()).unwrap();
    for index in manifest.piece_indexes() {
        let piece = piece(&manifest, std::slice::from_ref(&bytes), index);
        download.write(&[piece]).unwrap();
    }
    let chunk = manifest.unique_index(0).unwrap();
    assert_eq!(
        download.check_chunk(chunk).unwrap(),
        ChunkVerdict::ManifestFalse
    );
    let id = manifest.unique_chunk(chunk).id;
    assert_eq!(store.read_piece(&id, 0).unwrap(), None);
    store.delete(&manifest.id()).unwrap();
    assert!(matches!(download.sync(), Err(StoreError::NotFound(_))));
    drop(download);
    assert_eq!(names(&home.path().join("downloads")), [""; 0]);
}

#[test]
fn a_car_carries_a_snapshot_to_another_home() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(one.path());
    let published = publish(&store, 7, &chunks()).unwrap();
    let id = published.manifest().id();
    let car = one.path().join("snapshot.car");
    let mut seen = Vec::new();
    let exported = store
        .export_car(&id, &car, &mut |done, total| {
            seen.push((done, total));
            ControlFlow::Continue(())
        })
        .unwrap();
    let unique = published.manifest().unique_bytes();
    assert_eq!(seen.last(), Some(&(unique, unique)));
    assert_eq!(exported.file_bytes, std::fs::metadata(&car).unwrap().len());
    assert!(matches!(
        store.export_car(&id, &car, &mut quiet),
        Err(StoreError::Exists(_))
    ));
    let verified = Store::verify_car(&car, &mut quiet).unwrap();
    assert_eq!((verified.id, verified.bytes), (id, unique));

    let store = open(two.path());
    let refused = store.import_car(
        &car,
        &|_| Err("wrong chain".to_owned()),
        Origin::Loaded,
        &mut quiet,
    );
    assert!(matches!(refused, Err(StoreError::Refused { .. })));
    assert!(store.list().is_empty());
    let take = |store: &Store| {
        store
            .import_car(&car, &|_| Ok(()), Origin::Loaded, &mut quiet)
            .unwrap()
    };
    assert!(take(&store).new);
    assert!(!take(&store).new);
    let imported = store.archive(&id).unwrap();
    assert!(std::fs::read(imported.path()).unwrap() == std::fs::read(published.path()).unwrap());
    verify(&store, &id).unwrap();
}

#[test]
fn a_car_whose_manifest_lies_about_pieces_is_not_taken() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let bytes = noise(1, 5000);
    let mut lie = RawChunk::of(&bytes);
    lie.pieces = hash::sha256(b"another piece").0.to_vec();
    let manifest = raw_manifest(vec![lie]);
    let cid = |digest: &[u8; 32]| [&[1, 0x55, 0x12, 0x20][..], digest].concat();
    let block = |digest: &[u8; 32], bytes: &[u8]| {
        let mut buffer = unsigned_varint::encode::u64_buffer();
        let len = unsigned_varint::encode::u64(36 + bytes.len() as u64, &mut buffer);
        [len, &cid(digest), bytes].concat()
    };
    let root = *manifest.id().digest().as_bytes();
    let header = [
        b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00",
        &cid(&root)[..],
        b"\x67version\x01",
    ]
    .concat();
    let car = home.path().join("lie.car");
    let blocks = [
        header,
        block(&root, manifest.encoded()),
        block(&hash::sha256(&bytes).0, &bytes),
    ];
    std::fs::write(&car, blocks.concat()).unwrap();
    let error = store
        .import_car(&car, &|_| Ok(()), Origin::Loaded, &mut quiet)
        .unwrap_err();
    assert!(error.to_string().contains("piece hashes"), "{error}");
    assert!(error.to_string().contains("lie.car"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Verification);
    assert!(store.list().is_empty());
    assert_eq!(names(&home.path().join("spool")), [""; 0]);
}

#[test]
fn chunks_become_numbered_files_in_a_new_or_an_empty_folder() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let id = publish(&store, 7, &chunks()).unwrap().manifest().id();
    let out = home.path().join("deep/out");
    store.export_files(&id, &out, &mut quiet).unwrap();
    assert_eq!(
        names(&out),
        ["0000", "0001", "0002", "0003", "0004", "0005"]
    );
    for (number, chunk) in chunks().iter().enumerate() {
        let read = std::fs::read(out.join(format!("{number:04}"))).unwrap();
        assert!(read == *chunk);
    }
    assert!(matches!(
        store.export_files(&id, &out, &mut quiet),
        Err(StoreError::NotEmpty(_))
    ));
}

#[test]
fn a_long_operation_stops_when_it_is_asked_to_and_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let id = publish(&store, 7, &chunks()).unwrap().manifest().id();
    let stop = &mut |_, _| ControlFlow::Break(());
    let car = home.path().join("out/snapshot.car");
    std::fs::create_dir(home.path().join("out")).unwrap();
    let outcomes = [
        store.verify(&id, stop).map(|_| ()),
        store.export_car(&id, &car, stop).map(|_| ()),
    ];
    for outcome in outcomes {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Interrupted);
    }
    assert_eq!(names(&home.path().join("out")), [""; 0]);
    store.export_car(&id, &car, &mut quiet).unwrap();
    let other = tempfile::tempdir().unwrap();
    let store = open(other.path());
    let stopped = store.import_car(&car, &|_| Ok(()), Origin::Loaded, stop);
    assert!(matches!(stopped, Err(StoreError::Stopped)));
    assert_eq!(names(&other.path().join("spool")), [""; 0]);
    assert!(store.list().is_empty());
}

#[test]
fn twenty_thousand_chunks_are_no_obstacle() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks: Vec<Vec<u8>> = (0..20_000u32)
        .map(|number| [&number.to_le_bytes()[..], &[7; 60]].concat())
        .collect();
    let id = publish(&store, 7, &chunks).unwrap().manifest().id();
    drop(store);
    let store = open(home.path());
    verify(&store, &id).unwrap();
    for number in [0, 9999, 19_999] {
        let chunk = ChunkId(hash::sha256(&chunks[number]));
        assert_eq!(
            store.read_piece(&chunk, 0).unwrap().unwrap(),
            chunks[number]
        );
    }
    let wanted: Vec<ChunkId> = chunks.iter().map(|c| ChunkId(hash::sha256(c))).collect();
    assert_eq!(store.holds(&wanted), Bitmap::full(20_000));
}

#[test]
fn many_threads_write_check_and_read_at_once() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks: Vec<Vec<u8>> = (0..24).map(|seed| noise(seed, 1_500_000)).collect();
    let manifest = Arc::new(manifest_of(1, &chunks));
    let download = store.begin_download(manifest.clone()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (download, manifest, chunks, store) = (&download, &manifest, &chunks, &store);
            scope.spawn(move || {
                for chunk in manifest.unique_indexes().skip(thread).step_by(4) {
                    for index in manifest.pieces_of(chunk) {
                        download.write(&[piece(manifest, chunks, index)]).unwrap();
                    }
                    download.sync().unwrap();
                    assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
                    let id = manifest.unique_chunk(chunk).id;
                    assert!(store.read_piece(&id, 1).unwrap().is_some());
                }
            });
        }
    });
    download.seal().unwrap();
    verify(&store, &manifest.id()).unwrap();
}
