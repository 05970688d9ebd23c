//! `testnet/xian_app.py`, and snapshots of its storage.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use snapswarm::snapshot::Manifest;

use crate::support::{Home, kill, wait};
use crate::xian::snapshot_of;

pub const CHAIN: &str = "xian-target-1";

/// An application that is not started yet.
pub struct App {
    pub folder: PathBuf,
    pub address: String,
}

impl App {
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        Self {
            folder: folder.to_owned(),
            address: format!("tcp://{}", port.unwrap()),
        }
    }

    pub fn storage(&self) -> PathBuf {
        self.folder.join("storage")
    }

    /// What it was asked that its tests look for, and how often it was started.
    pub fn marks(&self) -> Vec<String> {
        let marks = fs::read_to_string(self.folder.join("marks")).unwrap_or_default();
        marks.lines().map(str::to_owned).collect()
    }

    pub fn starts(&self) -> usize {
        let marks = self.marks();
        marks.iter().filter(|mark| *mark == "start").count()
    }

    /// The process that runs.
    pub fn pid(&self) -> u32 {
        let storage = self.storage().display().to_string();
        let is_it = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
            words.contains(&storage.as_bytes()) && words.contains(&b"--marks".as_slice())
        };
        let processes = fs::read_dir("/proc").unwrap();
        let found = processes.map_while(Result::ok).find(is_it).unwrap();
        found.file_name().to_str().unwrap().parse().unwrap()
    }

    /// The command line that starts it, with more options.
    pub fn command(&self, more: &str) -> String {
        let python = std::env::var("SNAPSWARM_TEST_PYTHON").unwrap_or("python3".to_owned());
        let source = std::env::var("SNAPSWARM_TEST_XIAN").unwrap_or_default();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/xian_app.py");
        format!(
            "exec env PYTHONPATH='{source}' '{python}' '{}' --listen {} --storage '{}' --marks \
             '{}' {more}",
            script.display(),
            self.address,
            self.storage().display(),
            self.folder.join("marks").display(),
        )
    }

    /// Starts it; stopped at the latest when it is dropped.
    pub fn start(&self) -> Running {
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", &self.command("")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        Running(child.unwrap())
    }
}

/// A running application.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // At once where a test panics: whoever looks at its storage stops it before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Lets it finish what it does.
    pub fn stop(mut self) {
        kill(self.0.id(), nix::sys::signal::Signal::SIGTERM);
        assert!(wait(&mut self.0).success());
    }
}

/// A snapshot of a storage that nobody writes.
pub struct Snapshot {
    pub manifest: Manifest,
    pub chunks: Vec<Bytes>,
}

impl Snapshot {
    pub fn of(storage: &Path, patches: Option<&Path>) -> Self {
        let (manifest, chunks) = snapshot_of(CHAIN, storage, patches);
        Self { manifest, chunks }
    }

    pub fn cid(&self) -> String {
        self.manifest.id().to_string()
    }

    /// Brings it into a home, as a CAR file.
    pub fn load_into(&self, home: &Home) {
        let folder = tempfile::tempdir().unwrap();
        let car = folder.path().join("snapshot.car");
        self.write_car(&car);
        let loaded = home
            .run(["load", car.to_str().unwrap(), "--kind", "car"])
            .ok();
        assert_eq!(loaded["manifest"], self.cid());
    }

    /// Writes it into a CAR file.
    pub fn write_car(&self, path: &Path) {
        use snapswarm::snapshot::hash::sha256;
        let name = |digest: &[u8]| [&[1, 0x55, 0x12, 0x20], digest].concat();
        let root = name(self.manifest.id().digest().as_bytes());
        let header = [
            &b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00"[..],
            &root,
            b"\x67version\x01",
        ]
        .concat();
        let mut car = Vec::new();
        let mut put = |parts: [&[u8]; 2]| {
            let mut len = parts[0].len() + parts[1].len();
            while len > 0x7f {
                car.push(len as u8 | 0x80);
                len >>= 7;
            }
            car.push(len as u8);
            car.extend(parts.concat());
        };
        put([&header, b""]);
        put([&root, self.manifest.encoded()]);
        for chunk in &self.chunks {
            put([&name(sha256(chunk).as_bytes()), chunk]);
        }
        fs::write(path, car).unwrap();
    }
}
