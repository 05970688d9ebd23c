//! The application of `testnet/app`, inside of a test or as a process of its own.

#![allow(dead_code)] // each test file uses its own part

#[path = "../../testnet/app/mod.rs"]
mod app;

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use clap::Parser as _;
use nix::sys::signal::Signal;

use app::Options;
#[allow(unused_imports)] // likewise
pub use app::frame::read_frame;
use app::server::{Server, Stop};

/// The program, for command lines.
pub const SCRIPTED_APP: &str = env!("CARGO_BIN_EXE_testnet-app");

/// A free port of this machine.
const LISTEN: [&str; 2] = ["--listen", "tcp://127.0.0.1:0"];

/// The application on threads of the test; stopped when it is dropped.
pub struct ScriptedApp {
    /// `tcp://IP:PORT`
    pub address: String,
    data: PathBuf,
    stop: Arc<Stop>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl ScriptedApp {
    /// Starts it on a data folder, with the options of the command line.
    pub fn start(data: &Path, options: &[&str]) -> Self {
        let log = log_of(data);
        let words = ["testnet-app".into(), "--quiet".into(), "--data".into()]
            .into_iter()
            .chain([data.into(), "--log".into(), log.into_os_string()])
            .chain(LISTEN.map(Into::into))
            .chain(options.iter().map(Into::into));
        let server = Server::bind(&Options::parse_from(words)).unwrap();
        Self {
            address: server.address().to_owned(),
            data: data.to_owned(),
            stop: server.stop(),
            thread: Some(std::thread::spawn(|| server.run())),
        }
    }

    /// The lines about its calls, of earlier starts as well.
    pub fn log(&self) -> String {
        read_log(&self.data)
    }

    /// Waits until it ends by itself; tells why.
    pub fn ended(&mut self) -> String {
        let thread = self.thread.take().unwrap();
        thread.join().unwrap().unwrap_err().to_string()
    }
}

impl Drop for ScriptedApp {
    fn drop(&mut self) {
        self.stop.now();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The application as a process; killed with SIGKILL when it is dropped. It lives
/// no longer than the thread that started it.
pub struct AppProcess {
    /// `tcp://IP:PORT`
    pub address: String,
    data: PathBuf,
    child: Child,
}

impl AppProcess {
    /// Starts it on a data folder, with options of the command line.
    pub fn start(data: &Path, options: &[&str]) -> Self {
        let mut command = Command::new(SCRIPTED_APP);
        command
            .arg("--quiet")
            .arg("--data")
            .arg(data)
            .arg("--log")
            .arg(log_of(data))
            .args(LISTEN)
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        // SAFETY: between fork and exec, one system call.
        unsafe {
            // For a test run that is killed itself.
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut child = command.spawn().unwrap();
        let mut address = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut address).unwrap();
        Self {
            address: address.trim_end().to_owned(),
            data: data.to_owned(),
            child,
        }
    }

    pub fn log(&self) -> String {
        read_log(&self.data)
    }

    /// Waits until it ends by itself.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for AppProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Beside the data folder, which a test may empty.
fn log_of(data: &Path) -> PathBuf {
    data.with_extension("log")
}

fn read_log(data: &Path) -> String {
    std::fs::read_to_string(log_of(data)).unwrap_or_default()
}
