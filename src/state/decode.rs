//! Chunks into changes.

use bytes::Bytes;

use super::StateError;
use super::entry::{EntryReader, PAYLOAD_VERSION, Read};
use super::frame::FrameReader;
use super::record::{Change, Record};
use crate::snapshot::Scope;

/// Reads foreign chunks, in their order. Holds the chunk, the 8 MiB that zstd looks
/// back at, and a block. Only an entry that is longer than a block takes more, up
/// to twice its length: 56 MiB are the most, whatever the bytes say.
///
/// Each change is checked: its limits, that it lies behind those before, in this
/// chunk and in earlier ones, and that it is of the scope that comes next by the
/// manifest. That all of a chunk was right is known at its end.
pub struct Decoder {
    frame: FrameReader,
    entries: EntryReader,
    /// The scope that changes are of now, and those that follow.
    scopes: Vec<Scope>,
    /// How many scopes of the chunk have been entered.
    entered: usize,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Version,
    Entries,
    End,
}

impl Decoder {
    /// Ahead of the first chunk.
    pub fn new() -> Result<Self, StateError> {
        Ok(Self {
            frame: FrameReader::new()?,
            entries: EntryReader::default(),
            scopes: Vec::new(),
            entered: 0,
            step: Step::End,
        })
    }

    /// Begins with another chunk, which lies behind those before. Some may be left
    /// out in between. `scopes` are those that the manifest says of it.
    pub fn begin(&mut self, chunk: OpenChunk) -> Result<(), StateError> {
        self.step = Step::End;
        self.frame.begin(chunk.bytes)?;
        self.entries.begin();
        self.scopes = chunk.scopes;
        self.entered = 0;
        self.step = Step::Version;
        Ok(())
    }

    /// The next change of the chunk; none at its end, and after an error.
    pub fn next_change(&mut self) -> Result<Option<Change>, StateError> {
        if self.step == Step::End {
            return Ok(None);
        }
        let read = self.read();
        if !matches!(read, Ok(Some(_))) {
            self.step = Step::End;
        }
        read
    }

    fn read(&mut self) -> Result<Option<Change>, StateError> {
        if self.step == Step::Version {
            self.read_version()?;
            self.step = Step::Entries;
        }
        loop {
            if let Read::Entry(change, len) = self.entries.read(self.frame.payload())? {
                self.frame.consume(len);
                self.enter(&change.place().scope)?;
                return Ok(Some(change));
            }
            if !self.frame.fill()? {
                break;
            }
        }
        if !self.frame.payload().is_empty() {
            return Err(StateError::Payload("the last entry is cut off".to_owned()));
        }
        if self.entered < self.scopes.len() {
            return Err(StateError::Payload(
                "it ends ahead of a scope that the manifest says of it".to_owned(),
            ));
        }
        Ok(None)
    }

    fn read_version(&mut self) -> Result<(), StateError> {
        while self.frame.payload().is_empty() {
            if !self.frame.fill()? {
                return Err(StateError::Payload("it is empty".to_owned()));
            }
        }
        match self.frame.payload()[0] {
            PAYLOAD_VERSION => self.frame.consume(1),
            version => return Err(StateError::Version(version)),
        }
        Ok(())
    }

    /// Goes on to the scope of a change. None that the manifest says is left out.
    fn enter(&mut self, scope: &Scope) -> Result<(), StateError> {
        if self.entered > 0 && self.scopes[self.entered - 1] == *scope {
            return Ok(());
        }
        if self.scopes.get(self.entered) != Some(scope) {
            return Err(StateError::Payload(
                "it has a scope that the manifest does not say of it".to_owned(),
            ));
        }
        self.entered += 1;
        Ok(())
    }
}

/// A foreign chunk, and the scopes that its manifest says of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenChunk {
    /// Its bytes.
    pub bytes: Bytes,
    /// The scopes, in order.
    pub scopes: Vec<Scope>,
}

/// All changes of a content, out of its chunks one after the other. Ends after an
/// error.
pub struct Changes<I> {
    chunks: I,
    decoder: Decoder,
    is_at_end: bool,
}

impl<I> Changes<I> {
    /// Reads chunks that come in their order.
    pub fn new(chunks: I) -> Result<Self, StateError> {
        Ok(Self {
            chunks,
            decoder: Decoder::new()?,
            is_at_end: false,
        })
    }
}

impl<I, E> Changes<I>
where
    I: Iterator<Item = Result<OpenChunk, E>>,
    E: From<StateError>,
{
    fn read(&mut self) -> Result<Option<Change>, E> {
        loop {
            if let Some(change) = self.decoder.next_change()? {
                return Ok(Some(change));
            }
            match self.chunks.next().transpose()? {
                Some(chunk) => self.decoder.begin(chunk)?,
                None => return Ok(None),
            }
        }
    }
}

impl<I, E> Iterator for Changes<I>
where
    I: Iterator<Item = Result<OpenChunk, E>>,
    E: From<StateError>,
{
    type Item = Result<Change, E>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_at_end {
            return None;
        }
        let read = self.read();
        self.is_at_end = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

/// All records of a full snapshot: its [`Changes`], none of which removes.
pub struct Records<I>(Changes<I>);

impl<I> Records<I> {
    /// Reads chunks that come in their order.
    pub fn new(chunks: I) -> Result<Self, StateError> {
        Changes::new(chunks).map(Self)
    }
}

impl<I, E> Iterator for Records<I>
where
    I: Iterator<Item = Result<OpenChunk, E>>,
    E: From<StateError>,
{
    type Item = Result<Record, E>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.0.next()? {
            Ok(Change::Put(record)) => Ok(record),
            Ok(Change::Removed(place)) => {
                self.0.is_at_end = true;
                Err(StateError::Removal(place.to_string()).into())
            }
            Err(error) => Err(error),
        })
    }
}
