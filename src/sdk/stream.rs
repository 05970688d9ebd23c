//! Whether bytes are one zlib stream from its first byte to its last.
//!
//! What it decodes to is thrown away as it comes: a stream that decodes to a
//! thousand times its size costs time, and no memory.

use flate2::{Decompress, FlushDecompress, Status};

use super::error::Unfit;

/// Room for what is thrown away.
const DISCARDED_BYTES: usize = 128 << 10;

/// A stream under reading.
pub(super) struct Stream {
    inflate: Decompress,
    discarded: Box<[u8]>,
    ended: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            inflate: Decompress::new(true),
            discarded: vec![0; DISCARDED_BYTES].into(),
            ended: false,
        }
    }

    /// The next bytes of it.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Unfit> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(Unfit::Trailing);
            }
            let (taken, made) = self.decode(bytes)?;
            if taken == 0 && made == 0 && !self.ended {
                return Err(Unfit::Damaged);
            }
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// There are no more bytes.
    pub(super) fn finish(mut self) -> Result<(), Unfit> {
        // The last bytes may decode to more than there was room for.
        while !self.ended {
            if let (_, 0) = self.decode(&[])? {
                break;
            }
        }
        if self.ended {
            Ok(())
        } else {
            Err(Unfit::NoEnd)
        }
    }

    /// How many bytes were taken, and how many they became.
    fn decode(&mut self, bytes: &[u8]) -> Result<(usize, usize), Unfit> {
        let before = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(bytes, &mut self.discarded, FlushDecompress::None)
            .map_err(|_| Unfit::Damaged)?;
        self.ended = status == Status::StreamEnd;
        Ok((
            (self.inflate.total_in() - before.0) as usize,
            (self.inflate.total_out() - before.1) as usize,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(7));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// In parts of `size` bytes.
    fn read(stream: &[u8], size: usize) -> Result<(), Unfit> {
        let mut reading = Stream::new();
        stream
            .chunks(size)
            .try_for_each(|part| reading.push(part))?;
        reading.finish()
    }

    fn text() -> Vec<u8> {
        (0..40_000_u32)
            .flat_map(|i| (i * i).to_le_bytes())
            .collect()
    }

    #[test]
    fn a_whole_stream_ends_however_it_is_cut() {
        for content in [Vec::new(), text()] {
            let whole = zlib(&content);
            for size in [1, 7, 4096, whole.len()] {
                assert_eq!(read(&whole, size), Ok(()), "{size}");
            }
        }
    }

    #[test]
    fn a_stream_that_lacks_its_last_byte_or_more_has_no_end() {
        let whole = zlib(&text());
        for missing in [1, 4, 5, whole.len() / 2, whole.len() - 1, whole.len()] {
            let part = &whole[..whole.len() - missing];
            assert_eq!(read(part, 4096), Err(Unfit::NoEnd), "{missing}");
        }
    }

    #[test]
    fn a_byte_too_many_or_a_wrong_one_is_seen() {
        let mut long = zlib(&text());
        long.push(0);
        for size in [1, long.len()] {
            assert_eq!(read(&long, size), Err(Unfit::Trailing));
        }
        let twice = [zlib(b"a"), zlib(b"b")].concat();
        assert_eq!(read(&twice, 4096), Err(Unfit::Trailing));
        let mut wrong_checksum = zlib(&text());
        *wrong_checksum.last_mut().unwrap() ^= 1;
        assert_eq!(read(&wrong_checksum, 4096), Err(Unfit::Damaged));
        for no_zlib in [&[0; 64][..], b"\x1f\x8b\x08gzip", b"plain text"] {
            assert_eq!(read(no_zlib, 4096), Err(Unfit::Damaged));
        }
    }

    #[test]
    fn a_stream_that_becomes_a_thousand_times_as_long_needs_no_more_room() {
        let bomb = zlib(&vec![0; 64 << 20]);
        assert!(bomb.len() < 70_000, "{}", bomb.len());
        let mut reading = Stream::new();
        reading.push(&bomb).unwrap();
        assert_eq!(reading.discarded.len(), DISCARDED_BYTES);
        assert_eq!(reading.finish(), Ok(()));
    }
}
