//! What a protobuf message may contain, looked at before it is decoded.
//!
//! The decoder allocates as it reads: a repeated field costs up to 70 bytes of
//! memory for two bytes of message, a field that stands twice is merged in
//! silence, a number that does not fit its field loses its upper bits. So the
//! bytes are walked first, without allocating, and held against a [`Shape`]: how
//! often each field may stand, how long it may be, how large its number.
//!
//! Fields that the shape does not know are skipped, so that a later version may
//! add some; groups, which no version of proto3 writes, are refused.

use prost::encoding::decode_varint;

/// The fields of a message.
pub(crate) struct Shape {
    /// The fields that have a meaning.
    pub fields: &'static [Field],
    /// At most one of them stands in a message.
    pub one_of: bool,
}

/// A field of a message.
pub(crate) struct Field {
    number: u64,
    name: &'static str,
    /// How often it may stand; more than once in repeated fields only.
    most: usize,
    kind: Kind,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A number of at most this. A repeated one may be packed.
    Number(u64),
    /// From so many bytes to so many.
    Bytes(usize, usize),
    /// A message.
    Message(&'static Shape),
    /// A message of at least so many bytes: of a repeated one the memory stays in
    /// proportion to what came.
    LongMessage(usize, &'static Shape),
}

/// A truth value.
pub(crate) const BOOL: Kind = Kind::Number(1);
/// Any number of 32 bits.
pub(crate) const U32: Kind = Kind::Number(u32::MAX as u64);
/// Any number of 64 bits.
pub(crate) const U64: Kind = Kind::Number(u64::MAX);
/// A code; which codes exist is judged after decoding.
pub(crate) const CODE: Kind = Kind::Number(i32::MAX as u64);
/// A SHA-256.
pub(crate) const DIGEST: Kind = Kind::Bytes(32, 32);

/// A field that stands once or not at all.
pub(crate) const fn one(number: u64, name: &'static str, kind: Kind) -> Field {
    many(number, name, 1, kind)
}

/// A field that stands up to `most` times.
pub(crate) const fn many(number: u64, name: &'static str, most: usize, kind: Kind) -> Field {
    Field {
        number,
        name,
        most,
        kind,
    }
}

/// The most fields that a shape has.
const MAX_FIELDS: usize = 12;

/// How bytes break a shape.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ShapeError {
    /// A repeated field stands too often.
    TooMany { what: &'static str, limit: usize },
    /// A field has too many bytes.
    TooLong {
        what: &'static str,
        found: usize,
        limit: usize,
    },
    /// A field's value is impossible.
    Value { what: &'static str, problem: String },
    /// No protobuf message of this kind at all.
    Syntax(String),
}

impl Shape {
    /// Holds `bytes` against this shape. Allocates for an error only.
    pub(crate) fn check(&self, bytes: &[u8]) -> Result<(), ShapeError> {
        let mut counts = [0; MAX_FIELDS];
        let mut rest = bytes;
        while !rest.is_empty() {
            let key = number(&mut rest)?;
            let Some(at) = self.fields.iter().position(|f| f.number == key >> 3) else {
                skip(key & 7, &mut rest)?;
                continue;
            };
            let field = &self.fields[at];
            counts[at] += field.check(key & 7, &mut rest, field.most - counts[at])?;
            if self.one_of && counts.iter().sum::<usize>() > 1 {
                return Err(syntax("two messages in one"));
            }
        }
        Ok(())
    }
}

impl Field {
    /// Reads one occurrence; gives how many elements it has, `room` at most.
    fn check(&self, wire_type: u64, rest: &mut &[u8], room: usize) -> Result<usize, ShapeError> {
        match (wire_type, self.kind) {
            (0, Kind::Number(most)) => {
                self.count(1, room)?;
                self.value(number(rest)?, most)?;
                Ok(1)
            }
            (2, Kind::Number(most)) if self.most > 1 => {
                let mut packed = length_delimited(rest)?;
                let mut elements = 0;
                while !packed.is_empty() {
                    elements += 1;
                    self.count(elements, room)?;
                    self.value(number(&mut packed)?, most)?;
                }
                Ok(elements)
            }
            (2, Kind::Bytes(least, most)) => {
                self.count(1, room)?;
                let found = length_delimited(rest)?.len();
                if found > most {
                    return Err(ShapeError::TooLong {
                        what: self.name,
                        found,
                        limit: most,
                    });
                }
                self.at_least(found, least)?;
                Ok(1)
            }
            (2, Kind::Message(shape)) => {
                self.count(1, room)?;
                shape.check(length_delimited(rest)?)?;
                Ok(1)
            }
            (2, Kind::LongMessage(least, shape)) => {
                self.count(1, room)?;
                let message = length_delimited(rest)?;
                self.at_least(message.len(), least)?;
                shape.check(message)?;
                Ok(1)
            }
            (wire_type, _) => Err(syntax(format!("{} has wire type {wire_type}", self.name))),
        }
    }

    fn count(&self, elements: usize, room: usize) -> Result<(), ShapeError> {
        if elements <= room {
            return Ok(());
        }
        Err(if self.most == 1 {
            syntax(format!("{} stands twice", self.name))
        } else {
            ShapeError::TooMany {
                what: self.name,
                limit: self.most,
            }
        })
    }

    fn at_least(&self, found: usize, least: usize) -> Result<(), ShapeError> {
        if found < least {
            return Err(ShapeError::Value {
                what: self.name,
                problem: format!("has {found} bytes, at least {least} are needed"),
            });
        }
        Ok(())
    }

    fn value(&self, found: u64, most: u64) -> Result<(), ShapeError> {
        if found > most {
            return Err(ShapeError::Value {
                what: self.name,
                problem: format!("{found} is above {most}"),
            });
        }
        Ok(())
    }
}

fn skip(wire_type: u64, rest: &mut &[u8]) -> Result<(), ShapeError> {
    match wire_type {
        0 => number(rest).map(drop),
        1 => take(rest, 8).map(drop),
        2 => length_delimited(rest).map(drop),
        5 => take(rest, 4).map(drop),
        other => Err(syntax(format!("wire type {other} is not used here"))),
    }
}

fn number(rest: &mut &[u8]) -> Result<u64, ShapeError> {
    decode_varint(rest).map_err(|error| syntax(error.to_string()))
}

fn length_delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ShapeError> {
    let len = number(rest)?;
    take(rest, len)
}

fn take<'a>(rest: &mut &'a [u8], len: u64) -> Result<&'a [u8], ShapeError> {
    let parts = usize::try_from(len)
        .ok()
        .and_then(|len| rest.split_at_checked(len));
    let Some((taken, left)) = parts else {
        return Err(syntax("a field passes the end of the message"));
    };
    *rest = left;
    Ok(taken)
}

fn syntax(problem: impl Into<String>) -> ShapeError {
    ShapeError::Syntax(problem.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INNER: Shape = Shape {
        fields: &[
            one(1, "digest", DIGEST),
            many(2, "names", 2, Kind::Bytes(1, 3)),
        ],
        one_of: false,
    };
    const OUTER: Shape = Shape {
        fields: &[
            one(1, "flag", BOOL),
            many(2, "numbers", 3, U32),
            one(3, "inner", Kind::Message(&INNER)),
            many(4, "long", 2, Kind::LongMessage(3, &INNER)),
        ],
        one_of: false,
    };
    const CHOICE: Shape = Shape {
        fields: &[one(1, "this", U64), one(2, "that", CODE)],
        one_of: true,
    };

    fn too_many(what: &'static str, limit: usize) -> Result<(), ShapeError> {
        Err(ShapeError::TooMany { what, limit })
    }

    #[test]
    fn a_repeated_number_is_counted_packed_and_unpacked_alike() {
        assert_eq!(OUTER.check(&[0x10, 1, 0x10, 2, 0x10, 3]), Ok(()));
        assert_eq!(OUTER.check(&[0x12, 2, 1, 2, 0x10, 3]), Ok(()));
        assert_eq!(OUTER.check(&[0x12, 3, 1, 2, 3]), Ok(()));
        assert_eq!(OUTER.check(&[0x12, 4, 1, 2, 3, 4]), too_many("numbers", 3));
        assert_eq!(
            OUTER.check(&[0x12, 2, 1, 2, 0x10, 3, 0x10, 4]),
            too_many("numbers", 3)
        );
        assert_eq!(
            OUTER.check(&[0x10, 1, 0x12, 3, 1, 2, 3]),
            too_many("numbers", 3)
        );
    }

    #[test]
    fn a_field_of_its_own_stands_once() {
        assert_eq!(OUTER.check(&[0x08, 1]), Ok(()));
        assert!(matches!(
            OUTER.check(&[0x08, 1, 0x08, 1]),
            Err(ShapeError::Syntax(problem)) if problem == "flag stands twice"
        ));
    }

    #[test]
    fn of_a_choice_one_stands() {
        assert_eq!(CHOICE.check(&[0x08, 1]), Ok(()));
        assert_eq!(CHOICE.check(&[0x10, 1, 0x18, 1]), Ok(()));
        assert!(CHOICE.check(&[0x08, 1, 0x10, 1]).is_err());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused_and_not_cut() {
        assert!(OUTER.check(&[0x08, 2]).is_err());
        assert!(OUTER.check(&[0x10, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_ok());
        assert!(OUTER.check(&[0x10, 0x80, 0x80, 0x80, 0x80, 0x10]).is_err());
    }

    #[test]
    fn lengths_hold_in_nested_messages() {
        assert_eq!(OUTER.check(&[0x1a, 5, 0x12, 3, 1, 2, 3]), Ok(()));
        assert!(matches!(
            OUTER.check(&[0x1a, 6, 0x12, 4, 1, 2, 3, 4]),
            Err(ShapeError::TooLong {
                what: "names",
                found: 4,
                limit: 3
            })
        ));
        assert!(OUTER.check(&[0x1a, 2, 0x12, 0]).is_err());
        assert_eq!(
            OUTER.check(&[0x1a, 9, 0x12, 1, 1, 0x12, 1, 1, 0x12, 1, 1]),
            too_many("names", 2)
        );
    }

    #[test]
    fn a_message_that_must_be_long_is_refused_when_it_is_short() {
        assert_eq!(OUTER.check(&[0x22, 3, 0x12, 1, 7]), Ok(()));
        assert!(matches!(
            OUTER.check(&[0x22, 2, 0x18, 1]),
            Err(ShapeError::Value { what: "long", .. })
        ));
        assert!(OUTER.check(&[0x22, 4, 0x12, 4, 1, 2]).is_err());
    }

    #[test]
    fn fields_of_later_versions_are_skipped_and_groups_are_not() {
        assert_eq!(
            OUTER.check(&[
                0x78, 5, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7a, 1, 9, 0x7d, 0, 0, 0, 0
            ]),
            Ok(())
        );
        assert!(OUTER.check(&[0x7b, 0x7c]).is_err());
        assert!(OUTER.check(&[0x0d, 0, 0, 0, 0]).is_err(), "known field");
    }

    #[test]
    fn what_passes_the_end_is_refused() {
        assert!(OUTER.check(&[0x1a, 1]).is_err());
        assert!(OUTER.check(&[0x08]).is_err());
        assert!(OUTER.check(&[0x80]).is_err());
        assert!(OUTER.check(&[0x7d, 0]).is_err());
        let endless = [
            0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1,
        ];
        assert!(OUTER.check(&endless).is_err());
    }
}
