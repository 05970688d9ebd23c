//! Frames: a length as a varint, then so many bytes of protobuf (facts/cometbft-state-sync.md,
//! "ABCI on the socket"). They are cut where they begin and moved on as they are.
//!
//! Small frames are collected before they are written. Whoever waits for more first
//! writes the whole frames that it has: among them may be the Flush for which the
//! other side waits before it sends more.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::{ReadSide, WriteSide};
use super::walk::Walker;

/// Bytes read at a time, and bytes collected before they are written.
const BUFFER_BYTES: usize = 64 << 10;
/// The same while a long frame goes by: fewer wake-ups of the other side.
const LONG_BUFFER_BYTES: usize = 512 << 10;
/// A varint of 64 bits has at most ten bytes.
const MAX_VARINT_BYTES: usize = 10;

/// The beginning of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// Bytes of the length itself.
    prefix: usize,
    /// Bytes behind it.
    pub(super) body: u64,
    /// The number of the call, see [`super::message`]; 0 where there is none.
    pub(super) call: u32,
}

/// One direction of a connection, coming in.
pub(super) struct FrameReader {
    from: ReadSide,
    buffer: BytesMut,
}

impl FrameReader {
    pub(super) fn new(from: ReadSide) -> Self {
        let buffer = BytesMut::with_capacity(BUFFER_BYTES);
        Self { from, buffer }
    }

    /// Whether nothing is here that was read and not taken.
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Reads more; false at the end. Nothing is lost when it is dropped.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(BUFFER_BYTES);
        Ok(self.from.read_buf(&mut self.buffer).await? > 0)
    }

    /// Ends when the other side has closed, keeping what comes until then; what is
    /// more than a few calls stays in the socket.
    pub(super) async fn closed(&mut self) {
        while self.buffer.len() < BUFFER_BYTES {
            if !matches!(self.fill().await, Ok(true)) {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// The next frame's beginning, which stays here; nothing at the end of the
    /// stream. What was moved to `to` leaves before more is waited for. Nothing is
    /// lost when it is dropped while that waits for nobody.
    pub(super) async fn head(&mut self, to: &mut FrameWriter) -> io::Result<Option<Head>> {
        loop {
            if let Some(head) = parse(&self.buffer)? {
                return Ok(Some(head));
            }
            to.flush().await?;
            if !self.fill().await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        }
    }

    /// Takes a whole frame: all of its bytes, and where its body begins. What was
    /// moved to `to` leaves before more is waited for.
    pub(super) async fn take(&mut self, head: Head, to: &mut FrameWriter) -> io::Result<Frame> {
        let len = head.prefix + head.body as usize;
        while self.buffer.len() < len {
            to.flush().await?;
            self.buffer.reserve(len - self.buffer.len());
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let bytes = self.buffer.split_to(len).freeze();
        let body = bytes.slice(head.prefix..);
        Ok(Frame { bytes, body })
    }

    /// Puts a frame that was taken back to where it was.
    pub(super) fn put_back(&mut self, frame: &Frame) {
        let rest = self.buffer.split();
        self.buffer.extend_from_slice(&frame.bytes);
        self.buffer.extend_from_slice(&rest);
    }

    /// Moves a frame on without holding it; `walker` sees its body go by.
    pub(super) async fn forward(
        &mut self,
        head: Head,
        to: &mut FrameWriter,
        mut walker: Option<&mut Walker>,
    ) -> io::Result<()> {
        to.push_part(&self.buffer[..head.prefix]).await?;
        self.buffer.advance(head.prefix);
        let mut left = head.body;
        while left > 0 {
            if self.buffer.is_empty() {
                to.flush_whole().await?;
                let wanted = usize::try_from(left).unwrap_or(LONG_BUFFER_BYTES);
                self.buffer
                    .reserve(wanted.clamp(BUFFER_BYTES, LONG_BUFFER_BYTES));
                if !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            let step = left.min(self.buffer.len() as u64) as usize;
            if let Some(walker) = &mut walker {
                walker.walk(&self.buffer[..step]);
            }
            to.push_part(&self.buffer[..step]).await?;
            self.buffer.advance(step);
            left -= step as u64;
        }
        to.end_frame();
        Ok(())
    }

    /// Moves everything on that comes, to the end: what it says is not understood.
    pub(super) async fn forward_all(&mut self, to: &mut FrameWriter) -> io::Result<()> {
        loop {
            to.push(&self.buffer).await?;
            to.flush().await?;
            self.buffer.clear();
            if !self.fill().await? {
                return Ok(());
            }
        }
    }
}

/// A frame that was taken.
pub(super) struct Frame {
    /// All of it, as it came.
    pub(super) bytes: Bytes,
    /// The message.
    pub(super) body: Bytes,
}

/// The beginning of the frame at the front; nothing while too little is here.
fn parse(buffer: &[u8]) -> io::Result<Option<Head>> {
    let Some((body, prefix)) = varint(buffer)? else {
        return Ok(None);
    };
    if body == 0 {
        let call = 0;
        return Ok(Some(Head { prefix, body, call }));
    }
    let message = &buffer[prefix..];
    let known = message
        .len()
        .min(usize::try_from(body).unwrap_or(usize::MAX));
    let call = match varint(&message[..known]) {
        Ok(Some((key, _))) => u32::try_from(key >> 3).unwrap_or(0),
        Ok(None) if known as u64 == body => 0,
        Ok(None) => return Ok(None),
        Err(_) => 0,
    };
    Ok(Some(Head { prefix, body, call }))
}

/// A varint at the front and how many bytes it has; nothing while it is cut off.
fn varint(buffer: &[u8]) -> io::Result<Option<(u64, usize)>> {
    let mut value = 0;
    for (at, byte) in buffer.iter().take(MAX_VARINT_BYTES).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(Some((value, at + 1)));
        }
    }
    if buffer.len() < MAX_VARINT_BYTES {
        return Ok(None);
    }
    let problem = "a frame begins with no length";
    Err(io::Error::new(io::ErrorKind::InvalidData, problem))
}

/// One direction of a connection, going out. Small frames are collected.
pub(super) struct FrameWriter {
    to: WriteSide,
    buffer: BytesMut,
    /// Whether a frame ends in the buffer: somebody may wait for it.
    has_whole: bool,
}

impl FrameWriter {
    pub(super) fn new(to: WriteSide) -> Self {
        let buffer = BytesMut::with_capacity(BUFFER_BYTES);
        Self {
            to,
            buffer,
            has_whole: false,
        }
    }

    /// Takes a whole frame; it is written with others when there are many, or at
    /// [`Self::flush`].
    pub(super) async fn push(&mut self, frame: &[u8]) -> io::Result<()> {
        self.push_part(frame).await?;
        self.end_frame();
        Ok(())
    }

    fn end_frame(&mut self) {
        self.has_whole = !self.buffer.is_empty();
    }

    async fn push_part(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() <= BUFFER_BYTES {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush().await?;
        self.to.write_all(bytes).await
    }

    /// Writes all that was taken.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.to.write_all(&self.buffer).await?;
            self.buffer.clear();
            self.has_whole = false;
        }
        Ok(())
    }

    /// Writes all that was taken if a whole frame is among it. A part alone is of no
    /// use to anybody yet, and a long frame in small parts would cost a write each.
    async fn flush_whole(&mut self) -> io::Result<()> {
        match self.has_whole {
            true => self.flush().await,
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tendermint_proto::v0_38::abci::{Request, RequestCheckTx, RequestFlush, request};

    use super::*;

    fn frames() -> (Vec<u8>, Vec<(u64, u32)>) {
        let tx = |len| {
            request::Value::CheckTx(RequestCheckTx {
                tx: vec![1; len].into(),
                r#type: 0,
            })
        };
        let mut bytes = Vec::new();
        let mut heads = Vec::new();
        for value in [
            tx(3),
            request::Value::Flush(RequestFlush {}),
            tx(300_000),
            tx(200),
        ] {
            let call = if matches!(value, request::Value::Flush(_)) {
                2
            } else {
                8
            };
            let value = Some(value);
            let frame = Request { value }.encode_length_delimited_to_vec();
            heads.push((
                Request::decode_length_delimited(&*frame)
                    .unwrap()
                    .encoded_len() as u64,
                call,
            ));
            bytes.extend(frame);
        }
        (bytes, heads)
    }

    /// A stream that gives so many bytes at a time.
    struct Slow(Vec<u8>, usize, usize);

    impl tokio::io::AsyncRead for Slow {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            let end = (self.1 + self.2.min(buffer.remaining())).min(self.0.len());
            buffer.put_slice(&self.0[self.1..end]);
            self.1 = end;
            std::task::Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn frames_pass_as_they_came_however_the_stream_is_cut() {
        let (bytes, expected) = frames();
        for step in [1, 2, 1000, usize::MAX / 2] {
            for hold in [false, true] {
                let (out, mut seen) = tokio::io::duplex(1 << 20);
                let mut to = FrameWriter::new(Box::new(out));
                let mut from = FrameReader::new(Box::new(Slow(bytes.clone(), 0, step)));
                let mut heads = Vec::new();
                while let Some(head) = from.head(&mut to).await.unwrap() {
                    heads.push((head.body, head.call));
                    if hold {
                        let frame = from.take(head, &mut to).await.unwrap();
                        from.put_back(&frame);
                        let again = from.head(&mut to).await.unwrap().unwrap();
                        assert_eq!(again, head);
                        let frame = from.take(again, &mut to).await.unwrap();
                        assert_eq!(frame.body.len() as u64, head.body);
                        to.push(&frame.bytes).await.unwrap();
                    } else {
                        from.forward(head, &mut to, None).await.unwrap();
                    }
                }
                to.flush().await.unwrap();
                drop(to);
                let mut passed = Vec::new();
                seen.read_to_end(&mut passed).await.unwrap();
                assert!(passed == bytes, "step {step}");
                assert_eq!(heads, expected);
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_told_and_can_still_be_moved_on() {
        for bytes in [vec![0xff; 20], vec![5, 1], vec![0x80]] {
            let mut from = FrameReader::new(Box::new(Slow(bytes.clone(), 0, 100)));
            let (out, mut seen) = tokio::io::duplex(100);
            let mut to = FrameWriter::new(Box::new(out));
            let ended = match from.head(&mut to).await {
                Ok(Some(head)) => from.take(head, &mut to).await.is_err(),
                other => other.is_err(),
            };
            assert!(ended, "{bytes:?}");
            from.forward_all(&mut to).await.unwrap();
            drop(to);
            let mut passed = Vec::new();
            seen.read_to_end(&mut passed).await.unwrap();
            assert_eq!(passed, bytes);
        }
        // An empty frame, and calls with numbers that nobody has.
        for bytes in [vec![0], vec![1, 0x80], vec![3, 0xff, 0xff, 0x7f]] {
            let mut from = FrameReader::new(Box::new(Slow(bytes.clone(), 0, 100)));
            let mut to = FrameWriter::new(Box::new(tokio::io::sink()));
            let head = from.head(&mut to).await.unwrap().unwrap();
            assert_eq!(head.body as usize + 1, bytes.len());
            assert_eq!(from.take(head, &mut to).await.unwrap().bytes, bytes);
        }
    }
}
