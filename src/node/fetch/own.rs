//! Chunks that another snapshot of the home has, of whatever chain and height, are
//! taken from there: equal chunks have one name, and state content keeps the chunks
//! whose records did not change.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::gather::bytes_of;
use super::part::Part;
use crate::node::command::Failure;
use crate::node::failure::blocking;
use crate::node::progress::{Reporter, byte_progress, chunks};
use crate::snapshot::hash::{self, BATCH_PIECES};
use crate::snapshot::{Bitmap, ChunkId, PieceIndex, ReceivedPiece, UniqueIndex};
use crate::store::{Download, Store, StoreError};

/// Takes what the home has of a download, or of the part of it that is wanted. What
/// cannot be read or is of other bytes is left to the peers.
pub(super) async fn take(
    store: &Store,
    download: &Arc<Download>,
    part: Option<&Part>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let missing = missing_chunks(download, part);
    let ids: Vec<ChunkId> = missing
        .iter()
        .map(|chunk| download.manifest().unique_chunk(*chunk).id)
        .collect();
    let held = store.holds(&ids);
    if held.is_empty() {
        return Ok(());
    }
    reporter.phase(format!(
        "taking {} from other snapshots of the home",
        chunks(held.count())
    ));
    let (store, download) = (store.clone(), download.clone());
    let mut progress = byte_progress(reporter, cancel);
    blocking(move || {
        let manifest = download.manifest().clone();
        let mut wanted = Bitmap::new(manifest.piece_count());
        let held = held.iter().filter_map(|at| missing.get(at as usize));
        for piece in held.flat_map(|chunk| manifest.pieces_of(*chunk)) {
            wanted.insert(piece.get());
        }
        for piece in download.have().iter() {
            wanted.remove(piece);
        }
        let (mut done, total) = (0, bytes_of(&manifest, &wanted));
        let wanted: Vec<PieceIndex> = wanted
            .iter()
            .filter_map(|number| manifest.piece_index(number))
            .collect();
        for batch in wanted.chunks(BATCH_PIECES) {
            copy(&store, &download, batch)?;
            let len = |piece: &PieceIndex| u64::from(manifest.piece(*piece).len);
            done += batch.iter().map(len).sum::<u64>();
            if progress(done, total).is_break() {
                return Err(Failure::interrupted("the same command goes on"));
            }
        }
        Ok(download.sync()?)
    })
    .await
}

/// Wanted chunks of which some piece is not here.
fn missing_chunks(download: &Download, part: Option<&Part>) -> Vec<UniqueIndex> {
    let (manifest, have) = (download.manifest(), download.have());
    let is_missing = |chunk: &UniqueIndex| {
        let mut pieces = manifest.pieces_of(*chunk);
        pieces.any(|piece| !have.contains(piece.get()))
    };
    let is_wanted = |chunk: &UniqueIndex| part.is_none_or(|part| part.has(*chunk));
    let wanted = manifest.unique_indexes().filter(is_wanted);
    wanted.filter(is_missing).collect()
}

fn copy(store: &Store, download: &Download, pieces: &[PieceIndex]) -> Result<(), StoreError> {
    let manifest = download.manifest();
    let mut found = Vec::with_capacity(pieces.len());
    for index in pieces {
        let place = manifest.piece(*index);
        let chunk = manifest.unique_chunk(place.chunk).id;
        match store.read_piece(&chunk, place.index_in_chunk) {
            Ok(Some(bytes)) => found.push(ReceivedPiece {
                index: *index,
                bytes,
            }),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "a chunk of the home is fetched instead"),
        }
    }
    let verified: Vec<_> = hash::verify(manifest, found)
        .into_iter()
        .flatten()
        .collect();
    download.write(&verified)
}
