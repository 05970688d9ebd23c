//! The whole program, as a user runs it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Measured, cpu_of};

/// Folder of the chunk files that a provider loads.
pub const CHUNKS: &str = "chunks";

const SNAPSWARM: &str = env!("CARGO_BIN_EXE_snapswarm");

/// One download from a provider that holds the snapshot, into a new home.
pub fn measure(folder: &Path, mebibytes: u64) -> Result<Measured> {
    let provider = folder.join("provider");
    if !provider.exists() {
        let chunks = folder.join(CHUNKS);
        let load = ["load", &chunks.to_string_lossy(), "--kind", "files"];
        json(
            snapswarm(&provider)
                .args(load)
                .args(["--chain-id", "bench-1", "--height", "1"]),
        )?;
    }
    let seeder = Seeder::start(&provider)?;
    let joiner = folder.join("joiner");
    let (seeding, children) = (cpu_of(&seeder.pid(), 11)?, cpu_of("self", 13)?);
    let fetched = json(snapswarm(&joiner).args([
        "fetch",
        "--chain-id",
        "bench-1",
        "--bootstrap",
        &seeder.address,
    ]))?;
    let gib = mebibytes as f64 / 1024.0;
    let measured = Measured {
        mib_per_second: mebibytes as f64 / fetched["seconds"].as_f64().context("seconds")?,
        joiner_cpu_per_gib: (cpu_of("self", 13)? - children) / gib,
        seeder_cpu_per_gib: (cpu_of(&seeder.pid(), 11)? - seeding) / gib,
    };
    std::fs::remove_dir_all(&joiner)?;
    Ok(measured)
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
