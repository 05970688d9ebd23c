//! What is made is read again.

use bytes::Bytes;

use super::*;
use crate::state::MAX_VALUE_BYTES;
use crate::xian::path::MAX_LEVELS;

fn text(text: &str) -> Stamp {
    Stamp::Text(StampText::new(text).unwrap())
}

fn value(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

/// Makes, reads, compares.
fn comes_back(records: &[Record]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("con_x");
    make(&file, records).unwrap();
    let found = read(&file).unwrap();
    assert_eq!(found.len(), records.len());
    for (found, expected) in found.iter().zip(records) {
        assert_eq!(found, expected);
    }
}

#[test]
fn every_form_of_a_record_comes_back() {
    let long = Bytes::from("x".repeat(200_000));
    comes_back(&[
        record(b"", value("0"), Stamp::Int(-1)),
        record(b"__code__", Some(long), text("1732800000000000000")),
        record(b"a", value("1"), Stamp::Absent),
        record(b"a\0b", None, text("")),
        record(
            b"a\0b\0c",
            value("{\"__fixed__\":\"1.5\"}"),
            Stamp::Int(i64::MIN),
        ),
        record(b"a\0bb", value("\"\""), Stamp::Int(i64::MAX)),
        record(b"a!", value(""), text("1")),
        record("ключ\0значение".as_bytes(), value("\"é\""), Stamp::Int(0)),
    ]);
}

#[test]
fn a_file_without_records_is_a_file() {
    comes_back(&[]);
}

#[test]
fn the_longest_value_and_the_deepest_group_come_back() {
    let long = Bytes::from(vec![b'7'; MAX_VALUE_BYTES]);
    let deep = ["g"; MAX_LEVELS].join("\0");
    comes_back(&[
        record(deep.as_bytes(), Some(long), Stamp::Int(1)),
        record(b"h", value("1"), Stamp::Int(1)),
    ]);
}

#[test]
fn a_group_larger_than_what_is_held_of_it_comes_in_order() {
    // So deep that a quarter of a megabyte is held: some two thousand names.
    let above = ["above"; 12].join("\0");
    let mut keys: Vec<String> = (0..20_000)
        .map(|number: u32| {
            let scattered = number.wrapping_mul(2_654_435_761);
            format!("{above}\0{scattered:010}-{}", "x".repeat(50))
        })
        .collect();
    keys.sort();
    let records: Vec<Record> = keys
        .iter()
        .map(|key| record(key.as_bytes(), value("1"), Stamp::Int(7)))
        .collect();
    comes_back(&records);
}

#[test]
fn records_out_of_order_and_keys_that_no_group_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let one = |key: &[u8]| record(key, value("1"), Stamp::Absent);
    let too_deep = ["g"; MAX_LEVELS + 1].join("\0");
    for (number, records) in [
        vec![one(b"b"), one(b"a")],
        vec![one(b"a"), one(b"a")],
        vec![one(b"a\0b"), one(b"a")],
        vec![one(b"a/b")],
        vec![one(b".")],
        vec![one(b"a\0")],
        vec![one(b"\xff")],
        vec![one(too_deep.as_bytes())],
        vec![record(b"a", value("1\x002"), Stamp::Absent)],
    ]
    .iter()
    .enumerate()
    {
        let file = folder.path().join(number.to_string());
        assert!(make(&file, records).is_err(), "{records:?}");
    }
}

#[test]
fn a_file_that_is_there_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("con_x");
    std::fs::write(&file, b"mine").unwrap();
    assert!(make(&file, &[]).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn the_same_records_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..1000)
        .map(|number| {
            record(
                format!("k{number:04}").as_bytes(),
                value("1"),
                Stamp::Int(1),
            )
        })
        .collect();
    let made = ["one", "two"].map(|name| {
        let file = folder.path().join(name);
        make(&file, &records).unwrap();
        std::fs::read(file).unwrap()
    });
    assert!(made[0] == made[1]);
}
