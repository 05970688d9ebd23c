//! Disks that are full, read-only, shared or wrong.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use snapswarm::snapshot::{ChunkId, Manifest, hash};
use snapswarm::store::{ChunkVerdict, ErrorKind, Origin, Store, StoreError, StoreSettings};

use crate::support::*;

#[test]
fn a_second_store_on_one_home_says_who_has_it() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let error = Store::open(home.path(), StoreSettings::default())
        .err()
        .expect("the home is taken");
    let pid = std::process::id();
    assert!(matches!(error, StoreError::Locked { pid: Some(by), .. } if by == pid));
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = format!("{error} {}", error.hint().unwrap());
    assert!(text.contains(&pid.to_string()), "{text}");
    assert!(text.contains("--home"), "{text}");

    let spool = store.publish().unwrap();
    drop(store);
    Store::open(home.path(), StoreSettings::default())
        .err()
        .expect("the spool still writes into the home");
    drop(spool);
    open(home.path());
}

#[test]
fn a_read_only_folder_is_named_with_what_to_do() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let open_to_all = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(parent.path(), open_to_all).unwrap();
    let home = parent.path().join("home");
    std::fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, PermissionsExt::from_mode(0o555)).unwrap();
    let opening = home.clone();
    let error = std::thread::spawn(move || {
        // Root may write everywhere; this thread now asks as somebody else.
        #[cfg(target_os = "linux")]
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65534));
        Store::open(&opening, StoreSettings::default()).err()
    })
    .join()
    .unwrap()
    .expect("the folder is not writable");
    let text = format!("{error}. {}", error.hint().unwrap());
    assert!(text.contains("Permission denied"), "{text}");
    assert!(text.contains(home.to_str().unwrap()), "{text}");
    assert!(text.contains("writable"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Storage);
}

/// A manifest that asks for more than the disk of `folder` has, and how much.
/// Nothing on a disk of more than 1.6 TB: no snapshot can be too large for it.
fn too_large_for(folder: &Path) -> Option<Manifest> {
    let stat = nix::sys::statvfs::statvfs(folder).unwrap();
    #[allow(clippy::unnecessary_cast)]
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    let size = snapswarm::snapshot::MAX_CHUNK_BYTES;
    let chunks = free / u64::from(size) + 2;
    let chunk = RawChunk {
        size,
        sha256: vec![1; 32],
        pieces: vec![2; size.div_ceil(1 << 20) as usize * 32],
    };
    (chunks <= 100_000 / 2).then(|| raw_manifest(vec![chunk; chunks as usize]))
}

#[test]
fn a_snapshot_larger_than_the_disk_is_refused_before_a_byte_of_it_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let Some(manifest) = too_large_for(home.path()) else {
        eprintln!("this disk is too large to be too small");
        return;
    };
    let total = manifest.total_bytes();
    let error = store
        .begin_download(Arc::new(manifest))
        .err()
        .expect("the disk is too small");
    match &error {
        StoreError::NoSpace {
            needed, available, ..
        } => {
            assert!(*needed >= total);
            assert!(available < needed);
        }
        other => panic!("{other}"),
    }
    assert!(error.hint().unwrap().contains("snapswarm delete"));
    assert!(store.list().is_empty());
    for folder in ["spool", "downloads", "snapshots"] {
        assert_eq!(names(&home.path().join(folder)), [""; 0]);
    }
}

/// Where the child of the test below finds its small disk.
const SMALL_DISK: &str = "SNAPSWARM_TEST_SMALL_DISK";

/// Leaves 64 KiB of a small disk.
fn fill(disk: &Path) {
    let stat = nix::sys::statvfs::statvfs(disk).unwrap();
    let free = stat.blocks_available() * stat.fragment_size() - (64 << 10);
    std::fs::write(disk.join("filler"), vec![1; free as usize]).unwrap();
}

/// Runs in a process of its own with a file system of 24 MB.
#[test]
fn child_on_a_small_disk() {
    let Some(disk) = std::env::var_os(SMALL_DISK) else {
        return;
    };
    let disk = Path::new(&disk);
    let is_full = |error: StoreError| {
        assert!(matches!(error, StoreError::NoSpace { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.hint().unwrap().contains("Free at least"));
    };
    let is_full_there = |error: StoreError| {
        assert!(matches!(error, StoreError::OutsideFull { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Storage);
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("another disk") && !hint.contains("delete"),
            "{hint}"
        );
    };
    let home = disk.join("home");
    let store = open(&home);
    let kept = publish(&store, 1, &[noise(1, 1 << 20)]).unwrap();
    let id = kept.manifest().id();

    // Full while chunks come.
    let mut spool = store.publish().unwrap();
    let pushed = (0..).map(|seed| spool.push(&noise(seed, 4 << 20)));
    is_full(pushed.take(8).find_map(Result::err).expect("8 × 4 MB"));
    drop(spool);
    // Full when the archive is made beside the spool.
    let mut spool = store.publish().unwrap();
    for seed in 0..2 {
        spool.push(&noise(seed, 4 << 20)).unwrap();
    }
    fill(disk);
    is_full(
        spool
            .finish(fields(2), Origin::Loaded, false, &mut quiet)
            .unwrap_err(),
    );
    std::fs::remove_file(disk.join("filler")).unwrap();
    // Full when a download begins.
    let large: Vec<_> = (0..6).map(|seed| noise(seed, 4 << 20)).collect();
    let manifest = Arc::new(manifest_of(3, &large));
    is_full(store.begin_download(manifest).err().unwrap());
    // Full while a CAR is written.
    fill(disk);
    let car = disk.join("out.car");
    is_full_there(store.export_car(&id, &car, &mut quiet).unwrap_err());
    let out = disk.join("out");
    is_full_there(store.export_files(&id, &out, &mut quiet).unwrap_err());
    // Full while a download is written: it goes on when there is room again.
    std::fs::remove_file(disk.join("filler")).unwrap();
    let chunks = [noise(7, 2 << 20)];
    let manifest = Arc::new(manifest_of(4, &chunks));
    let download = store.begin_download(manifest.clone()).unwrap();
    fill(disk);
    let write = |index| download.write(&[piece(&manifest, &chunks, index)]);
    is_full(
        manifest
            .piece_indexes()
            .find_map(|index| write(index).err())
            .unwrap(),
    );
    std::fs::remove_file(disk.join("filler")).unwrap();
    for index in manifest.piece_indexes() {
        write(index).unwrap();
    }
    let chunk = manifest.unique_index(0).unwrap();
    assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
    download.seal().unwrap();
    drop(download);

    drop(store);
    let store = open(&home);
    assert_eq!(store.list().len(), 2);
    verify(&store, &id).unwrap();
    verify(&store, &manifest.id()).unwrap();
    assert_eq!(names(&home.join("spool")), [""; 0]);
    println!("the small disk was survived");
}

#[test]
fn a_full_disk_is_an_error_that_says_what_to_do_and_nothing_is_lost() {
    let disk = tempfile::tempdir().unwrap();
    let child = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=24m none '{}' && exec '{}' --exact failures::child_on_a_small_disk \
         --nocapture",
        disk.path().display(),
        child.display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .env(SMALL_DISK, disk.path())
        .output()
        .expect("unshare (util-linux) makes the small disk");
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("unshare:") || stderr.contains("mount:") {
        // `crash_tests` fails every step with a full disk all the same.
        eprintln!("no small disk can be mounted here: {stderr}");
        return;
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("the small disk was survived"),
        "{stdout}\n{stderr}"
    );
}

#[test]
fn a_damaged_archive_is_moved_aside_and_the_others_are_served() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let good = publish(&store, 1, &[noise(1, 5000)]).unwrap();
    let bad: Vec<_> = (2..6)
        .map(|height| publish(&store, height, &[noise(height, 5000)]).unwrap())
        .collect();
    drop(store);
    flip(bad[0].path(), 90);
    let file = std::fs::File::options().write(true).open(bad[1].path());
    file.unwrap().set_len(6000).unwrap();
    std::fs::write(bad[2].path(), b"").unwrap();
    let manifest = bad[3].manifest();
    let manifest_offset = {
        let bytes = std::fs::read(bad[3].path()).unwrap();
        u64::from_le_bytes(bytes[32..40].try_into().unwrap())
    };
    flip(bad[3].path(), manifest_offset + 5);

    let store = open(home.path());
    assert_eq!(store.list().len(), 1);
    verify(&store, &good.manifest().id()).unwrap();
    let damaged = store.damaged();
    assert_eq!(damaged.len(), 4);
    for file in &damaged {
        assert!(file.path.to_str().unwrap().ends_with(".h5.damaged"));
        assert!(file.path.exists());
    }
    assert!(store.get(&manifest.id()).is_none());
    // The same snapshot can be made again.
    publish(&store, 2, &[noise(2, 5000)]).unwrap();
    drop(store);
    let store = open(home.path());
    assert_eq!((store.list().len(), store.damaged().len()), (2, 4));
}

#[test]
fn verifying_finds_a_changed_bit_names_it_and_stops_serving_it() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, 100), noise(2, (2 << 20) + 5)];
    let archive = publish(&store, 1, &chunks).unwrap();
    let id = archive.manifest().id();
    flip(archive.path(), offset_in(archive.path(), 1) + (1 << 20) + 9);
    let index = archive.manifest().chunk_index(1).unwrap();
    let read = archive.read_chunk(index).unwrap_err();
    assert_eq!(read.kind(), ErrorKind::Verification);
    let out = home.path().join("out");
    assert!(store.export_files(&id, &out, &mut quiet).is_err());
    assert!(
        store
            .export_car(&id, &home.path().join("out.car"), &mut quiet)
            .is_err()
    );
    let error = verify(&store, &id).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("chunk 1, piece 1"), "{text}");
    assert!(text.contains(archive.path().to_str().unwrap()), "{text}");
    assert_eq!(store.damaged().len(), 1);
    let chunk = ChunkId(hash::sha256(&chunks[0]));
    assert_eq!(store.read_piece(&chunk, 0).unwrap(), None);
    publish(&store, 1, &chunks).unwrap();
    verify(&store, &id).unwrap();
}

#[test]
fn an_archive_that_was_cut_short_under_us_is_an_error_that_names_the_file() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunk = noise(1, 2 << 20);
    let archive = publish(&store, 1, std::slice::from_ref(&chunk)).unwrap();
    let file = std::fs::File::options().write(true).open(archive.path());
    file.unwrap().set_len(1 << 20).unwrap();
    let id = ChunkId(hash::sha256(&chunk));
    let error = store.read_piece(&id, 1).unwrap_err().to_string();
    assert!(error.contains(archive.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_bit_that_flips_in_a_download_costs_its_piece_only() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks = [noise(1, (3 << 20) + 5)];
    let manifest = Arc::new(manifest_of(1, &chunks));
    let download = store.begin_download(manifest.clone()).unwrap();
    let pieces: Vec<_> = manifest
        .piece_indexes()
        .map(|index| piece(&manifest, &chunks, index))
        .collect();
    download.write(&pieces).unwrap();
    download.sync().unwrap();
    drop((download, store));
    let part = home
        .path()
        .join(format!("downloads/{}.h5.part", manifest.id()));
    flip(&part, offset_in(&part, 0) + (2 << 20));

    let store = open(home.path());
    let download = store.begin_download(manifest.clone()).unwrap();
    let chunk = manifest.unique_index(0).unwrap();
    let bad = manifest.piece_index(2).unwrap();
    assert_eq!(
        download.check_chunk(chunk).unwrap(),
        ChunkVerdict::Damaged(vec![bad])
    );
    assert_eq!(download.have().iter().collect::<Vec<_>>(), [0, 1, 3]);
    drop((download, store));
    let store = open(home.path());
    let download = store.begin_download(manifest.clone()).unwrap();
    assert!(
        !download.have().contains(2),
        "a restart does not bring it back"
    );
    download.write(&pieces[2..3]).unwrap();
    assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
    download.drop_chunk(chunk).unwrap();
    assert!(download.have().is_empty() && download.checked().is_empty());
    download.write(&pieces).unwrap();
    download.check_chunk(chunk).unwrap();
    download.seal().unwrap();
    verify(&store, &manifest.id()).unwrap();
}

#[test]
fn a_download_whose_file_was_taken_away_begins_again() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let manifest = Arc::new(manifest_of(1, &[noise(1, 5000)]));
    let download = store.begin_download(manifest.clone()).unwrap();
    std::fs::remove_file(download.path()).unwrap();
    drop(download);
    let download = store.begin_download(manifest.clone()).unwrap();
    assert!(download.have().is_empty());
    let first = manifest.piece_index(0).unwrap();
    let written = piece(&manifest, &[noise(1, 5000)], first);
    download.write(&[written]).unwrap();
    let chunk = manifest.unique_index(0).unwrap();
    assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
    download.seal().unwrap();
    verify(&store, &manifest.id()).unwrap();
}

#[test]
fn a_damaged_or_missing_sidecar_costs_nothing() {
    for damage in [
        (|path| flip(path, 60)) as fn(&Path),
        |path| std::fs::write(path, b"").unwrap(),
        |path| std::fs::write(path, vec![0xff; 1 << 20]).unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
    ] {
        let home = tempfile::tempdir().unwrap();
        let store = open(home.path());
        let chunks = [noise(1, 5 << 20)];
        let manifest = Arc::new(manifest_of(1, &chunks));
        let download = store.begin_download(manifest.clone()).unwrap();
        for index in manifest.piece_indexes().take(3) {
            download.write(&[piece(&manifest, &chunks, index)]).unwrap();
        }
        download.sync().unwrap();
        drop((download, store));
        let sidecar = home
            .path()
            .join(format!("downloads/{}.bitmap", manifest.id()));
        damage(&sidecar);
        let was_there = sidecar.exists();

        let store = open(home.path());
        assert_eq!(store.damaged().len(), usize::from(was_there));
        let download = store.begin_download(manifest.clone()).unwrap();
        assert_eq!(download.have().iter().collect::<Vec<_>>(), [0, 1, 2]);
    }
}

#[test]
fn a_damaged_catalogue_pins_everything_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    for height in 1..=3 {
        publish(&store, height, &[noise(height, 100)]).unwrap();
    }
    drop(store);
    std::fs::write(home.path().join("catalogue.json"), b"{\"version\":1,").unwrap();
    let settings = StoreSettings {
        max_snapshots: 1,
        ..StoreSettings::default()
    };
    let store = Store::open(home.path(), settings).unwrap();
    assert!(store.list().iter().all(|stored| stored.pinned));
    assert!(store.enforce(std::time::Instant::now()).is_empty());
    assert_eq!(store.damaged().len(), 1);
    assert!(home.path().join("catalogue.json.damaged").exists());
    drop(store);
    assert_eq!(open(home.path()).list().len(), 3);
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    std::fs::write(home.path().join("snapshots/notes.txt"), b"mine").unwrap();
    std::fs::write(home.path().join("downloads/x.h5.part"), b"mine").unwrap();
    std::fs::create_dir(home.path().join("snapshots/folder")).unwrap();
    let store = open(home.path());
    assert!(store.list().is_empty() && store.damaged().is_empty());
    assert!(home.path().join("snapshots/notes.txt").exists());
    assert!(home.path().join("downloads/x.h5.part").exists());
}

#[test]
fn temporaries_of_an_earlier_run_are_swept() {
    let home = tempfile::tempdir().unwrap();
    drop(open(home.path()));
    std::fs::write(home.path().join("spool/000000.h5"), b"half").unwrap();
    std::fs::write(home.path().join("spool/000001.chunks"), b"half").unwrap();
    open(home.path());
    assert_eq!(names(&home.path().join("spool")), [""; 0]);
}

#[test]
fn an_export_that_is_stopped_leaves_no_half_snapshot_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    let store = open(home.path());
    let chunks: Vec<_> = (1..=3).map(|seed| noise(seed, 5000)).collect();
    let id = publish(&store, 1, &chunks).unwrap().manifest().id();
    let folder = home.path().join("out");
    let mut stop = |done: u64, _: u64| {
        if done > 5000 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    for made_before in [false, true] {
        if made_before {
            std::fs::create_dir(&folder).unwrap();
        }
        let stopped = store.export_files(&id, &folder, &mut stop);
        assert!(matches!(stopped, Err(StoreError::Stopped)));
        assert_eq!(folder.exists(), made_before);
    }
    store.export_files(&id, &folder, &mut quiet).unwrap();
    assert_eq!(names(&folder), ["0000", "0001", "0002"]);
}
