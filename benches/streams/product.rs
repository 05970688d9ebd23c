//! The whole program, as a user runs it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Measured, cpu_of};

/// Folder of the chunk files that a provider loads.
pub const CHUNKS: &str = "chunks";

/// Providers of [`measure_sources`].
const SOURCES: usize = 4;
/// What each of them may send.
const SOURCE_LIMIT: &str = "12MB";
/// What all of them may send.
const SOURCES_MB_PER_S: f64 = 48.0;

const SNAPSWARM: &str = env!("CARGO_BIN_EXE_snapswarm");

/// Two downloads from a provider that holds the snapshot, each into a new home. At
/// the first the provider hashes every piece that it reads, at the second no more.
pub fn measure(folder: &Path, mebibytes: u64) -> Result<[Measured; 2]> {
    let seeder = Seeder::start(&provider(folder, 1)?)?;
    Ok([
        measure_one(&seeder, folder, mebibytes)?,
        measure_one(&seeder, folder, mebibytes)?,
    ])
}

fn measure_one(seeder: &Seeder, folder: &Path, mebibytes: u64) -> Result<Measured> {
    let joiner = folder.join("joiner");
    let (seeding, children) = (cpu_of(&seeder.pid(), 11)?, cpu_of("self", 13)?);
    let fetched = fetch(&joiner, std::slice::from_ref(seeder))?;
    let gib = mebibytes as f64 / 1024.0;
    let measured = Measured {
        mib_per_second: mebibytes as f64 / fetched["seconds"].as_f64().context("seconds")?,
        joiner_cpu_per_gib: (cpu_of("self", 13)? - children) / gib,
        seeder_cpu_per_gib: (cpu_of(&seeder.pid(), 11)? - seeding) / gib,
    };
    std::fs::remove_dir_all(&joiner)?;
    Ok(measured)
}

/// One download from four providers, each with a limit of its own, and what share
/// of the sum of their limits it reached.
pub fn measure_sources(folder: &Path) -> Result<String> {
    let mut seeders = Vec::new();
    for number in 1..=SOURCES {
        let home = provider(folder, number)?;
        seeders.push(Seeder::start(&home)?);
        json(snapswarm(&home).args(["limits", "--upload-bytes-per-s", SOURCE_LIMIT]))?;
    }
    let joiner = folder.join("joiner");
    let fetched = fetch(&joiner, &seeders)?;
    std::fs::remove_dir_all(&joiner)?;
    let bytes = fetched["bytes"].as_f64().context("bytes")?;
    let megabytes_per_s = bytes / 1e6 / fetched["seconds"].as_f64().context("seconds")?;
    let mut line = format!(
        "{megabytes_per_s:.1} MB/s from {SOURCES} sources of {SOURCE_LIMIT}/s each: {:.3}; shares",
        megabytes_per_s / SOURCES_MB_PER_S
    );
    for peer in fetched["peers"].as_array().context("peers")? {
        let share = peer["bytes"].as_f64().context("bytes")? / bytes;
        write!(line, " {:.1} %", 100.0 * share)?;
    }
    Ok(line)
}

/// The home of a provider that holds the snapshot; made when it is missing.
fn provider(folder: &Path, number: usize) -> Result<PathBuf> {
    let home = folder.join(format!("provider-{number}"));
    if !home.exists() {
        let chunks = folder.join(CHUNKS);
        let load = ["load", &chunks.to_string_lossy(), "--kind", "files"];
        json(
            snapswarm(&home)
                .args(load)
                .args(["--chain-id", "bench-1", "--height", "1"]),
        )?;
    }
    Ok(home)
}

fn fetch(home: &Path, seeders: &[Seeder]) -> Result<Value> {
    let mut command = snapswarm(home);
    command.args(["fetch", "--chain-id", "bench-1"]);
    for seeder in seeders {
        command.args(["--bootstrap", &seeder.address]);
    }
    json(&mut command)
}

fn snapswarm(home: &Path) -> Command {
    let mut command = Command::new(SNAPSWARM);
    command.arg("--home").arg(home).arg("--json");
    command
}

fn json(command: &mut Command) -> Result<Value> {
    let output = command.stderr(Stdio::null()).output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A provider's daemon, killed when dropped.
struct Seeder {
    child: Child,
    address: String,
}

impl Seeder {
    fn start(home: &Path) -> Result<Self> {
        let mut child = snapswarm(home)
            .args(["start", "--listen", "/ip4/127.0.0.1/tcp/0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("piped")?).read_line(&mut line)?;
        let started: Value = serde_json::from_str(&line)?;
        let address = started["listen"][0].as_str().context("an address")?;
        Ok(Self {
            address: address.to_owned(),
            child,
        })
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Seeder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
