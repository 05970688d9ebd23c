//! The records of a whole storage, in order, read by several workers at once.
//!
//! Each file is read by a process of its own; as many run as there are lanes. Files are
//! begun in the order of their scopes. Whoever takes the records is always at the first
//! that is not finished, and reads it from the worker's pipe; what the workers of later
//! files find meanwhile goes into temporary files without names, up to a bound, where
//! they wait. So the taker never waits for one that waits for the taker.
//!
//! | per storage | bound |
//! |---|---|
//! | processes | [`Workers::at_most`] |
//! | disk | `spool_bytes`, and a block of 64 KiB for each lane |
//! | memory | a worker's 20 MB and the names of its largest group, a few blocks here |

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::layout::StateFile;
use super::pump::{Ahead, Running};
use super::stream::{Frame, FrameReader};
use super::worker::{PIPE_BYTES, Work, Workers};
use super::{XianError, path};
use crate::state::{Key, Record, Scope};

/// Files that were read to their end and wait for the taker. Each takes an open file.
const MAX_AHEAD: usize = 64;

/// Gives the records of files of the state.
pub(super) struct Records {
    shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
    /// Files that were not opened yet, in order.
    files: VecDeque<StateFile>,
    open: Option<Open>,
}

/// The file that is being taken.
struct Open {
    path: PathBuf,
    frames: FrameReader<Box<dyn Read + Send>>,
    running: Running,
    spooled: u64,
    last: Option<Key>,
}

/// What the lanes and the taker know together.
struct Shared {
    workers: Workers,
    /// Where temporary files lie.
    spool: PathBuf,
    spool_bytes: u64,
    desk: Mutex<Desk>,
    changed: Condvar,
}

#[derive(Default)]
struct Desk {
    /// Files that no lane has begun, in order.
    waiting: VecDeque<StateFile>,
    /// Bytes in temporary files.
    spooled: u64,
    /// Processes that lanes wait for.
    reading: BTreeMap<Scope, u32>,
    /// The scope that the taker wants now.
    wanted: Option<Scope>,
    /// What lanes have put down, for the taker.
    ready: BTreeMap<Scope, Result<Ahead, XianError>>,
    /// Nobody takes any more.
    stop: bool,
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        // Nothing panics while it is held; a desk is whole at any time.
        self.desk
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }

    /// Waits until `done` gives something.
    fn wait<T>(&self, mut done: impl FnMut(&mut Desk) -> Option<T>) -> T {
        let mut desk = self.desk();
        loop {
            if let Some(value) = done(&mut desk) {
                return value;
            }
            let woken = self.changed.wait(desk);
            desk = woken.unwrap_or_else(|broken| broken.into_inner());
        }
    }

    fn change(&self, change: impl FnOnce(&mut Desk)) {
        change(&mut self.desk());
        self.changed.notify_all();
    }
}

impl Records {
    /// Of these files, sorted by scope. `spool` is a folder for temporary files, which
    /// take up to `spool_bytes`.
    pub(super) fn read(
        workers: &Workers,
        files: Vec<StateFile>,
        spool: &Path,
        spool_bytes: u64,
    ) -> Self {
        let desk = Desk {
            waiting: files.iter().cloned().collect(),
            ..Desk::default()
        };
        let lanes = workers.at_most.get().min(files.len());
        let shared = Arc::new(Shared {
            workers: workers.clone(),
            spool: spool.to_owned(),
            spool_bytes,
            desk: Mutex::new(desk),
            changed: Condvar::new(),
        });
        let lane = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || work_lane(&shared))
        };
        Self {
            lanes: (0..lanes).map(lane).collect(),
            shared,
            files: files.into(),
            open: None,
        }
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Result<Option<Record>, XianError> {
        loop {
            if self.open.is_none() {
                let Some(file) = self.files.pop_front() else {
                    return Ok(None);
                };
                self.open = Some(self.open(file)?);
            }
            let Some(open) = &mut self.open else {
                continue;
            };
            match open.next()? {
                Some(record) => return Ok(Some(record)),
                None => self.close(),
            }
        }
    }

    fn open(&self, file: StateFile) -> Result<Open, XianError> {
        let scope = &file.scope;
        self.shared.change(|desk| desk.wanted = Some(scope.clone()));
        let ahead = self.shared.wait(|desk| desk.ready.remove(scope))?;
        let spooled = ahead.spooled;
        let read = ahead.read().map_err(XianError::io("read", &file.path));
        let (from, running) = read?;
        Ok(Open {
            frames: FrameReader::new(Box::new(from), file.scope),
            path: file.path,
            running,
            spooled,
            last: None,
        })
    }

    fn close(&mut self) {
        let spooled = self.open.take().map_or(0, |open| open.spooled);
        self.shared.change(|desk| {
            desk.spooled -= spooled;
            desk.wanted = None;
        });
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.open = None;
        self.shared.change(|desk| {
            desk.stop = true;
            desk.ready.clear();
            for pid in desk.reading.values() {
                // A lane takes its process from the list before it lets it go.
                let _ = kill(Pid::from_raw(*pid as i32), Signal::SIGKILL);
            }
        });
        for lane in self.lanes.drain(..) {
            // Had it panicked, that was told.
            let _ = lane.join();
        }
    }
}

impl Open {
    fn next(&mut self) -> Result<Option<Record>, XianError> {
        loop {
            match self.frames.next() {
                Ok(Frame::Record(record)) => {
                    self.last = Some(record.key().clone());
                    return Ok(Some(record));
                }
                Ok(Frame::Alive) => {}
                Ok(Frame::End) => return Ok(None),
                Ok(Frame::Failed { key, problem }) => {
                    return Err(XianError::Content {
                        file: self.path.clone(),
                        group: path::shown(&key),
                        problem,
                    });
                }
                Ok(Frame::Fault(number)) => {
                    let error = io::Error::from_raw_os_error(number);
                    return Err(XianError::io("read", &self.path)(error));
                }
                Err(error) => {
                    let problem = match error.kind() {
                        io::ErrorKind::UnexpectedEof => self.running.end(),
                        io::ErrorKind::TimedOut => "hangs".to_owned(),
                        _ => format!("sent what is no record ({error})"),
                    };
                    return Err(XianError::Worker {
                        file: self.path.clone(),
                        group: path::shown(self.last.as_ref().map_or(b"", Key::as_bytes)),
                        problem,
                    });
                }
            }
        }
    }
}

/// Reads one file after the other, ahead of the taker, until none is left.
fn work_lane(shared: &Shared) {
    let mut block = Vec::new();
    loop {
        let next = shared.wait(|desk| {
            if desk.stop {
                return Some(None);
            }
            (desk.ready.len() < MAX_AHEAD).then(|| desk.waiting.pop_front())
        });
        let Some(file) = next else {
            return;
        };
        let scope = file.scope.clone();
        let ahead = read_ahead(shared, &file, &mut block);
        let is_taken = ahead.as_ref().is_ok_and(Ahead::is_running);
        shared.change(|desk| {
            desk.ready.insert(scope.clone(), ahead);
        });
        if is_taken {
            // Its process lives until the taker is done with it.
            shared.wait(|desk| (desk.stop || desk.wanted.as_ref() != Some(&scope)).then_some(()));
        }
    }
}

/// Reads a file until its end, or until the taker wants it.
fn read_ahead(shared: &Shared, file: &StateFile, block: &mut Vec<u8>) -> Result<Ahead, XianError> {
    let spool = tempfile::tempfile_in(&shared.spool);
    let spool = spool.map_err(XianError::io("create a temporary file in", &shared.spool))?;
    let running = Running::start(&shared.workers, Work::Walk, &file.path)?;
    let pid = running.pid();
    let mut ahead = Ahead::new(running, spool).map_err(XianError::io("read", &file.path))?;
    shared.change(|desk| {
        desk.reading.insert(file.scope.clone(), pid);
    });
    let filled = fill(shared, file, &mut ahead, block);
    shared.change(|desk| {
        desk.reading.remove(&file.scope);
    });
    match filled {
        // The taker tells of it, if it is not heard of by then.
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(ahead),
        Err(error) => Err(XianError::io("spool the records of", &file.path)(error)),
        Ok(()) => Ok(ahead),
    }
}

fn fill(
    shared: &Shared,
    file: &StateFile,
    ahead: &mut Ahead,
    block: &mut Vec<u8>,
) -> io::Result<()> {
    // Room for a block is there before the block is.
    let most = PIPE_BYTES as u64;
    let may_go_on = |desk: &mut Desk| {
        if desk.stop || desk.wanted.as_ref() == Some(&file.scope) {
            return Some(false);
        }
        (desk.spooled + most <= shared.spool_bytes).then_some(true)
    };
    while shared.wait(may_go_on)
        && let Some(len) = ahead.spool_more(block)?
    {
        shared.change(|desk| desk.spooled += len);
    }
    Ok(())
}
