//! `load --kind xian` by the program itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::process::{Home, kill};
use crate::support::*;

fn generate(storage: &Path, records: &str, grown: bool) {
    let mut options = vec![storage];
    let flags = ["--records", records, "--files", "3", "--grown"].map(Path::new);
    options.extend(&flags[..if grown { 5 } else { 4 }]);
    python("generate.py", &options, None);
}

fn load<'a>(storage: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let storage = storage.to_str().unwrap();
    [&["load", storage, "--kind", "xian"], more].concat()
}

const CHAIN: [&str; 2] = ["--chain-id", "xian-1"];

/// A storage of the newest driver's that may be changed.
fn golden(folder: &Path) -> PathBuf {
    let to = folder.join("xian");
    restore(&storage("golden/xian/storage"), &to).unwrap();
    to
}

fn has_nothing(home: &Home) -> bool {
    let listed = home.run(["list"]).ok();
    let parts = ["snapshots", "damaged"].map(|part| listed[part].as_array().unwrap().len());
    let stray = std::fs::read_dir(home.path().join("spool")).map_or(0, Iterator::count);
    parts == [0, 0] && stray == 0
}

#[test]
fn two_storages_with_one_state_and_another_history_give_one_cid() {
    let folder = tempfile::tempdir().unwrap();
    let homes = [Home::new(), Home::new()];
    let loaded: Vec<Value> = (homes.iter().zip(["grown", "written"]))
        .map(|(home, name)| {
            let storage = folder.path().join(name);
            generate(&storage, "600", name == "grown");
            home.run(load(&storage, &CHAIN)).ok()
        })
        .collect();
    assert_eq!(loaded[0]["manifest"], loaded[1]["manifest"]);
    assert_eq!(loaded[0]["records"], 600);
    assert_eq!(loaded[0]["proven"], false);
    let cid = loaded[0]["manifest"].as_str().unwrap();
    let shown = homes[0].run(["show", cid]).ok();
    assert_eq!(shown["snapshot"]["height"], 1000);
    assert_eq!(shown["snapshot"]["chain_id"], "xian-1");
    assert_eq!(shown["app_hash"], loaded[0]["app_hash"]);
    homes[0].run(["verify", cid]).ok();
    // It goes through a CAR with base, scopes and all.
    let car = folder.path().join("one.car");
    let car = car.to_str().unwrap();
    homes[0].run(["dump", cid, car]).ok();
    homes[1].run(["delete", cid]).ok();
    let back = homes[1].run(["load", car, "--kind", "car"]).ok();
    assert_eq!(back["manifest"], cid);
}

#[test]
fn a_snapshot_is_told_with_its_records_in_the_log_and_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new();
    let storage = golden(folder.path());
    let mut command = std::process::Command::new(crate::process::SNAPSWARM);
    let told = (command.arg("--home").arg(home.path()))
        .args(load(&storage, &CHAIN))
        .env("SNAPSWARM_LOG", "info")
        .output()
        .unwrap();
    let (out, log) = (
        String::from_utf8(told.stdout).unwrap(),
        String::from_utf8(told.stderr).unwrap(),
    );
    assert!(told.status.success(), "{log}");
    assert!(out.contains("Loaded 38 records in 1 chunk of"), "{out}");
    assert!(out.contains("trusts its maker"), "{out}");
    let line = log
        .lines()
        .find(|line| line.contains("Created state snapshot"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for fact in [
        "height", "app_hash", "records", "chunks", "bytes", "seconds",
    ] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    assert!(line.contains("38"), "{line}");
    assert!(!log.contains("without nonces"), "{log}");
    std::fs::remove_dir_all(storage.join("run_state")).unwrap();
    let told = home.run(load(&storage, &CHAIN));
    assert!(
        told.stderr().contains("has no run_state"),
        "{}",
        told.stderr()
    );
}

#[test]
fn height_application_hash_and_chain_are_the_storages_own_and_checked_where_given() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new();
    let storage = golden(folder.path());
    let nobody = home.run(load(&storage, &[])).failed(2);
    assert!(nobody["hint"].as_str().unwrap().contains("--chain-id"));
    assert!(nobody["message"].as_str().unwrap().contains("no genesis"));
    std::fs::create_dir(folder.path().join("config")).unwrap();
    let genesis = json!({"chain_id": "xian-of-genesis", "validators": []});
    let path = folder.path().join("config/genesis.json");
    std::fs::write(&path, &genesis.to_string()[..20]).unwrap();
    let cut = home.run(load(&storage, &[])).failed(2);
    let said = cut["message"].as_str().unwrap();
    assert!(
        said.contains("genesis.json is not what CometBFT writes"),
        "{said}"
    );
    std::fs::write(path, genesis.to_string()).unwrap();

    let app_hash = "3f".repeat(64);
    for wrong in [["--height", "5"], ["--app-hash", "00"], ["--format", "1"]] {
        let failed = home.run(load(&storage, &wrong)).failed(2);
        let said = failed["message"].as_str().unwrap();
        assert!(said.contains(wrong[1]) || said.contains(wrong[0]), "{said}");
    }
    assert!(has_nothing(&home));
    let right = ["--height", "4", "--app-hash", &app_hash];
    let loaded = home.run(load(&storage, &right)).ok();
    let cid = loaded["manifest"].as_str().unwrap();
    let shown = home.run(["show", cid]).ok();
    assert_eq!(shown["snapshot"]["chain_id"], "xian-of-genesis");
    // With patches the snapshot says more.
    let patches = folder.path().join("state_patches.json");
    std::fs::write(&patches, r#"{"3": [{"key": "currency.x", "value": 1}]}"#).unwrap();
    let noted = ["--state-patches", patches.to_str().unwrap()];
    let noted = home.run(load(&storage, &noted)).ok();
    assert_ne!(noted["manifest"], loaded["manifest"]);
    let missing = folder.path().join("nothing");
    home.run(load(&missing, &CHAIN)).failed(2);
}

#[test]
fn a_damaged_storage_is_told_with_file_and_group_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    python("hostile.py", &[folder.path()], None);
    let home = Home::new();
    let storage = folder.path().join("value a number");
    let failed = home.run(load(&storage, &CHAIN)).failed(4);
    let said = failed["message"].as_str().unwrap();
    for part in ["contract_state/con_x", "/balances/link", "a number"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(has_nothing(&home));
}

#[test]
fn a_storage_whose_node_is_at_work_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new();
    let storage = golden(folder.path());
    let stop = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        scope.spawn(|| {
            let latest = storage.join("__latest_block.json");
            for height in 5.. {
                let fresh = storage.join(".latest");
                std::fs::write(&fresh, format!(r#"{{"hash": "61", "height": {height}}}"#)).unwrap();
                std::fs::rename(&fresh, &latest).unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let ran = home.run(load(&storage, &CHAIN));
        stop.store(true, Ordering::Relaxed);
        ran.failed(1)
    });
    let said = failed["message"].as_str().unwrap();
    assert!(said.contains("the node is at work"), "{said}");
    assert!(failed["hint"].as_str().unwrap().contains("stop the node"));
    assert!(has_nothing(&home));
}

#[test]
fn who_interrupts_it_ends_it_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new();
    let storage = folder.path().join("xian");
    generate(&storage, "40000", false);
    let mut command = home.command(load(&storage, &CHAIN));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id();
    crate::process::eventually("a worker reads", || has_child(pid).then_some(()));
    kill(pid, Signal::SIGINT);
    assert_eq!(crate::process::wait(&mut child).code(), Some(6));
    assert!(has_nothing(&home));
}

/// Whether a process has started another.
fn has_child(pid: u32) -> bool {
    let parent = |stat: &str| {
        let behind_name = stat.rsplit(") ").next()?;
        behind_name.split(' ').nth(1)?.parse::<u32>().ok()
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut stats =
        processes.filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
    stats.any(|stat| parent(&stat) == Some(pid))
}
