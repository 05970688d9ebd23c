//! Crashes before every step that the store takes on the disk, and every step
//! failing once.
//!
//! A crash is looked at twice: as a kill of the process, where all that was done
//! stays, and as a loss of power, where only what was synced stays: of a file its
//! bytes at its last fsync, of a folder its names at its last fsync.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirEntryExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{Faults, Step};
use super::state::Inner;
use super::testing::{fields, manifest_at, names, noise, piece};
use super::*;
use crate::snapshot::hash;

const FOLDERS: [&str; 4] = ["", "snapshots", "downloads", "spool"];

/// What a loss of power leaves.
#[derive(Default)]
struct Durable {
    /// By inode.
    files: HashMap<u64, Vec<u8>>,
    folders: HashMap<PathBuf, BTreeMap<OsString, u64>>,
}

/// Ends the store before step number `at`, and keeps the home as it was then.
struct Crash {
    home: PathBuf,
    at: usize,
    steps: AtomicUsize,
    durable: Mutex<Durable>,
    killed: PathBuf,
    unpowered: PathBuf,
}

impl Crash {
    fn new(folder: &Path, at: usize) -> Arc<Self> {
        Arc::new(Self {
            home: folder.join("home"),
            at,
            steps: AtomicUsize::new(0),
            durable: Mutex::default(),
            killed: folder.join("killed"),
            unpowered: folder.join("unpowered"),
        })
    }

    fn happened(&self) -> bool {
        self.steps.load(Ordering::SeqCst) > self.at
    }

    fn keep_images(&self) -> io::Result<()> {
        let durable = self.durable.lock().unwrap();
        for folder in FOLDERS {
            let (from, killed) = (self.home.join(folder), self.killed.join(folder));
            std::fs::create_dir_all(&killed)?;
            for entry in std::fs::read_dir(&from)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    std::fs::copy(entry.path(), killed.join(entry.file_name()))?;
                }
            }
            let unpowered = self.unpowered.join(folder);
            std::fs::create_dir_all(&unpowered)?;
            for (name, inode) in durable.folders.get(&from).into_iter().flatten() {
                let bytes = durable.files.get(inode).cloned().unwrap_or_default();
                std::fs::write(unpowered.join(name), bytes)?;
            }
        }
        Ok(())
    }
}

impl Faults for Crash {
    fn before(&self, _: Step, _: &Path) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst);
        if step == self.at {
            self.keep_images().unwrap();
        }
        if step >= self.at {
            return Err(io::Error::other("the machine is off"));
        }
        Ok(())
    }

    fn after(&self, step: Step, path: &Path) {
        let mut durable = self.durable.lock().unwrap();
        match step {
            Step::Create => {
                let inode = std::fs::metadata(path).unwrap().ino();
                durable.files.remove(&inode);
            }
            Step::SyncFile => {
                let inode = std::fs::metadata(path).unwrap().ino();
                durable.files.insert(inode, std::fs::read(path).unwrap());
            }
            Step::SyncFolder => {
                let files = std::fs::read_dir(path).unwrap().map(Result::unwrap);
                let names = files
                    .filter(|entry| entry.file_type().unwrap().is_file())
                    .map(|entry| (entry.file_name(), entry.ino()))
                    .collect();
                // The root is named with and without a slash at its end.
                durable
                    .folders
                    .insert(path.components().collect::<PathBuf>().join(""), names);
            }
            Step::Skeleton
            | Step::Allocate
            | Step::GiveBack
            | Step::Write
            | Step::Rename
            | Step::Remove => {}
        }
    }
}

/// Fails step number `at` once.
struct FailOnce {
    at: usize,
    steps: AtomicUsize,
    error: io::ErrorKind,
}

impl Faults for FailOnce {
    fn before(&self, _: Step, _: &Path) -> io::Result<()> {
        match self.steps.fetch_add(1, Ordering::SeqCst) == self.at {
            true => Err(self.error.into()),
            false => Ok(()),
        }
    }

    fn after(&self, _: Step, _: &Path) {}
}

/// A folder in memory where there is one: these tests sync some ten thousand
/// times, and model what a disk keeps themselves.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open_with(home: &Path, faults: Option<Arc<dyn Faults>>) -> Result<Store, StoreError> {
    let inner = Inner::open(home, StoreSettings::default(), |disk| disk.faults = faults)?;
    Ok(Store(Arc::new(inner)))
}

/// Two snapshots that share a chunk; the first has a chunk twice.
struct Content {
    big: Vec<u8>,
    small: Vec<u8>,
    other: Vec<u8>,
}

impl Content {
    fn new() -> Self {
        Self {
            big: noise(1, (1 << 20) + 100),
            small: noise(2, 4000),
            other: noise(3, 70_000),
        }
    }

    fn first(&self) -> [&[u8]; 4] {
        [&self.big, &self.small, &self.big, &self.other]
    }

    fn second(&self) -> [&[u8]; 2] {
        [&self.small, &self.other]
    }
}

fn publish(store: &Store, height: u64, chunks: &[&[u8]]) -> Result<ManifestId, StoreError> {
    let mut spool = store.publish()?;
    for chunk in chunks {
        spool.push(chunk)?;
    }
    let mut go_on = |_, _| ControlFlow::Continue(());
    let archive = spool.finish(fields(height), Origin::Loaded, true, &mut go_on)?;
    Ok(archive.manifest().id())
}

/// What must hold of a home after any crash.
fn check_home(store: &Store, what: &str) {
    assert_eq!(store.damaged(), [], "{what}");
    assert_eq!(names(&store.home().join("spool")), [""; 0], "{what}");
    for stored in store.list() {
        if stored.complete {
            let id = stored.manifest.id();
            store
                .verify(&id, &mut |_, _| std::ops::ControlFlow::Continue(()))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

/// Runs `script` with a crash before each of its steps; `check` looks at each
/// home that is left, with what the script had noted by then.
fn crash_everywhere<N: Default>(
    script: impl Fn(&Store, &mut N) -> Result<(), StoreError>,
    check: impl Fn(&Store, &N, &str),
) {
    for at in 0.. {
        let folder = scratch();
        let crash = Crash::new(folder.path(), at);
        let mut notes = N::default();
        let outcome = open_with(&crash.home, Some(crash.clone()))
            .and_then(|store| script(&store, &mut notes));
        if !crash.happened() {
            outcome.unwrap();
            assert!(at > 10, "the script takes {at} steps only");
            return;
        }
        for (home, how) in [(&crash.killed, "kill"), (&crash.unpowered, "power")] {
            let what = format!("{how} before step {at}");
            let store = open_with(home, None).unwrap_or_else(|error| panic!("{what}: {error}"));
            check_home(&store, &what);
            check(&store, &notes, &what);
            check_home(&store, &what);
        }
    }
}

#[derive(Default)]
struct Published {
    first: Option<ManifestId>,
    pinned: bool,
    second: Option<ManifestId>,
    deleted: bool,
}

#[test]
fn a_publication_that_returned_survives_any_crash_and_one_that_did_not_leaves_nothing_half() {
    let content = Content::new();
    crash_everywhere(
        |store, notes: &mut Published| {
            notes.first = Some(publish(store, 1, &content.first())?);
            store.pin(&notes.first.unwrap())?;
            notes.pinned = true;
            notes.second = Some(publish(store, 2, &content.second())?);
            store.delete(&notes.second.unwrap())?;
            notes.deleted = true;
            Ok(())
        },
        |store, notes, what| {
            if let Some(first) = notes.first {
                let stored = store.get(&first).unwrap_or_else(|| panic!("{what}"));
                assert!(stored.complete && stored.proven, "{what}");
                assert_eq!(stored.origin, Origin::Loaded, "{what}");
                assert!(stored.pinned || !notes.pinned, "{what}");
            }
            if let Some(second) = notes.second
                && notes.deleted
            {
                assert!(store.get(&second).is_none(), "{what}");
            }
            let first = publish(store, 1, &content.first()).unwrap();
            let second = publish(store, 2, &content.second()).unwrap();
            assert!(store.get(&first).unwrap().complete, "{what}");
            assert!(store.get(&second).unwrap().complete, "{what}");
        },
    );
}

#[derive(Default)]
struct Downloaded {
    written: Vec<u32>,
    synced: Vec<u32>,
    sealed: bool,
}

/// Writes and checks what is missing, sealing at the end.
fn download(
    store: &Store,
    chunks: &[&[u8]],
    notes: &mut Downloaded,
) -> Result<ManifestId, StoreError> {
    let manifest = Arc::new(manifest_at(1, chunks));
    let download = store.begin_download(manifest.clone())?;
    for index in manifest.piece_indexes() {
        download.write(&[piece(&manifest, chunks, index)])?;
        notes.written.push(index.get());
        if index.get() % 2 == 1 {
            download.sync()?;
            notes.synced = notes.written.clone();
        }
    }
    for chunk in manifest.unique_indexes() {
        assert_eq!(download.check_chunk(chunk)?, ChunkVerdict::Checked);
        download.sync()?;
    }
    notes.synced = notes.written.clone();
    download.seal()?;
    notes.sealed = true;
    Ok(manifest.id())
}

/// Each piece that counts as here has its bytes in the file.
fn check_have(download: &Download, what: &str) {
    let file = std::fs::File::open(download.path()).unwrap();
    let manifest = download.manifest();
    for index in manifest.piece_indexes() {
        if download.have().contains(index.get()) {
            let piece = manifest.piece(index);
            let mut bytes = vec![0; piece.len as usize];
            let begin = download.entry().contents.offset_of(piece.chunk);
            file.read_exact_at(&mut bytes, begin + u64::from(piece.offset))
                .unwrap();
            assert_eq!(hash::sha256(&bytes), piece.sha256, "{what}: {index:?}");
        }
    }
}

#[test]
fn a_download_loses_nothing_written_in_a_kill_and_nothing_synced_in_a_loss_of_power() {
    let content = Content::new();
    let chunks = content.first();
    let id = manifest_at(1, &chunks).id();
    crash_everywhere(
        |store, notes: &mut Downloaded| download(store, &chunks, notes).map(|_| ()),
        |store, notes, what| {
            let complete = store.get(&id).is_some_and(|stored| stored.complete);
            assert!(complete || !notes.sealed, "{what}");
            if !complete {
                let manifest = Arc::new(manifest_at(1, &chunks));
                let download = store.begin_download(manifest).unwrap();
                let kept = match what.starts_with("kill") {
                    true => &notes.written,
                    false => &notes.synced,
                };
                for piece in kept {
                    assert!(download.have().contains(*piece), "{what}: piece {piece}");
                }
                check_have(&download, what);
                drop(download);
                self::download(store, &chunks, &mut Downloaded::default()).unwrap();
            }
            assert_eq!(names(&store.home().join("downloads")), [""; 0], "{what}");
            assert!(store.get(&id).unwrap().complete, "{what}");
        },
    );
}

#[test]
fn a_step_that_fails_once_is_an_error_that_a_repetition_mends() {
    let content = Content::new();
    for error in [
        io::ErrorKind::StorageFull,
        io::ErrorKind::ReadOnlyFilesystem,
    ] {
        for at in 0.. {
            let folder = scratch();
            let faults = Arc::new(FailOnce {
                at,
                steps: AtomicUsize::new(0),
                error,
            });
            let mut failures = 0;
            let mut again = |failed: StoreError| {
                failures += 1;
                let no_space = matches!(failed, StoreError::NoSpace { .. });
                assert_eq!(no_space, error == io::ErrorKind::StorageFull, "{failed}");
                assert!(failed.hint().is_some(), "{failed}");
            };
            let store = loop {
                match open_with(folder.path(), Some(faults.clone())) {
                    Ok(store) => break store,
                    Err(error) => again(error),
                }
            };
            let mut retried = |action: &dyn Fn() -> Result<(), StoreError>| {
                while let Err(error) = action() {
                    again(error);
                }
            };
            retried(&|| {
                download(&store, &content.first(), &mut Downloaded::default()).map_err_done()
            });
            retried(&|| publish(&store, 2, &content.second()).map(|_| ()));
            retried(&|| store.pin(&manifest_at(2, &content.second()).id()));
            check_state(&store, at);
            drop(store);
            let store = open_with(folder.path(), None).unwrap();
            check_state(&store, at);
            let steps = faults.steps.load(Ordering::SeqCst);
            assert!(failures <= 1, "step {at}: {failures} failures");
            if steps <= at {
                assert!(at > 20 && failures == 0);
                break;
            }
        }
    }
}

fn check_state(store: &Store, at: usize) {
    let what = format!("failure of step {at}");
    check_home(store, &what);
    assert_eq!(store.list().len(), 2, "{what}");
    assert!(store.list().iter().all(|stored| stored.complete), "{what}");
    assert!(store.list()[0].pinned, "{what}");
}

/// A repetition of a seal that had worked finds the snapshot complete.
trait Done {
    fn map_err_done(self) -> Result<(), StoreError>;
}

impl Done for Result<ManifestId, StoreError> {
    fn map_err_done(self) -> Result<(), StoreError> {
        match self {
            Err(StoreError::AlreadyComplete(_)) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
