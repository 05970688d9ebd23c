//! Where a chunk ends.
//!
//! A chunk may end once it has a quarter of the chunk size, and must once it has
//! one and a half. In between it ends ahead of the first record whose place hashes
//! below a bound. The bound is in proportion to the record's length, so that the
//! chance to end is the same for each byte, whether records are balances or
//! sources: [`CUTS_PER_CHUNK_SIZE`] in a chunk size on the mean.
//!
//! So where chunks end does not follow from where they began: behind a change, the
//! first end that both divisions may choose is the same in both, and from there on
//! all chunks are equal. By simulation that is so after 1.3 chunks on the mean,
//! and after two in nine cases of ten; with half of the chunk size as the least, it
//! is 1.7 and three. A chunk has 0.71 of the chunk size on the mean, and one in
//! twelve ends because it must. What a value says does not count; how long it is
//! moves the bound a little, and the size so far moves the two limits: both matter
//! in a chunk that differs anyway.
//!
//! Whoever chooses keys by their hash can make chunks end early, down to a quarter
//! of the chunk size, and no more than that: the hash needs to spread, not to
//! resist.

use super::ChunkSize;
use super::record::Place;

/// How often a chunk would end in a stretch of the chunk size, were every end
/// allowed. One would let a quarter of the chunks run to the greatest size, three
/// would make them small.
const CUTS_PER_CHUNK_SIZE: u128 = 2;

/// The sizes between which chunks end.
#[derive(Clone, Copy, Debug)]
pub(super) struct CutRule {
    chunk_size: u64,
}

/// What is in a chunk so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    /// Its size, compressed.
    pub bytes: u64,
    /// The weight of all its changes.
    pub weight: u64,
}

impl CutRule {
    pub fn new(chunk_size: ChunkSize) -> Self {
        Self {
            chunk_size: u64::from(chunk_size.get()),
        }
    }

    /// Whether the chunk ends ahead of a change of this weight at this place.
    pub fn ends_ahead_of(&self, place: &Place, weight: usize, filled: Filled) -> bool {
        if filled.bytes < self.chunk_size / 4 {
            return false;
        }
        if filled.bytes >= self.chunk_size + self.chunk_size / 2 {
            return true;
        }
        // hash / 2^64 < cuts × (weight × bytes / all weight) / chunk_size. What
        // the change adds to the chunk compressed is not known: it is taken as
        // its share of what the others made.
        let chance = CUTS_PER_CHUNK_SIZE * weight as u128 * u128::from(filled.bytes);
        let whole = u128::from(filled.weight) * u128::from(self.chunk_size);
        u128::from(hash(place)) * whole < chance << 64
    }
}

/// FNV-1a over the scope, a NUL and the key, mixed once more: FNV-1a alone leaves
/// the upper bits of similar keys alike.
fn hash(place: &Place) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(PRIME);
    let hash = place
        .scope
        .as_str()
        .as_bytes()
        .iter()
        .fold(OFFSET_BASIS, add);
    let hash = place.key.as_bytes().iter().fold(add(hash, &0), add);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}
