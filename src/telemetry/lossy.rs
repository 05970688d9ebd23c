//! A log that nobody waits for.
//!
//! Lines are put into a bounded queue, and a thread of its own writes them. When
//! whoever reads the log does not read, that thread waits and no other: what does not
//! fit is dropped and counted, and the count is logged when lines go out again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait to be written. With [`MAX_LINE_BYTES`], 8 MB at most.
const MAX_LINES: usize = 1024;
/// The rest of a longer line is dropped.
const MAX_LINE_BYTES: usize = 8 << 10;

enum Job {
    Line(Vec<u8>),
    /// Tells when all before it is written.
    Mark(SyncSender<()>),
}

/// Where lines are left.
#[derive(Clone)]
pub(super) struct Lossy {
    queue: SyncSender<Job>,
    lost: Arc<AtomicU64>,
}

impl Lossy {
    /// Starts the thread. `write` writes one line; `tell` logs that so many were lost,
    /// and is called on the thread that writes.
    pub(super) fn start(
        write: impl FnMut(&[u8]) + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, jobs) = mpsc::sync_channel(MAX_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = lost.clone();
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || run(&jobs, &counter, write, tell))?;
        Ok(Self { queue, lost })
    }

    fn leave(&self, line: Vec<u8>) {
        if self.queue.try_send(Job::Line(line)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that is queued is written, for so long at most.
    pub(super) fn finish(&self, patience: Duration) {
        let (written, wait) = mpsc::sync_channel(1);
        if self.queue.try_send(Job::Mark(written)).is_ok() {
            // Too late, or the thread is gone: the lines are lost.
            let _ = wait.recv_timeout(patience);
        }
    }
}

fn run(jobs: &Receiver<Job>, lost: &AtomicU64, mut write: impl FnMut(&[u8]), tell: impl Fn(u64)) {
    let mut told = 0;
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Line(line) => write(&line),
            Job::Mark(written) => {
                let _ = written.try_send(());
            }
        }
        let now = lost.load(Ordering::Relaxed);
        if now > told {
            tell(now - told);
            // One that is lost itself is told with the next.
            if lost.load(Ordering::Relaxed) == now {
                told = now;
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            lossy: self.clone(),
            bytes: Vec::new(),
        }
    }
}

/// One line on its way; left in the queue when it is whole.
pub(super) struct Line {
    lossy: Lossy,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_LINE_BYTES - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.lossy.leave(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn lines_that_nobody_takes_are_lost_and_counted_and_nobody_waits() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let (go_on, wait) = mpsc::channel::<()>();
        let (begun, is_stuck) = mpsc::channel();
        let lossy = {
            let (written, told) = (written.clone(), written.clone());
            Lossy::start(
                move |line| {
                    let _ = begun.send(());
                    // Held until the test drops its end.
                    let _ = wait.recv();
                    written.lock().unwrap().push(line.len() as u64);
                },
                move |lost| told.lock().unwrap().push(1_000_000 + lost),
            )
            .unwrap()
        };
        let line = |bytes: &[u8]| lossy.make_writer().write_all(bytes).unwrap();
        line(&[b'x'; MAX_LINE_BYTES + 7]);
        is_stuck.recv().unwrap();
        for _ in 0..MAX_LINES + 5 {
            line(b"line");
        }
        drop(go_on);
        // A full queue has no place for the mark, either.
        while written.lock().unwrap().len() < MAX_LINES {
            std::thread::yield_now();
        }
        lossy.finish(Duration::from_secs(60));
        let written = written.lock().unwrap();
        assert_eq!(written[..2], [MAX_LINE_BYTES as u64, 1_000_005]);
        assert_eq!(written.len(), MAX_LINES + 2);
    }
}
