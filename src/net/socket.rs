//! A socket that is read and written in large steps.
//!
//! TLS reads a record of 16 KiB in five steps of 4 KiB, and the multiplexer
//! writes each of its frames as two records and flushes after each: for every
//! 16 KiB seven system calls, more work than the encryption. This layer lies
//! between the socket and TLS, reads ahead, and gathers what is written until the
//! connection has nothing more to write.
//!
//! Laws:
//!
//! * Nothing that was flushed stays here: a flush that is put off is done when
//!   the task turns to reading (a task that waits for an answer has asked), and
//!   at the latest when the task, which is woken for it, runs again.
//! * Memory is bounded by [`READ_BYTES`] and [`WRITE_BYTES`] for each connection,
//!   and taken only while a connection moves data.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// Read at once while much comes: four full TLS records.
const READ_BYTES: usize = 66 << 10;

/// Read at once on a quiet connection.
const QUIET_READ_BYTES: usize = 4 << 10;

/// Small reads in a row that tell that a connection has become quiet.
const QUIET_READS: u32 = 64;

/// Gathered before it is written: four frames of the multiplexer with all that
/// is put around them. What lies here cannot be overtaken, so not more.
const WRITE_BYTES: usize = 66 << 10;

/// The layer.
#[derive(Debug)]
pub struct Buffered<S> {
    socket: S,
    input: Vec<u8>,
    /// Bytes of `input` that came, and of them those that were taken.
    filled: usize,
    taken: usize,
    quiet_reads: u32,
    output: Vec<u8>,
    /// Bytes of `output` that left.
    left: usize,
    /// A flush was asked for and put off.
    flush_due: bool,
    /// Something was written since a flush was asked for.
    fresh: bool,
}

impl<S> Buffered<S> {
    /// Over a fresh socket.
    pub fn new(socket: S) -> Self {
        Self {
            socket,
            input: Vec::new(),
            filled: 0,
            taken: 0,
            quiet_reads: 0,
            output: Vec::new(),
            left: 0,
            flush_due: false,
            fresh: false,
        }
    }

    /// Fits the empty input buffer to what came last.
    fn resize_input(&mut self) {
        if self.filled == self.input.len() && self.filled < READ_BYTES {
            self.input = vec![0; READ_BYTES];
        }
        if self.filled > QUIET_READ_BYTES {
            self.quiet_reads = 0;
        } else {
            self.quiet_reads += 1;
        }
        if self.quiet_reads >= QUIET_READS && self.input.len() > QUIET_READ_BYTES {
            self.input = vec![0; QUIET_READ_BYTES];
            self.output = Vec::new();
        }
        (self.taken, self.filled) = (0, 0);
    }

    fn waiting(&self) -> usize {
        self.output.len() - self.left
    }
}

impl<S: AsyncWrite + Unpin> Buffered<S> {
    /// Writes all that was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.left < self.output.len() {
            let rest = &self.output[self.left..];
            match ready!(Pin::new(&mut self.socket).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.left += count,
            }
        }
        self.output.clear();
        self.left = 0;
        Poll::Ready(Ok(()))
    }

    /// Drains, then flushes the socket.
    fn poll_flush_now(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.flush_due = false;
        self.fresh = false;
        Pin::new(&mut self.socket).poll_flush(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.taken == this.filled {
            if this.flush_due {
                // What does not go now is gone on with by the next write or flush;
                // the socket wakes this task for it.
                let _ = this.poll_flush_now(cx)?;
            }
            if this.input.is_empty() {
                this.input.resize(QUIET_READ_BYTES, 0);
            }
            let read = Pin::new(&mut this.socket).poll_read(cx, &mut this.input);
            (this.taken, this.filled) = (0, 0);
            this.filled = match read {
                Poll::Ready(Ok(count)) => count,
                other => return other,
            };
        }
        let count = into.len().min(this.filled - this.taken);
        into[..count].copy_from_slice(&this.input[this.taken..this.taken + count]);
        this.taken += count;
        if this.taken == this.filled {
            this.resize_input();
        }
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Buffered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waiting() + bytes.len() > WRITE_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        self.fresh = true;
        if bytes.len() >= WRITE_BYTES {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        }
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fresh {
            self.fresh = false;
            self.flush_due = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.poll_flush_now(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_now(cx))?;
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
