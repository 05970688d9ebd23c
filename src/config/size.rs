//! Sizes as people write them: `10 GiB`, `500 MB`, `4096`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Units that are read, longest names first; the binary ones are also written.
const UNITS: [(&str, u64); 9] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// A number of bytes. In TOML an integer or text with a unit; a rate may end
/// with `/s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ByteSize(pub u64);

/// Text that is no size.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("\"{0}\" is no size; write a number of bytes, or for example \"10 GiB\" or \"500 MB\"")]
pub struct SizeError(String);

impl FromStr for ByteSize {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, SizeError> {
        let refused = || SizeError(text.chars().take(40).collect());
        let trimmed = text.trim();
        let trimmed = trimmed.strip_suffix("/s").unwrap_or(trimmed);
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| {
                let start = trimmed.len().checked_sub(unit.len())?;
                let (number, found) = trimmed.split_at_checked(start)?;
                found
                    .eq_ignore_ascii_case(unit)
                    .then_some((number.trim_end(), *factor))
            })
            .unwrap_or((trimmed, 1));
        let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |text: &str| {
            (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
                .then(|| text.parse::<u64>().ok())
                .flatten()
        };
        let whole = digits(whole).ok_or_else(refused)?;
        // Six decimals are more than anybody writes and cannot overflow.
        if tenths.len() > 6 {
            return Err(refused());
        }
        let fraction = digits(tenths).ok_or_else(refused)?;
        let fraction = u128::from(fraction) * u128::from(factor) / 10u128.pow(tenths.len() as u32);
        let bytes = u128::from(whole) * u128::from(factor) + fraction;
        u64::try_from(bytes)
            .ok()
            // TOML's integers have 63 bits: a size must be writable again.
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(refused)
    }
}

/// Exact: the largest binary unit that divides it.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS[..4]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match exact {
            Some((unit, factor)) => write!(f, "{} {unit}", self.0 / factor),
            None => write!(f, "{} B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size: a number of bytes, or for example \"10 GiB\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::custom("a size cannot be negative"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_all_the_forms_that_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("10 GiB", 10 << 30),
            ("10gib", 10 << 30),
            ("1.5 MiB", 3 << 19),
            ("12 MB/s", 12_000_000),
            ("500kB", 500_000),
            ("7 B", 7),
            (" 2 TiB ", 2 << 40),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in [
            "",
            "GiB",
            "-1",
            "1 XB",
            "1e9",
            "1..5 MB",
            "1.1234567 GiB",
            "9223372036854775808",
            "99999999999 TiB",
            "十 GiB",
            "1 000",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_as_the_same_size() {
        for bytes in [0, 1, 1023, 1024, 10 << 30, 12_000_000, (1 << 40) + 1] {
            let size = ByteSize(bytes);
            assert_eq!(size.to_string().parse(), Ok(size));
        }
        assert_eq!(ByteSize(10 << 30).to_string(), "10 GiB");
    }
}
