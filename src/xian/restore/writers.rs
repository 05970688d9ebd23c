//! The processes that write the files of a new storage.

use std::collections::VecDeque;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;

use crate::state::{Key, Record, Scope, StateError};
use crate::xian::pump::{Pipe, Running};
use crate::xian::stream::{Frame, FrameReader, FrameWriter};
use crate::xian::worker::{PIPE_BYTES, Work, Workers};
use crate::xian::{XianError, path, room};

/// Files that are being closed and synced while the next is written.
const MAX_CLOSING: usize = 2;
/// Less than this left, and a writer that the system refused, or that died, did so for
/// want of space.
const FULL_BYTES: u64 = 16 << 20;

/// Writes records into files, one file after the other.
pub(super) struct Writers {
    workers: Workers,
    storage: PathBuf,
    open: Option<Open>,
    closing: VecDeque<Closing>,
}

struct Open {
    scope: Scope,
    frames: FrameWriter<BufWriter<ChildStdin>>,
    closing: Closing,
}

/// A writer that was given its last record, or will be.
struct Closing {
    path: PathBuf,
    running: Running,
    last: Option<Key>,
}

impl Writers {
    pub(super) fn new(workers: &Workers, storage: &Path) -> Self {
        Self {
            workers: workers.clone(),
            storage: storage.to_owned(),
            open: None,
            closing: VecDeque::new(),
        }
    }

    /// Whether records of `scope` go into another file than the one before.
    pub(super) fn is_other(&self, scope: &Scope) -> bool {
        self.open.as_ref().is_none_or(|open| open.scope != *scope)
    }

    /// Ends the file before, and begins the one of `scope` at `path` in the storage.
    pub(super) fn begin(&mut self, scope: &Scope, path: &Path) -> Result<(), XianError> {
        self.end_file()?;
        while self.closing.len() >= MAX_CLOSING {
            self.wait_for_one()?;
        }
        let path = self.storage.join(path);
        let mut running = Running::start(&self.workers, Work::Write, &path)?;
        let stdin = running.child().stdin.take();
        let stdin = stdin.ok_or_else(|| {
            XianError::io("write to the process of", &path)(io::ErrorKind::BrokenPipe.into())
        })?;
        self.open = Some(Open {
            scope: scope.clone(),
            frames: FrameWriter::new(BufWriter::with_capacity(PIPE_BYTES, stdin)),
            closing: Closing {
                path,
                running,
                last: None,
            },
        });
        Ok(())
    }

    pub(super) fn put(&mut self, record: &Record) -> Result<(), XianError> {
        let Some(open) = &mut self.open else {
            return Err(XianError::Records {
                problem: "a record came before its file".to_owned(),
            });
        };
        let put = open.frames.record(record);
        open.closing.last = Some(record.key().clone());
        match put {
            Ok(()) => Ok(()),
            // The process says why, or how it died.
            Err(_) => match self.open.take() {
                Some(open) => Err(open.closing.why()),
                None => Ok(()),
            },
        }
    }

    /// Waits until the disk has all files.
    pub(super) fn finish(&mut self) -> Result<(), XianError> {
        self.end_file()?;
        while !self.closing.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<(), XianError> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        match open.frames.end() {
            Ok(_stdin) => self.closing.push_back(open.closing),
            Err(_) => return Err(open.closing.why()),
        }
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<(), XianError> {
        match self.closing.pop_front() {
            Some(mut closing) => closing.answer(),
            None => Ok(()),
        }
    }
}

impl Closing {
    /// Waits for the end of the work.
    fn answer(&mut self) -> Result<(), XianError> {
        let broken = XianError::io("hear from the process of", &self.path);
        let pipe = Pipe::of(&mut self.running).map_err(broken)?;
        let scope = Scope::new("-").map_err(StateError::from)?;
        let mut answer = FrameReader::new(BufReader::new(pipe), scope);
        let told = match answer.next() {
            Ok(Frame::End) => return Ok(()),
            Ok(Frame::Failed { key, problem }) => {
                let (file, group) = (self.path.display(), path::shown(&key));
                return Err(XianError::Records {
                    problem: format!("group {group} of {file}: {problem}"),
                });
            }
            Ok(Frame::Fault(number)) => {
                let error = io::Error::from_raw_os_error(number);
                XianError::io("write", &self.path)(error)
            }
            Ok(Frame::Record(_) | Frame::Alive) => self.died("answered nonsense"),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.died("hangs"),
            Err(_) => {
                let how = self.running.end();
                self.died(&how)
            }
        };
        if let Some(folder) = self.path.parent() {
            room::check(folder, FULL_BYTES)?;
        }
        Err(told)
    }

    fn why(mut self) -> XianError {
        match self.answer() {
            Err(error) => error,
            Ok(()) => self.died("ended early"),
        }
    }

    fn died(&self, problem: &str) -> XianError {
        XianError::Writer {
            file: self.path.clone(),
            group: path::shown(self.last.as_ref().map_or(b"", Key::as_bytes)),
            problem: problem.to_owned(),
        }
    }
}
