//! The state as the `abci_genesis` of a new network's genesis file.
//!
//! ```text
//! {"hash": "<hex>", "number": N, "origin": {"signature": "", "sender": ""},
//!  "genesis": [{"key": "currency.balances:alice", "value": <json>}, …],
//!  "nonces": [{"key": "<sender>", "value": n}, …]}
//! ```
//!
//! An unmodified node applies it when the network begins: it sets each key, and compiles
//! each contract from its source, so `__compiled__` is left out, as the chain's own
//! export does; what it wrote for one version of Python may be wrong in the next.
//! Tombstones and the times of blocks have no place in it.
//!
//! A key is made of a group's path: `currency`, `/balances/alice` →
//! `currency.balances:alice`. Not every path came from such a key, but each is found
//! again by it, as the chain turns it into the same path.

use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};

use serde::Serialize;
use serde_json::value::RawValue;

use super::layout::{self, NONCES};
use super::{XianError, path};
use crate::state::Record;

use super::LatestBlock;

/// Writes an `abci_genesis`, record by record. Its memory does not grow.
pub struct GenesisWriter<W> {
    to: W,
    is_first: bool,
    /// They follow everything else.
    nonces: BufWriter<File>,
    is_first_nonce: bool,
    without_value: u64,
}

#[derive(Serialize)]
struct Entry<'a> {
    key: &'a str,
    value: &'a RawValue,
}

impl<W: Write> GenesisWriter<W> {
    /// Begins one for the state of this block. The records of [`NONCES`], which come
    /// before others, wait in `nonces`, an empty file, for their place at the end.
    pub fn new(mut to: W, block: &LatestBlock, nonces: File) -> Result<Self, XianError> {
        let hash = hex::encode(&block.app_hash);
        let number = block.height;
        write!(
            to,
            "{{\"hash\":\"{hash}\",\"number\":{number},\
             \"origin\":{{\"signature\":\"\",\"sender\":\"\"}},\"genesis\":["
        )
        .map_err(failed)?;
        Ok(Self {
            to,
            is_first: true,
            nonces: BufWriter::new(nonces),
            is_first_nonce: true,
            without_value: 0,
        })
    }

    /// Adds a record, if a genesis holds such.
    pub fn put(&mut self, record: &Record) -> Result<(), XianError> {
        let Some(value) = record.value() else {
            self.without_value += 1;
            return Ok(());
        };
        if record.key().as_bytes() == b"__compiled__" {
            return Ok(());
        }
        let about = |problem: &str| XianError::Records {
            problem: format!(
                "group {} of {}: {problem}",
                path::shown(record.key().as_bytes()),
                record.scope()
            ),
        };
        let value = str::from_utf8(value).map_err(|_| about("its value is not UTF-8"))?;
        let value = RawValue::from_string(value.to_owned());
        let value = value.map_err(|_| about("its value is no JSON"))?;
        let names = path::check_key(record.key().as_bytes()).map_err(about)?;
        if names.iter().any(|name| name.contains(':')) {
            return Err(about("its name has a colon, which no key leads to"));
        }
        let group = match names.is_empty() {
            true => ":".to_owned(),
            false => names.join(":"),
        };
        let file = layout::path_of(record.scope())?;
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        if record.scope().as_str() == NONCES {
            let (key, value) = (&group[..], &*value);
            entry(
                &mut self.nonces,
                &mut self.is_first_nonce,
                &Entry { key, value },
            )
        } else {
            let (key, value) = (&format!("{file}.{group}")[..], &*value);
            entry(&mut self.to, &mut self.is_first, &Entry { key, value })
        }
    }

    /// How many records have no value, and so no place in it.
    pub fn without_value(&self) -> u64 {
        self.without_value
    }

    /// All records are in; gives back what it was written to.
    pub fn finish(mut self) -> Result<W, XianError> {
        let mut nonces = self
            .nonces
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        nonces.rewind().map_err(failed)?;
        self.to.write_all(b"],\"nonces\":[").map_err(failed)?;
        io::copy(&mut nonces, &mut self.to).map_err(failed)?;
        self.to.write_all(b"]}").map_err(failed)?;
        self.to.flush().map_err(failed)?;
        Ok(self.to)
    }
}

fn entry(to: &mut impl Write, is_first: &mut bool, entry: &Entry<'_>) -> Result<(), XianError> {
    if !std::mem::take(is_first) {
        to.write_all(b",").map_err(failed)?;
    }
    serde_json::to_writer(to, entry).map_err(|error| failed(error.into()))
}

fn failed(source: io::Error) -> XianError {
    XianError::io("write", std::path::Path::new("the genesis"))(source)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::state::{Key, Place, Scope, Stamp};

    fn record(scope: &str, key: &'static [u8], value: Option<&'static str>) -> Record {
        let place = Place {
            scope: Scope::new(scope).unwrap(),
            key: Key::new(Bytes::from_static(key)).unwrap(),
        };
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        Record::new(place, value, Stamp::Int(-1)).unwrap()
    }

    fn writer() -> GenesisWriter<Vec<u8>> {
        let block = LatestBlock {
            height: 7,
            app_hash: Bytes::from_static(b"ab"),
        };
        let nonces = tempfile::tempfile().unwrap();
        GenesisWriter::new(Vec::new(), &block, nonces).unwrap()
    }

    fn genesis(records: &[Record]) -> Result<String, XianError> {
        let mut writer = writer();
        for record in records {
            writer.put(record)?;
        }
        Ok(String::from_utf8(writer.finish()?).unwrap())
    }

    #[test]
    fn what_has_no_value_is_left_out_and_counted() {
        let mut writer = writer();
        for value in [None, Some("1"), None] {
            let record = record("contract_state/con_x", b"a", value);
            writer.put(&record).unwrap();
        }
        assert_eq!(writer.without_value(), 2);
    }

    #[test]
    fn records_become_the_keys_that_lead_to_them() {
        let text = genesis(&[
            record("contract_state/con_x", b"", Some("0")),
            record("contract_state/con_x", b"__code__", Some("\"x = 1\\n\"")),
            record("contract_state/con_x", b"__compiled__", Some("\"e3\"")),
            record(
                "contract_state/con_x",
                b"a\0b.c",
                Some("{\"__fixed__\":\"1.50\"}"),
            ),
            record("contract_state/con_x", b"gone", None),
            record("run_state/__n", b"alice", Some("12345678901234567890123")),
            record("run_state/__o", b"x", Some("[]")),
        ]);
        let text = text.unwrap();
        assert!(text.contains("12345678901234567890123"), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["hash"], "6162");
        assert_eq!(read["number"], 7);
        assert_eq!(
            read["genesis"],
            json!([
                {"key": "con_x.:", "value": 0},
                {"key": "con_x.__code__", "value": "x = 1\n"},
                {"key": "con_x.a:b.c", "value": {"__fixed__": "1.50"}},
                {"key": "__o.x", "value": []},
            ])
        );
        assert_eq!(read["nonces"][0]["key"], "alice");
    }

    #[test]
    fn an_empty_state_is_a_genesis_too() {
        let read: Value = serde_json::from_str(&genesis(&[]).unwrap()).unwrap();
        assert_eq!(
            (&read["genesis"], &read["nonces"]),
            (&json!([]), &json!([]))
        );
    }

    #[test]
    fn what_no_key_leads_to_is_refused() {
        for wrong in [
            record("contract_state/con_x", b"a:b", Some("1")),
            record("contract_state/con_x", b"a", Some("1,2")),
            record("contract_state/con_x", b"a", Some("")),
            record("contract_state/con_x", b"a\0", Some("1")),
            record("elsewhere", b"a", Some("1")),
        ] {
            let error = genesis(std::slice::from_ref(&wrong)).unwrap_err();
            assert!(matches!(error, XianError::Records { .. }), "{wrong:?}");
        }
    }
}
