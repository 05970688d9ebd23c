//! A Xian node's storage: how fast it is read, made anew and copied.
//!
//! ```text
//! python3 tests/xian/generate.py STORAGE --records 1000000 --files 20 --grown
//! cargo bench --bench xian -- STORAGE WORK [read] [snapshot] [restore] [copy]
//! ```
//!
//! Without a word after WORK all four. *read* takes the records, *snapshot* makes chunks
//! of them, *restore* makes compact files of a snapshot in WORK, *copy* copies STORAGE to
//! WORK, lets "blocks" change three of its files, and measures how long the held part of
//! a copy takes. With WORK on XFS or btrfs that copy is by cloning. Memory is that of all
//! processes together, looked at every 20 ms.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::snapshot::{Manifest, ManifestBuilder, Target};
use snapswarm::state::ChunkSize;
use snapswarm::xian::{
    Copier, LatestBlock, Reading, StorageRecords, Workers, XianSource, XianTarget,
};

/// Files that a block changes.
const FILES_CHANGED: usize = 3;
/// Places in each of them, of a page.
const PLACES_CHANGED: usize = 40;
/// Bytes that it grows by.
const BYTES_ADDED: usize = 8192;
/// Blocks whose copy is held.
const ROUNDS: usize = 200;
/// Blocks before, that are told apart: their files may have to come from the disk.
const COLD_ROUNDS: usize = 20;
/// No bound: the bench wants to see how long it takes.
const NO_LIMIT: Duration = Duration::from_secs(60);
/// Room for what is read ahead.
const SPOOL_BYTES: u64 = 4 << 30;

fn main() -> Result<()> {
    let mut words = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"));
    let usage = "cargo bench --bench xian -- STORAGE WORK [read] [snapshot] [restore] [copy]";
    let storage = PathBuf::from(words.next().context(usage)?);
    let work = PathBuf::from(words.next().context(usage)?);
    let wanted: Vec<String> = words.collect();
    let is_wanted = |word: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == word);
    let reading = Reading {
        workers: Workers {
            program: env!("CARGO_BIN_EXE_snapswarm").into(),
            arguments: vec!["__xian".into()],
            at_most: std::thread::available_parallelism()?,
            patience: Workers::PATIENCE,
        },
        spool: work.clone(),
        spool_bytes: SPOOL_BYTES,
    };
    if is_wanted("read") {
        read(&storage, &reading)?;
    }
    if is_wanted("snapshot") || is_wanted("restore") {
        let (manifest, chunks) = snapshot(&storage, &reading)?;
        if is_wanted("restore") {
            restore(&storage, &work, &reading.workers, &manifest, &chunks)?;
        }
    }
    if is_wanted("copy") {
        copy(&storage, &work)?;
    }
    Ok(())
}

fn read(storage: &Path, reading: &Reading) -> Result<()> {
    let memory = Memory::watch();
    let began = Instant::now();
    let (mut records, mut bytes) = (0_u64, 0);
    for record in StorageRecords::open(storage, reading)? {
        records += 1;
        bytes += record?.content_bytes();
    }
    let megabytes = bytes / 1_000_000;
    row(
        "read",
        records,
        began.elapsed(),
        &memory,
        &format!("{megabytes} MB of keys and values"),
    );
    Ok(())
}

fn snapshot(storage: &Path, reading: &Reading) -> Result<(Manifest, Vec<Bytes>)> {
    let memory = Memory::watch();
    let began = Instant::now();
    let source = XianSource::new(storage, reading, ChunkSize::MAX, None, || false);
    let (mut builder, mut chunks) = (ManifestBuilder::new(), Vec::new());
    let made = source.make(|chunk| -> Result<()> {
        builder.push(chunk)?;
        chunks.push(Bytes::copy_from_slice(chunk));
        Ok(())
    })?;
    let took = began.elapsed();
    let bytes: usize = chunks.iter().map(Bytes::len).sum();
    let about = format!("{} chunks, {} MB", chunks.len(), bytes / 1_000_000);
    row("snapshot", made.notes.state.records, took, &memory, &about);
    let fields = made.fields("bench");
    Ok((builder.finish_state(fields, made.state)?, chunks))
}

fn restore(
    storage: &Path,
    work: &Path,
    workers: &Workers,
    manifest: &Manifest,
    chunks: &[Bytes],
) -> Result<()> {
    let made = work.join("restored");
    let memory = Memory::watch();
    let began = Instant::now();
    let mut target = XianTarget::new(&made, workers);
    target.begin(manifest)?;
    for (index, chunk) in manifest.chunk_indexes().zip(chunks) {
        target.chunk(index, chunk)?;
    }
    target.finish()?;
    let took = began.elapsed();
    let stats = target.stats().context("it is restored")?;
    let before: u64 = files_of(storage)?.iter().map(|(_, bytes)| bytes).sum();
    let about = format!(
        "{} MB in the place of {} MB: 1/{:.1}",
        stats.bytes / 1_000_000,
        before / 1_000_000,
        before as f64 / stats.bytes as f64
    );
    row("restore", stats.records, took, &memory, &about);
    fs::remove_dir_all(&made)?;
    Ok(())
}

fn copy(storage: &Path, work: &Path) -> Result<()> {
    let node = work.join("node");
    fs::create_dir_all(node.join("contract_state"))?;
    fs::copy(LatestBlock::path(storage), LatestBlock::path(&node))?;
    for (path, _) in files_of(storage)? {
        let name = path.file_name().context("a file")?;
        fs::copy(&path, node.join("contract_state").join(name))?;
    }
    let height = LatestBlock::read(&node)?.height;
    let files = files_of(&node)?;
    ensure!(files.len() >= FILES_CHANGED, "too few files");
    let cores = std::thread::available_parallelism()?;
    let mut copier = Copier::new(&node, &work.join("copy"), cores)?;
    let began = Instant::now();
    let first = copier.ahead(&|| false)?;
    let bytes: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!(
        "copy      first copy of {} MB ahead: {:.1} s, {} files cloned",
        bytes / 1_000_000,
        began.elapsed().as_secs_f64(),
        first.cloned_files
    );
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut took, mut cold, mut read, mut written) = (Vec::new(), Vec::new(), 0, 0);
    for round in 0..COLD_ROUNDS + ROUNDS {
        // Blocks come seconds apart; what changed by then is copied ahead.
        std::thread::sleep(Duration::from_millis(50));
        copier.ahead(&|| false)?;
        for number in 0..FILES_CHANGED {
            change(
                &files[(round * FILES_CHANGED + number) % files.len()].0,
                &mut random,
            )?;
        }
        let held = copier.held(height, NO_LIMIT)?.write()?;
        ensure!(
            held.stats.changed_files >= FILES_CHANGED,
            "nothing was copied"
        );
        if round < COLD_ROUNDS {
            cold.push(held.stats.took);
            continue;
        }
        took.push(held.stats.took);
        read += held.stats.read_bytes;
        written += held.stats.written_bytes;
    }
    println!(
        "held      the first {COLD_ROUNDS} blocks, whose files may be on the disk: up to {:.0} ms",
        cold.iter()
            .max()
            .map_or(0.0, |most| most.as_secs_f64() * 1000.0)
    );
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "held      {ROUNDS} blocks: p50 {:.0} ms, p99 {:.0} ms, most {:.0} ms; read {} MB, wrote {:.1} \
         MB for each",
        at(50),
        at(99),
        at(100),
        read / ROUNDS as u64 / 1_000_000,
        written as f64 / ROUNDS as f64 / 1e6
    );
    fs::remove_dir_all(node)?;
    fs::remove_dir_all(work.join("copy"))?;
    Ok(())
}

/// What a block does to a file: some pages in it, and a little behind its end.
fn change(path: &Path, random: &mut ChaCha8Rng) -> Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    let bytes = file.metadata()?.len();
    let mut page = [0; 4096];
    for _ in 0..PLACES_CHANGED {
        random.fill_bytes(&mut page);
        let at = random.random_range(0..bytes / 4096) * 4096;
        file.write_all_at(&page, at)?;
    }
    file.write_all_at(&[7; BYTES_ADDED], bytes)?;
    Ok(())
}

/// Files of contracts, with their bytes.
fn files_of(storage: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(storage.join("contract_state"))? {
        let entry = entry?;
        files.push((entry.path(), entry.metadata()?.len()));
    }
    files.sort();
    Ok(files)
}

fn row(name: &str, records: u64, took: Duration, memory: &Memory, about: &str) {
    let seconds = took.as_secs_f64();
    println!(
        "{name:<9} {records} records in {seconds:.1} s: {:.0} records/s, {} MB of memory; {about}",
        records as f64 / seconds,
        memory.most() / 1_000_000
    );
}

/// Watches the memory of this process and of those that it started.
struct Memory {
    most: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
}

impl Memory {
    fn watch() -> Self {
        let memory = Self {
            most: Arc::default(),
            end: Arc::default(),
        };
        let (most, end) = (memory.most.clone(), memory.end.clone());
        std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                most.fetch_max(resident_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        memory
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn resident_bytes() -> u64 {
    let own = std::process::id();
    let children = fs::read_dir(format!("/proc/{own}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children =
        children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    let resident = |pid: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let pages = std::iter::once(own).chain(children).filter_map(resident);
    pages.sum::<u64>() * 1024
}
