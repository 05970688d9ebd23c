//! A set of numbers below a fixed length, as bits.

/// A set of numbers in `0..len`.
///
/// Bytes (on disk and on the wire): bit `n` is bit `n % 8`, counted from the
/// least significant, of byte `n / 8`; unused bits of the last byte are zero.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bitmap {
    len: u32,
    ones: u32,
    bytes: Vec<u8>,
}

/// Why bytes are no bitmap of the expected length.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BitmapError {
    /// The number of bytes does not fit the number of bits.
    #[error("a bitmap of {bits} bits has {expected} bytes, not {found}")]
    Length {
        /// Bits expected.
        bits: u32,
        /// Bytes for that many bits.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// A bit beyond the last number is set.
    #[error("a bitmap of {0} bits has a bit set beyond its end")]
    Excess(u32),
}

impl Bitmap {
    /// The empty set of numbers below `len`.
    pub fn new(len: u32) -> Self {
        Self {
            len,
            ones: 0,
            bytes: vec![0; Self::byte_len(len)],
        }
    }

    /// The set of all numbers below `len`.
    pub fn full(len: u32) -> Self {
        let mut bytes = vec![0xff; Self::byte_len(len)];
        if let Some(last) = bytes.last_mut()
            && !len.is_multiple_of(8)
        {
            *last = (1 << (len % 8)) - 1;
        }
        Self {
            len,
            ones: len,
            bytes,
        }
    }

    /// The set in `bytes`, which must be exactly what [`Bitmap::as_bytes`] of a
    /// set of this length gives.
    pub fn from_bytes(len: u32, bytes: &[u8]) -> Result<Self, BitmapError> {
        let expected = Self::byte_len(len);
        if bytes.len() != expected {
            return Err(BitmapError::Length {
                bits: len,
                expected,
                found: bytes.len(),
            });
        }
        if !len.is_multiple_of(8)
            && let Some(last) = bytes.last()
            && last >> (len % 8) != 0
        {
            return Err(BitmapError::Excess(len));
        }
        Ok(Self {
            len,
            ones: bytes.iter().map(|b| b.count_ones()).sum(),
            bytes: bytes.to_vec(),
        })
    }

    /// Bytes that a bitmap of `len` bits takes.
    pub fn byte_len(len: u32) -> usize {
        (len as usize).div_ceil(8)
    }

    /// The encoded form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Numbers that can be members.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether the set has no member.
    pub fn is_empty(&self) -> bool {
        self.ones == 0
    }

    /// Members.
    pub fn count(&self) -> u32 {
        self.ones
    }

    /// Whether every number is a member.
    pub fn is_full(&self) -> bool {
        self.ones == self.len
    }

    /// Whether `n` is a member; false beyond the end.
    pub fn contains(&self, n: u32) -> bool {
        n < self.len && self.bytes[n as usize / 8] & (1 << (n % 8)) != 0
    }

    /// Adds `n`; true when it was not a member. Panics beyond the end: callers
    /// hold numbers minted for this length.
    pub fn insert(&mut self, n: u32) -> bool {
        assert!(n < self.len, "bit {n} of a bitmap of {}", self.len);
        let byte = &mut self.bytes[n as usize / 8];
        let mask = 1 << (n % 8);
        let new = *byte & mask == 0;
        *byte |= mask;
        self.ones += u32::from(new);
        new
    }

    /// Takes `n` out; true when it was a member. Panics beyond the end.
    pub fn remove(&mut self, n: u32) -> bool {
        assert!(n < self.len, "bit {n} of a bitmap of {}", self.len);
        let byte = &mut self.bytes[n as usize / 8];
        let mask = 1 << (n % 8);
        let was = *byte & mask != 0;
        *byte &= !mask;
        self.ones -= u32::from(was);
        was
    }

    /// The members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.bytes
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte != 0)
            .flat_map(|(at, byte)| {
                (0..8u32)
                    .filter(move |bit| byte & (1 << bit) != 0)
                    .map(move |bit| at as u32 * 8 + bit)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_survive_their_bytes_and_foreign_bytes_are_checked() {
        let mut bits = Bitmap::new(11);
        assert!(bits.insert(0));
        assert!(bits.insert(10));
        assert!(!bits.insert(10));
        assert_eq!(bits.as_bytes(), [0b1, 0b100]);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 10]);
        assert_eq!(Bitmap::from_bytes(11, bits.as_bytes()), Ok(bits.clone()));
        assert!(bits.remove(0));
        assert_eq!(bits.count(), 1);

        assert_eq!(
            Bitmap::from_bytes(11, &[0, 8]),
            Err(BitmapError::Excess(11))
        );
        assert!(matches!(
            Bitmap::from_bytes(11, &[0]),
            Err(BitmapError::Length { .. })
        ));
        assert!(!bits.contains(u32::MAX));
    }

    #[test]
    fn a_full_bitmap_has_every_number_and_no_more() {
        for len in [0, 1, 7, 8, 9, 64] {
            let bits = Bitmap::full(len);
            assert!(bits.is_full());
            assert_eq!(bits.iter().count() as u32, len);
            assert_eq!(Bitmap::from_bytes(len, bits.as_bytes()), Ok(bits));
        }
    }
}
