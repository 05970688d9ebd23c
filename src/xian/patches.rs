//! `state_patches.json`: changes of the state that a chain's operators agreed on, made
//! by every node at the same height.
//!
//! `{"<height>": [{"key": "...", "value": <json>, "comment": "..."}]}`. A node whose
//! file differs from that of the others below some height has, or will have, another
//! state. So a snapshot notes a hash over the entries up to its height, and a joiner
//! compares.
//!
//! # The hash
//!
//! SHA-256 over one line for each entry of each height up to the snapshot's, ended by
//! `\n`: the JSON array `[height,key,value]`. Lines stand in the order of heights, then
//! of the bytes of keys; entries of one height and key stay in the order of the file,
//! where the last one wins. In a line
//!
//! * there is no space outside of strings;
//! * the members of an object stand in the order of the bytes of their names, and of
//!   equal names the last counts, as Python reads them;
//! * a string has its characters as they are; only `"`, `\` and what lies below U+0020
//!   is escaped, as `\"`, `\\`, `\b`, `\f`, `\n`, `\r`, `\t`, else `\u00xx`;
//! * a number has the digits of the file.
//!
//! Comments and all other fields of an entry are left out. A missing file, an empty one
//! (`{}`) and one with later heights only have the same hash: that of no line.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::XianError;
use crate::snapshot::Digest;
use crate::snapshot::hash::sha256;

/// The largest file that is read. A patch of a contract holds its source, which has
/// up to some hundred kilobytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// How deep a value may be nested.
const MAX_DEPTH: usize = 100;

#[derive(Deserialize)]
struct Entry<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
}

/// The hash over the patches in the file at `path` up to `height`.
pub fn patches_hash(path: &Path, height: u64) -> Result<Digest, XianError> {
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(sha256(b"")),
        Ok(meta) if meta.len() > MAX_FILE_BYTES => {
            let problem = format!("{} bytes are too many", meta.len());
            let path = path.to_owned();
            return Err(XianError::Damaged { path, problem });
        }
        meta => meta.and_then(|_| fs::read_to_string(path)),
    };
    let text = text.map_err(XianError::io("read", path))?;
    let lines = lines(&text, height).map_err(|problem| XianError::Damaged {
        path: path.to_owned(),
        problem,
    })?;
    Ok(sha256(lines.as_bytes()))
}

/// What is hashed.
fn lines(text: &str, height: u64) -> Result<String, String> {
    let file: BTreeMap<String, Vec<Entry<'_>>> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut by_height = BTreeMap::new();
    for (name, entries) in file {
        let digits = name.bytes().all(|byte| byte.is_ascii_digit());
        let at: Option<u64> = digits.then(|| name.parse().ok()).flatten();
        let at = at.ok_or_else(|| format!("{name:?} is no height"))?;
        if by_height.insert(at, entries).is_some() {
            return Err(format!("height {at} stands there twice"));
        }
    }
    let mut lines = String::new();
    for (at, mut entries) in by_height.into_iter().filter(|(at, _)| *at <= height) {
        // A stable sort: entries of one key keep their order.
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        for entry in entries {
            lines.push_str(&format!("[{at},"));
            string(&entry.key, &mut lines);
            lines.push(',');
            canonical(entry.value.get(), 0, &mut lines)?;
            lines.push_str("]\n");
        }
    }
    Ok(lines)
}

fn canonical(json: &str, depth: usize, to: &mut String) -> Result<(), String> {
    let wrong = |error: serde_json::Error| error.to_string();
    if depth >= MAX_DEPTH {
        return Err(format!("a value is nested deeper than {MAX_DEPTH} levels"));
    }
    match json.as_bytes().first() {
        Some(b'{') => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).map_err(wrong)?;
            to.push('{');
            for (at, (name, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    to.push(',');
                }
                string(&name, to);
                to.push(':');
                canonical(value.get(), depth + 1, to)?;
            }
            to.push('}');
        }
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(wrong)?;
            to.push('[');
            for (at, item) in items.into_iter().enumerate() {
                if at > 0 {
                    to.push(',');
                }
                canonical(item.get(), depth + 1, to)?;
            }
            to.push(']');
        }
        Some(b'"') => string(&serde_json::from_str::<String>(json).map_err(wrong)?, to),
        // A number, true, false or null.
        _ => to.push_str(json),
    }
    Ok(())
}

fn string(text: &str, to: &mut String) {
    to.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_sorted_without_comments_and_in_one_form() {
        let text = r#"{
            "100": [{"key": "b", "value": 1}],
            "9": [
                {"key": "con.z", "value": {"b": [1.50, "\u00e9\n\u0001"], "a": {}}, "comment": "x"},
                {"comment": "y", "key": "con.a", "value": null},
                {"key": "con.z", "value": 123456789012345678901234567890}
            ],
            "11": [{"key": "later", "value": true}]
        }"#;
        assert_eq!(
            lines(text, 10).unwrap(),
            "[9,\"con.a\",null]\n\
             [9,\"con.z\",{\"a\":{},\"b\":[1.50,\"é\\n\\u0001\"]}]\n\
             [9,\"con.z\",123456789012345678901234567890]\n"
        );
        assert!(lines(text, 100).unwrap().ends_with("[100,\"b\",1]\n"));
        assert_eq!(lines(text, 8).unwrap(), "");
    }

    #[test]
    fn what_does_not_change_the_state_does_not_change_the_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state_patches.json");
        let hash = |text: &str, height| {
            fs::write(&path, text).unwrap();
            patches_hash(&path, height).unwrap()
        };
        let one = hash(
            r#"{"5":[{"key":"k","value":{"a":1,"b":2},"comment":"c"}]}"#,
            5,
        );
        assert_eq!(
            one,
            hash(
                r#"{ "7": [{"key": "x", "value": 0}],
                     "5": [{"value": {"b": 2, "a": 1}, "key": "k"}] }"#,
                6
            )
        );
        assert_ne!(one, hash(r#"{"5":[{"key":"k","value":{"a":1,"b":3}}]}"#, 5));
        assert_ne!(one, hash(r#"{"4":[{"key":"k","value":{"a":1,"b":2}}]}"#, 5));
        let empty = hash("{}", 5);
        fs::remove_file(&path).unwrap();
        assert_eq!(empty, patches_hash(&path, 5).unwrap());
        assert_eq!(empty, hash(r#"{"6":[{"key":"k","value":1}]}"#, 5));
    }

    #[test]
    fn the_last_of_equal_names_counts_and_the_order_of_equal_keys() {
        let lines = |text| lines(text, 9).unwrap();
        assert_eq!(
            lines(r#"{"1":[{"key":"k","value":{"a":1,"a":2}}]}"#),
            "[1,\"k\",{\"a\":2}]\n"
        );
        assert_ne!(
            lines(r#"{"1":[{"key":"k","value":1},{"key":"k","value":2}]}"#),
            lines(r#"{"1":[{"key":"k","value":2},{"key":"k","value":1}]}"#)
        );
    }

    #[test]
    fn a_file_that_says_nonsense_is_refused() {
        let deep = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"1":[{{"key":"k","value":{open}{close}}}]}}"#)
        };
        assert!(lines(&deep(MAX_DEPTH), 9).is_ok());
        for text in [
            "",
            "[]",
            r#"{"1": {}}"#,
            r#"{"1": [{"key": "k"}]}"#,
            r#"{"1": [{"key": 1, "value": 1}]}"#,
            r#"{"x": []}"#,
            r#"{"-1": []}"#,
            r#"{"1": [], "01": []}"#,
            r#"{"1": [{"key": "k", "value": NaN}]}"#,
            &deep(MAX_DEPTH + 1),
        ] {
            assert!(lines(text, 9).is_err(), "{text}");
        }
    }
}
