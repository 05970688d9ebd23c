//! Looking into a home without taking it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapswarm::store::{ErrorKind, Store, StoreSettings};

use crate::support::*;

fn look(home: &Path) -> Store {
    Store::open_for_reading(home, StoreSettings::default()).unwrap()
}

/// Everything in a home, with its bytes.
fn image(home: &Path) -> Vec<(String, Vec<u8>)> {
    let mut image = Vec::new();
    for folder in ["", "snapshots", "downloads", "spool"] {
        for name in names(&home.join(folder)) {
            let path = home.join(folder).join(&name);
            let bytes = std::fs::read(&path).unwrap_or_default();
            image.push((path.display().to_string(), bytes));
        }
    }
    image
}

#[test]
fn a_reader_sees_what_a_writer_has_open_and_changes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000), noise(2, 5000)];
    let whole = publish(&store, 1, &chunks).unwrap().manifest().id();
    let bad = publish(&store, 2, &chunks).unwrap();
    store.pin(&whole).unwrap();
    let manifest = Arc::new(manifest_of(3, &chunks));
    let download = store.begin_download(manifest.clone()).unwrap();
    let first = manifest.piece_index(0).unwrap();
    download.write(&[piece(&manifest, &chunks, first)]).unwrap();
    download.sync().unwrap();
    let _spool = store.publish().unwrap();
    flip(bad.path(), 90);
    let left_over = home.path().join(format!("downloads/{whole}.bitmap"));
    std::fs::write(left_over, b"").unwrap();

    let before = image(home.path());
    let reader = look(home.path());
    assert_eq!(reader.list().len(), 2);
    assert!(reader.get(&whole).unwrap().pinned);
    assert_eq!(reader.get(&manifest.id()).unwrap().have_bytes, 5000);
    verify(&reader, &whole).unwrap();
    let damaged = reader.damaged();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].path, bad.path(), "it stays where it is");
    let elsewhere = tempfile::tempdir().unwrap();
    let car = elsewhere.path().join("out.car");
    reader.export_car(&whole, &car, &mut quiet).unwrap();

    let refused = [
        reader.pin(&manifest.id()).unwrap_err(),
        reader.delete(&whole).unwrap_err(),
        publish(&reader, 4, &chunks).unwrap_err(),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::Storage, "{error}");
    }
    assert!(image(home.path()) == before);
    download.sync().unwrap();
}

#[test]
fn a_home_that_cannot_be_written_and_one_that_is_empty_are_read() {
    let parent = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(parent.path(), 0o755);
    let home = parent.path().join("home");
    let store = open(&home);
    let archive = publish(&store, 1, &[noise(1, 5000)]).unwrap();
    let id = archive.manifest().id();
    drop(store);
    std::fs::remove_file(home.join("lock")).unwrap();
    mode(&home, 0o555);
    let looked = home.clone();
    std::thread::spawn(move || {
        // Root may write everywhere; this thread now asks as somebody else.
        #[cfg(target_os = "linux")]
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        Store::open(&looked, StoreSettings::default())
            .err()
            .expect("the home is not writable");
        verify(&look(&looked), &id).unwrap();
    })
    .join()
    .unwrap();
    assert!(!home.join("lock").exists());
    mode(&home, 0o755);

    let empty = parent.path().join("empty");
    assert!(look(&empty).list().is_empty());
    assert!(!empty.exists());
}

#[test]
fn damage_that_a_reader_finds_is_told_and_left_where_it_is() {
    let home = tempfile::tempdir().unwrap();
    let archive = publish(&open(home.path()), 1, &[noise(1, 5000)]).unwrap();
    let id = archive.manifest().id();
    flip(archive.path(), offset_in(archive.path(), 0));
    let reader = look(home.path());
    let error = verify(&reader, &id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Verification);
    assert!(archive.path().exists());
    assert!(reader.damaged().is_empty() && reader.get(&id).is_some());
}

/// A snapshot comes and goes half so often.
const TURNS: u64 = 400;

/// What is here all the time is seen all the time, whatever moves meanwhile.
#[test]
fn readers_beside_a_writer_miss_nothing_and_never_fail() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let manifest = Arc::new(manifest_of(1, &chunks));
    let id = manifest.id();
    // Odd while the snapshot is here, in part or whole; then even.
    let turn = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0;
                loop {
                    let before = turn.load(Ordering::SeqCst);
                    let stored = look(home.path()).get(&id);
                    let after = turn.load(Ordering::SeqCst);
                    if before == after && before % 2 == 1 {
                        seen += 1;
                        assert!(stored.is_some(), "turn {before}");
                    }
                    if after >= TURNS {
                        break;
                    }
                }
                assert!(seen > 0);
            });
        }
        while turn.load(Ordering::SeqCst) < TURNS {
            let download = store.begin_download(manifest.clone()).unwrap();
            turn.fetch_add(1, Ordering::SeqCst);
            for index in manifest.piece_indexes() {
                download.write(&[piece(&manifest, &chunks, index)]).unwrap();
            }
            for chunk in manifest.unique_indexes() {
                download.check_chunk(chunk).unwrap();
            }
            download.sync().unwrap();
            download.seal().unwrap();
            drop(download);
            turn.fetch_add(1, Ordering::SeqCst);
            store.delete(&id).unwrap();
        }
    });
}
