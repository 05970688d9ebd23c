//! Records: what a state is made of.

use std::fmt;

use bytes::Bytes;

use super::StateError;
use crate::snapshot::Scope;

/// The longest key. A chain's keys have up to about a thousand bytes; a path of
/// names that HDF5 holds may have more. Short enough that keys never decide how
/// much memory a node needs.
pub const MAX_KEY_BYTES: usize = 64 << 10;

/// The longest value. Contract sources have more than 64 KiB. A record of the
/// longest scope, key, value and stamp fits a chunk of
/// [`MAX_CHUNK_BYTES`](crate::snapshot::MAX_CHUNK_BYTES) even where compressing
/// it makes it longer.
pub const MAX_VALUE_BYTES: usize = 15 << 20;

/// The longest text in a stamp: a time in nanoseconds has 19 digits.
pub const MAX_STAMP_BYTES: usize = 255;

/// The name of a record in its scope: up to [`MAX_KEY_BYTES`] bytes, ordered as
/// bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Checks the length.
    pub fn new(bytes: Bytes) -> Result<Self, StateError> {
        at_most("key", bytes.len(), MAX_KEY_BYTES)?;
        Ok(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// Where a record stands: records are ordered by scope, then by key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The scope.
    pub scope: Scope,
    /// The key in it.
    pub key: Key,
}

impl fmt::Display for Place {
    /// For messages: without characters that a terminal would act on, and of what
    /// is long its beginning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 60;
        let scope = self.scope.as_str();
        let scope = &scope[..scope.floor_char_boundary(SHOWN_BYTES)];
        let key = self.key.as_bytes();
        let key = &key[..key.len().min(SHOWN_BYTES)];
        write!(f, "{scope}, key {}", key.escape_ascii())
    }
}

/// When the chain wrote a record, as the chain itself noted it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// It noted nothing.
    Absent,
    /// A text.
    Text(StampText),
    /// A number.
    Int(i64),
}

/// A stamp's text: up to [`MAX_STAMP_BYTES`] bytes, none of them NUL.
#[derive(Clone, PartialEq, Eq)]
pub struct StampText(Box<str>);

impl StampText {
    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, StateError> {
        at_most("stamp", text.len(), MAX_STAMP_BYTES)?;
        if text.contains('\0') {
            return Err(StateError::limit("stamp", "has a NUL character"));
        }
        Ok(Self(text.into()))
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for StampText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// One record of a state. It has a value, a stamp, or both: what has neither is
/// not there. One without a value is a tombstone that the chain itself keeps; it
/// is part of the state as any other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    place: Place,
    value: Option<Bytes>,
    stamp: Stamp,
}

impl Record {
    /// Checks the value and that there is one, or a stamp.
    pub fn new(place: Place, value: Option<Bytes>, stamp: Stamp) -> Result<Self, StateError> {
        if let Some(value) = &value {
            at_most("value", value.len(), MAX_VALUE_BYTES)?;
        } else if stamp == Stamp::Absent {
            return Err(StateError::limit(
                "record",
                "has neither a value nor a stamp",
            ));
        }
        Ok(Self {
            place,
            value,
            stamp,
        })
    }

    /// Where it stands.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its scope.
    pub fn scope(&self) -> &Scope {
        &self.place.scope
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.place.key
    }

    /// Its value, byte for byte; none in a tombstone.
    pub fn value(&self) -> Option<&Bytes> {
        self.value.as_ref()
    }

    /// Its stamp.
    pub fn stamp(&self) -> &Stamp {
        &self.stamp
    }

    /// The bytes of its key, its value and its stamp's text.
    pub fn content_bytes(&self) -> usize {
        let stamp = match &self.stamp {
            Stamp::Text(text) => text.as_str().len(),
            Stamp::Absent | Stamp::Int(_) => 0,
        };
        self.place.key.as_bytes().len() + self.value.as_ref().map_or(0, Bytes::len) + stamp
    }
}

/// What a content says of one place. A full snapshot holds records only; a delta
/// says as well what its base has and the state does not have any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// This record stands there, whatever stood there before.
    Put(Record),
    /// Nothing stands there any more, not even a tombstone.
    Removed(Place),
}

impl Change {
    /// The place that it speaks of.
    pub fn place(&self) -> &Place {
        match self {
            Self::Put(record) => record.place(),
            Self::Removed(place) => place,
        }
    }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), StateError> {
    if found > limit {
        return Err(StateError::limit(
            what,
            format!("has {found} bytes, at most {limit} are possible"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(scope: &str, key: &'static [u8]) -> Place {
        Place {
            scope: Scope::new(scope).unwrap(),
            key: Key::new(Bytes::from_static(key)).unwrap(),
        }
    }

    #[test]
    fn each_part_may_have_its_limit_and_not_one_byte_more() {
        let fits = |len| Key::new(vec![0; len].into()).is_ok();
        assert!(fits(0) && fits(MAX_KEY_BYTES) && !fits(MAX_KEY_BYTES + 1));
        let fits = |len| StampText::new(&"7".repeat(len)).is_ok();
        assert!(fits(0) && fits(MAX_STAMP_BYTES) && !fits(MAX_STAMP_BYTES + 1));
        let fits = |len| {
            let value = Bytes::from(vec![0; len]);
            Record::new(place("s", b"k"), Some(value), Stamp::Absent).is_ok()
        };
        assert!(fits(0) && fits(MAX_VALUE_BYTES) && !fits(MAX_VALUE_BYTES + 1));
    }

    #[test]
    fn a_stamp_can_end_with_nul() {
        assert!(StampText::new("17").is_ok());
        assert!(StampText::new("17\0").is_err());
    }

    #[test]
    fn what_has_neither_value_nor_stamp_is_no_record() {
        assert!(Record::new(place("s", b"k"), None, Stamp::Absent).is_err());
        assert!(Record::new(place("s", b"k"), None, Stamp::Int(0)).is_ok());
    }

    #[test]
    fn keys_joined_by_nul_stand_in_the_order_of_a_walk() {
        let walk: [&[u8]; 6] = [b"", b"a", b"a\0b", b"a\0b\0c", b"a!", b"b"];
        assert!(walk.is_sorted());
        let places = walk.map(|key| place("s", key));
        assert!(places.is_sorted());
        assert!(place("a", b"z") < place("b", b""));
    }
}
