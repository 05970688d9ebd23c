//! A process that works on a home and is killed (SIGKILL) at random points, again
//! and again. It tells on its output what it has done; all it told must be there
//! afterwards.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{Manifest, hash};
use snapswarm::store::{ChunkVerdict, StoreError};

use crate::support::*;

/// The child's home; set in children only.
const HOME: &str = "SNAPSWARM_TEST_KILL_HOME";
/// The seed of its order of work.
const SEED: &str = "SNAPSWARM_TEST_KILL_SEED";

/// Chunks of the snapshot that is downloaded, the last one twice.
fn chunks() -> Vec<Vec<u8>> {
    let sizes = [3 << 20, 100, (1 << 20) + 1, 2 << 20, 5000, 4 << 20, 1 << 20];
    let distinct = sizes.iter().enumerate();
    let mut chunks: Vec<_> = distinct
        .map(|(seed, size)| noise(seed as u64, *size))
        .collect();
    chunks.push(chunks[6].clone());
    chunks
}

fn manifest() -> Arc<Manifest> {
    Arc::new(manifest_of(1, &chunks()))
}

/// Lines of a child reach the pipe one by one.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{line}").unwrap();
    out.flush().unwrap();
}

#[test]
fn child_downloads() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let seed = std::env::var(SEED).unwrap().parse().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let store = open(Path::new(&home));
    let (manifest, chunks) = (manifest(), chunks());
    let download = store.begin_download(manifest.clone()).unwrap();
    let have = download.have();
    let mut missing: Vec<_> = manifest
        .piece_indexes()
        .filter(|index| !have.contains(index.get()))
        .collect();
    missing.shuffle(&mut random);
    for index in missing {
        tell(&format!("begin {}", index.get()));
        download.write(&[piece(&manifest, &chunks, index)]).unwrap();
        tell(&format!("written {}", index.get()));
        if random.random_ratio(1, 3) {
            download.sync().unwrap();
            tell("synced");
        }
        let chunk = manifest.piece(index).chunk;
        let have = download.have();
        if manifest
            .pieces_of(chunk)
            .all(|piece| have.contains(piece.get()))
        {
            assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
            tell("checked");
        }
    }
    for chunk in manifest.unique_indexes() {
        assert_eq!(download.check_chunk(chunk).unwrap(), ChunkVerdict::Checked);
        tell("checked");
    }
    tell("sealing");
    download.seal().unwrap();
    tell("sealed");
    wait_for_the_kill();
}

#[test]
fn child_publishes() {
    let Some(home) = std::env::var_os(HOME) else {
        return;
    };
    let store = open(Path::new(&home));
    tell("open");
    let first = store
        .list()
        .first()
        .map_or(1, |stored| stored.manifest.height() + 1);
    for height in first.. {
        let archive = publish(&store, height, &snapshot(height)).unwrap();
        tell(&format!("published {}", archive.manifest().id()));
        if height % 3 == 0 {
            store.pin(&archive.manifest().id()).unwrap();
            tell(&format!("pinned {}", archive.manifest().id()));
        }
    }
}

fn snapshot(height: u64) -> Vec<Vec<u8>> {
    vec![
        noise(height, 300_000),
        b"always".to_vec(),
        noise(height, 2000),
    ]
}

/// The parent closes the child's input when it dies.
fn wait_for_the_kill() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn spawn(child: &str, home: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--nocapture"])
        .env(HOME, home)
        .env(SEED, seed.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills a child a random while after it told its `after`th line; gives all
/// lines that it told.
fn run_and_kill(mut child: Child, after: usize, random: &mut ChaCha8Rng) -> Vec<String> {
    let mut told = Vec::new();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.map_while(Result::ok) {
        let Some(line) = line.strip_prefix('@') else {
            continue;
        };
        told.push(line.to_owned());
        if told.len() == after {
            // Somewhere inside of the next steps, not always at their beginning.
            for _ in 0..random.random_range(0..200_000) {
                std::hint::spin_loop();
            }
            child.kill().unwrap();
        }
        if line == "sealed" {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    told
}

/// Every piece that counts as here has its bytes in the file of the download.
fn assert_have_is_true(file: &Path, have: &snapswarm::snapshot::Bitmap, manifest: &Manifest) {
    let bytes = std::fs::read(file).unwrap();
    for index in manifest.piece_indexes() {
        if have.contains(index.get()) {
            let piece = manifest.piece(index);
            // Distinct chunks come before the repeated one here.
            let begin = offset_in(file, piece.chunk.get() as usize) + u64::from(piece.offset);
            let bytes = &bytes[begin as usize..][..piece.len as usize];
            assert_eq!(hash::sha256(bytes), piece.sha256, "{index:?}");
        }
    }
}

#[test]
fn a_killed_download_has_all_that_was_written_and_nothing_else() {
    let manifest = manifest();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let (mut kills, mut sealed) = (0, 0);
    while kills < 40 || sealed < 3 {
        let home = tempfile::tempdir().unwrap();
        let mut rewritten = 0;
        let mut runs = 0;
        loop {
            let seed = random.random();
            let child = spawn("kill::child_downloads", home.path(), seed);
            let after = random.random_range(1..25);
            let told = run_and_kill(child, after, &mut random);
            runs += 1;
            kills += 1;
            let store = open(home.path());
            assert_eq!(store.damaged(), []);
            let numbers = |word: &str| -> Vec<u32> {
                let lines = told.iter().filter_map(|line| line.strip_prefix(word));
                lines.map(|number| number.trim().parse().unwrap()).collect()
            };
            rewritten += numbers("begin").len() as u32;
            match store.begin_download(manifest.clone()) {
                Ok(download) => {
                    assert!(!told.iter().any(|line| line == "sealed"), "{told:?}");
                    for piece in numbers("written") {
                        assert!(download.have().contains(piece), "{told:?}");
                    }
                    assert_have_is_true(download.path(), &download.have(), &manifest);
                }
                Err(StoreError::AlreadyComplete(id)) => {
                    assert!(told.iter().any(|line| line == "sealing"), "{told:?}");
                    verify(&store, &id).unwrap();
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        // At most the piece that was being written is lost to each kill.
        assert!(
            rewritten <= manifest.piece_count() + runs,
            "{rewritten} writes for {} pieces in {runs} runs",
            manifest.piece_count()
        );
        sealed += 1;
    }
}

#[test]
fn a_killed_publication_leaves_what_was_published_and_nothing_half() {
    let home = tempfile::tempdir().unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(8);
    let mut published = 0;
    for _ in 0..25 {
        let child = spawn("kill::child_publishes", home.path(), 0);
        let after = random.random_range(1..6);
        let told = run_and_kill(child, after, &mut random);
        let store = open(home.path());
        assert_eq!(store.damaged(), []);
        assert_eq!(names(&home.path().join("spool")), [""; 0]);
        for line in &told {
            if let Some(id) = line.strip_prefix("published ") {
                verify(&store, &id.parse().unwrap()).unwrap();
                published += 1;
            }
            if let Some(id) = line.strip_prefix("pinned ") {
                assert!(store.get(&id.parse().unwrap()).unwrap().pinned);
            }
        }
        for stored in store.list() {
            verify(&store, &stored.manifest.id()).unwrap();
        }
    }
    assert!(published > 20, "only {published} publications in 25 runs");
}
