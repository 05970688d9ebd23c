//! The work that is done in a process of its own: reading and writing one file.
//!
//! libhdf5 may crash on a damaged file, has one lock for everything, and its calls take
//! as long as they take. So the program starts itself again, once for each file, and
//! talks with it through pipes: see [`stream`](super::stream).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::unistd::getppid;

use super::XianError;
use super::stream::{Frame, FrameReader, FrameWriter};
use super::walk::{Ended, Seen, Taker, walk};
use super::write::write;
use crate::state::Scope;

/// Memory that a worker may take. It takes 20 MB, and the names of the largest group; a
/// damaged length must not take the machine's.
const MAX_WORKER_BYTES: u64 = 1 << 30;
/// Seconds of processor time that a walk may take from one link to the next. Counting
/// the links of a group of thirty million takes as much.
const MAX_STEP_CPU_S: u64 = 10;
/// A walk that finds nothing says so as often.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// So often, in links and records, it looks at the clock.
const LOOKS_AT_CLOCK_EVERY: u32 = 4096;
/// What is gathered before it goes into a pipe: a pipe holds as much.
pub(super) const PIPE_BYTES: usize = 64 << 10;

/// Who started a worker: one whose master is gone by then makes no file, which the next
/// restore would stumble over.
const MASTER: &str = "SNAPSWARM_XIAN_MASTER";

/// What a worker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Reads the file, writes its records to the standard output.
    Walk,
    /// Makes the file from the records on the standard input.
    Write,
}

impl Work {
    /// Its word on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Walk => "walk",
            Self::Write => "write",
        }
    }
}

/// How the program starts itself as a worker: with these arguments, then the work's
/// name, then the file. The process then calls [`work`].
#[derive(Clone, Debug)]
pub struct Workers {
    /// The program.
    pub program: PathBuf,
    /// What stands before the work's name.
    pub arguments: Vec<OsString>,
    /// Processes at a time; as many as there are cores.
    pub at_most: NonZeroUsize,
    /// One that says nothing for so long hangs, and is killed.
    pub patience: Duration,
}

impl Workers {
    /// One that reads says something every second, but one that has written a file of
    /// some gigabytes waits in silence until a slow disk has it.
    pub const PATIENCE: Duration = Duration::from_secs(600);

    pub(super) fn start(&self, work: Work, file: &Path) -> Result<Child, XianError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(work.name()).arg(file);
        command.env(MASTER, std::process::id().to_string());
        // libhdf5 obeys these, and nobody asked for it.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HDF5_") {
                command.env_remove(name);
            }
        }
        // Who interrupts us at a terminal speaks to us, and we stop them.
        command.process_group(0);
        command
            .stdin(match work {
                Work::Walk => Stdio::null(),
                Work::Write => Stdio::piped(),
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(XianError::io("start", &self.program))
    }
}

/// Does the work of a worker process, and tells on the standard output how it ended.
/// An error means that nobody could be told.
pub fn work(work: Work, file: &Path) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_DATA, MAX_WORKER_BYTES, MAX_WORKER_BYTES)?;
    // Not through the standard library's own buffer, which looks for ends of lines.
    let stdout = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    match work {
        Work::Walk => walk_to(file, BufWriter::with_capacity(PIPE_BYTES, stdout)),
        Work::Write => {
            let master = std::env::var(MASTER).ok();
            if master.is_some_and(|master| master != getppid().to_string()) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            let stdin = BufReader::with_capacity(PIPE_BYTES, stdin);
            write_from(file, stdin, BufWriter::new(stdout))
        }
    }
}

fn walk_to(file: &Path, to: impl Write) -> io::Result<()> {
    let mut walker = Walker {
        frames: FrameWriter::new(to),
        looks: 0,
        told: Instant::now(),
        broken: None,
    };
    walker.give_time()?;
    match walk(file, &mut walker) {
        Ok(()) => walker.frames.end().map(drop),
        Err(Ended::Content { key, problem }) => walker.frames.fail(&key, &problem),
        Err(Ended::Fault(error)) => walker.frames.fault(&error),
        Err(Ended::Taker(error)) => Err(error),
    }
}

/// Sends what a walk finds, and says that it goes on.
struct Walker<W> {
    frames: FrameWriter<W>,
    looks: u32,
    told: Instant,
    broken: Option<io::Error>,
}

impl<W: Write> Walker<W> {
    fn go_on(&mut self) -> io::Result<()> {
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS_AT_CLOCK_EVERY) || self.told.elapsed() < ALIVE_EVERY {
            return Ok(());
        }
        self.told = Instant::now();
        self.give_time()?;
        self.frames.alive()
    }

    /// The system ends the process when it has used so much more without getting on:
    /// libhdf5 goes round in circles in some damaged files.
    fn give_time(&self) -> io::Result<()> {
        let used = getrusage(UsageWho::RUSAGE_SELF)?;
        let used = used.user_time().tv_sec() + used.system_time().tv_sec();
        let (_, most) = getrlimit(Resource::RLIMIT_CPU)?;
        setrlimit(
            Resource::RLIMIT_CPU,
            most.min(used as u64 + MAX_STEP_CPU_S),
            most,
        )?;
        Ok(())
    }
}

impl<W: Write> Taker for Walker<W> {
    type Error = io::Error;

    fn take(&mut self, seen: Seen<'_>) -> io::Result<()> {
        if let Some(broken) = self.broken.take() {
            return Err(broken);
        }
        self.frames.seen(seen)?;
        self.go_on()
    }

    fn alive(&mut self) {
        if let Err(error) = self.go_on() {
            self.broken = Some(error);
        }
    }
}

fn write_from(file: &Path, from: impl Read, to: impl Write) -> io::Result<()> {
    // The scope stands in the file's place, not in it.
    let scope = Scope::new("-").map_err(io::Error::other)?;
    let mut records = FrameReader::new(from, scope);
    let next = || match records.next()? {
        Frame::Record(record) => Ok(Some(record)),
        Frame::End => Ok(None),
        Frame::Alive | Frame::Failed { .. } | Frame::Fault(_) => {
            Err(io::ErrorKind::InvalidData.into())
        }
    };
    let answer = FrameWriter::new(to);
    match write(file, next) {
        Ok(()) => answer.end().map(drop),
        Err(Ended::Content { key, problem }) => answer.fail(&key, &problem),
        Err(Ended::Fault(error)) => answer.fault(&error),
        // Who sends the records is gone, and the file is of no use.
        Err(Ended::Taker(error)) => Err(error),
    }
}
