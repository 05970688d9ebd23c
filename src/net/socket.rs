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
//! * Memory is bounded by 66 KiB for each direction of a connection, and a quiet
//!   connection holds 4 KiB.

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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::executor::block_on;
    use futures::future::{join, poll_fn};
    use futures::task::noop_waker;
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};

    use super::*;

    /// A socket that remembers the sizes of its steps, gives what it was filled
    /// with and takes at most so many bytes at once.
    #[derive(Clone, Default)]
    struct Socket(Arc<Mutex<Steps>>);

    #[derive(Default)]
    struct Steps {
        to_read: Vec<u8>,
        written: Vec<u8>,
        reads: Vec<usize>,
        writes: Vec<usize>,
        takes: Option<usize>,
    }

    impl AsyncRead for Socket {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let mut steps = self.0.lock().unwrap();
            if steps.to_read.is_empty() {
                return Poll::Pending;
            }
            let count = into.len().min(steps.to_read.len());
            into[..count].copy_from_slice(&steps.to_read[..count]);
            steps.to_read.drain(..count);
            steps.reads.push(count);
            Poll::Ready(Ok(count))
        }
    }

    impl AsyncWrite for Socket {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let mut steps = self.0.lock().unwrap();
            let count = bytes.len().min(steps.takes.unwrap_or(usize::MAX));
            if count == 0 {
                return Poll::Pending;
            }
            steps.written.extend_from_slice(&bytes[..count]);
            steps.writes.push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len as u32).map(|n| (n * 31 / 8) as u8).collect()
    }

    #[test]
    fn small_writes_with_a_flush_after_each_leave_in_one_step() {
        let socket = Socket::default();
        let mut buffered = Buffered::new(socket.clone());
        let mut cx = Context::from_waker(futures::task::noop_waker_ref());
        for byte in 0..100u8 {
            let mut io = Pin::new(&mut buffered);
            assert!(io.as_mut().poll_write(&mut cx, &[byte; 34]).is_ready());
            assert!(io.as_mut().poll_flush(&mut cx).is_pending());
        }
        assert!(socket.0.lock().unwrap().writes.is_empty());
        // The task turns to reading, or is polled again.
        assert!(buffered.read(&mut [0]).now_or_never().is_none());
        assert_eq!(socket.0.lock().unwrap().writes, [3400]);
    }

    #[test]
    fn a_flush_that_is_awaited_is_done() {
        let socket = Socket::default();
        let mut buffered = Buffered::new(socket.clone());
        block_on(async {
            buffered.write_all(b"hello").await.unwrap();
            buffered.flush().await.unwrap();
        });
        assert_eq!(socket.0.lock().unwrap().written, b"hello");
        block_on(async {
            buffered.write_all(b" world").await.unwrap();
            buffered.close().await.unwrap();
        });
        assert_eq!(socket.0.lock().unwrap().written, b"hello world");
    }

    #[test]
    fn a_socket_that_takes_little_gets_everything_in_order() {
        let socket = Socket::default();
        socket.0.lock().unwrap().takes = Some(777);
        let mut buffered = Buffered::new(socket.clone());
        let bytes = pattern(1_000_000);
        block_on(async {
            for (n, part) in bytes.chunks(9_973).enumerate() {
                buffered.write_all(part).await.unwrap();
                if n % 3 == 0 {
                    buffered.flush().await.unwrap();
                }
            }
            buffered.write_all(&bytes).await.unwrap();
            buffered.flush().await.unwrap();
        });
        let steps = socket.0.lock().unwrap();
        assert!(steps.written == [&bytes[..], &bytes].concat());
    }

    #[test]
    fn a_full_socket_holds_the_writer_back() {
        let socket = Socket::default();
        socket.0.lock().unwrap().takes = Some(0);
        let mut buffered = Buffered::new(socket.clone());
        let waker = noop_waker();
        let mut cx = Context::from_waker(&waker);
        let mut taken = 0;
        while let Poll::Ready(count) = Pin::new(&mut buffered).poll_write(&mut cx, &[1; 16_406]) {
            taken += count.unwrap();
        }
        assert!(taken <= WRITE_BYTES, "{taken}");
        assert!(buffered.output.len() <= WRITE_BYTES);
    }

    #[test]
    fn much_is_read_in_large_steps_and_a_quiet_connection_keeps_little() {
        let socket = Socket::default();
        let bytes = pattern(1 << 20);
        socket.0.lock().unwrap().to_read = bytes.clone();
        let mut buffered = Buffered::new(socket.clone());
        let mut read = vec![0; bytes.len()];
        block_on(async {
            for part in read.chunks_mut(4096) {
                buffered.read_exact(part).await.unwrap();
            }
        });
        assert!(read == bytes);
        let steps = socket.0.lock().unwrap().reads.len();
        assert!(steps <= 2 + bytes.len() / READ_BYTES, "{steps} steps");
        assert_eq!(buffered.input.len(), READ_BYTES);

        for _ in 0..QUIET_READS {
            socket.0.lock().unwrap().to_read = vec![1; 100];
            block_on(buffered.read_exact(&mut [0; 100])).unwrap();
        }
        assert_eq!(buffered.input.len(), QUIET_READ_BYTES);
    }

    #[test]
    fn two_tasks_that_answer_each_other_over_it_do_not_wait_for_ever() {
        let (a, b) = tokio::io::duplex(100);
        let mut a = Buffered::new(tokio_util::compat::TokioAsyncReadCompatExt::compat(a));
        let mut b = Buffered::new(tokio_util::compat::TokioAsyncReadCompatExt::compat(b));
        let asks = async {
            for n in 0..1000u32 {
                // A flush that is asked for once and not waited for.
                a.write_all(&n.to_be_bytes()).await.unwrap();
                let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut a).poll_flush(cx))).await;
                let mut answer = [0; 4];
                a.read_exact(&mut answer).await.unwrap();
                assert_eq!(u32::from_be_bytes(answer), n + 1);
            }
        };
        let answers = async {
            for _ in 0..1000u32 {
                let mut ask = [0; 4];
                b.read_exact(&mut ask).await.unwrap();
                let answer = u32::from_be_bytes(ask) + 1;
                b.write_all(&answer.to_be_bytes()).await.unwrap();
                let _ = poll_fn(|cx| Poll::Ready(Pin::new(&mut b).poll_flush(cx))).await;
            }
            // Who neither reads nor waits any more has to ask in earnest.
            b.flush().await.unwrap();
        };
        block_on(join(asks, answers));
    }
}
