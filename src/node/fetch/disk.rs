//! The disk side of a download: received pieces are verified in batches,
//! written, and made durable, all on the blocking pool.
//!
//! At most one batch is verified and written at a time; pieces that arrive
//! meanwhile make the next batch, so batches grow by themselves when the disk or
//! the hash is the bottleneck. Syncs run beside it: they only flush what was
//! written before they began.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::snapshot::hash::{self, BATCH_PIECES};
use crate::snapshot::{PieceIndex, ReceivedPiece, UniqueIndex};
use crate::store::{BATCH_CHUNKS, ChunkVerdict, Download, StoreError};
use crate::sync::PeerKey;

/// Written bytes that are synced together. What was written and not synced is
/// found again by its hash after a kill; only a power cut can lose it.
const SYNC_EVERY_BYTES: u64 = 64 << 20;

/// The longest time that written bytes stay unsynced.
const SYNC_EVERY: Duration = Duration::from_secs(5);

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
    waiting: Vec<(PeerKey, PieceIndex, Bytes)>,
    checks: Vec<UniqueIndex>,
    tasks: JoinSet<DiskEvent>,
    verifying: bool,
    checking: bool,
    syncing: bool,
    unsynced_bytes: u64,
    synced_at: Instant,
}

impl Disk {
    pub(super) fn new(download: Arc<Download>) -> Self {
        Self {
            download,
            waiting: Vec::new(),
            checks: Vec::new(),
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

    /// The next result; pending for ever while nothing runs.
    pub(super) async fn next(&mut self) -> DiskEvent {
        let joined = match self.tasks.join_next().await {
            Some(joined) => joined,
            None => std::future::pending().await,
        };
        let event = joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        match &event {
            DiskEvent::Verified(pieces) => {
                self.verifying = false;
                let manifest = self.download.manifest();
                self.unsynced_bytes += pieces
                    .iter()
                    .filter(|(_, _, good)| *good)
                    .map(|(_, index, _)| u64::from(manifest.piece(*index).len))
                    .sum::<u64>();
            }
            DiskEvent::Checked(_) => self.checking = false,
            DiskEvent::Synced => self.syncing = false,
            DiskEvent::Failed(_) => {}
        }
        self.start_work();
        event
    }

    /// Waits for what runs, makes all written bytes durable and gives the
    /// download back.
    pub(super) async fn finish(mut self) -> Result<Arc<Download>, StoreError> {
        self.waiting.clear();
        self.checks.clear();
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

    fn start_work(&mut self) {
        if !self.verifying && !self.waiting.is_empty() {
            self.verifying = true;
            let count = self.waiting.len().min(BATCH_PIECES);
            let batch = self.waiting.drain(..count).collect();
            let download = self.download.clone();
            self.tasks
                .spawn_blocking(move || verify_and_write(&download, batch));
        }
        if !self.checking && !self.checks.is_empty() {
            self.checking = true;
            let count = self.checks.len().min(BATCH_CHUNKS);
            let batch: Vec<UniqueIndex> = self.checks.drain(..count).collect();
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
