//! The owner's end of a client: books and outbox behind one lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::ledger::Ledger;
use crate::snapshot::{ChunkId, MAX_MANIFEST_BYTES, ManifestId};
use crate::wire::{Ask, Holding, MAX_HAVE_PIECES, RequestId};

/// Bytes of the largest bitmap: each piece has 32 bytes in its manifest.
const MAX_HOLDING_BYTES: usize = MAX_MANIFEST_BYTES as usize / 32 / 8;

/// Asks. Clones ask on the same stream. No call waits; what is asked is written
/// as soon as the stream takes it.
#[derive(Clone)]
pub struct Asker {
    pub(super) shared: Arc<Shared>,
}

/// What went over one stream.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClientStats {
    /// Bytes of pieces that came, those of cancelled requests included.
    pub received_bytes: u64,
    /// Of them, bytes that were thrown away: cancelled or aborted on the way.
    pub discarded_bytes: u64,
    /// Pieces that came whole and were still wanted.
    pub received_pieces: u64,
    /// Requests open now.
    pub open_requests: usize,
}

/// Why something cannot be asked now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AskError {
    /// A limit of the protocol is reached; the peer would refuse.
    #[error("a piece stream takes at most {limit} {what}")]
    OverLimit {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// The stream is gone.
    #[error("the piece stream is closed")]
    Closed,
}

/// What the owner and the two tasks of a stream share.
pub(super) struct Shared {
    pub(super) peer: PeerId,
    /// Something is in the outbox.
    pub(super) wake: Notify,
    pub(super) stop: CancellationToken,
    pub(super) received_bytes: AtomicU64,
    pub(super) discarded_bytes: AtomicU64,
    pub(super) received_pieces: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    outbox: Outbox,
    closed: bool,
}

/// What waits to be written. Requests and cancels are bounded by the ledger,
/// have-messages by the pieces of the opened snapshots.
#[derive(Default)]
struct Outbox {
    asks: VecDeque<Ask>,
    haves: BTreeMap<ManifestId, Vec<u32>>,
    acknowledge: Option<u64>,
}

impl Shared {
    pub(super) fn new(peer: PeerId) -> Self {
        Self {
            peer,
            wake: Notify::new(),
            stop: CancellationToken::new(),
            received_bytes: AtomicU64::new(0),
            discarded_bytes: AtomicU64::new(0),
            received_pieces: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is asked any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.outbox = Outbox::default();
    }

    /// So many bytes of data were read, in all.
    pub(super) fn acknowledge(&self, bytes: u64) {
        self.state().outbox.acknowledge = Some(bytes);
        self.wake.notify_one();
    }

    /// Appends the frames of everything that waits, in order.
    pub(super) fn drain_outbox(&self, frames: &mut Vec<u8>) {
        let outbox = std::mem::take(&mut self.state().outbox);
        for ask in outbox.asks {
            frames.extend_from_slice(&ask.to_frame());
        }
        for (manifest, numbers) in outbox.haves {
            for pieces in numbers.chunks(MAX_HAVE_PIECES) {
                let pieces = pieces.to_vec();
                frames.extend_from_slice(&Ask::Have { manifest, pieces }.to_frame());
            }
        }
        if let Some(bytes) = outbox.acknowledge {
            frames.extend_from_slice(&Ask::Ack { bytes }.to_frame());
        }
    }
}

impl Asker {
    /// Whom it asks.
    pub fn peer(&self) -> PeerId {
        self.shared.peer
    }

    /// Asks what the peer has of a snapshot, now and from now on: `Holdings`
    /// follows, then `Have`s. Once for each snapshot; again does nothing.
    pub fn open(&self, manifest: ManifestId) -> Result<(), AskError> {
        self.ask(|state| {
            if state.ledger.open_snapshot(manifest)? {
                state.outbox.asks.push_back(Ask::Open(manifest));
            }
            Ok(())
        })
    }

    /// Tells what this node has of a snapshot that was opened here.
    pub fn holdings(&self, manifest: ManifestId, holding: Holding) -> Result<(), AskError> {
        if let Holding::Pieces(bits) = &holding
            && bits.len() > MAX_HOLDING_BYTES
        {
            return Err(AskError::OverLimit {
                what: "bytes of holdings",
                limit: MAX_HOLDING_BYTES,
            });
        }
        self.ask(|state| {
            // An earlier word that was not yet said is out of date.
            state.outbox.haves.remove(&manifest);
            state.outbox.asks.retain(
                |ask| !matches!(ask, Ask::Holdings { manifest: told, .. } if *told == manifest),
            );
            let ask = Ask::Holdings { manifest, holding };
            state.outbox.asks.push_back(ask);
            Ok(())
        })
    }

    /// Tells pieces that this node has since.
    pub fn have(&self, manifest: ManifestId, pieces: &[u32]) -> Result<(), AskError> {
        self.ask(|state| {
            let waiting = state.outbox.haves.entry(manifest).or_default();
            waiting.extend_from_slice(pieces);
            Ok(())
        })
    }

    /// Asks for a piece of `size` bytes. `Refused`, or `Started`, `Progress` and
    /// one of `Received` and `Aborted` follow, unless it is cancelled.
    pub fn request(&self, chunk: ChunkId, piece: u32, size: u32) -> Result<RequestId, AskError> {
        self.ask(|state| {
            let id = state.ledger.request(size)?;
            let ask = Ask::Request { id, chunk, piece };
            state.outbox.asks.push_back(ask);
            Ok(id)
        })
    }

    /// Takes a request back. Nothing more is queued about it from now on. A
    /// request that is not open any more is left alone.
    pub fn cancel(&self, id: RequestId) {
        let _ = self.ask(|state| {
            if state.ledger.cancel(id) {
                let asks = &mut state.outbox.asks;
                let waiting = asks
                    .iter()
                    .position(|ask| matches!(ask, Ask::Request { id: asked, .. } if *asked == id));
                match waiting {
                    Some(at) => drop(asks.remove(at)),
                    None => asks.push_back(Ask::Cancel(id)),
                }
            }
            Ok(())
        });
    }

    /// Asks which of these chunks the peer has, under whatever manifest: `Holds`
    /// follows.
    pub fn probe(&self, chunks: &[ChunkId]) -> Result<RequestId, AskError> {
        self.ask(|state| {
            let id = state.ledger.probe(chunks.len())?;
            let chunks = chunks.to_vec();
            state.outbox.asks.push_back(Ask::Probe { id, chunks });
            Ok(id)
        })
    }

    /// Ends the stream.
    pub fn close(&self) {
        self.shared.close();
        self.shared.stop.cancel();
    }

    /// What went over the stream so far.
    pub fn stats(&self) -> ClientStats {
        let shared = &self.shared;
        ClientStats {
            received_bytes: shared.received_bytes.load(Ordering::Relaxed),
            discarded_bytes: shared.discarded_bytes.load(Ordering::Relaxed),
            received_pieces: shared.received_pieces.load(Ordering::Relaxed),
            open_requests: shared.state().ledger.open_requests(),
        }
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut State) -> Result<T, AskError>) -> Result<T, AskError> {
        let mut state = self.shared.state();
        if state.closed {
            return Err(AskError::Closed);
        }
        let answer = ask(&mut state)?;
        drop(state);
        self.shared.wake.notify_one();
        Ok(answer)
    }
}
