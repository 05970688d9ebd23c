//! The disk side of a download: received pieces are verified in batches,
//! written, and made durable, all on the blocking pool.
//!
//! At most one batch is verified and written at a time; pieces that arrive
//! meanwhile make the next batch. A few buffers cost little more to hash than one
//! (`snapshot::hash`), so a batch waits a moment for company, but not when nothing
//! more can come. Whole chunks are read back in the same way, beside it. Syncs run
//! beside both: they only flush what was written before they began.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::snapshot::hash::{self, BATCH_PIECES, SIDE_BY_SIDE};
use crate::snapshot::{PieceIndex, ReceivedPiece, UniqueIndex};
use crate::store::{BATCH_CHUNKS, ChunkVerdict, Download, StoreError};
use crate::sync::PeerKey;

/// Written bytes that are synced together. What was written and not synced is
/// found again by its hash after a kill; only a power cut can lose it.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// The longest time that written bytes stay unsynced.
const SYNC_EVERY: Duration = Duration::from_secs(5);

/// The longest that a piece waits for others to be hashed with: what four pieces
/// take at 200 MB/s. Where they come slower, hashing is no bottleneck.
const PIECES_WAIT: Duration = Duration::from_millis(20);

/// The same for whole chunks. Nobody is told of a chunk before its check, so this
/// also delays what others can take from us.
const CHUNKS_WAIT: Duration = Duration::from_millis(100);

/// What came of work on the disk.
pub(super) enum DiskEvent {
    /// Pieces of a batch: who sent each, and whether it was right. Right ones
    /// are written.
    Verified(Vec<(PeerKey, PieceIndex, bool)>),
    /// Whole chunks were read back.
    Checked(Vec<(UniqueIndex, ChunkVerdict)>),
    /// Written bytes are durable.
    Synced,
    /// The disk failed.
    Failed(StoreError),
}

/// Queues and running work of one download.
pub(super) struct Disk {
    download: Arc<Download>,
    waiting: Queue<(PeerKey, PieceIndex, Bytes)>,
    checks: Queue<UniqueIndex>,
    /// Pieces and chunks that can still come.
    lacking_pieces: usize,
    unchecked_chunks: usize,
    tasks: JoinSet<DiskEvent>,
    verifying: bool,
    checking: bool,
    syncing: bool,
    unsynced_bytes: u64,
    synced_at: Instant,
}

impl Disk {
    pub(super) fn new(download: Arc<Download>) -> Self {
        let manifest = download.manifest();
        let lacking = manifest.piece_count() - download.have().count();
        let unchecked = manifest.unique_count() - download.checked().count();
        Self {
            waiting: Queue::new(BATCH_PIECES, PIECES_WAIT),
            checks: Queue::new(BATCH_CHUNKS, CHUNKS_WAIT),
            lacking_pieces: lacking as usize,
            unchecked_chunks: unchecked as usize,
            download,
            tasks: JoinSet::new(),
            verifying: false,
            checking: false,
            syncing: false,
            unsynced_bytes: 0,
            synced_at: Instant::now(),
        }
    }

    /// Takes a piece in; how many wait is bounded by the budget its bytes came
    /// from.
    pub(super) fn receive(&mut self, peer: PeerKey, index: PieceIndex, bytes: Bytes) {
        self.waiting.push((peer, index, bytes));
        self.start_work();
    }

    /// Reads a whole chunk back when its turn comes, beside others that wait.
    pub(super) fn check(&mut self, chunk: UniqueIndex) {
        self.checks.push(chunk);
        self.start_work();
    }

    /// Whether work runs or waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// The next result; pending for ever while nothing runs or waits. Nothing is
    /// lost when the caller drops it halfway.
    pub(super) async fn next(&mut self) -> DiskEvent {
        let joined = loop {
            let due = self.due();
            tokio::select! {
                Some(joined) = self.tasks.join_next() => break joined,
                () = super::until(due.map(Into::into)) => self.start_work(),
            }
        };
        let event = joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        match &event {
            DiskEvent::Verified(pieces) => {
                self.verifying = false;
                let manifest = self.download.manifest();
                for (_, index, _) in pieces.iter().filter(|(_, _, good)| *good) {
                    self.unsynced_bytes += u64::from(manifest.piece(*index).len);
                    self.lacking_pieces = self.lacking_pieces.saturating_sub(1);
                }
            }
            DiskEvent::Checked(chunks) => {
                self.checking = false;
                for (chunk, verdict) in chunks {
                    if *verdict == ChunkVerdict::Checked {
                        self.unchecked_chunks = self.unchecked_chunks.saturating_sub(1);
                    } else {
                        self.lacking_pieces += self.download.manifest().pieces_of(*chunk).count();
                    }
                }
            }
            DiskEvent::Synced => self.syncing = false,
            DiskEvent::Failed(_) => {}
        }
        self.start_work();
        event
    }

    /// Waits for what runs, keeps what waits, makes all written bytes durable and
    /// gives the download back.
    pub(super) async fn finish(mut self) -> Result<Arc<Download>, StoreError> {
        let batch = std::mem::take(&mut self.waiting.items);
        if !batch.is_empty() {
            let download = self.download.clone();
            self.tasks
                .spawn_blocking(move || verify_and_write(&download, batch));
        }
        let mut failed = None;
        while let Some(joined) = self.tasks.join_next().await {
            match joined {
                Ok(DiskEvent::Failed(error)) => failed = Some(error),
                Ok(_) => {}
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        let download = self.download.clone();
        let synced = tokio::task::spawn_blocking(move || download.sync()).await;
        match (failed, synced) {
            (Some(error), _) | (None, Ok(Err(error))) => Err(error),
            (None, Ok(Ok(()))) => Ok(self.download),
            (None, Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// When waiting work is begun at the latest.
    fn due(&self) -> Option<Instant> {
        let pieces = self.waiting.due.filter(|_| !self.verifying);
        let checks = self.checks.due.filter(|_| !self.checking);
        let unsynced = self.unsynced_bytes > 0 && !self.syncing;
        let sync = unsynced.then(|| self.synced_at + SYNC_EVERY);
        [pieces, checks, sync].into_iter().flatten().min()
    }

    fn start_work(&mut self) {
        let now = Instant::now();
        if !self.verifying
            && let Some(batch) = self.waiting.batch(self.lacking_pieces, now)
        {
            self.verifying = true;
            let download = self.download.clone();
            self.tasks
                .spawn_blocking(move || verify_and_write(&download, batch));
        }
        if !self.checking
            && let Some(batch) = self.checks.batch(self.unchecked_chunks, now)
        {
            self.checking = true;
            let download = self.download.clone();
            self.tasks
                .spawn_blocking(move || match check(&download, &batch) {
                    Ok(verdicts) => DiskEvent::Checked(batch.into_iter().zip(verdicts).collect()),
                    Err(error) => DiskEvent::Failed(error),
                });
        }
        let due = self.unsynced_bytes >= SYNC_EVERY_BYTES
            || (self.unsynced_bytes > 0 && self.synced_at.elapsed() >= SYNC_EVERY);
        if due && !self.syncing {
            self.syncing = true;
            self.unsynced_bytes = 0;
            self.synced_at = Instant::now();
            let download = self.download.clone();
            self.tasks.spawn_blocking(move || match download.sync() {
                Ok(()) => DiskEvent::Synced,
                Err(error) => DiskEvent::Failed(error),
            });
        }
    }
}

/// What waits to be hashed, and until when it waits for company.
struct Queue<T> {
    items: Vec<T>,
    most: usize,
    patience: Duration,
    due: Option<Instant>,
}

impl<T> Queue<T> {
    fn new(most: usize, patience: Duration) -> Self {
        Self {
            items: Vec::new(),
            most,
            patience,
            due: None,
        }
    }

    fn push(&mut self, item: T) {
        self.items.push(item);
        self.due
            .get_or_insert_with(|| Instant::now() + self.patience);
    }

    /// What is hashed now: the oldest, when they are as many as are hashed side by
    /// side or as can still come, or when they waited long enough.
    fn batch(&mut self, can_come: usize, now: Instant) -> Option<Vec<T>> {
        let is_due = self.due.is_some_and(|due| due <= now);
        let enough = self.items.len() >= SIDE_BY_SIDE.min(can_come);
        if self.items.is_empty() || !(is_due || enough) {
            return None;
        }
        let count = self.items.len().min(self.most);
        let batch = self.items.drain(..count).collect();
        self.due = (!self.items.is_empty()).then(|| now + self.patience);
        Some(batch)
    }
}

/// Reads chunks back. Of one that the disk damaged nothing is kept: who knows
/// what else lies beside the bad sector.
fn check(download: &Download, chunks: &[UniqueIndex]) -> Result<Vec<ChunkVerdict>, StoreError> {
    let verdicts = download.check_chunks(chunks)?;
    for (chunk, verdict) in chunks.iter().zip(&verdicts) {
        if matches!(verdict, ChunkVerdict::Damaged(_)) {
            download.drop_chunk(*chunk)?;
        }
    }
    Ok(verdicts)
}

fn verify_and_write(download: &Download, batch: Vec<(PeerKey, PieceIndex, Bytes)>) -> DiskEvent {
    let senders: Vec<_> = batch
        .iter()
        .map(|(peer, index, _)| (*peer, *index))
        .collect();
    let received = batch
        .into_iter()
        .map(|(_, index, bytes)| ReceivedPiece { index, bytes })
        .collect();
    let results = hash::verify(download.manifest(), received);
    let verdicts = senders
        .into_iter()
        .zip(&results)
        .map(|((peer, index), result)| (peer, index, result.is_ok()))
        .collect();
    let good: Vec<_> = results.into_iter().flatten().collect();
    match download.write(&good) {
        Ok(()) => DiskEvent::Verified(verdicts),
        Err(error) => DiskEvent::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_begun_when_it_has_company_or_nothing_more_comes_or_it_waited_long() {
        let patience = Duration::from_secs(1);
        let mut queue = Queue::new(6, patience);
        let now = Instant::now();
        assert_eq!(queue.batch(100, now + patience), None);
        queue.push(1);
        let due = queue.due.unwrap();
        assert_eq!(queue.batch(100, now), None);
        assert_eq!(queue.batch(1, now), Some(vec![1]));
        queue.push(2);
        assert!(queue.due.unwrap() >= due);
        let due = queue.due.unwrap();
        assert_eq!(queue.batch(100, due), Some(vec![2]));
        assert_eq!(queue.due, None);
        (0..SIDE_BY_SIDE).for_each(|item| queue.push(item));
        assert_eq!(queue.batch(100, now), Some(vec![0, 1, 2, 3]));
        (0..8).for_each(|item| queue.push(item));
        assert_eq!(queue.batch(100, now), Some(vec![0, 1, 2, 3, 4, 5]));
        // The rest is not forgotten.
        assert_eq!(queue.due, Some(now + patience));
        assert_eq!(queue.batch(100, now + patience), Some(vec![6, 7]));
    }
}
