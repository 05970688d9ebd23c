//! Real processes for end-to-end tests: homes, daemons, verbs. Everything that
//! is started dies with the test, also when it panics.

#![allow(dead_code)] // each test file uses its own part

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The program under test.
pub const SNAPSWARM: &str = env!("CARGO_BIN_EXE_snapswarm");

/// Far longer than anything takes on a busy machine: a hang, not a slow run.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A home folder of its own; removed at the end.
pub struct Home {
    dir: tempfile::TempDir,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    pub fn new() -> Self {
        Self {
            dir: tempfile::Builder::new()
                .prefix("snapswarm-test-")
                .tempdir()
                .expect("a temporary folder"),
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `snapswarm --home HOME --json ARGS`, not yet started.
    pub fn command<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        command_in(self.path(), args)
    }

    /// Runs a verb to its end.
    pub fn run<I, S>(&self, args: I) -> Ran
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        run_in(self.path(), args)
    }

    /// Loads a folder of chunks; gives the CID.
    pub fn load(&self, folder: &Path, chain_id: &str, height: u64) -> String {
        load_in(self.path(), folder, chain_id, height)
    }

    /// Starts a daemon on a free loopback port and waits for its first line.
    pub fn start<I, S>(&self, args: I) -> Daemon
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        start_in(self.path(), args)
    }

    /// Starts a daemon that listens on exactly these addresses.
    pub fn start_on(&self, listen: &[&str]) -> Daemon {
        let mut command = self.command(["start"]);
        for address in listen {
            command.args(["--listen", address]);
        }
        Daemon::spawn(command)
    }

    /// Writes settings into `config.toml`.
    pub fn configure(&self, toml: &str) {
        std::fs::write(self.path().join("config.toml"), toml).expect("settings written");
    }
}

/// `snapswarm --home HOME --json ARGS`, not yet started.
pub fn command_in<I, S>(home: &Path, args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = Command::new(SNAPSWARM);
    command
        .arg("--home")
        .arg(home)
        .arg("--json")
        .args(args)
        .env_remove("SNAPSWARM_HOME")
        .stdin(Stdio::null());
    command
}

/// Runs a verb on a home to its end.
pub fn run_in<I, S>(home: &Path, args: I) -> Ran
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    Ran(command_in(home, args).output().expect("snapswarm runs"))
}

/// Loads a folder of chunks into a home; gives the CID.
pub fn load_in(home: &Path, folder: &Path, chain_id: &str, height: u64) -> String {
    let height = height.to_string();
    let folder = folder.to_str().expect("a plain path");
    let loaded = run_in(
        home,
        [
            "load",
            folder,
            "--kind",
            "files",
            "--chain-id",
            chain_id,
            "--height",
            &height,
            "--app-hash",
            "AB",
        ],
    )
    .ok();
    loaded["manifest"].as_str().expect("a CID").to_owned()
}

/// Starts a daemon of a home on a free loopback port and waits for its first
/// line.
pub fn start_in<I, S>(home: &Path, args: I) -> Daemon
where
    I: IntoIterator<Item = S>,
    S: AsRef<std::ffi::OsStr>,
{
    let mut command = command_in(home, ["start", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    command.args(args);
    Daemon::spawn(command)
}

/// A verb that ended.
pub struct Ran(pub Output);

impl Ran {
    /// The document of a success.
    pub fn ok(&self) -> Value {
        assert!(
            self.0.status.success(),
            "{:?}\nstdout: {}\nstderr: {}",
            self.0.status,
            self.stdout(),
            self.stderr()
        );
        serde_json::from_slice(&self.0.stdout).expect("one JSON document on stdout")
    }

    /// The error of a failure with this exit code.
    pub fn failed(&self, code: i32) -> Value {
        assert_eq!(
            self.0.status.code(),
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout(),
            self.stderr()
        );
        let document: Value =
            serde_json::from_slice(&self.0.stdout).expect("one JSON document on stdout");
        document["error"].clone()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

/// A process of a test; killed when dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub first_line: Value,
}

impl Daemon {
    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("snapswarm starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("the first line");
        let first_line = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the first line is no JSON ({error}): {line:?}"));
        Self { child, first_line }
    }

    /// Its address, with the peer id.
    pub fn address(&self) -> String {
        self.first_line["listen"][0]
            .as_str()
            .expect("an address")
            .to_owned()
    }

    /// All addresses that it listens on, with the peer id.
    pub fn addresses(&self) -> Vec<String> {
        let all = self.first_line["listen"].as_array().expect("addresses");
        let text = |address: &Value| address.as_str().expect("an address").to_owned();
        all.iter().map(text).collect()
    }

    pub fn peer_id(&self) -> String {
        self.first_line["peer_id"]
            .as_str()
            .expect("a peer id")
            .to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its status page says.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/status")).expect("the status is JSON")
    }

    /// `GET PATH` on its status page.
    pub fn get(&self, path: &str) -> String {
        let api = self.first_line["api"].as_str().expect("an address");
        let host = api.trim_start_matches("http://");
        let mut socket = std::net::TcpStream::connect(host).expect("the page answers");
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        )
        .expect("a request");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut socket, &mut answer).expect("an answer");
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        body.to_owned()
    }

    /// SIGTERM; gives the exit code.
    pub fn terminate(self) -> Option<i32> {
        self.end_by(nix::sys::signal::Signal::SIGTERM)
    }

    /// Ends by a signal; gives the exit code.
    pub fn end_by(mut self, signal: nix::sys::signal::Signal) -> Option<i32> {
        kill(self.child.id(), signal);
        wait(&mut self.child).code()
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process of ours.
pub fn kill(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    nix::sys::signal::kill(pid, signal).expect("a process of ours");
}

/// Waits for a child; a hang fails the test.
pub fn wait(child: &mut Child) -> std::process::ExitStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        assert!(Instant::now() < deadline, "process {} hangs", child.id());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for a condition that some process brings about.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Writes `chunks` files of `size` incompressible bytes, the same for the same
/// seed.
pub fn chunk_folder(chunks: u32, size: usize, seed: u64) -> tempfile::TempDir {
    use rand::{Rng, SeedableRng};
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut bytes = vec![0; size];
    for index in 0..chunks {
        rng.fill_bytes(&mut bytes);
        std::fs::write(dir.path().join(index.to_string()), &bytes).expect("a chunk written");
    }
    dir
}

/// SHA-256 of all files of a folder, by name order of `0000`, `0001`, ….
pub fn folder_digest(folder: &Path) -> Vec<(u64, [u8; 32])> {
    let mut digests: Vec<(u64, [u8; 32])> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| {
            let path: PathBuf = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let index = name.and_then(|name| name.parse().ok()).expect("a number");
            let digest = Sha256::digest(std::fs::read(&path).expect("a chunk"));
            (index, digest.into())
        })
        .collect();
    digests.sort_unstable();
    digests
}

/// The most resident bytes that a process ever had.
pub fn most_resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib: u64 = kib.expect("a peak").parse().expect("a number");
    kib * 1024
}
