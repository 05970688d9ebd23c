//! How long snapshots are kept.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapswarm::snapshot::ManifestId;
use snapswarm::store::{ErrorKind, Origin, RemovedBecause, Store, StoreError, StoreSettings};

use crate::support::*;

fn limited(home: &Path, change: impl FnOnce(&mut StoreSettings)) -> Store {
    let mut settings = StoreSettings::default();
    change(&mut settings);
    Store::open(home, settings).unwrap()
}

fn small(store: &Store, height: u64) -> ManifestId {
    let chunks = [noise(height, 100_000)];
    let archive = publish_as(Origin::Harvested, store, height, &chunks).unwrap();
    archive.manifest().id()
}

#[test]
fn the_newest_and_the_pinned_stay_and_the_rest_is_removed() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| settings.max_snapshots = 2);
    let ids: Vec<_> = (1..=5).map(|height| small(&store, height)).collect();
    store.pin(&ids[0]).unwrap();
    let removed = store.enforce(Instant::now());
    let heights: Vec<_> = removed.iter().map(|removed| removed.height).collect();
    assert_eq!(heights, [3, 2]);
    assert!(
        removed
            .iter()
            .all(|removed| removed.because == RemovedBecause::Superseded && removed.bytes > 100_000)
    );
    let left = |store: &Store| -> Vec<u64> {
        let all = store.list();
        all.iter().map(|stored| stored.manifest.height()).collect()
    };
    assert_eq!(left(&store), [5, 4, 1]);
    store.unpin(&ids[0]).unwrap();
    drop(store);
    let store = limited(home.path(), |settings| settings.max_snapshots = 2);
    assert_eq!(left(&store), [5, 4, 1]);
    assert_eq!(store.enforce(Instant::now()).len(), 1);
    assert_eq!(names(&home.path().join("snapshots")).len(), 2);
}

#[test]
fn what_a_person_brought_stays_and_a_full_quota_refuses_what_is_new() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| {
        settings.max_snapshots = 1;
        settings.quota_bytes = Some(350_000);
    });
    let loaded = publish(&store, 1, &[noise(1, 100_000)]).unwrap();
    let harvested = small(&store, 2);
    small(&store, 3);
    assert_eq!(store.enforce(Instant::now())[0].id, harvested);
    let error = publish(&store, 4, &[noise(4, 300_000)]).unwrap_err();
    assert!(matches!(error, StoreError::OverQuota { .. }), "{error}");
    assert!(error.to_string().contains("loaded"), "{error}");
    assert_eq!(store.list().len(), 2);
    publish(&store, 5, &[noise(5, 150_000)]).unwrap();
    assert!(store.get(&loaded.manifest().id()).is_some());
    assert_eq!(store.list().len(), 2, "the harvested one made room");
}

#[test]
fn a_lease_delays_a_removal_and_many_leases_no_longer_than_one() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| settings.max_snapshots = 1);
    let old = small(&store, 1);
    small(&store, 2);
    let start = Instant::now();
    let minute = Duration::from_secs(60);
    store.lease(&old, start);
    assert_eq!(
        store.get(&old).unwrap().leased_until,
        Some(start + 10 * minute)
    );
    for passed in 0..10 {
        let now = start + passed * minute;
        store.lease(&old, now);
        assert!(store.enforce(now).is_empty(), "minute {passed}");
    }
    let now = start + 10 * minute;
    store.lease(&old, now);
    assert_eq!(store.enforce(now).len(), 1);
    store.lease(&old, now);
}

#[test]
fn a_lease_that_nobody_renews_ends_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| {
        settings.max_snapshots = 1;
        settings.lease = Duration::from_secs(5);
    });
    let old = small(&store, 1);
    let start = Instant::now();
    store.lease(&old, start);
    small(&store, 2);
    assert!(store.enforce(start + Duration::from_secs(4)).is_empty());
    assert_eq!(store.enforce(start + Duration::from_secs(5)).len(), 1);
}

#[test]
fn the_quota_makes_room_by_removing_the_oldest_and_tells_it() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| settings.quota_bytes = Some(480_000));
    let now = Instant::now();
    let [first, second, third] = [1, 2, 3].map(|height| small(&store, height));
    store.lease(&first, now);
    assert!(store.enforce(now).is_empty());
    small(&store, 4);
    assert!(store.get(&second).is_none(), "the oldest without a lease");
    assert!(store.get(&first).is_some());
    store.lease(&third, now);
    small(&store, 5);
    assert!(
        store.get(&first).is_none(),
        "a lease never breaks the quota"
    );
    let told = store.enforce(now);
    let told: Vec<_> = told.iter().map(|gone| (gone.id, gone.because)).collect();
    let quota = RemovedBecause::Quota;
    assert_eq!(told, [(second, quota), (first, quota)]);
    assert!(store.enforce(now).is_empty());
    assert!(store.disk_bytes() <= 480_000);
}

#[test]
fn what_cannot_fit_the_quota_is_refused_and_removes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| settings.quota_bytes = Some(350_000));
    let kept = small(&store, 1);
    store.pin(&kept).unwrap();
    let going = small(&store, 2);
    let error = publish(&store, 3, &[noise(9, 300_000)]).unwrap_err();
    assert!(matches!(error, StoreError::OverQuota { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.hint().unwrap().contains("quota"));
    let manifest = Arc::new(manifest_of(3, &[noise(9, 600_000)]));
    assert!(matches!(
        store.begin_download(manifest.clone()),
        Err(StoreError::OverQuota { .. })
    ));
    assert!(store.get(&kept).is_some() && store.get(&going).is_some());
    // The refusal gave its name and its room back.
    assert!(matches!(
        store.begin_download(manifest),
        Err(StoreError::OverQuota { .. })
    ));
    small(&store, 4);
}

#[test]
fn a_download_under_way_is_never_removed_and_one_that_rests_can_be() {
    let home = tempfile::tempdir().unwrap();
    let store = limited(home.path(), |settings| settings.quota_bytes = Some(450_000));
    let manifest = Arc::new(manifest_of(1, &[noise(1, 250_000)]));
    let download = store.begin_download(manifest.clone()).unwrap();
    assert!(matches!(
        publish(&store, 2, &[noise(2, 250_000)]),
        Err(StoreError::OverQuota { .. })
    ));
    drop(download);
    publish(&store, 2, &[noise(2, 250_000)]).unwrap();
    assert!(store.get(&manifest.id()).is_none());
    assert_eq!(names(&home.path().join("downloads")), [""; 0]);
}

#[test]
fn a_reader_of_a_deleted_snapshot_reads_on() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let id = small(&store, 1);
    let archive = store.archive(&id).unwrap();
    store.delete(&id).unwrap();
    assert!(matches!(store.delete(&id), Err(StoreError::NotFound(_))));
    let index = archive.manifest().chunk_index(0).unwrap();
    assert_eq!(archive.read_chunk(index).unwrap(), noise(1, 100_000));
    assert_eq!(store.disk_bytes(), 0);
}
