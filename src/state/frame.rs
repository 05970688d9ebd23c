//! Payloads into zstd frames and out of them.
//!
//! A chunk is exactly one zstd frame (RFC 8878) with none of its optional fields:
//! no content size, no dictionary, no checksum, and a window of at most
//! [`WINDOW_LOG`] bits. Other frames are refused by their first five bytes.
//!
//! A frame's bytes follow from its payload and from the version of zstd, which is
//! fixed. They must not follow from what was compressed before: a
//! context that was used carries a salt over into its hash tables. So each frame
//! has a context of its own.
//!
//! A reader takes any frame that says the right payload: another compressor's
//! bytes are another chunk with another name, and no harm. To hold them against
//! our own would cost as much as making them.

use bytes::{Buf, Bytes};
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, SafeResult, get_error_name,
    zstd_sys::ZSTD_VERSION_NUMBER,
};

use super::{MAX_PAYLOAD_BYTES, StateError};
use crate::snapshot::MAX_CHUNK_BYTES;

/// The level of zstd: see the table in the room's doc comment.
const ZSTD_LEVEL: i32 = 9;

const _: () = assert!(
    ZSTD_VERSION_NUMBER == 10507,
    "another version of zstd may make other bytes of the same state, and nodes would not agree \
     on the names of their snapshots: if tests/golden/state.txt still holds, allow it here, or \
     else it needs a new version of state content"
);

/// How far back a frame refers, and what its reader keeps: 8 MiB, the most that
/// every decoder of zstd is asked to take (RFC 8878, 3.1.1.1.2).
const WINDOW_LOG: u32 = 23;

/// The magic number, and a descriptor without optional fields.
const FRAME_HEAD: [u8; 5] = [0x28, 0xb5, 0x2f, 0xfd, 0];

/// What zstd compresses at once: so much of a payload has no known size yet.
const BLOCK_BYTES: usize = 128 << 10;

/// What a payload shrinks to while nothing of it is compressed.
const GUESSED_RATIO: usize = 3;

/// A payload that shrinks to less than an eighth counts as one that shrinks to an
/// eighth, so that its length is limited as well.
const MAX_RATIO: usize = 8;

/// Fills one frame.
pub(super) struct FrameWriter {
    zstd: CCtx<'static>,
    /// The end of the payload, which is not compressed yet.
    pending: Vec<u8>,
    payload_bytes: usize,
    out: Vec<u8>,
}

impl FrameWriter {
    /// A frame that begins with these bytes.
    pub fn new(head: &[u8]) -> Result<Self, StateError> {
        let memory = || StateError::Zstd("there is no memory for a compressor".to_owned());
        let mut zstd = CCtx::try_create().ok_or_else(memory)?;
        for parameter in [
            CParameter::CompressionLevel(ZSTD_LEVEL),
            CParameter::WindowLog(WINDOW_LOG),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
            CParameter::DictIdFlag(false),
        ] {
            checked(zstd.set_parameter(parameter))?;
        }
        Ok(Self {
            zstd,
            pending: head.to_vec(),
            payload_bytes: head.len(),
            out: Vec::new(),
        })
    }

    /// The size of the frame so far. Of the last block it is a guess: that it
    /// shrinks as those before.
    pub fn bytes(&self) -> usize {
        let compressed = self.payload_bytes - self.pending.len();
        let pending = (self.pending.len() * self.out.len())
            .checked_div(compressed)
            .unwrap_or(self.pending.len() / GUESSED_RATIO);
        (self.out.len() + pending).max(self.payload_bytes / MAX_RATIO)
    }

    /// Whether the frame stays within its limits with so many bytes more, even
    /// where they do not shrink.
    pub fn has_room(&self, more: usize) -> bool {
        let open = self.pending.len() + more;
        // As zstd bounds the size of any content, and the frame's own framing.
        let at_most = self.out.len() + open + open / 256 + 1024;
        at_most <= MAX_CHUNK_BYTES as usize && self.payload_bytes + more <= MAX_PAYLOAD_BYTES
    }

    /// Appends what `write` appends.
    pub fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), StateError> {
        let before = self.pending.len();
        write(&mut self.pending);
        self.payload_bytes += self.pending.len() - before;
        let whole = self.pending.len() / BLOCK_BYTES * BLOCK_BYTES;
        if whole > 0 {
            self.compress(whole)?;
        }
        Ok(())
    }

    /// The whole frame.
    pub fn finish(mut self) -> Result<Bytes, StateError> {
        self.compress(self.pending.len())?;
        loop {
            let at = self.out.len();
            self.out.reserve(BLOCK_BYTES);
            let mut output = OutBuffer::around_pos(&mut self.out, at);
            if checked(self.zstd.end_stream(&mut output))? == 0 {
                self.out.shrink_to_fit();
                return Ok(self.out.into());
            }
        }
    }

    fn compress(&mut self, len: usize) -> Result<(), StateError> {
        let mut input = InBuffer::around(&self.pending[..len]);
        loop {
            let at = self.out.len();
            self.out.reserve(2 * BLOCK_BYTES);
            let mut output = OutBuffer::around_pos(&mut self.out, at);
            checked(self.zstd.compress_stream(&mut output, &mut input))?;
            let is_flushed = self.out.len() < self.out.capacity();
            if input.pos() == len && is_flushed {
                break;
            }
        }
        self.pending.drain(..len);
        Ok(())
    }
}

/// Reads the payload out of one foreign frame after the other.
pub(super) struct FrameReader {
    zstd: DCtx<'static>,
    /// What is not decompressed yet.
    frame: Bytes,
    /// Of the payload, what was decompressed and not let go.
    buffer: Vec<u8>,
    /// How much of the buffer is let go.
    used: usize,
    payload_bytes: usize,
    is_at_end: bool,
}

impl FrameReader {
    pub fn new() -> Result<Self, StateError> {
        let memory = || StateError::Zstd("there is no memory for a decompressor".to_owned());
        let mut zstd = DCtx::try_create().ok_or_else(memory)?;
        checked(zstd.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)))?;
        Ok(Self {
            zstd,
            frame: Bytes::new(),
            buffer: Vec::new(),
            used: 0,
            payload_bytes: 0,
            is_at_end: false,
        })
    }

    /// Begins with another frame.
    pub fn begin(&mut self, frame: Bytes) -> Result<(), StateError> {
        if frame.len() > MAX_CHUNK_BYTES as usize {
            let problem = format!(
                "has {} bytes, at most {MAX_CHUNK_BYTES} are possible",
                frame.len()
            );
            return Err(StateError::limit("chunk", problem));
        }
        if !frame.starts_with(&FRAME_HEAD) {
            return Err(StateError::Zstd(
                "it does not begin as a zstd frame without optional fields".to_owned(),
            ));
        }
        checked(self.zstd.init())?;
        self.frame = frame;
        self.buffer.clear();
        self.used = 0;
        self.payload_bytes = 0;
        self.is_at_end = false;
        Ok(())
    }

    /// What was decompressed and not let go.
    pub fn payload(&self) -> &[u8] {
        &self.buffer[self.used..]
    }

    /// Lets go of the first bytes of the payload.
    pub fn consume(&mut self, len: usize) {
        self.used += len;
    }

    /// Decompresses more. False at the end, where nothing of the frame is left.
    pub fn fill(&mut self) -> Result<bool, StateError> {
        if self.is_at_end {
            return Ok(false);
        }
        self.buffer.drain(..self.used);
        self.used = 0;
        let at = self.buffer.len();
        self.buffer.reserve(BLOCK_BYTES);
        let mut input = InBuffer::around(&self.frame);
        let mut output = OutBuffer::around_pos(&mut self.buffer, at);
        let left = checked(self.zstd.decompress_stream(&mut output, &mut input))?;
        let read = input.pos();
        self.frame.advance(read);
        let made = self.buffer.len() - at;
        self.payload_bytes += made;
        if self.payload_bytes > MAX_PAYLOAD_BYTES {
            let problem = format!("holds more than {MAX_PAYLOAD_BYTES} bytes");
            return Err(StateError::limit("chunk", problem));
        }
        self.is_at_end = left == 0;
        if self.is_at_end && !self.frame.is_empty() {
            let problem = format!("{} bytes follow the frame", self.frame.len());
            return Err(StateError::Zstd(problem));
        }
        if !self.is_at_end && made == 0 && read == 0 {
            return Err(StateError::Zstd("the frame is cut off".to_owned()));
        }
        Ok(true)
    }
}

fn checked(result: SafeResult) -> Result<usize, StateError> {
    result.map_err(|code| StateError::Zstd(get_error_name(code).to_owned()))
}
