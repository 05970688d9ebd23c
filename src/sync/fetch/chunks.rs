//! What is left of each chunk, and which chunks are to be checked.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rand::{Rng, RngExt};

use crate::snapshot::{Bitmap, Manifest, UniqueIndex};

/// Begun chunks looked at for one request. A peer that has none of so many
/// random ones is given a new chunk.
const BEGUN_TRIES: usize = 32;

/// Counts for each chunk. Two bytes each, and the begun ones in a set.
pub(super) struct Chunks {
    manifest: Arc<Manifest>,
    /// Pieces not here.
    left: Vec<u8>,
    /// Pieces asked of nobody.
    missing: Vec<u8>,
    /// Chunks with some pieces missing and some not.
    begun: BTreeSet<u32>,
    checked: Vec<bool>,
    checked_count: u32,
    /// Chunks to be checked.
    due: VecDeque<u32>,
    /// Chunks being checked.
    checking: BTreeSet<u32>,
}

impl Chunks {
    pub(super) fn new(manifest: Arc<Manifest>, have: &Bitmap) -> Self {
        let count = manifest.unique_count() as usize;
        let mut this = Self {
            left: Vec::with_capacity(count),
            missing: Vec::with_capacity(count),
            begun: BTreeSet::new(),
            checked: vec![false; count],
            checked_count: 0,
            due: VecDeque::new(),
            checking: BTreeSet::new(),
            manifest,
        };
        for chunk in this.manifest.unique_indexes() {
            let left = this
                .manifest
                .pieces_of(chunk)
                .filter(|piece| !have.contains(piece.get()))
                .count() as u8;
            this.left.push(left);
            this.missing.push(left);
            this.note_begun(chunk.get());
            if left == 0 {
                this.due.push_back(chunk.get());
            }
        }
        this
    }

    /// A chunk of one piece whose two digests differ: such a manifest lies.
    pub(super) fn contradiction(&self) -> bool {
        self.manifest.unique_indexes().any(|chunk| {
            let unique = self.manifest.unique_chunk(chunk);
            let mut pieces = self.manifest.pieces_of(chunk);
            unique.piece_count() == 1
                && pieces
                    .next()
                    .is_some_and(|piece| self.manifest.piece(piece).sha256 != *unique.id.digest())
        })
    }

    /// The chunk of a piece.
    pub(super) fn of(&self, piece: u32) -> u32 {
        let index = self
            .manifest
            .piece_index(piece)
            .expect("a piece of this manifest");
        self.manifest.piece(index).chunk.get()
    }

    /// Numbers of the pieces of a chunk.
    pub(super) fn pieces(&self, chunk: u32) -> std::ops::Range<u32> {
        let index = self.index(chunk);
        let unique = self.manifest.unique_chunk(index);
        unique.first_piece..unique.first_piece + unique.piece_count()
    }

    pub(super) fn index(&self, chunk: u32) -> UniqueIndex {
        self.manifest
            .unique_index(chunk)
            .expect("a chunk of this manifest")
    }

    /// A piece is asked of somebody.
    pub(super) fn note_asked(&mut self, piece: u32) {
        let chunk = self.of(piece);
        self.missing[chunk as usize] -= 1;
        self.note_begun(chunk);
    }

    /// A piece is missing again.
    pub(super) fn note_missing(&mut self, piece: u32) {
        let chunk = self.of(piece);
        self.missing[chunk as usize] += 1;
        self.note_begun(chunk);
    }

    /// A piece is here.
    pub(super) fn note_have(&mut self, piece: u32) {
        let chunk = self.of(piece);
        self.left[chunk as usize] -= 1;
        if self.left[chunk as usize] == 0 {
            self.due.push_back(chunk);
        }
    }

    /// A chunk that was here is not; `lost` of its pieces were.
    pub(super) fn note_lost(&mut self, chunk: u32, lost: u8) {
        let at = chunk as usize;
        self.left[at] += lost;
        self.missing[at] += lost;
        self.due.retain(|due| *due != chunk);
        self.checking.remove(&chunk);
        if std::mem::take(&mut self.checked[at]) {
            self.checked_count -= 1;
        }
        self.note_begun(chunk);
    }

    /// The next chunk to be checked, while fewer than `at_once` are.
    pub(super) fn next_check(&mut self, at_once: u32) -> Option<UniqueIndex> {
        if self.checking.len() >= at_once.max(1) as usize {
            return None;
        }
        let chunk = self.due.pop_front()?;
        self.checking.insert(chunk);
        Some(self.index(chunk))
    }

    pub(super) fn is_being_checked(&self, chunk: u32) -> bool {
        self.checking.contains(&chunk)
    }

    /// The chunk is what its name says.
    pub(super) fn note_checked(&mut self, chunk: u32) {
        if self.checking.remove(&chunk) {
            self.checked[chunk as usize] = true;
            self.checked_count += 1;
        }
    }

    /// Takes the checks in `checked` off the list at once.
    pub(super) fn assume_checked(&mut self, checked: impl IntoIterator<Item = UniqueIndex>) {
        let checked: BTreeSet<u32> = checked.into_iter().map(UniqueIndex::get).collect();
        let due = std::mem::take(&mut self.due);
        for chunk in due {
            if checked.contains(&chunk) {
                self.checked[chunk as usize] = true;
                self.checked_count += 1;
            } else {
                self.due.push_back(chunk);
            }
        }
    }

    pub(super) fn checked_count(&self) -> u32 {
        self.checked_count
    }

    pub(super) fn all_checked(&self) -> bool {
        self.checked_count as usize == self.checked.len()
    }

    /// Some chunks that were begun and have pieces left to ask for, from a
    /// random place on.
    pub(super) fn some_begun(&self, rng: &mut impl Rng) -> impl Iterator<Item = u32> + '_ {
        let start = rng.random_range(0..self.left.len().max(1)) as u32;
        self.begun
            .range(start..)
            .chain(self.begun.range(..start))
            .take(BEGUN_TRIES)
            .copied()
    }

    fn note_begun(&mut self, chunk: u32) {
        let missing = u32::from(self.missing[chunk as usize]);
        let range = self.pieces(chunk);
        if missing > 0 && missing < range.end - range.start {
            self.begun.insert(chunk);
        } else {
            self.begun.remove(&chunk);
        }
    }

    /// Recounts everything; the sentence says what does not fit.
    pub(super) fn audit(
        &self,
        has: impl Fn(u32) -> bool,
        is_missing: impl Fn(u32) -> bool,
    ) -> Result<(), String> {
        for chunk in 0..self.left.len() as u32 {
            let left = self.pieces(chunk).filter(|piece| !has(*piece)).count();
            let missing = self
                .pieces(chunk)
                .filter(|piece| is_missing(*piece))
                .count();
            if (left, missing)
                != (
                    usize::from(self.left[chunk as usize]),
                    usize::from(self.missing[chunk as usize]),
                )
            {
                return Err(format!("chunk {chunk}: {left} left, {missing} missing"));
            }
        }
        Ok(())
    }
}
