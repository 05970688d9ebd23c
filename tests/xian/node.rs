//! The chain's own reading and writing (`xian-contracting-py311`), on its files and on
//! ours.

use std::path::Path;

use crate::support::*;

/// What the chain reads in a storage.
fn show(storage: &Path) -> Vec<serde_json::Value> {
    let lines = python("node.py", &[storage], Some("show"));
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn run(word: &str, storage: &Path) {
    python("node.py", &[storage], Some(word));
}

#[test]
fn a_nodes_storage_is_read_to_the_last_record() {
    let folder = tempfile::tempdir().unwrap();
    run("fill", folder.path());
    let found: Vec<_> = read(folder.path()).unwrap().iter().map(words).collect();
    let seen = show(folder.path());
    assert_eq!(found.len(), seen.len());
    for expected in seen {
        let at_root = expected[1] == "/";
        let path = format!("/{}", expected[1].as_str().unwrap().trim_start_matches('/'));
        let path = if at_root { "/".to_owned() } else { path };
        let wanted = serde_json::json!([expected[0], path, expected[2], expected[3]]);
        assert!(found.contains(&wanted), "{wanted}");
        assert_eq!(
            expected[4], true,
            "the chain would write it otherwise: {wanted}"
        );
    }
    let has = |scope: &str, path: &str, value: Option<&str>, stamp: serde_json::Value| {
        let wanted = serde_json::json!([scope, path, value, stamp]);
        assert!(found.contains(&wanted), "{wanted}");
    };
    let (first, second) = ("1732800000000000000", "1732800005000000000");
    let currency = "contract_state/currency";
    has(currency, "/balances/bob", Some("450"), second.into());
    has(
        currency,
        "/balances/alice",
        Some(r#"{"__fixed__":"1000.5"}"#),
        (-1).into(),
    );
    has(currency, "/tombstone", None, second.into());
    has(currency, "/__owner__", None, (-1).into());
    let patched = r#"{"a":[1,{"b":{"__big_int__":"1180591620717411303424"}}]}"#;
    has(
        currency,
        "/patched",
        Some(patched),
        1_732_800_010_000_000_000_i64.into(),
    );
    let large = "contract_state/con_large";
    has(large, "/", Some("\"on the root\""), first.into());
    has(
        large,
        "/ключ/значение",
        Some("[1,\"two\",null]"),
        first.into(),
    );
    has(
        "contract_state/con_straße",
        "/__code__",
        Some("\"x = 1\""),
        (-1).into(),
    );
    has("run_state/__n", "/alice", Some("1"), second.into());
    let lacks = |scope: &str, path: &str| {
        let is = |record: &serde_json::Value| record[0] == scope && record[1] == path;
        assert!(!found.iter().any(is), "{scope} {path}");
    };
    lacks(currency, "/deleted");
    lacks("run_state/__pn", "/alice");
    let source = found
        .iter()
        .find(|record| record[1] == "/__code__" && record[0] == large);
    assert!(source.unwrap()[2].as_str().unwrap().len() > 100_000);
}

#[test]
fn the_chain_reads_overwrites_deletes_and_adds_in_a_storage_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let [theirs, ours] = ["theirs", "ours"].map(|name| folder.path().join(name));
    run("fill", &theirs);
    restore(&theirs, &ours).unwrap();
    assert_eq!(show(&theirs), show(&ours));

    for storage in [&theirs, &ours] {
        run("change", storage);
    }
    let seen = show(&ours);
    assert_eq!(show(&theirs), seen);
    let changed = read(&ours).unwrap();
    assert_eq!(read(&theirs).unwrap(), changed);
    assert_eq!(changed.len(), seen.len());
    let third = "1732800015000000000";
    let has = |path: &str, value: Option<&str>| {
        let wanted = serde_json::json!(["contract_state/currency", path, value, third]);
        assert!(
            changed.iter().any(|record| words(record) == wanted),
            "{wanted}"
        );
    };
    has("/balances/alice", Some(r#"{"__fixed__":"999.5"}"#));
    has("/balances/alice/con_dex/deeper", Some("2"));
    has("/balances/bob", None);
    has("/tombstone", Some("\"back\""));

    // What the chain has changed in our files goes through us once more.
    let again = folder.path().join("again");
    restore(&ours, &again).unwrap();
    assert_eq!(show(&again), seen);
}

#[test]
fn the_history_of_files_leaves_no_trace_in_the_records() {
    let folder = tempfile::tempdir().unwrap();
    let [grown, written, renewed] =
        ["grown", "written", "renewed"].map(|name| folder.path().join(name));
    for (storage, grown) in [(&grown, true), (&written, false)] {
        let mut options = vec![storage.as_path()];
        let flags = ["--records", "600", "--files", "3", "--grown"].map(Path::new);
        options.extend(&flags[..if grown { 5 } else { 4 }]);
        python("generate.py", &options, None);
    }
    restore(&grown, &renewed).unwrap();
    let records = read(&grown).unwrap();
    assert_eq!(records.len(), 600);
    assert_eq!(records, read(&written).unwrap());
    assert_eq!(records, read(&renewed).unwrap());
}
