//! Copying a storage that somebody else writes.

use std::os::unix::fs::{FileExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::blocks::Run;
use super::*;

const LIMIT: Duration = Duration::from_secs(60);

struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in [CONTRACTS, RUN] {
            fs::create_dir_all(folder.path().join("node").join(name)).unwrap();
        }
        let node = Self { folder };
        node.commit(1);
        node
    }

    fn storage(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.storage().join(name), bytes).unwrap();
    }

    fn commit(&self, height: u64) {
        let app_hash = vec![height as u8; 32].into();
        let json = LatestBlock { height, app_hash }.to_json();
        self.write("__latest_block.json", json.as_bytes());
    }

    fn copier(&self) -> Copier {
        let two = NonZeroUsize::new(2).unwrap();
        Copier::new(&self.storage(), &self.folder.path().join("copy"), two).unwrap()
    }

    /// Every file of the state is the same here and there, and there is no other.
    fn assert_same(&self, copier: &Copier) {
        let names = |storage: &Path| -> Vec<String> {
            let files = state_files(storage).unwrap();
            files.iter().map(|file| file.scope.to_string()).collect()
        };
        let here = names(&self.storage());
        assert_eq!(names(&copier.copy), here);
        for name in here {
            let original = fs::read(self.storage().join(&name)).unwrap();
            let copied = fs::read(copier.copy.join(&name)).unwrap();
            assert!(original == copied, "{name} differs");
        }
    }
}

fn never() -> bool {
    false
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Lets the clock by which files are stamped go on, so that a change shows.
fn settle(copier: &mut Copier) {
    let began = Instant::now();
    while copier.ahead(&never).unwrap().changed_files > 0 {
        assert!(began.elapsed() < LIMIT, "the files do not settle");
    }
}

#[test]
fn a_copy_is_brought_up_to_date_by_what_changed() {
    let node = Node::new();
    let mut bytes = noise(70 << 20, 1);
    node.write("contract_state/currency", &bytes);
    node.write("contract_state/con_small", b"small");
    node.write("run_state/__n", b"nonces");
    node.write("run_state/__pn", b"of the mempool");
    let mut copier = node.copier();
    let first = copier.ahead(&never).unwrap();
    assert_eq!((first.files, first.changed_files), (3, 3));
    settle(&mut copier);

    for at in [0, 40 << 20, bytes.len() - 1] {
        bytes[at] ^= 1;
    }
    bytes.extend(noise(100_000, 2));
    node.write("contract_state/currency", &bytes);
    node.commit(2);
    let held = copier.held(2, LIMIT).unwrap().write().unwrap();
    assert_eq!(held.block.height, 2);
    assert_eq!(held.stats.changed_files, 1);
    if held.stats.cloned_files == 0 {
        assert_eq!(held.stats.read_bytes, bytes.len() as u64);
        assert!(held.stats.written_bytes < 300_000, "{:?}", held.stats);
    }
    node.assert_same(&copier);
    assert_eq!(LatestBlock::read(&copier.copy).unwrap(), held.block);
}

#[test]
fn files_grow_shrink_come_and_go() {
    let node = Node::new();
    let mut copier = node.copier();
    for (round, len) in [50_000, 16 << 10, 1, 0, 40_000, 100_000]
        .into_iter()
        .enumerate()
    {
        node.write("contract_state/currency", &noise(len, round as u64));
        node.write(&format!("contract_state/con_{round}"), b"new");
        if round > 0 {
            let gone = format!("contract_state/con_{}", round - 1);
            fs::remove_file(node.storage().join(gone)).unwrap();
        }
        if round % 2 == 0 {
            copier.ahead(&never).unwrap();
        }
        copier.held(1, LIMIT).unwrap().write().unwrap();
        node.assert_same(&copier);
    }
}

#[test]
fn a_change_that_the_clock_does_not_show_is_copied() {
    let node = Node::new();
    let mut copier = node.copier();
    // The clock of a file system stands still for some milliseconds: many of these
    // changes have the time of the copy before.
    for round in 0..200_u8 {
        node.write("contract_state/currency", &[round; 1000]);
        copier.ahead(&never).unwrap();
        node.write("contract_state/currency", &[round ^ 0xff; 1000]);
        copier.held(1, LIMIT).unwrap().write().unwrap();
        node.assert_same(&copier);
    }
}

#[test]
fn a_held_copy_that_is_not_written_leaves_the_copy_as_it_was_and_costs_nothing_else() {
    let node = Node::new();
    let mut bytes = noise(1 << 20, 5);
    node.write("contract_state/currency", &bytes);
    let mut copier = node.copier();
    settle(&mut copier);
    bytes[700_000] ^= 1;
    bytes.truncate(900_000);
    node.write("contract_state/currency", &bytes);
    drop(copier.held(1, LIMIT).unwrap());
    let copied = fs::read(copier.copy.join("contract_state/currency")).unwrap();
    assert_eq!(copied.len(), 1 << 20);
    bytes[300_000] ^= 1;
    node.write("contract_state/currency", &bytes);
    copier.held(1, LIMIT).unwrap().write().unwrap();
    node.assert_same(&copier);
}

#[test]
fn more_than_is_kept_in_memory_is_written_at_once() {
    let node = Node::new();
    let bytes = noise(100 << 20, 6);
    node.write("contract_state/currency", &bytes);
    node.write("contract_state/con_small", b"small");
    let mut copier = node.copier();
    let held = copier.held(1, LIMIT).unwrap();
    let kept: u64 = held.later.runs.iter().map(Run::bytes).sum();
    assert!((1..=64 << 20).contains(&kept), "{kept}");
    assert_eq!(held.stats.written_bytes, bytes.len() as u64 + 5);
    let copied = held.write().unwrap();
    assert_eq!(copied.stats.changed_files, 2);
    node.assert_same(&copier);
}

#[test]
fn what_is_not_done_in_time_is_given_up_and_done_the_next_time() {
    let node = Node::new();
    node.write("contract_state/currency", &noise(1 << 20, 3));
    let mut copier = node.copier();
    let late = copier.held(1, Duration::ZERO).map(drop).unwrap_err();
    assert!(
        matches!(late, XianError::HeldTooLong { limit_ms: 0, .. }),
        "{late}"
    );
    copier.held(1, LIMIT).unwrap().write().unwrap();
    node.assert_same(&copier);
}

#[test]
fn a_storage_that_does_not_keep_still_is_no_copy() {
    let node = Node::new();
    node.write("contract_state/currency", b"one");
    let mut copier = node.copier();
    copier.ahead(&never).unwrap();
    let before = state_files(&node.storage()).unwrap();
    node.write("contract_state/currency", b"two, and longer");
    assert_ne!(before, state_files(&node.storage()).unwrap());
    node.write("contract_state/con_new", b"");
    assert_ne!(before, state_files(&node.storage()).unwrap());

    // Somebody writes all the time, and is seen sooner or later.
    let writing = write_until_dropped(&node, "contract_state/con_new", Duration::ZERO);
    let began = Instant::now();
    loop {
        match copier.held(1, Duration::from_millis(500)) {
            Err(XianError::HeldTooLong { .. }) => break,
            Ok(_) => assert!(began.elapsed() < LIMIT, "it was never seen"),
            Err(error) => panic!("{error}"),
        }
    }
    drop(writing);
    copier.held(1, LIMIT).unwrap().write().unwrap();
    node.assert_same(&copier);
}

/// Writes other bytes into a file, again and again.
fn write_until_dropped(node: &Node, name: &str, pause: Duration) -> Writing {
    let stop = Arc::<AtomicBool>::default();
    let mut options = fs::File::options();
    options.write(true).create(true).truncate(false);
    let file = options.open(node.storage().join(name)).unwrap();
    let is_stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        for number in 0_u64.. {
            file.write_all_at(&number.to_le_bytes(), 0).unwrap();
            if is_stopped.load(Ordering::Relaxed) {
                break;
            }
            std::thread::sleep(pause);
        }
    });
    Writing {
        stop,
        thread: Some(thread),
    }
}

struct Writing {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_file_that_is_touched_now_and_then_while_it_is_held_is_read_again() {
    let node = Node::new();
    node.write("contract_state/con_touched", &[0; 8]);
    let mut copier = node.copier();
    let began = Instant::now();
    let mut seed = 7;
    loop {
        node.write("contract_state/currency", &noise(50 << 20, seed));
        let writing = write_until_dropped(
            &node,
            "contract_state/con_touched",
            Duration::from_millis(100),
        );
        let held = copier.held(1, LIMIT).unwrap();
        drop(writing);
        let held = held.write().unwrap();
        let currency = fs::read(node.storage().join("contract_state/currency")).unwrap();
        assert!(fs::read(copier.copy.join("contract_state/currency")).unwrap() == currency);
        if held.stats.changed_files > 2 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "it was never read again");
        seed += 1;
    }
}

#[test]
fn a_storage_of_another_height_is_not_read() {
    let node = Node::new();
    node.write("contract_state/currency", b"bytes");
    let mut copier = node.copier();
    let other = copier.held(2, LIMIT).map(drop).unwrap_err();
    assert!(
        matches!(
            other,
            XianError::OtherHeight {
                found: 1,
                expected: 2
            }
        ),
        "{other}"
    );
    assert!(!copier.copy.join("contract_state/currency").exists());
}

#[test]
fn links_are_not_followed_and_nothing_in_the_storage_changes() {
    let node = Node::new();
    node.write("contract_state/currency", b"bytes");
    node.write("elsewhere", b"secret");
    let link = node.storage().join("contract_state/con_link");
    symlink(node.storage().join("elsewhere"), &link).unwrap();
    let mut copier = node.copier();
    for error in [
        copier.ahead(&never).unwrap_err(),
        copier.held(1, LIMIT).map(drop).unwrap_err(),
    ] {
        assert!(error.to_string().contains("con_link"), "{error}");
    }
    assert!(open_regular(&link).is_err());
    fs::remove_file(link).unwrap();
    let before = state_files(&node.storage()).unwrap();
    copier.ahead(&never).unwrap();
    copier.held(1, LIMIT).unwrap().write().unwrap();
    assert_eq!(before, state_files(&node.storage()).unwrap());
}

#[test]
fn copying_ahead_stops_when_it_is_told_to() {
    let node = Node::new();
    node.write("contract_state/currency", &noise(1 << 20, 4));
    let stopped = node.copier().ahead(&|| true).unwrap_err();
    assert!(matches!(stopped, XianError::Stopped));
}

#[test]
fn a_copier_begins_with_an_empty_folder() {
    let node = Node::new();
    node.write("contract_state/currency", b"now");
    let copier = node.copier();
    fs::write(copier.copy.join("contract_state/con_old"), b"old").unwrap();
    let mut copier = node.copier();
    copier.ahead(&never).unwrap();
    node.assert_same(&copier);
}
