//! Frames off a stream.

use std::io;

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt};

use super::{Closed, Fault};
use crate::wire::{FRAME_HEADER_BYTES, FrameHeader};

/// The reading half of a stream, read frame by frame.
pub(super) struct Frames<R> {
    io: R,
    /// The part of the next header that came.
    header: [u8; FRAME_HEADER_BYTES],
    filled: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(io: R) -> Self {
        Self {
            io,
            header: [0; FRAME_HEADER_BYTES],
            filled: 0,
        }
    }

    /// The next header, its length checked. A stream that ends here ends in
    /// order. Nothing is lost when this is dropped while it waits.
    pub(super) async fn header(&mut self) -> Result<FrameHeader, Closed> {
        while self.filled < FRAME_HEADER_BYTES {
            match self.io.read(&mut self.header[self.filled..]).await {
                Ok(0) if self.filled == 0 => return Err(Closed::ByPeer),
                Ok(0) => return Err(cut_off()),
                Ok(count) => self.filled += count,
                Err(error) => return Err(Closed::Lost(error)),
            }
        }
        self.filled = 0;
        FrameHeader::decode(self.header).map_err(|error| Closed::Fault(Fault::Wire(error)))
    }

    /// The payload of a control frame.
    pub(super) async fn payload(&mut self, header: FrameHeader) -> Result<Bytes, Closed> {
        let mut payload = vec![0; header.len as usize];
        let mut filled = 0;
        while filled < payload.len() {
            filled += self.some(&mut payload[filled..]).await?;
        }
        Ok(payload.into())
    }

    /// As many bytes as are there, at least one; they belong to the payload of
    /// the last header.
    pub(super) async fn some(&mut self, into: &mut [u8]) -> Result<usize, Closed> {
        match self.io.read(into).await {
            Ok(0) => Err(cut_off()),
            Ok(count) => Ok(count),
            Err(error) => Err(Closed::Lost(error)),
        }
    }
}

fn cut_off() -> Closed {
    Closed::Lost(io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the stream ended inside a message",
    ))
}
