//! Records as lines of JSON.
//!
//! ```text
//! {"scope":"contract_state/currency","key":"balances\u0000alice","value":"5","stamp":17,"tombstone":false}
//! {"scope":"contract_state/currency","key_hex":"ff00","value_hex":"80","stamp":"17","tombstone":false}
//! {"scope":"contract_state/currency","key":"gone","stamp":17,"tombstone":true}
//! ```
//!
//! `scope`, `stamp` (null, a text or a number) and `tombstone` are always there. Keys
//! and values are bytes: where they are UTF-8 they stand in `key` and `value`, else in
//! hex in `key_hex` and `value_hex`. A tombstone has no value.

use std::io::{BufWriter, Write};
use std::path::Path;

use serde::Serialize;

use super::Sink;
use crate::node::command::Failure;
use crate::node::content::Content;
use crate::state::{Record, Stamp};
use crate::store::NewFile;

/// Writes are gathered to this size.
const BUFFER_BYTES: usize = 256 << 10;

/// A file of lines.
pub(super) struct Lines(BufWriter<NewFile>);

#[derive(Serialize)]
struct Line<'a> {
    scope: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    stamp: StampWord<'a>,
    tombstone: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum StampWord<'a> {
    Absent(()),
    Text(&'a str),
    Int(i64),
}

impl Lines {
    pub(super) fn create(path: &Path, content: &Content) -> Result<Self, Failure> {
        let file = NewFile::create(path, content.least_bytes())?;
        Ok(Self(BufWriter::with_capacity(BUFFER_BYTES, file)))
    }
}

impl Sink for Lines {
    fn put(&mut self, record: &Record) -> Result<(), Failure> {
        let written = serde_json::to_writer(&mut self.0, &line(record));
        written
            .map_err(Into::into)
            .and_then(|()| self.0.write_all(b"\n"))
            .map_err(|error| self.0.get_ref().failed(error).into())
    }

    fn finish(self) -> Result<u64, Failure> {
        let file = self.0.into_inner().map_err(|error| {
            let (error, writer) = error.into_parts();
            Failure::from(writer.get_ref().failed(error))
        })?;
        Ok(file.finish()?)
    }
}

fn line(record: &Record) -> Line<'_> {
    let (key, key_hex) = as_text(record.key().as_bytes());
    let (value, value_hex) = match record.value() {
        Some(value) => as_text(value),
        None => (None, None),
    };
    Line {
        scope: record.scope().as_str(),
        key,
        key_hex,
        value,
        value_hex,
        stamp: match record.stamp() {
            Stamp::Absent => StampWord::Absent(()),
            Stamp::Text(text) => StampWord::Text(text.as_str()),
            Stamp::Int(number) => StampWord::Int(*number),
        },
        tombstone: record.value().is_none(),
    }
}

/// Bytes as text, or in hex.
fn as_text(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(hex::encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::state::{Key, Place, Scope, StampText};

    fn shown(key: &'static [u8], value: Option<&'static [u8]>, stamp: Stamp) -> String {
        let place = Place {
            scope: Scope::new("s").unwrap(),
            key: Key::new(Bytes::from_static(key)).unwrap(),
        };
        let record = Record::new(place, value.map(Bytes::from_static), stamp).unwrap();
        serde_json::to_string(&line(&record)).unwrap()
    }

    #[test]
    fn each_kind_of_record_has_the_line_that_is_documented() {
        assert_eq!(
            shown(b"a\0b", Some(b"\"5\""), Stamp::Int(i64::MIN)),
            r#"{"scope":"s","key":"a\u0000b","value":"\"5\"","stamp":-9223372036854775808,"tombstone":false}"#
        );
        let text = Stamp::Text(StampText::new("17").unwrap());
        assert_eq!(
            shown(b"\xff\0", Some(b"\x80"), text),
            r#"{"scope":"s","key_hex":"ff00","value_hex":"80","stamp":"17","tombstone":false}"#
        );
        assert_eq!(
            shown(b"k", None, Stamp::Int(0)),
            r#"{"scope":"s","key":"k","stamp":0,"tombstone":true}"#
        );
        assert_eq!(
            shown(b"", Some(b""), Stamp::Absent),
            r#"{"scope":"s","key":"","value":"","stamp":null,"tombstone":false}"#
        );
    }
}
