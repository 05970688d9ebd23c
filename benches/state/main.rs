//! What state content costs and what it saves.
//!
//! `cargo bench --bench state [-- RECORDS [CHUNK_BYTES]]`
//!
//! The state is made up, in the form of Xian's (`world.rs`). Printed are: the speed
//! of making and of reading chunks; size and speed of zstd's levels beside gzip;
//! the chunks that keep their name when a part of the records is written anew; the
//! size of a delta.

mod world;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::RngExt as _;
use snapswarm::snapshot::{ChunkId, hash};
use snapswarm::state::{
    Applied, Change, Changes, ChunkSize, Differences, Encoder, OpenChunk, Record, Records, Scope,
    StateChunk, StateError, StateHasher,
};

use world::World;

/// As the room has it: 8 MiB.
const WINDOW_LOG: u32 = 23;

fn main() -> Result<()> {
    let mut numbers = std::env::args().filter_map(|word| word.parse::<u32>().ok());
    let records = numbers.next().unwrap_or(1_000_000);
    let chunk_size = match numbers.next() {
        Some(bytes) => ChunkSize::new(bytes)?,
        None => ChunkSize::MAX,
    };
    let mut world = World::new(records as usize, 1);
    let content = Content::make(&world.records, chunk_size)?;
    content.print_speed(&world.records)?;
    print_levels(&content)?;
    print_deltas(&mut world, &content, chunk_size)?;
    print_kept(&mut world, &content, chunk_size)
}

struct Content {
    chunks: Vec<StateChunk>,
    scopes: Vec<Scope>,
    took: Duration,
}

impl Content {
    fn make(records: &[Record], chunk_size: ChunkSize) -> Result<Self> {
        let start = Instant::now();
        let mut encoder = Encoder::new(chunk_size)?;
        let mut chunks = Vec::new();
        for record in records {
            chunks.extend(encoder.push(&Change::Put(record.clone()))?);
        }
        Self::finish(encoder, chunks, start)
    }

    fn finish(encoder: Encoder, mut chunks: Vec<StateChunk>, start: Instant) -> Result<Self> {
        let end = encoder.finish()?;
        chunks.push(end.chunk);
        Ok(Self {
            chunks,
            scopes: end.scopes,
            took: start.elapsed(),
        })
    }

    fn open(&self) -> impl Iterator<Item = Result<OpenChunk, StateError>> {
        self.chunks.iter().map(|chunk| {
            let scopes = chunk.scopes.first as usize..=chunk.scopes.last as usize;
            Ok(OpenChunk {
                bytes: chunk.bytes.clone(),
                scopes: self.scopes[scopes].to_vec(),
            })
        })
    }

    fn bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.bytes.len()).sum()
    }

    fn names(&self) -> BTreeSet<ChunkId> {
        let name = |chunk: &StateChunk| ChunkId(hash::sha256(&chunk.bytes));
        self.chunks.iter().map(name).collect()
    }

    fn payloads(&self) -> Result<Vec<Vec<u8>>> {
        let payload = |chunk: &StateChunk| Ok(zstd::decode_all(&chunk.bytes[..])?);
        self.chunks.iter().map(payload).collect()
    }

    fn print_speed(&self, records: &[Record]) -> Result<()> {
        let plain: usize = self.payloads()?.iter().map(Vec::len).sum();
        let count = records.len();
        println!(
            "{count} records in {} scopes: {plain} bytes, {} chunks of {} bytes ({:.3})",
            self.scopes.len(),
            self.chunks.len(),
            self.bytes(),
            self.bytes() as f64 / plain as f64
        );
        let sizes = self.chunks.iter().map(|chunk| chunk.bytes.len());
        let (least, most) = (sizes.clone().min(), sizes.max());
        println!("chunks of {least:?} to {most:?} bytes");
        let start = Instant::now();
        let mut read = 0;
        for record in Records::new(self.open())? {
            assert_eq!(record?, records[read]);
            read += 1;
        }
        assert_eq!(read, count);
        for (what, took) in [("encode", self.took), ("decode", start.elapsed())] {
            let seconds = took.as_secs_f64();
            println!(
                "{what} {:>9.0} records/s {:>7.1} MiB/s",
                count as f64 / seconds,
                plain as f64 / seconds / f64::from(1 << 20)
            );
        }
        Ok(())
    }
}

fn print_levels(content: &Content) -> Result<()> {
    let payloads = content.payloads()?;
    let plain: usize = payloads.iter().map(Vec::len).sum();
    println!("method     bytes  share   pack MiB/s  unpack MiB/s");
    let row = |name: &str, packed: &[Vec<u8>], pack: Duration, unpack: Duration| {
        let bytes: usize = packed.iter().map(Vec::len).sum();
        let speed = |took: Duration| plain as f64 / took.as_secs_f64() / f64::from(1 << 20);
        let share = 100.0 * bytes as f64 / plain as f64;
        println!(
            "{name:<8} {bytes:>9} {share:>5.1} % {:>9.1} {:>9.1}",
            speed(pack),
            speed(unpack)
        );
    };
    let start = Instant::now();
    let pack = |payload: &Vec<u8>| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(payload)?;
        Ok(gzip.finish()?)
    };
    let packed: Vec<Vec<u8>> = payloads.iter().map(pack).collect::<Result<_>>()?;
    let took = start.elapsed();
    let start = Instant::now();
    for packed in &packed {
        let mut gzip = flate2::read::GzDecoder::new(&packed[..]);
        std::io::copy(&mut gzip, &mut std::io::sink())?;
    }
    row("gzip 6", &packed, took, start.elapsed());
    for level in [1, 3, 5, 7, 9, 12] {
        let start = Instant::now();
        let pack = |payload: &Vec<u8>| {
            let mut zstd = zstd::Encoder::new(Vec::new(), level)?;
            zstd.window_log(WINDOW_LOG)?;
            zstd.write_all(payload)?;
            Ok(zstd.finish()?)
        };
        let packed: Vec<Vec<u8>> = payloads.iter().map(pack).collect::<Result<_>>()?;
        let took = start.elapsed();
        let start = Instant::now();
        for packed in &packed {
            std::hint::black_box(zstd::decode_all(&packed[..])?);
        }
        row(&format!("zstd {level}"), &packed, took, start.elapsed());
    }
    Ok(())
}

fn print_kept(world: &mut World, before: &Content, chunk_size: ChunkSize) -> Result<()> {
    let names = before.names();
    let original = world.records.clone();
    let count = original.len();
    let kept = |what: &str, records: &[Record]| -> Result<()> {
        let after = Content::make(records, chunk_size)?;
        let kept = after.names().intersection(&names).count();
        let (all, what) = (after.chunks.len(), format!("{what}:"));
        let share = 100.0 * kept as f64 / all as f64;
        println!("{what:<44} {kept:>4} of {all} chunks keep their name ({share:.1} %)");
        Ok(())
    };
    for part in [1, 4, 7] {
        let range = count * part / 10..count * part / 10 + count / 20;
        world.records.clone_from(&original);
        world.rewrite(|at, _| range.contains(&at));
        kept("5 % of the keys in a row written", &world.records)?;
    }
    world.records.clone_from(&original);
    world.add_accounts(count / 200, '7');
    kept("accounts added, all addresses with a 7", &world.records)?;
    world.records.clone_from(&original);
    world.records.remove(count / 10);
    kept("a record removed", &world.records)?;
    for one_in in [100_000, 10_000, 1_000, 100] {
        world.records.clone_from(&original);
        let written = world.rewrite(|_, rng| rng.random_ratio(1, one_in));
        kept(
            &format!("{written} records anywhere written"),
            &world.records,
        )?;
    }
    Ok(())
}

fn print_deltas(world: &mut World, full: &Content, chunk_size: ChunkSize) -> Result<()> {
    let before = world.records.clone();
    for one_in in [1_000, 100, 10] {
        world.records.clone_from(&before);
        let written = world.rewrite(|_, rng| rng.random_ratio(1, one_in));
        let start = Instant::now();
        let delta = delta(&before, &world.records, chunk_size)?;
        let made = start.elapsed();
        println!(
            "delta of {written} records ({:.1} %): {} bytes, {:.2} % of the full snapshot, \
             compared and made in {:.2} s",
            100.0 / f64::from(one_in),
            delta.bytes(),
            100.0 * delta.bytes() as f64 / full.bytes() as f64,
            made.as_secs_f64()
        );
        let start = Instant::now();
        let mut hasher = StateHasher::new();
        for record in Applied::new(stream(&before), Changes::new(delta.open())?) {
            hasher.push(&record?)?;
        }
        let applied = hasher.finish();
        println!(
            "  applied and hashed in {:.2} s",
            start.elapsed().as_secs_f64()
        );
        let mut hasher = StateHasher::new();
        for record in &world.records {
            hasher.push(record)?;
        }
        assert_eq!(
            applied,
            hasher.finish(),
            "both ways end in the same records"
        );
    }
    world.records = before;
    Ok(())
}

fn stream(records: &[Record]) -> impl Iterator<Item = Result<Record, StateError>> {
    records.iter().cloned().map(Ok)
}

fn delta(before: &[Record], after: &[Record], chunk_size: ChunkSize) -> Result<Content> {
    let start = Instant::now();
    let mut encoder = Encoder::new(chunk_size)?;
    let mut chunks = Vec::new();
    for difference in Differences::new(stream(before), stream(after)) {
        chunks.extend(encoder.push(&difference?.into_change())?);
    }
    Content::finish(encoder, chunks, start)
}
