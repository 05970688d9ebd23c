//! The memory that received pieces may take, over all streams.
//!
//! A piece lies in a buffer of 1 MiB from its first byte until whoever verifies
//! and writes it drops it. Buffers are used again: a fresh one costs 256 page
//! faults, a tenth of the work of receiving a piece.
//!
//! Each stream has one buffer that no other stream can take, so a slow peer
//! never keeps a fast one waiting; the others are shared by who comes first.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::snapshot::{PIECE_BYTES, hash};

/// Buffers that belong to no stream: one batch of verification.
pub const SHARED_BUFFERS: usize = hash::BATCH_PIECES;

/// Streams that a node may have open on others, each with one buffer. With the
/// shared ones 48 MiB, which only a joiner with so many busy neighbours fills;
/// beside them it holds up to 40 MiB of chunks that are checked and 24 MiB that it
/// serves. A joiner wants 20 to 40 neighbours (`facts/swarm-policy.md`).
pub const MAX_CLIENT_STREAMS: usize = 32;

/// The room for received pieces. Clones share it.
#[derive(Clone)]
pub struct Budget {
    pool: Arc<Pool>,
}

struct Pool {
    streams: Arc<Semaphore>,
    max_streams: usize,
    shared: Arc<Semaphore>,
    buffers: Mutex<Buffers>,
}

#[derive(Default)]
struct Buffers {
    idle: Vec<Box<[u8]>>,
    used: usize,
    most_used: usize,
    reservations: usize,
}

impl Pool {
    fn buffers(&self) -> MutexGuard<'_, Buffers> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(MAX_CLIENT_STREAMS, SHARED_BUFFERS)
    }
}

impl Budget {
    /// Room for `streams` streams with a buffer each, and `shared` buffers more.
    pub fn new(streams: usize, shared: usize) -> Self {
        Self {
            pool: Arc::new(Pool {
                streams: Arc::new(Semaphore::new(streams)),
                max_streams: streams,
                shared: Arc::new(Semaphore::new(shared)),
                buffers: Mutex::default(),
            }),
        }
    }

    /// Room for one more stream; nothing when as many as may be are open.
    pub fn reserve(&self) -> Option<Reservation> {
        let stream = Arc::clone(&self.pool.streams).try_acquire_owned().ok()?;
        self.pool.buffers().reservations += 1;
        Some(Reservation {
            pool: Arc::clone(&self.pool),
            stream: Arc::new(stream),
            own: Arc::new(Semaphore::new(1)),
        })
    }

    /// Streams that may be open at the same time.
    pub fn max_streams(&self) -> usize {
        self.pool.max_streams
    }

    /// Bytes of buffers in use now.
    pub fn used_bytes(&self) -> usize {
        self.pool.buffers().used * PIECE_BYTES as usize
    }

    /// The most that [`Budget::used_bytes`] ever was.
    pub fn most_used_bytes(&self) -> usize {
        self.pool.buffers().most_used * PIECE_BYTES as usize
    }
}

/// The place of one stream in a budget.
pub struct Reservation {
    pool: Arc<Pool>,
    /// Held by each buffer of this stream's own as well: the place is free when
    /// the stream and its last own buffer are gone.
    stream: Arc<OwnedSemaphorePermit>,
    own: Arc<Semaphore>,
}

impl Reservation {
    /// A buffer of [`PIECE_BYTES`] with whatever content. Waits until this
    /// stream's own buffer or a shared one is free.
    pub(super) async fn buffer(&self) -> PieceBuffer {
        let own = Arc::clone(&self.own).acquire_owned();
        let shared = Arc::clone(&self.pool.shared).acquire_owned();
        let permit = tokio::select! {
            biased;
            permit = own => Permit::Own { _buffer: permit, _stream: Arc::clone(&self.stream) },
            permit = shared => Permit::Shared { _buffer: permit },
        };
        let idle = {
            let mut buffers = self.pool.buffers();
            buffers.used += 1;
            buffers.most_used = buffers.most_used.max(buffers.used);
            buffers.idle.pop()
        };
        let bytes = idle.unwrap_or_else(|| vec![0; PIECE_BYTES as usize].into_boxed_slice());
        PieceBuffer {
            bytes: Some(bytes),
            pool: Arc::clone(&self.pool),
            _permit: permit,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut buffers = self.pool.buffers();
        buffers.reservations -= 1;
        if buffers.reservations == 0 {
            // Nobody downloads: a node that only serves keeps no buffers.
            buffers.idle = Vec::new();
        }
    }
}

/// The semaphores are never closed, so acquiring never fails; an error would
/// only mean a buffer outside of the bound.
enum Permit {
    Own {
        _buffer: Result<OwnedSemaphorePermit, tokio::sync::AcquireError>,
        _stream: Arc<OwnedSemaphorePermit>,
    },
    Shared {
        _buffer: Result<OwnedSemaphorePermit, tokio::sync::AcquireError>,
    },
}

/// One buffer of [`PIECE_BYTES`]. Goes back to its budget when dropped.
pub(super) struct PieceBuffer {
    bytes: Option<Box<[u8]>>,
    pool: Arc<Pool>,
    // Given back after `drop` has put the bytes away: fields are dropped last.
    _permit: Permit,
}

impl PieceBuffer {
    /// The first `len` bytes, without a copy.
    pub(super) fn into_bytes(self, len: u32) -> Bytes {
        Bytes::from_owner(self).slice(..len as usize)
    }
}

impl AsRef<[u8]> for PieceBuffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().unwrap_or_default()
    }
}

impl Deref for PieceBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_ref()
    }
}

impl DerefMut for PieceBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PieceBuffer {
    fn drop(&mut self) {
        let mut buffers = self.pool.buffers();
        buffers.used -= 1;
        if buffers.reservations > 0 {
            buffers.idle.extend(self.bytes.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_stream_has_a_buffer_of_its_own_when_the_shared_ones_are_gone() {
        let budget = Budget::new(2, 3);
        let greedy = budget.reserve().unwrap();
        let modest = budget.reserve().unwrap();
        assert!(budget.reserve().is_none(), "only two streams have room");

        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(greedy.buffer().await.into_bytes(7));
        }
        assert!(greedy.buffer().now_or_never().is_none());
        let own = modest.buffer().now_or_never().expect("its own buffer");
        assert!(modest.buffer().now_or_never().is_none());
        assert_eq!(budget.used_bytes(), 5 << 20);

        held.pop();
        assert!(greedy.buffer().now_or_never().is_some());
        drop(own);
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(budget.most_used_bytes(), 5 << 20);
    }

    #[tokio::test]
    async fn the_place_of_a_closed_stream_is_free_when_its_last_piece_is_dropped() {
        let budget = Budget::new(1, 0);
        let stream = budget.reserve().unwrap();
        let piece = stream.buffer().await.into_bytes(1);
        let clone = piece.clone();
        drop(stream);
        drop(piece);
        assert!(budget.reserve().is_none());
        drop(clone);
        assert!(budget.reserve().is_some());
    }

    #[tokio::test]
    async fn buffers_are_used_again() {
        let budget = Budget::new(1, 1);
        let stream = budget.reserve().unwrap();
        let first = stream.buffer().await;
        let address = first.as_ptr();
        drop(first);
        assert_eq!(stream.buffer().await.as_ptr(), address);
    }
}
