//! Files that somebody took away, and files that were moved aside.

use std::path::{Path, PathBuf};
use std::time::Instant;

use snapswarm::snapshot::{ManifestId, hash};
use snapswarm::store::{Origin, RemovedBecause, Store, StoreError, StoreSettings};

use crate::support::*;

fn archive_of(home: &Path, id: &ManifestId) -> PathBuf {
    home.join(format!("snapshots/{id}.h5"))
}

#[test]
fn the_pin_of_a_file_that_is_missing_for_the_moment_comes_back_with_it() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let id = publish(&store, 1, &chunks).unwrap().manifest().id();
    store.pin(&id).unwrap();
    store.set_proven(&id, 3).unwrap();
    drop(store);
    let file = archive_of(home.path(), &id);
    let elsewhere = home.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    // Also when the catalogue is written meanwhile.
    let reader = Store::open_for_reading(home.path(), StoreSettings::default()).unwrap();
    assert_eq!(reader.missing(), [id]);
    let store = open(home.path());
    assert!(store.list().is_empty());
    assert_eq!(store.missing(), [id]);
    publish(&store, 2, &[noise(2, 5000)]).unwrap();
    drop(store);
    std::fs::rename(&elsewhere, &file).unwrap();
    let stored = open(home.path()).get(&id).unwrap();
    assert!(stored.pinned && stored.proven);
    assert_eq!(stored.app_version, Some(3));
    assert_eq!(open(home.path()).missing(), []);
    assert_eq!(stored.origin, Origin::Loaded);

    std::fs::remove_file(&file).unwrap();
    let store = open(home.path());
    assert!(publish(&store, 1, &chunks).is_ok());
    assert!(store.get(&id).unwrap().pinned, "made again, still pinned");
}

#[test]
fn a_harvested_snapshot_whose_file_was_away_is_still_a_harvested_one() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let archive = publish_as(Origin::Harvested, &store, 1, &[noise(1, 5000)]).unwrap();
    let id = archive.manifest().id();
    store.set_proven(&id, 3).unwrap();
    drop((archive, store));
    let file = archive_of(home.path(), &id);
    let elsewhere = home.path().join("elsewhere");
    std::fs::rename(&file, &elsewhere).unwrap();
    assert_eq!(open(home.path()).missing(), [], "nobody wanted it kept");
    std::fs::rename(&elsewhere, &file).unwrap();
    let stored = open(home.path()).get(&id).unwrap();
    assert_eq!((stored.origin, stored.proven), (Origin::Harvested, true));
}

#[test]
fn what_a_person_asks_for_is_theirs_whoever_brought_it_first() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let finish = |origin| {
        let archive = publish_as(origin, &store, 1, &[noise(1, 5000)]).unwrap();
        let id = archive.manifest().id();
        (id, store.get(&id).unwrap().origin)
    };
    let (id, origin) = finish(Origin::Harvested);
    assert_eq!(origin, Origin::Harvested);
    let manifest = store.manifest(&id).unwrap();
    assert!(matches!(
        store.begin_download(manifest),
        Err(StoreError::AlreadyComplete(_))
    ));
    assert_eq!(store.get(&id).unwrap().origin, Origin::Fetched);
    assert_eq!(finish(Origin::Harvested).1, Origin::Fetched);
    assert_eq!(finish(Origin::Loaded).1, Origin::Fetched);
}

#[test]
fn deleting_a_missing_snapshot_forgets_its_pin() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let id = publish(&store, 1, &chunks).unwrap().manifest().id();
    store.pin(&id).unwrap();
    drop(store);
    std::fs::remove_file(archive_of(home.path(), &id)).unwrap();
    let store = open(home.path());
    store.delete(&id).unwrap();
    assert!(matches!(store.delete(&id), Err(StoreError::NotFound(_))));
    publish(&store, 1, &chunks).unwrap();
    assert!(!store.get(&id).unwrap().pinned);
}

#[test]
fn without_its_catalogue_a_home_pins_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let id = publish(&store, 1, &[noise(1, 5000)])
        .unwrap()
        .manifest()
        .id();
    drop(store);
    std::fs::remove_file(home.path().join("catalogue.json")).unwrap();
    let store = open(home.path());
    assert!(store.get(&id).unwrap().pinned);
    store.unpin(&id).unwrap();
    drop(store);
    assert!(!open(home.path()).get(&id).unwrap().pinned);
}

#[test]
fn deleting_a_damaged_snapshot_removes_what_was_moved_aside() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let ids: Vec<_> = (1..=2)
        .map(|height| {
            let archive = publish(&store, height, &[noise(height, 5000)]).unwrap();
            archive.manifest().id()
        })
        .collect();
    store.pin(&ids[0]).unwrap();
    drop(store);
    for id in &ids {
        flip(&archive_of(home.path(), id), 90);
    }
    let store = open(home.path());
    let damaged: Vec<_> = store.damaged().iter().map(|file| file.manifest()).collect();
    let mut expected: Vec<_> = ids.iter().map(|id| Some(*id)).collect();
    expected.sort_by_key(|id| id.unwrap().to_string());
    assert_eq!(damaged, expected);
    store.delete(&ids[0]).unwrap();
    assert_eq!(store.damaged().len(), 1);
    publish(&store, 1, &[noise(1, 5000)]).unwrap();
    assert!(!store.get(&ids[0]).unwrap().pinned, "deleted with its pin");
    // One that is here again goes with what is left of the first.
    publish(&store, 2, &[noise(2, 5000)]).unwrap();
    store.delete(&ids[1]).unwrap();
    assert_eq!(store.damaged(), []);
    assert_eq!(
        names(&home.path().join("snapshots")),
        [format!("{}.h5", ids[0])]
    );
}

#[test]
fn a_pinned_snapshot_that_was_damaged_is_pinned_again_when_it_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let archive = publish(&store, 1, &chunks).unwrap();
    let id = archive.manifest().id();
    store.pin(&id).unwrap();
    flip(archive.path(), offset_in(archive.path(), 0));
    verify(&store, &id).unwrap_err();
    drop(store);
    let store = open(home.path());
    publish(&store, 1, &chunks).unwrap();
    assert!(store.get(&id).unwrap().pinned);
}

#[test]
fn a_file_that_is_taken_away_under_a_running_store_is_let_go_of_and_told() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let stays = publish(&store, 2, &[noise(2, 5000)]).unwrap();
    let id = publish(&store, 1, &chunks).unwrap().manifest().id();
    store.pin(&id).unwrap();
    let chunk = snapswarm::snapshot::ChunkId(hash::sha256(&chunks[0]));
    assert!(store.find_chunk(&chunk).is_some());
    std::fs::remove_file(archive_of(home.path(), &id)).unwrap();
    store.look_again();
    let left: Vec<_> = store.list().iter().map(|one| one.manifest.id()).collect();
    assert_eq!(left, [stays.manifest().id()]);
    assert_eq!(store.missing(), [id]);
    assert!(store.find_chunk(&chunk).is_none(), "nobody is promised it");
    let told = store.enforce(Instant::now());
    assert_eq!(
        (told[0].id, told[0].because),
        (id, RemovedBecause::Vanished)
    );
    assert_eq!(store.enforce(Instant::now()), []);
    assert!(matches!(store.pin(&id), Err(StoreError::NotFound(_))));
    store.unpin(&id).unwrap();
    assert_eq!(store.missing(), [], "its pin can be taken back");
    publish(&store, 1, &chunks).unwrap();
    assert!(!store.get(&id).unwrap().pinned);
}

#[test]
fn a_piece_that_is_found_wrong_is_read_elsewhere_and_its_file_is_listed_until_it_is_verified() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 5000)];
    let chunk = snapswarm::snapshot::ChunkId(hash::sha256(&chunks[0]));
    let mut ids = [1, 2].map(|height| publish(&store, height, &chunks).unwrap().manifest().id());
    // The store looks in this order.
    ids.sort();
    let [id, other] = ids;
    let spoil = |id| {
        let file = archive_of(home.path(), id);
        flip(&file, offset_in(&file, 0));
    };
    spoil(&id);
    assert_eq!(store.read_piece(&chunk, 0).unwrap().unwrap(), chunks[0]);
    let damaged = |store: &Store| -> Vec<_> {
        let damaged = store.damaged();
        damaged.iter().map(|file| file.manifest()).collect()
    };
    assert_eq!(damaged(&store), [Some(id)]);
    drop(store);
    let store = open(home.path());
    spoil(&other);
    for _ in 0..2 {
        let read = store.read_piece(&chunk, 0);
        assert!(matches!(read, Err(StoreError::Damaged { .. })));
        assert_eq!(
            damaged(&store),
            [Some(id), Some(other)],
            "each is told once"
        );
    }
    spoil(&id);
    verify(&store, &id).unwrap();
    assert_eq!(store.read_piece(&chunk, 0).unwrap().unwrap(), chunks[0]);
    verify(&store, &other).unwrap_err();
    let aside: Vec<_> = store.damaged().into_iter().map(|file| file.path).collect();
    assert_eq!(aside.len(), 1, "the first was right after all: {aside:?}");
    assert!(aside[0].exists());
    // Removed: nothing is left of the doubt.
    store.delete(&other).unwrap();
    assert_eq!(store.damaged(), []);
}

#[test]
fn a_publication_without_room_ends_before_the_disk_is_full_of_it() {
    let home = tempfile::tempdir().unwrap();
    let settings = StoreSettings {
        quota_bytes: Some(1 << 20),
        ..StoreSettings::default()
    };
    let store = Store::open(home.path(), settings).unwrap();
    let mut spool = store.publish().unwrap();
    spool.require_room(1 << 20, 1 << 20).unwrap();
    let over = spool.require_room((1 << 20) + 1, 0).unwrap_err();
    assert!(matches!(over, StoreError::OverQuota { .. }), "{over}");
    spool.push(&noise(1, 1 << 20)).unwrap();
    let over = spool.push(&noise(2, 1)).unwrap_err();
    assert!(matches!(over, StoreError::OverQuota { .. }), "{over}");
    drop((spool, store));

    let store = open(home.path());
    let free = store.free_bytes().unwrap();
    let spool = store.publish().unwrap();
    let full = spool.require_room(free / 2 + (1 << 30), free / 2 + (1 << 30));
    assert!(matches!(full, Err(StoreError::NoSpace { .. })));
    let spare = 600 << 20;
    if free > 2 * spare {
        spool.require_room(free - spare, 0).unwrap();
        let shared = spool.leaving_space().require_room(free - spare, 0);
        assert!(matches!(shared, Err(StoreError::NoSpace { .. })));
    }
}
