//! Who is known to have which piece of a snapshot that is asked of us.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::PeerHolding;
use super::super::bits::Bits;
use crate::snapshot::{ChunkId, Manifest};

/// One snapshot, as long as a connection has it open.
pub(super) struct Snapshot {
    /// First piece and number of pieces of each chunk. About 50 bytes for each.
    chunks: BTreeMap<ChunkId, (u32, u32)>,
    /// For each piece the neighbours that have it or were sent it.
    views: Vec<u16>,
    /// Neighbours that have everything.
    complete: u32,
    /// Connections that have it open.
    pub(super) openers: u32,
}

/// What one neighbour has or was sent of a snapshot.
#[derive(Default)]
pub(super) struct Known {
    complete: bool,
    pieces: Option<Bits>,
}

impl Snapshot {
    pub(super) fn new(manifest: &Arc<Manifest>) -> Self {
        let chunks = manifest
            .unique_indexes()
            .map(|chunk| manifest.unique_chunk(chunk))
            .map(|chunk| (chunk.id, (chunk.first_piece, chunk.piece_count())))
            .collect();
        Self {
            chunks,
            views: vec![0; manifest.piece_count() as usize],
            complete: 0,
            openers: 0,
        }
    }

    /// The number of a chunk's piece; nothing when the chunk is not of this
    /// snapshot, an error when it has no such piece.
    pub(super) fn piece(&self, chunk: &ChunkId, piece: u32) -> Option<Result<u32, ()>> {
        let (first, count) = self.chunks.get(chunk)?;
        Some(if piece < *count {
            Ok(first + piece)
        } else {
            Err(())
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.views.len() as u32
    }

    /// Neighbours that have the piece or were sent it.
    pub(super) fn view(&self, piece: u32) -> u32 {
        u32::from(self.views[piece as usize]) + self.complete
    }

    /// The neighbour has the piece, or it is on its way there. True when that
    /// is new.
    pub(super) fn add(&mut self, known: &mut Known, piece: u32) -> bool {
        let len = self.len();
        let new = !known.complete && {
            let pieces = known.pieces.get_or_insert_with(|| Bits::new(len));
            pieces.insert(piece)
        };
        if new {
            self.views[piece as usize] = self.views[piece as usize].saturating_add(1);
        }
        new
    }

    /// The neighbour does not get the piece after all.
    pub(super) fn remove(&mut self, known: &mut Known, piece: u32) {
        if let Some(pieces) = &mut known.pieces
            && pieces.remove(piece)
        {
            self.views[piece as usize] = self.views[piece as usize].saturating_sub(1);
        }
    }

    /// Replaces what is known of a neighbour.
    pub(super) fn replace(&mut self, known: &mut Known, holding: PeerHolding) {
        self.forget(known);
        match holding {
            PeerHolding::Nothing => {}
            PeerHolding::Complete => {
                known.complete = true;
                self.complete += 1;
            }
            PeerHolding::Pieces(pieces) => {
                for piece in pieces.iter() {
                    self.add(known, piece);
                }
            }
        }
    }

    /// The neighbour is gone.
    pub(super) fn forget(&mut self, known: &mut Known) {
        if std::mem::take(&mut known.complete) {
            self.complete -= 1;
        }
        for piece in known.pieces.take().iter().flat_map(Bits::iter) {
            self.views[piece as usize] = self.views[piece as usize].saturating_sub(1);
        }
    }
}

impl Known {
    pub(super) fn has(&self, piece: u32) -> bool {
        self.complete || self.pieces.as_ref().is_some_and(|p| p.contains(piece))
    }
}
