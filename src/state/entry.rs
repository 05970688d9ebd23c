//! Entries: how a change is written down.
//!
//! # Layout
//!
//! The **payload** of a chunk is the version byte ([`PAYLOAD_VERSION`]) and then
//! entries, one for each change, in the order of places. A number is a varint:
//! seven bits to a byte, the lowest first, no byte more than needed.
//!
//! | part | bytes | stands |
//! |---|---|---|
//! | head | 1: bit 0 scope, bit 1 value, bit 2 text stamp, bit 3 number stamp, bit 4 removed | always |
//! | scope | its length, its text | in the first entry and where it is another than before |
//! | key | how many bytes it begins with in common with the key before in this scope; how many follow; these | always |
//! | value | its length, its bytes | with bit 1 |
//! | stamp | its length and text, or the number `n` as `2n`, a negative one as `-2n - 1` | with bit 2 or 3 |
//!
//! The bits 5 to 7 are zero. In an entry of a removed place bits 1 to 3 are zero,
//! in every other at least one of them is set, and of bits 2 and 3 at most one.
//!
//! A list of changes has one payload: what a reader could take in two ways of
//! writing (a longer number, a scope said again, less in common than there is) it
//! refuses.
//!
//! The **record stream** of a state is the same entries of all its records
//! without a version byte and without a cut: what it hashes to depends on the
//! state alone.

use bytes::Bytes;

use super::StateError;
use super::record::{
    Change, Key, MAX_KEY_BYTES, MAX_STAMP_BYTES, MAX_VALUE_BYTES, Place, Record, Stamp, StampText,
};
use crate::snapshot::{MAX_SCOPE_BYTES, Scope};

/// The first byte of a payload.
pub(super) const PAYLOAD_VERSION: u8 = 1;

const HAS_SCOPE: u8 = 1;
const HAS_VALUE: u8 = 1 << 1;
const HAS_TEXT: u8 = 1 << 2;
const HAS_NUMBER: u8 = 1 << 3;
const IS_REMOVED: u8 = 1 << 4;

/// The head and six numbers, of which only the stamp's may have ten bytes and the
/// others at most four.
const MAX_FRAMING_BYTES: usize = 1 + 5 * 4 + 10;

/// The place of the entry before; none at the beginning.
#[derive(Default)]
pub(super) struct Last {
    scope: Option<Scope>,
    key: Vec<u8>,
}

impl Last {
    /// Notes the place of an entry.
    pub fn set(&mut self, place: &Place) {
        if self.scope.as_ref() != Some(&place.scope) {
            self.scope = Some(place.scope.clone());
        }
        self.key.clear();
        self.key.extend_from_slice(place.key.as_bytes());
    }

    /// Whether an entry of this place may follow.
    pub fn check_order(&self, place: &Place) -> Result<(), StateError> {
        let is_before = self.scope.as_ref().is_none_or(|scope| {
            let last = (scope, &self.key[..]);
            last < (&place.scope, place.key.as_bytes())
        });
        if is_before {
            return Ok(());
        }
        Err(StateError::Order(place.to_string()))
    }
}

/// What is written down of one place.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub place: &'a Place,
    /// None where the place is removed.
    record: Option<&'a Record>,
}

impl<'a> From<&'a Record> for Entry<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            place: record.place(),
            record: Some(record),
        }
    }
}

impl<'a> From<&'a Change> for Entry<'a> {
    fn from(change: &'a Change) -> Self {
        match change {
            Change::Put(record) => record.into(),
            Change::Removed(place) => Self {
                place,
                record: None,
            },
        }
    }
}

impl Entry<'_> {
    /// Appends it behind the entry of `last`.
    pub fn write(&self, last: &Last, out: &mut Vec<u8>) {
        let key = self.place.key.as_bytes();
        let shared = if last.scope.as_ref() == Some(&self.place.scope) {
            out.push(self.head());
            common(&last.key, key)
        } else {
            out.push(self.head() | HAS_SCOPE);
            put_bytes(self.place.scope.as_str().as_bytes(), out);
            0
        };
        put_number(shared as u64, out);
        put_bytes(&key[shared..], out);
        let Some(record) = self.record else {
            return;
        };
        if let Some(value) = record.value() {
            put_bytes(value, out);
        }
        match record.stamp() {
            Stamp::Absent => {}
            Stamp::Text(text) => put_bytes(text.as_str().as_bytes(), out),
            Stamp::Int(number) => put_number(to_unsigned(*number), out),
        }
    }

    fn head(&self) -> u8 {
        let Some(record) = self.record else {
            return IS_REMOVED;
        };
        let value = if record.value().is_some() {
            HAS_VALUE
        } else {
            0
        };
        let stamp = match record.stamp() {
            Stamp::Absent => 0,
            Stamp::Text(_) => HAS_TEXT,
            Stamp::Int(_) => HAS_NUMBER,
        };
        value | stamp
    }

    /// The bytes that are its own, wherever it stands, and one.
    pub fn weight(&self) -> usize {
        let key = || self.place.key.as_bytes().len();
        1 + self.record.map_or_else(key, Record::content_bytes)
    }

    /// At least as many bytes as it has, wherever it stands.
    pub fn bytes_at_most(&self) -> usize {
        MAX_FRAMING_BYTES + self.place.scope.as_str().len() + self.weight()
    }
}

/// What a reader found at the beginning of some bytes.
pub(super) enum Read {
    /// A change, and how many bytes its entry has.
    Entry(Change, usize),
    /// The beginning of an entry.
    Incomplete,
}

/// Reads entries out of foreign bytes.
#[derive(Default)]
pub(super) struct EntryReader {
    last: Last,
    /// The end of the payload before.
    before: Last,
}

impl EntryReader {
    /// From here on it reads another payload, whose places lie behind.
    pub fn begin(&mut self) {
        if self.last.scope.is_some() {
            self.before = std::mem::take(&mut self.last);
        }
    }

    /// Reads the first entry of `bytes`. A length is checked before its bytes
    /// are waited for: what stays incomplete is shorter than the longest entry.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Read, StateError> {
        let mut rest = Rest(bytes);
        let change = match self.parse(&mut rest) {
            Ok(change) => change,
            Err(Stop::Incomplete) => return Ok(Read::Incomplete),
            Err(Stop::Wrong(error)) => return Err(error),
        };
        // Inside of a payload the order shows in how the entry is written.
        if self.last.scope.is_none() {
            self.before.check_order(change.place())?;
        }
        self.last.set(change.place());
        Ok(Read::Entry(change, bytes.len() - rest.0.len()))
    }

    fn parse(&self, rest: &mut Rest) -> Result<Change, Stop> {
        let head = rest.take(1)?[0];
        check_head(head)?;
        let scope = self.scope_of(head, rest)?;
        let key = self.key_of(head, rest)?;
        let place = Place { scope, key };
        if head & IS_REMOVED != 0 {
            return Ok(Change::Removed(place));
        }
        let value = if head & HAS_VALUE == 0 {
            None
        } else {
            let value = rest.take_counted("value", MAX_VALUE_BYTES)?;
            Some(Bytes::copy_from_slice(value))
        };
        let stamp = if head & HAS_TEXT != 0 {
            let text = rest.take_counted("stamp", MAX_STAMP_BYTES)?;
            Stamp::Text(StampText::new(utf8("stamp", text)?)?)
        } else if head & HAS_NUMBER != 0 {
            Stamp::Int(to_signed(rest.number()?))
        } else {
            Stamp::Absent
        };
        Ok(Change::Put(Record::new(place, value, stamp)?))
    }

    fn scope_of(&self, head: u8, rest: &mut Rest) -> Result<Scope, Stop> {
        let last = self.last.scope.as_ref();
        if head & HAS_SCOPE == 0 {
            let missing = || wrong("the first entry has no scope");
            return last.cloned().ok_or_else(missing);
        }
        let text = rest.take_counted("scope", MAX_SCOPE_BYTES)?;
        let scope = Scope::new(utf8("scope", text)?).map_err(StateError::from)?;
        if last.is_some_and(|last| *last >= scope) {
            return Err(wrong("a scope stands again or behind a later one"));
        }
        Ok(scope)
    }

    fn key_of(&self, head: u8, rest: &mut Rest) -> Result<Key, Stop> {
        let last = (head & HAS_SCOPE == 0).then_some(&self.last.key[..]);
        let shared = rest.number()?;
        let length = rest.number()?;
        let before = last.unwrap_or_default();
        let Some(common) = usize::try_from(shared).ok().and_then(|n| before.get(..n)) else {
            return Err(wrong(
                "a key has more in common with the one before than it has",
            ));
        };
        if length > (MAX_KEY_BYTES - common.len()) as u64 {
            return Err(
                StateError::limit("key", format!("has more than {MAX_KEY_BYTES} bytes")).into(),
            );
        }
        let own = rest.take(length as usize)?;
        if let Some(last) = last {
            // Where the two part, the later key has the greater byte or the only
            // one: both orders and the most in common are seen there.
            let parts = (last.get(common.len()), own.first());
            if !matches!(parts, (None, Some(_))) && parts.0 >= parts.1 {
                return Err(wrong(
                    "a key stands again, behind a later one, or with less in common than it has",
                ));
            }
        }
        Ok(Key::new([common, own].concat().into())?)
    }
}

fn check_head(head: u8) -> Result<(), Stop> {
    let content = head & (HAS_VALUE | HAS_TEXT | HAS_NUMBER);
    let is_removed = head & IS_REMOVED != 0;
    let two_stamps = head & HAS_TEXT != 0 && head & HAS_NUMBER != 0;
    let unknown = head & !(HAS_SCOPE | HAS_VALUE | HAS_TEXT | HAS_NUMBER | IS_REMOVED) != 0;
    if unknown || two_stamps || is_removed != (content == 0) {
        return Err(wrong(format!("no entry begins with byte {head:#04x}")));
    }
    Ok(())
}

/// Why an entry was not read to its end.
enum Stop {
    Incomplete,
    Wrong(StateError),
}

impl From<StateError> for Stop {
    fn from(error: StateError) -> Self {
        Self::Wrong(error)
    }
}

fn wrong(problem: impl Into<String>) -> Stop {
    Stop::Wrong(StateError::Payload(problem.into()))
}

fn utf8<'a>(what: &'static str, bytes: &'a [u8]) -> Result<&'a str, StateError> {
    std::str::from_utf8(bytes).map_err(|_| StateError::limit(what, "is not UTF-8"))
}

/// Bytes that are not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Stop::Incomplete)?;
        self.0 = rest;
        Ok(taken)
    }

    fn take_counted(&mut self, what: &'static str, most: usize) -> Result<&'a [u8], Stop> {
        let len = self.number()?;
        if len > most as u64 {
            let problem = format!("has {len} bytes, at most {most} are possible");
            return Err(StateError::limit(what, problem).into());
        }
        self.take(len as usize)
    }

    fn number(&mut self) -> Result<u64, Stop> {
        let mut number = 0;
        for at in 0..10 {
            let byte = *self.0.get(at).ok_or(Stop::Incomplete)?;
            let bits = u64::from(byte & 0x7f);
            if at == 9 && byte > 1 {
                return Err(wrong("a number has more than 64 bits"));
            }
            number |= bits << (7 * at);
            if byte < 0x80 {
                if byte == 0 && at > 0 {
                    return Err(wrong("a number is longer than it needs to be"));
                }
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(wrong("a number has more than 64 bits"))
    }
}

fn put_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn to_unsigned(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

fn to_signed(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// How many bytes both begin with.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
