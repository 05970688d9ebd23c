//! One worker process, as seen from the parent: its pipe, and what was read of it ahead
//! of time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::XianError;
use super::worker::{PIPE_BYTES, Work, Workers};

/// A running worker; killed when dropped.
pub(super) struct Running {
    child: Child,
    patience: Duration,
}

impl Running {
    pub(super) fn start(workers: &Workers, work: Work, file: &Path) -> Result<Self, XianError> {
        Ok(Self {
            child: workers.start(work, file)?,
            patience: workers.patience,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, in words. Ends it where it has not.
    pub(super) fn end(&mut self) -> String {
        // It is past answering, or has answered: it must not be waited for.
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => format!("ended without an answer ({status})"),
            Err(error) => format!("cannot be asked how it ended ({error})"),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker's pipe. A read waits for a bounded time.
pub(super) struct Pipe {
    pipe: ChildStdout,
    patience: Duration,
}

impl Pipe {
    pub(super) fn of(running: &mut Running) -> io::Result<Self> {
        let patience = running.patience;
        let pipe = running.child().stdout.take();
        let pipe = pipe.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { pipe, patience })
    }
}

impl Read for Pipe {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let wait = PollTimeout::try_from(self.patience).map_err(io::Error::other)?;
        let mut pipe = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut pipe, wait) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => break self.pipe.read(to),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What came of a worker ahead of time, in a temporary file without a name, and the
/// rest of it.
pub(super) struct Ahead {
    pub(super) running: Running,
    pipe: Option<Pipe>,
    spool: File,
    pub(super) spooled: u64,
}

impl Ahead {
    pub(super) fn new(mut running: Running, spool: File) -> io::Result<Self> {
        let pipe = Pipe::of(&mut running)?;
        Ok(Self {
            running,
            pipe: Some(pipe),
            spool,
            spooled: 0,
        })
    }

    /// Whether more may come.
    pub(super) fn is_running(&self) -> bool {
        self.pipe.is_some()
    }

    /// Waits for more, and puts it into the file. Nothing when the worker has closed its
    /// end.
    pub(super) fn spool_more(&mut self, block: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let Some(pipe) = &mut self.pipe else {
            return Ok(None);
        };
        block.resize(PIPE_BYTES, 0);
        let len = pipe.read(block)?;
        if len == 0 {
            self.pipe = None;
            return Ok(None);
        }
        self.spool.write_all(&block[..len])?;
        self.spooled += len as u64;
        Ok(Some(len as u64))
    }

    /// All of it from the beginning, and the worker.
    pub(super) fn read(mut self) -> io::Result<(impl Read + Send, Running)> {
        self.spool.rewind()?;
        let rest: Box<dyn Read + Send> = match self.pipe {
            Some(pipe) => Box::new(pipe),
            None => Box::new(io::empty()),
        };
        let all = self.spool.take(self.spooled).chain(rest);
        Ok((BufReader::with_capacity(PIPE_BYTES, all), self.running))
    }
}
