//! What goes through a pipe between us and a worker: records, and how it ended.
//!
//! ```text
//! frame   u32 length of what follows, then one byte for its kind   (all little-endian)
//! record  1, flags, u32 length of key, key, stamp, value to the end
//!         flags: 1 has a value, 2 stamp is text (u8 length, text), 4 stamp is a number (i64)
//! alive   2: still at work
//! end     3, u64 number of records before it
//! failed  4, u32 length of key, key, problem to the end
//! fault   5, i32 number of the system's error
//! ```
//!
//! A stream without `end`, `failed` or `fault` is that of a worker that died. Both ends are the
//! same program; even so a length is checked before it is believed, for a worker's
//! memory may be what a damaged file made of it.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};

use super::walk::{Seen, SeenStamp};
use crate::state::{
    Key, MAX_KEY_BYTES, MAX_STAMP_BYTES, MAX_VALUE_BYTES, Place, Record, Scope, Stamp, StampText,
};

/// The longest frame: a record with everything at its limit.
const MAX_FRAME_BYTES: usize = MAX_KEY_BYTES + MAX_VALUE_BYTES + MAX_STAMP_BYTES + 64;
/// Bytes of a problem's text.
const MAX_PROBLEM_BYTES: usize = 4096;

const RECORD: u8 = 1;
const ALIVE: u8 = 2;
const END: u8 = 3;
const FAILED: u8 = 4;
const FAULT: u8 = 5;

const HAS_VALUE: u8 = 1;
const TEXT_STAMP: u8 = 2;
const INT_STAMP: u8 = 4;

/// Writes frames.
pub(super) struct FrameWriter<W> {
    to: W,
    frame: Vec<u8>,
    records: u64,
}

impl<W: Write> FrameWriter<W> {
    /// Through `to`, which should gather what it gets into large writes.
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            frame: Vec::new(),
            records: 0,
        }
    }

    /// A record of the state.
    pub(super) fn record(&mut self, record: &Record) -> io::Result<()> {
        self.seen(Seen {
            key: record.key().as_bytes(),
            value: record.value().map(|value| &value[..]),
            stamp: match record.stamp() {
                Stamp::Absent => SeenStamp::Absent,
                Stamp::Text(text) => SeenStamp::Text(text.as_str().as_bytes()),
                Stamp::Int(number) => SeenStamp::Int(*number),
            },
        })
    }

    /// A record as it was found.
    pub(super) fn seen(&mut self, seen: Seen<'_>) -> io::Result<()> {
        let value = if seen.value.is_some() { HAS_VALUE } else { 0 };
        let stamp = match seen.stamp {
            SeenStamp::Absent => 0,
            SeenStamp::Text(_) => TEXT_STAMP,
            SeenStamp::Int(_) => INT_STAMP,
        };
        self.begin(RECORD);
        self.frame.push(value | stamp);
        self.sized(seen.key);
        match seen.stamp {
            SeenStamp::Absent => {}
            SeenStamp::Text(text) => {
                self.frame.push(text.len() as u8);
                self.frame.extend_from_slice(text);
            }
            SeenStamp::Int(number) => self.frame.extend_from_slice(&number.to_le_bytes()),
        }
        self.frame.extend_from_slice(seen.value.unwrap_or_default());
        self.records += 1;
        self.send()
    }

    /// Nothing was found for a while. It is not kept back.
    pub(super) fn alive(&mut self) -> io::Result<()> {
        self.begin(ALIVE);
        self.send()?;
        self.to.flush()
    }

    /// Nothing follows.
    pub(super) fn end(mut self) -> io::Result<W> {
        self.begin(END);
        self.frame.extend_from_slice(&self.records.to_le_bytes());
        self.send()?;
        self.to.flush()?;
        Ok(self.to)
    }

    /// It ended at `key` with a problem.
    pub(super) fn fail(mut self, key: &[u8], problem: &str) -> io::Result<()> {
        self.begin(FAILED);
        self.sized(key.get(..MAX_KEY_BYTES).unwrap_or(key));
        let problem = problem.as_bytes();
        let problem = problem.get(..MAX_PROBLEM_BYTES).unwrap_or(problem);
        self.frame.extend_from_slice(problem);
        self.send()?;
        self.to.flush()
    }

    /// The system refused what had to be done.
    pub(super) fn fault(mut self, error: &io::Error) -> io::Result<()> {
        self.begin(FAULT);
        // An error of ours has no number, and is none of the disk's.
        let number = error.raw_os_error().unwrap_or_default();
        self.frame.extend_from_slice(&number.to_le_bytes());
        self.send()?;
        self.to.flush()
    }

    fn begin(&mut self, kind: u8) {
        self.frame.clear();
        self.frame.extend_from_slice(&[0; 4]);
        self.frame.push(kind);
    }

    fn sized(&mut self, bytes: &[u8]) {
        self.frame
            .extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.frame.extend_from_slice(bytes);
    }

    fn send(&mut self) -> io::Result<()> {
        let len = self.frame.len() - 4;
        self.frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        self.to.write_all(&self.frame)
    }
}

/// What came through the pipe.
#[derive(PartialEq, Debug)]
pub(super) enum Frame {
    Record(Record),
    Alive,
    End,
    Failed { key: Bytes, problem: String },
    Fault(i32),
}

/// Reads frames as records of one scope.
pub(super) struct FrameReader<R> {
    from: R,
    scope: Scope,
    records: u64,
}

impl<R: Read> FrameReader<R> {
    /// From `from`, which should read in large portions.
    pub(super) fn new(from: R, scope: Scope) -> Self {
        Self {
            from,
            scope,
            records: 0,
        }
    }

    /// The next frame. A stream that is cut off, or none of ours, is an error.
    pub(super) fn next(&mut self) -> io::Result<Frame> {
        let mut len = [0; 4];
        self.from.read_exact(&mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 || len > MAX_FRAME_BYTES {
            return Err(damaged());
        }
        let mut frame = vec![0; len];
        self.from.read_exact(&mut frame)?;
        let mut frame = Bytes::from(frame);
        match frame.get_u8() {
            RECORD => {
                self.records += 1;
                self.record(frame).ok_or_else(damaged).map(Frame::Record)
            }
            ALIVE => Ok(Frame::Alive),
            END if frame.try_get_u64_le() == Ok(self.records) => Ok(Frame::End),
            FAILED => {
                let key = sized(&mut frame).ok_or_else(damaged)?;
                let problem = String::from_utf8_lossy(&frame).into_owned();
                Ok(Frame::Failed { key, problem })
            }
            FAULT => frame
                .try_get_i32_le()
                .map(Frame::Fault)
                .map_err(|_| damaged()),
            _ => Err(damaged()),
        }
    }

    fn record(&self, mut frame: Bytes) -> Option<Record> {
        let flags = frame.try_get_u8().ok()?;
        let key = Key::new(sized(&mut frame)?).ok()?;
        let stamp = match flags & !HAS_VALUE {
            0 => Stamp::Absent,
            TEXT_STAMP => {
                let len = usize::from(frame.try_get_u8().ok()?);
                let text = (len <= frame.len()).then(|| frame.split_to(len))?;
                Stamp::Text(StampText::new(std::str::from_utf8(&text).ok()?).ok()?)
            }
            INT_STAMP => Stamp::Int(frame.try_get_i64_le().ok()?),
            _ => return None,
        };
        let value = (flags & HAS_VALUE != 0).then_some(frame);
        let scope = self.scope.clone();
        Record::new(Place { scope, key }, value, stamp).ok()
    }
}

fn sized(frame: &mut Bytes) -> Option<Bytes> {
    let len = frame.try_get_u32_le().ok()? as usize;
    (len <= frame.len()).then(|| frame.split_to(len))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no stream of records")
}
