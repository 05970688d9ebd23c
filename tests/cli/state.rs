//! `diff`, `dump` and `genesis` on states: the real program, a real home.

use std::path::Path;
use std::process::Command as Program;

use serde_json::{Value, json};
use snapswarm::config::Config;
use snapswarm::node::command::{
    Command, DiffCommand, DumpCommand, DumpFormat, FailureCode, GenesisCommand, GenesisFormat,
};
use snapswarm::node::run_local;
use snapswarm::state::{Record, Stamp};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::small_disk::small_disk;
use crate::states::*;
use crate::support::*;

/// A state with each kind of record.
fn every_kind() -> Vec<Record> {
    vec![
        record("contract_state/con_a", b"", Some(b"0"), Stamp::Absent),
        record(
            "contract_state/con_a",
            b"a\0b",
            Some(b"\"5\""),
            Stamp::Int(-1),
        ),
        record("contract_state/con_a", b"gone", None, text_stamp("17")),
        record(
            "contract_state/con_a",
            b"\xff",
            Some(b"\x80"),
            text_stamp("18"),
        ),
        record(
            "contract_state/con_b",
            b"k",
            Some(b"1"),
            Stamp::Int(i64::MAX),
        ),
    ]
}

/// One record more, one that is other, two that are not there any more.
fn later() -> Vec<Record> {
    vec![
        record("contract_state/con_a", b"", Some(b"0"), Stamp::Absent),
        record(
            "contract_state/con_a",
            b"a\0b",
            Some(b"\"7\""),
            Stamp::Int(-1),
        ),
        record("contract_state/con_a", b"new", Some(b"12"), Stamp::Absent),
        record(
            "contract_state/con_a",
            b"\xff",
            Some(b"\x80"),
            text_stamp("18"),
        ),
    ]
}

/// What `diff` says between both.
fn expected_scopes() -> Value {
    let none = json!({"records": 0, "bytes": 0});
    json!([
        {
            "scope": "contract_state/con_a",
            "added": {"records": 1, "bytes": 5},
            "changed": {"records": 1, "bytes": 6},
            "removed": {"records": 1, "bytes": 6},
        },
        {
            "scope": "contract_state/con_b",
            "added": none,
            "changed": none,
            "removed": {"records": 1, "bytes": 2},
        },
    ])
}

async fn failed(home: &Path, arguments: &[&str], code: i32, words: &str) {
    let output = run(home, arguments).await;
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    assert!(told.contains(words), "{arguments:?}: {told}");
}

#[tokio::test]
async fn diff_says_by_contract_what_was_added_changed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let from = Snapshot::full(7, &every_kind()).publish(home);
    let to = Snapshot::full(9, &later()).publish(home);
    let said = run(home, &["diff", &from, &to, "--json"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    let said = json(&said);
    assert_eq!(said["scopes"], expected_scopes());
    assert_eq!(said["removed"], json!({"records": 2, "bytes": 8}));
    assert_eq!(said["from"]["height"], 7);
    assert_eq!(said["to"]["manifest"], to.as_str());
    assert_eq!(said["to"]["records"], 4);

    let text = stdout(&run(home, &["diff", &from, &to]).await);
    let line = text.lines().find(|line| line.ends_with("con_a")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[..6], ["1", "5", "B", "1", "6", "B"], "{text}");

    let same = json(&run(home, &["diff", &to, &to, "--json"]).await);
    assert_eq!(same["scopes"], json!([]));
}

#[tokio::test]
async fn diff_of_many_chunks_finds_the_one_record_that_differs() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let before = records(3000, "x");
    let mut after = before.clone();
    let key = after[4000].key().as_bytes().to_vec();
    after[4000] = record("contract_state/con_b", &key, None, Stamp::Int(1));
    let from = Snapshot::full(7, &before).publish(home);
    let to = Snapshot::full(9, &after).publish(home);
    let said = json(&run(home, &["diff", &from, &to, "--json"]).await);
    assert_eq!(said["changed"], json!({"records": 1, "bytes": 15}));
    assert_eq!(said["scopes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_delta_stands_for_the_state_that_it_makes_of_its_base() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let first = records(500, "x");
    let second = records(501, "x");
    let third = records(400, "y");
    let full = Snapshot::full(9, &third).publish(home);
    let base = Snapshot::full(7, &first).publish(home);
    let delta = Snapshot::delta(8, &base, &first, &second).publish(home);
    let last = Snapshot::delta(9, &delta, &second, &third).publish(home);
    let same = json(&run(home, &["diff", &full, &last, "--json"]).await);
    assert_eq!(same["scopes"], json!([]), "{same}");
    let more = json(&run(home, &["diff", &base, &delta, "--json"]).await);
    assert_eq!(more["added"]["records"], 2);

    let out = tempfile::tempdir().unwrap();
    let [one, other] = ["one", "other"].map(|name| out.path().join(name).display().to_string());
    for (cid, file) in [(&full, &one), (&last, &other)] {
        let said = run(home, &["dump", cid, file, "--format", "jsonl", "--json"]).await;
        assert_eq!(json(&said)["records"], 800, "{}", stderr(&said));
    }
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap());

    run(home, &["delete", &base]).await;
    let file = out.path().join("none").display().to_string();
    failed(home, &["diff", &full, &last], 3, &base).await;
    failed(home, &["dump", &last, &file, "--format", "jsonl"], 3, &base).await;
}

#[tokio::test]
async fn what_has_no_records_or_is_not_all_here_is_told_with_its_reason() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let state = Snapshot::full(7, &every_kind()).publish(home);
    let opaque = publish_opaque(home);
    let elsewhere = tempfile::tempdir().unwrap();
    let begun = Snapshot::full(8, &later()).publish(elsewhere.path());
    begin_download(elsewhere.path(), &begun, home);
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x").display().to_string();
    for (cid, code, words) in [
        (opaque.as_str(), 2, "holds no records"),
        (CID, 3, "there is no snapshot"),
        (begun.as_str(), 3, "not complete"),
    ] {
        failed(home, &["diff", &state, cid], code, words).await;
        failed(home, &["diff", cid, &state], code, words).await;
        for format in ["jsonl", "sqlite", "xian"] {
            failed(home, &["dump", cid, &file, "--format", format], code, words).await;
        }
        let genesis = ["genesis", "--from", cid, "--format", "xian", "--out", &file];
        failed(home, &genesis, code, words).await;
    }
    assert!(names(out.path()).is_empty());
}

#[tokio::test]
async fn jsonl_has_a_line_for_each_record() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(7, &every_kind()).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("state.jsonl");
    let file = path.display().to_string();
    let dump = ["dump", &cid, &file, "--format", "jsonl", "--json"];
    let said = json(&run(home.path(), &dump).await);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(said["records"], 5);
    assert_eq!(said["format"], "jsonl");
    assert_eq!(said["file_bytes"], text.len());
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let a = "contract_state/con_a";
    assert_eq!(
        lines,
        [
            json!({"scope": a, "key": "", "value": "0", "stamp": null, "tombstone": false}),
            json!({"scope": a, "key": "a\0b", "value": "\"5\"", "stamp": -1, "tombstone": false}),
            json!({"scope": a, "key": "gone", "stamp": "17", "tombstone": true}),
            json!({"scope": a, "key_hex": "ff", "value_hex": "80", "stamp": "18", "tombstone": false}),
            json!({"scope": "contract_state/con_b", "key": "k", "value": "1",
                "stamp": i64::MAX, "tombstone": false}),
        ]
    );
    assert_eq!(names(out.path()), ["state.jsonl"]);
}

#[tokio::test]
async fn sqlite_has_a_row_for_each_record_and_names_to_search_by() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(7, &every_kind()).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("state.db");
    let file = path.display().to_string();
    let said = run(home.path(), &["dump", &cid, &file, "--format", "sqlite"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    assert!(stdout(&said).contains("5 records"), "{}", stdout(&said));
    let database = rusqlite::Connection::open(&path).unwrap();
    let rows = "SELECT scope || '|' || hex(key) || '|' || ifnull(name, '-') || '|' || \
                typeof(value) || ':' || hex(value) || '|' || typeof(stamp) || ':' || \
                ifnull(stamp, '') FROM records ORDER BY scope, key";
    let mut rows = database.prepare(rows).unwrap();
    let rows: Result<Vec<String>, _> = rows.query_map([], |row| row.get(0)).unwrap().collect();
    assert_eq!(
        rows.unwrap(),
        [
            "contract_state/con_a|||text:30|null:".to_owned(),
            "contract_state/con_a|610062|a:b|text:223522|integer:-1".to_owned(),
            "contract_state/con_a|676F6E65|gone|null:|text:17".to_owned(),
            "contract_state/con_a|FF|-|blob:80|text:18".to_owned(),
            format!("contract_state/con_b|6B|k|text:31|integer:{}", i64::MAX),
        ]
    );
    let named = "SELECT value FROM records WHERE name = 'a:b'";
    let value: String = database.query_row(named, [], |row| row.get(0)).unwrap();
    assert_eq!(value, "\"5\"");
    let snapshot = "SELECT manifest, chain_id, height, app_hash FROM snapshot";
    let snapshot: (String, String, i64, String) = database
        .query_row(snapshot, [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })
        .unwrap();
    let app_hash = hex::encode_upper(b"abcdefgh");
    assert_eq!(snapshot, (cid, CHAIN.to_owned(), 7, app_hash));
    let check: String = database
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
    assert_eq!(names(out.path()), ["state.db"]);
}

#[tokio::test]
async fn xian_makes_a_storage_of_the_same_records() {
    let home = tempfile::tempdir().unwrap();
    let golden = read_storage(&golden_storage());
    let cid = Snapshot::full(4, &golden).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let storage = out.path().join("storage");
    let file = storage.display().to_string();
    let said = run(home.path(), &["dump", &cid, &file, "--format", "xian"]).await;
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    assert_eq!(read_storage(&storage), golden);
    let latest = std::fs::read_to_string(storage.join("__latest_block.json")).unwrap();
    let latest: Value = serde_json::from_str(&latest).unwrap();
    assert_eq!(
        latest,
        json!({"hash": hex::encode(b"abcdefgh"), "height": 4})
    );
    let parts = ["__latest_block.json", "contract_state", "run_state"];
    assert_eq!(names(&storage), parts);
    assert_eq!(names(out.path()), ["storage"]);
    failed(
        home.path(),
        &["dump", &cid, &file, "--format", "xian"],
        2,
        "exists already",
    )
    .await;
    assert_eq!(read_storage(&storage), golden);
}

#[tokio::test]
async fn a_storage_that_the_disk_refuses_is_a_fault_of_the_disk() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(4, &read_storage(&golden_storage())).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    // Room for bytes, and for no more than a few files.
    let Some(_disk) = small_disk(out.path(), "64m,nr_inodes=10") else {
        return;
    };
    let file = out.path().join("storage").display().to_string();
    failed(
        home.path(),
        &["dump", &cid, &file, "--format", "xian"],
        5,
        "No space left on device",
    )
    .await;
    assert!(names(out.path()).is_empty());
}

#[tokio::test]
async fn a_car_is_what_a_dump_writes_where_no_format_is_given() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(7, &every_kind()).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("x.car");
    let file = path.display().to_string();
    let said = json(&run(home.path(), &["dump", &cid, &file, "--json"]).await);
    let bytes = std::fs::metadata(&path).unwrap().len();
    assert_eq!(
        said,
        json!({"manifest": cid, "file": file, "file_bytes": bytes, "format": "car"})
    );
    let other = tempfile::tempdir().unwrap();
    let loaded = run(other.path(), &["load", &file, "--kind", "car", "--json"]).await;
    assert_eq!(json(&loaded)["manifest"], cid.as_str());
}

#[tokio::test]
async fn records_that_are_not_the_state_that_was_named_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let mut lie = Snapshot::full(7, &records(20, "x"));
    lie.state = digest(&records(10, "x"));
    let more = lie.publish(home.path());
    lie.state = digest(&records(30, "x"));
    let less = lie.publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x").display().to_string();
    for cid in [&more, &less] {
        for format in ["jsonl", "sqlite", "xian"] {
            failed(
                home.path(),
                &["dump", cid, &file, "--format", format],
                4,
                cid,
            )
            .await;
        }
        let genesis = ["genesis", "--from", cid, "--format", "xian", "--out", &file];
        failed(home.path(), &genesis, 4, cid).await;
        assert!(names(out.path()).is_empty());
    }
    failed(home.path(), &["diff", &more, &less], 4, "not what it says").await;
}

#[tokio::test]
async fn what_is_there_stays_and_a_folder_that_is_missing_is_told() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(7, &every_kind()).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let mine = out.path().join("mine");
    std::fs::write(&mine, "mine").unwrap();
    let taken = mine.display().to_string();
    let nowhere = out.path().join("no/where").display().to_string();
    for format in ["car", "jsonl", "sqlite", "xian"] {
        failed(
            home.path(),
            &["dump", &cid, &taken, "--format", format],
            2,
            "exists already",
        )
        .await;
        failed(
            home.path(),
            &["dump", &cid, &nowhere, "--format", format],
            2,
            "no",
        )
        .await;
    }
    let genesis = [
        "genesis", "--from", &cid, "--format", "xian", "--out", &taken,
    ];
    failed(home.path(), &genesis, 2, "exists already").await;
    assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
    assert_eq!(names(out.path()), ["mine"]);
}

#[tokio::test]
async fn who_is_stopped_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(7, &records(3000, "x")).publish(home.path());
    let other = Snapshot::full(8, &records(3000, "y")).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x");
    let dump = |format| {
        Command::Dump(DumpCommand {
            manifest: cid.clone(),
            file: file.clone(),
            format,
        })
    };
    let commands = [
        dump(DumpFormat::Car),
        dump(DumpFormat::Jsonl),
        dump(DumpFormat::Sqlite),
        Command::Diff(DiffCommand {
            from: cid.clone(),
            to: other,
        }),
        Command::Genesis(GenesisCommand {
            manifest: cid.clone(),
            format: GenesisFormat::Xian,
            file: file.clone(),
        }),
    ];
    for command in commands {
        let cancel = CancellationToken::new();
        cancel.cancel();
        let (progress, _news) = mpsc::channel(16);
        let ended = run_local(home.path(), Config::default(), command, progress, cancel).await;
        assert_eq!(ended.unwrap_err().code, FailureCode::Interrupted);
        assert!(names(out.path()).is_empty());
    }
}

#[tokio::test]
async fn a_genesis_is_made_where_it_is_wanted_and_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let cid = Snapshot::full(4, &read_storage(&golden_storage())).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("abci_genesis.json").display().to_string();
    let genesis = program(home.path())
        .args([
            "genesis", "--from", &cid, "--format", "xian", "--out", &file,
        ])
        .env("TMPDIR", out.path().join("not here"))
        .spawn();
    let said = end_of(genesis.unwrap()).await;
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    assert_eq!(names(out.path()), ["abci_genesis.json"]);
}

/// What Python's own reader finds in a genesis: `key<TAB>value as JSON` of each entry.
const READ_GENESIS: &str = "\
import json, sys
genesis = json.load(open(sys.argv[1]))
for part in ('genesis', 'nonces'):
    for entry in genesis[part]:
        assert set(entry) == {'key', 'value'}
        print(part, entry['key'], json.dumps(entry['value'], sort_keys=True), sep='\\t')
";

#[tokio::test]
async fn a_genesis_has_the_keys_of_the_state_and_python_reads_it() {
    let home = tempfile::tempdir().unwrap();
    let golden = read_storage(&golden_storage());
    let cid = Snapshot::full(4, &golden).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("abci_genesis.json");
    let file = path.display().to_string();
    let genesis = [
        "genesis", "--from", &cid, "--format", "xian", "--out", &file,
    ];
    let said = run(home.path(), &genesis).await;
    assert_eq!(said.status.code(), Some(0), "{}", stderr(&said));
    let python = std::env::var("SNAPSWARM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let read = Program::new(python)
        .args(["-c", READ_GENESIS, &file])
        .output()
        .unwrap();
    assert!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let found = String::from_utf8(read.stdout).unwrap();
    let expected: Vec<(String, Value)> = golden.iter().filter_map(entry).collect();
    assert!(expected.len() > 20, "{}", expected.len());
    assert_eq!(found.lines().count(), expected.len());
    for (line, (name, value)) in found.lines().zip(&expected) {
        let (key, found) = line.rsplit_once('\t').unwrap();
        assert_eq!(key, name);
        assert_eq!(serde_json::from_str::<Value>(found).unwrap(), *value);
    }
}

/// Where a record of a Xian state stands in a genesis, and its value.
fn entry(record: &Record) -> Option<(String, Value)> {
    let key = std::str::from_utf8(record.key().as_bytes()).unwrap();
    let value = record.value().filter(|_| key != "__compiled__")?;
    let value = serde_json::from_slice(value).unwrap();
    let group = match key {
        "" => ":".to_owned(),
        key => key.replace('\0', ":"),
    };
    let (_, file) = record.scope().as_str().split_once('/').unwrap();
    Some(match file {
        "__n" => (format!("nonces\t{group}"), value),
        file => (format!("genesis\t{file}.{group}"), value),
    })
}

#[tokio::test]
async fn a_state_of_another_kind_of_chain_is_no_genesis_and_no_storage() {
    let home = tempfile::tempdir().unwrap();
    let other = [record("ledger", b"k", Some(b"1"), Stamp::Absent)];
    let cid = Snapshot::full(7, &other).publish(home.path());
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x").display().to_string();
    let genesis = [
        "genesis", "--from", &cid, "--format", "xian", "--out", &file,
    ];
    failed(home.path(), &genesis, 4, "Xian").await;
    failed(
        home.path(),
        &["dump", &cid, &file, "--format", "xian"],
        4,
        "Xian",
    )
    .await;
    assert!(names(out.path()).is_empty());
}

#[tokio::test]
async fn a_delta_is_the_same_everywhere_and_far_smaller_than_the_state() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let before = records(3000, "x");
    let mut after = before.clone();
    let key = after[100].key().as_bytes().to_vec();
    after[100] = record("contract_state/con_a", &key, Some(b"7"), Stamp::Int(1));
    after.remove(5000);
    let base = Snapshot::full(7, &before).publish(home);
    let full = Snapshot::full(8, &after).publish(home);
    let made = run(home, &["delta", &base, &full, "--json"]).await;
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let made = json(&made);
    assert_eq!(made["changes"], 2);
    let bytes = |name: &str| made[name].as_u64().unwrap();
    assert!(bytes("bytes") * 100 < bytes("full_bytes"), "{made}");
    let expected = Snapshot::delta(8, &base, &before, &after);
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(
        made["manifest"],
        expected.publish(elsewhere.path()).as_str()
    );

    let cid = made["manifest"].as_str().unwrap();
    let same = json(&run(home, &["diff", &full, cid, "--json"]).await);
    assert_eq!(same["scopes"], json!([]));
    let shown = json(&run(home, &["show", cid, "--json"]).await);
    assert_eq!(shown["snapshot"]["base"], base.as_str());
    assert_eq!(shown["records"], 5999);
    let text = stdout(&run(home, &["show", cid]).await);
    assert!(
        text.contains("delta from") && text.contains(&base),
        "{text}"
    );

    failed(home, &["delta", &full, &base], 2, "does not come before").await;
    failed(
        home,
        &["delta", &publish_opaque(home), &full],
        2,
        "holds no records",
    )
    .await;
    let deleted = stdout(&run(home, &["delete", &base]).await);
    assert!(
        deleted.contains(&format!("The delta {cid} builds on it")),
        "{deleted}"
    );
}

#[tokio::test]
async fn no_delta_is_made_that_nobody_could_read() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut last = Snapshot::full(1, &records(1, "0")).publish(home);
    for height in 2..=9 {
        let full = Snapshot::full(height, &records(1, &height.to_string())).publish(home);
        let made = json(&run(home, &["delta", &last, &full, "--json"]).await);
        last = made["manifest"].as_str().unwrap().to_owned();
    }
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x").display().to_string();
    let dump = run(home, &["dump", &last, &file, "--format", "jsonl"]).await;
    assert_eq!(dump.status.code(), Some(0), "{}", stderr(&dump));
    let full = Snapshot::full(10, &records(1, "10")).publish(home);
    failed(home, &["delta", &last, &full], 2, "too many deltas").await;
}
