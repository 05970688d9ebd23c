//! How large chunks are.

use super::StateError;

/// The size around which chunks end, in bytes, compressed. A chunk has from a
/// quarter of it to one and a half, and 0.7 of it on the mean; only a record that
/// is longer makes a longer one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSize(u32);

impl ChunkSize {
    /// The largest, and the one to take where nothing else is asked for: one and
    /// a half of it, the block that is being filled and their framing still make
    /// a chunk that ABCI carries.
    pub const MAX: Self = Self(10 << 20);

    /// The smallest: below, the compressor learns too little from a chunk.
    pub const MIN: Self = Self(16 << 10);

    /// Checks a number of bytes.
    pub fn new(bytes: u32) -> Result<Self, StateError> {
        if (Self::MIN.0..=Self::MAX.0).contains(&bytes) {
            return Ok(Self(bytes));
        }
        let (least, most) = (Self::MIN.0, Self::MAX.0);
        let problem = format!("is {bytes} bytes; {least} to {most} are possible");
        Err(StateError::limit("chunk size", problem))
    }

    /// The number of bytes.
    pub fn get(self) -> u32 {
        self.0
    }
}
