//! A set of piece numbers that can be searched fast.

use rand::{Rng, RngExt};

use crate::snapshot::Bitmap;

/// A set of numbers below a fixed length: one bit for each, and one for each 64
/// of them (some bit set there), so that an empty stretch of 4,096 numbers costs
/// one test. A million numbers take 130 KiB.
#[derive(Clone, Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    summary: Vec<u64>,
    len: u32,
    ones: u32,
}

impl Bits {
    /// The empty set of numbers below `len`.
    pub(super) fn new(len: u32) -> Self {
        let words = (len as usize).div_ceil(64);
        Self {
            words: vec![0; words],
            summary: vec![0; words.div_ceil(64)],
            len,
            ones: 0,
        }
    }

    /// All numbers below `len`.
    pub(super) fn full(len: u32) -> Self {
        Self::from_bitmap(&Bitmap::full(len))
    }

    /// The same set.
    pub(super) fn from_bitmap(bitmap: &Bitmap) -> Self {
        let mut bits = Self::new(bitmap.len());
        for (at, bytes) in bitmap.as_bytes().chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            bits.words[at] = u64::from_le_bytes(word);
            if bits.words[at] != 0 {
                bits.summary[at / 64] |= 1 << (at % 64);
            }
        }
        bits.ones = bitmap.count();
        bits
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn count(&self) -> u32 {
        self.ones
    }

    pub(super) fn contains(&self, n: u32) -> bool {
        n < self.len && self.words[n as usize / 64] & (1 << (n % 64)) != 0
    }

    /// Adds `n`; true when it was not a member.
    pub(super) fn insert(&mut self, n: u32) -> bool {
        assert!(n < self.len, "number {n} of a set below {}", self.len);
        let at = n as usize / 64;
        let new = self.words[at] & (1 << (n % 64)) == 0;
        self.words[at] |= 1 << (n % 64);
        self.summary[at / 64] |= 1 << (at % 64);
        self.ones += u32::from(new);
        new
    }

    /// Takes `n` out; true when it was a member.
    pub(super) fn remove(&mut self, n: u32) -> bool {
        assert!(n < self.len, "number {n} of a set below {}", self.len);
        let at = n as usize / 64;
        let was = self.words[at] & (1 << (n % 64)) != 0;
        self.words[at] &= !(1 << (n % 64));
        if self.words[at] == 0 {
            self.summary[at / 64] &= !(1 << (at % 64));
        }
        self.ones -= u32::from(was);
        was
    }

    /// The members, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words
            .iter()
            .enumerate()
            .filter(|(_, word)| **word != 0)
            .flat_map(|(at, word)| {
                (0..64u32)
                    .filter(move |bit| word & (1 << bit) != 0)
                    .map(move |bit| at as u32 * 64 + bit)
            })
    }

    /// A random member that is also in `other` (when given): the search starts
    /// at a random place and takes a random one of the first 64 that fit.
    pub(super) fn random_common(&self, other: Option<&Bits>, rng: &mut impl Rng) -> Option<u32> {
        if self.ones == 0 || other.is_some_and(|other| other.ones == 0) {
            return None;
        }
        let start = rng.random_range(0..self.words.len());
        let (at, word) = self
            .common_word(other, start, self.words.len())
            .or_else(|| self.common_word(other, 0, start))?;
        let pick = rng.random_range(0..word.count_ones());
        Some(at as u32 * 64 + nth_bit(word, pick))
    }

    /// The first word in `from..to` with a common member.
    fn common_word(&self, other: Option<&Bits>, from: usize, to: usize) -> Option<(usize, u64)> {
        let mut at = from;
        while at < to {
            let mut summary = self.summary[at / 64];
            if let Some(other) = other {
                summary &= other.summary[at / 64];
            }
            summary &= u64::MAX << (at % 64);
            if summary == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at = at / 64 * 64 + summary.trailing_zeros() as usize;
            if at >= to {
                return None;
            }
            let word = self.words[at] & other.map_or(u64::MAX, |other| other.words[at]);
            if word != 0 {
                return Some((at, word));
            }
            at += 1;
        }
        None
    }
}

fn nth_bit(mut word: u64, n: u32) -> u32 {
    for _ in 0..n {
        word &= word - 1;
    }
    word.trailing_zeros()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn searching_finds_exactly_the_common_members() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for len in [1u32, 63, 64, 65, 4096, 5000, 20_000] {
            let (mut a, mut b) = (Bits::new(len), Bits::new(len));
            let mut common = std::collections::BTreeSet::new();
            for _ in 0..40 {
                let (x, y) = (rng.random_range(0..len), rng.random_range(0..len));
                a.insert(x);
                b.insert(y);
            }
            common.extend(a.iter().filter(|n| b.contains(*n)));
            let mut found = std::collections::BTreeSet::new();
            for _ in 0..500 {
                found.extend(a.random_common(Some(&b), &mut rng));
            }
            assert_eq!(found, common, "below {len}");
            assert!(a.random_common(None, &mut rng).is_some());
            for n in common {
                assert!(a.remove(n));
            }
            assert_eq!(a.random_common(Some(&b), &mut rng), None);
        }
    }

    #[test]
    fn it_agrees_with_the_bitmap_it_came_from() {
        let mut bitmap = Bitmap::new(200);
        for n in [0, 7, 8, 63, 64, 130, 199] {
            bitmap.insert(n);
        }
        let bits = Bits::from_bitmap(&bitmap);
        assert_eq!(
            bits.iter().collect::<Vec<_>>(),
            bitmap.iter().collect::<Vec<_>>()
        );
        assert_eq!(bits.count(), 7);
        assert_eq!(Bits::full(130).count(), 130);
    }
}
