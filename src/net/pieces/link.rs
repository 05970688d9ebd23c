//! One served stream, as the ordering task, its reader and its writer share it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::PeerStats;
use super::credit::Credit;
use crate::snapshot::{ChunkId, ManifestId};
use crate::sync::ConnKey;
use crate::wire::{Answer, Holding, MAX_CONTROL_BYTES, MAX_HAVE_PIECES, Refusal, RequestId};

/// Bytes of answers that may wait on a stream before no more asks are read from
/// it. One more answer, and the refusals of what is open, may come on top.
const MAX_WAITING_ANSWER_BYTES: usize = MAX_CONTROL_BYTES as usize;

/// Piece numbers that may wait to be told on a stream, 256 KiB: as many as are
/// verified in three minutes at 3 Gbit/s. Who is that far behind does not read.
const MAX_WAITING_NUMBERS: usize = 1 << 16;

/// A piece to send.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) id: RequestId,
    pub(super) chunk: ChunkId,
    pub(super) piece: u32,
}

/// What the writer has to do next.
#[derive(Default)]
pub(super) struct Errand {
    /// Control frames, encoded.
    pub(super) frames: Vec<u8>,
    pub(super) work: VecDeque<Work>,
    pub(super) aborts: Vec<RequestId>,
}

/// The shared half of a served stream.
pub(super) struct Link {
    pub(super) conn: ConnKey,
    pub(super) peer: PeerId,
    /// The writer has something to look at.
    pub(super) wake: Notify,
    /// The reader may go on: answers have left.
    pub(super) room: Notify,
    pub(super) stop: CancellationToken,
    pub(super) sent_bytes: AtomicU64,
    state: Mutex<State>,
}

struct State {
    /// Control frames, encoded.
    answers: Vec<u8>,
    news: BTreeMap<ManifestId, News>,
    work: VecDeque<Work>,
    aborts: Vec<RequestId>,
    open: BTreeSet<RequestId>,
    started: Option<RequestId>,
    credit: Credit,
    asked_at: Instant,
}

/// What is to be told about a snapshot that the peer opened.
#[derive(Default)]
struct News {
    /// Nothing is told before the holdings are.
    ready: bool,
    pieces: Vec<u32>,
}

impl Link {
    pub(super) fn new(conn: ConnKey, peer: PeerId, stop: CancellationToken) -> Self {
        let now = Instant::now();
        Self {
            conn,
            peer,
            wake: Notify::new(),
            room: Notify::new(),
            stop,
            sent_bytes: AtomicU64::new(0),
            state: Mutex::new(State {
                answers: Vec::new(),
                news: BTreeMap::new(),
                work: VecDeque::new(),
                aborts: Vec::new(),
                open: BTreeSet::new(),
                started: None,
                credit: Credit::new(now),
                asked_at: now,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the credit.
    pub(super) fn credit<T>(&self, look: impl FnOnce(&mut Credit) -> T) -> T {
        look(&mut self.state().credit)
    }

    /// Sends a control message, ahead of all data.
    pub(super) fn say(&self, answer: &Answer) {
        let frame = answer.to_frame();
        self.state().answers.extend_from_slice(&frame);
        self.wake.notify_one();
    }

    /// Waits until the peer has taken the answers that wait for it.
    pub(super) async fn answers_have_room(&self) {
        loop {
            let freed = self.room.notified();
            if self.state().answers.len() < MAX_WAITING_ANSWER_BYTES {
                return;
            }
            freed.await;
        }
    }

    /// Enters a request; false when its id is open.
    pub(super) fn enter(&self, id: RequestId) -> bool {
        let mut state = self.state();
        state.asked_at = Instant::now();
        state.open.insert(id)
    }

    /// Requests that are open.
    pub(super) fn open_requests(&self) -> usize {
        self.state().open.len()
    }

    /// When the peer last asked for a piece.
    pub(super) fn asked_at(&self) -> Instant {
        self.state().asked_at
    }

    /// Answers a request that is not served, unless it was taken back.
    pub(super) fn refuse(&self, id: RequestId, refusal: Refusal) -> bool {
        let was_open = self.state().open.remove(&id);
        if was_open {
            self.say(&Answer::Refused { id, refusal });
        }
        was_open
    }

    /// Gives the writer a piece to send.
    pub(super) fn start(&self, work: Work) {
        self.state().work.push_back(work);
        self.wake.notify_one();
    }

    /// Takes a request back: a piece that is being sent or read ends, a waiting
    /// one is forgotten.
    pub(super) fn take_back(&self, id: RequestId) {
        let mut state = self.state();
        state.open.remove(&id);
        state.work.retain(|work| work.id != id);
        state.aborts.push(id);
        drop(state);
        self.wake.notify_one();
    }

    /// A piece begins or, with nothing, none is under way.
    pub(super) fn set_started(&self, id: Option<RequestId>) {
        self.state().started = id;
    }

    /// The piece was sent, or given up.
    pub(super) fn finished(&self, id: RequestId) {
        let mut state = self.state();
        state.open.remove(&id);
        state.started = None;
    }

    /// From now on news of a snapshot are kept for this peer.
    pub(super) fn subscribe(&self, manifest: ManifestId) {
        self.state().news.entry(manifest).or_default();
    }

    /// Tells the holdings of a snapshot and lets the news follow; after a refusal
    /// there is none.
    pub(super) fn say_holdings(&self, manifest: ManifestId, holding: Holding) {
        let mut state = self.state();
        if matches!(holding, Holding::Refused(_)) {
            state.news.remove(&manifest);
        } else if let Some(news) = state.news.get_mut(&manifest) {
            news.ready = true;
        }
        drop(state);
        self.say(&Answer::Holdings { manifest, holding });
    }

    /// Snapshots that the peer has open.
    pub(super) fn snapshots(&self) -> Vec<ManifestId> {
        self.state().news.keys().copied().collect()
    }

    /// Tells pieces that are here now, if the peer has the snapshot open. A peer
    /// that is too far behind loses its stream.
    pub(super) fn publish(&self, manifest: &ManifestId, pieces: &[u32]) {
        let mut state = self.state();
        let Some(news) = state.news.get_mut(manifest) else {
            return;
        };
        if news.pieces.len() + pieces.len() > MAX_WAITING_NUMBERS {
            self.stop.cancel();
            return;
        }
        news.pieces.extend_from_slice(pieces);
        drop(state);
        self.wake.notify_one();
    }

    /// What the writer has to do, in order.
    pub(super) fn errand(&self) -> Errand {
        let mut state = self.state();
        let mut errand = Errand {
            frames: std::mem::take(&mut state.answers),
            work: std::mem::take(&mut state.work),
            aborts: std::mem::take(&mut state.aborts),
        };
        for (manifest, news) in &mut state.news {
            if !news.ready {
                continue;
            }
            for pieces in std::mem::take(&mut news.pieces).chunks(MAX_HAVE_PIECES) {
                let have = Answer::Have {
                    manifest: *manifest,
                    pieces: pieces.to_vec(),
                };
                errand.frames.extend_from_slice(&have.to_frame());
            }
        }
        drop(state);
        self.room.notify_one();
        errand
    }

    pub(super) fn stats(&self) -> PeerStats {
        let state = self.state();
        PeerStats {
            peer: self.peer,
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            open_requests: state.open.len(),
            active: state.started.is_some(),
            round_trip: state.credit.round_trip(),
        }
    }
}
