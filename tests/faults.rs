//! What goes wrong on an operator's machine: each time a sentence, the exit code
//! of DESIGN.md §11, and nothing lost.

#[path = "support/fake_rpc.rs"]
mod fake_rpc;
#[path = "support/small_disk.rs"]
mod small_disk;
mod support;

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use small_disk::{fill, small_disk};
use support::{Home, chunk_folder, eventually, kill, load_in, run_in, start_in, wait};

const CHAIN: &str = "fault-chain";

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn a_second_daemon_on_one_home_is_told_who_has_it_and_the_first_lives() {
    let home = Home::new();
    let first = home.start::<_, &str>([]);
    let error = home
        .run(["start", "--listen", "/ip4/127.0.0.1/tcp/0"])
        .failed(1);
    let said = format!("{} {}", text(&error["message"]), text(&error["hint"]));
    assert!(said.contains(&first.pid().to_string()), "{said}");
    assert_eq!(home.run(["status"]).ok()["running"], true);
    assert_eq!(first.terminate(), Some(0));
    assert_eq!(home.run(["status"]).ok()["running"], false);
}

#[test]
fn a_taken_port_is_named_and_a_free_one_works_on_the_same_home() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let home = Home::new();
    let error = home.run(["start", "--listen", &address]).failed(1);
    let message = text(&error["message"]);
    assert!(message.contains(&address), "{message}");
    assert!(text(&error["hint"]).contains("--listen"), "{error}");
    let daemon = home.start::<_, &str>([]);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn without_any_peer_a_fetch_ends_after_its_timeout_and_says_how_to_name_one() {
    let home = Home::new();
    let error = home
        .run(["fetch", "--chain-id", CHAIN, "--timeout", "2"])
        .failed(3);
    assert!(text(&error["hint"]).contains("--bootstrap"), "{error}");
}

#[test]
fn an_interrupted_fetch_keeps_what_it_has_and_says_how_to_go_on() {
    let chunks = chunk_folder(4, 4 << 20, 41);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"4 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 3);
    let daemon = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let address = daemon.address();
    let fetch = ["fetch", &cid, "--bootstrap", &address];
    let mut child = joiner
        .command(fetch)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("some pieces are sent", || {
        let sent = daemon.status()["upload"]["bytes"].as_u64().unwrap();
        (sent >= 5 << 20).then_some(())
    });
    kill(child.id(), Signal::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(6));
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.contains("same command"), "{said}");
    let done = joiner.run(fetch).ok();
    assert!(done["resumed_bytes"].as_u64().unwrap() >= 3 << 20, "{done}");
}

#[test]
fn an_rpc_of_another_chain_is_refused_before_anything_is_fetched() {
    let rpc = fake_rpc::answering(|_| fake_rpc::status("other-chain", 100));
    let home = Home::new();
    let error = home
        .run([
            "fetch",
            "--chain-id",
            CHAIN,
            "--node-rpc",
            &rpc,
            "--timeout",
            "5",
        ])
        .failed(2);
    let message = text(&error["message"]);
    assert!(
        message.contains("other-chain") && message.contains(CHAIN),
        "{message}"
    );
}

#[test]
fn a_damaged_archive_is_found_named_and_no_longer_served() {
    let chunks = chunk_folder(2, 2 << 20, 42);
    let home = Home::new();
    let cid = home.load(chunks.path(), CHAIN, 4);
    let shown = home.run(["show", &cid]).ok();
    let file = Path::new(text(&shown["file"])).to_owned();
    flip_a_byte(&file, 3 << 20);
    let daemon = home.start::<_, &str>([]);
    let error = home.run(["verify", &cid]).failed(4);
    let message = text(&error["message"]);
    assert!(message.contains(file.to_str().unwrap()), "{message}");
    let listed = home.run(["list"]).ok();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(listed["damaged"][0]["manifest"], cid, "{listed}");
    let again = home.run(["verify", &cid]).failed(4);
    assert!(text(&again["message"]).contains("moved aside"), "{again}");
    home.run(["show", &cid]).failed(3);
    home.run(["delete", &cid]).ok();
    home.run(["delete", &cid]).failed(3);
    assert_eq!(home.run(["list"]).ok()["damaged"], serde_json::json!([]));
    assert_eq!(home.run(["status"]).ok()["running"], true);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn damage_that_is_found_without_a_daemon_is_moved_aside_too() {
    let chunks = chunk_folder(1, 1 << 20, 45);
    let home = Home::new();
    let cid = home.load(chunks.path(), CHAIN, 4);
    let file = Path::new(text(&home.run(["show", &cid]).ok()["file"])).to_owned();
    flip_a_byte(&file, 1 << 19);
    let error = home.run(["verify", &cid]).failed(4);
    assert!(text(&error["message"]).contains("moved aside"), "{error}");
    assert!(!file.exists());
    let again = home.run(["verify", &cid]).failed(4);
    assert!(text(&again["message"]).contains("moved aside"), "{again}");
}

#[test]
fn a_daemon_stops_cleanly_when_its_terminal_is_closed() {
    let home = Home::new();
    let daemon = home.start::<_, &str>([]);
    assert!(home.path().join("api.sock").exists());
    assert_eq!(daemon.end_by(Signal::SIGHUP), Some(0));
    assert!(!home.path().join("api.sock").exists());
}

#[test]
fn loading_proves_nothing() {
    let chunks = chunk_folder(1, 1000, 46);
    let home = Home::new();
    let folder = chunks.path().to_str().unwrap();
    let load = [
        "load",
        folder,
        "--kind",
        "files",
        "--chain-id",
        CHAIN,
        "--height",
        "1",
    ];
    let with_hash = home.run([&load[..], &["--app-hash", "AB"]].concat()).ok();
    assert_eq!(with_hash["proven"], false);
    assert_eq!(with_hash["app_hash"], "AB");
    let without = home.run(load).ok();
    assert_eq!(without["proven"], false);
    assert_eq!(without["app_hash"], serde_json::Value::Null);
    for snapshot in home.run(["list"]).ok()["snapshots"].as_array().unwrap() {
        assert_eq!(snapshot["proven"], false);
    }
}

#[test]
fn a_home_that_cannot_be_written_is_still_looked_into() {
    let disk = tempfile::tempdir().unwrap();
    let Some(_unmount) = small_disk(disk.path(), "24m") else {
        return;
    };
    let chunks = chunk_folder(2, 1 << 20, 47);
    let maker = Home::new();
    let cid = maker.load(chunks.path(), CHAIN, 5);
    let home = disk.path().join("home");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(maker.path())
        .arg(&home)
        .status();
    assert!(copied.unwrap().success());
    let mounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(disk.path())
        .status();
    assert!(mounted.unwrap().success());
    let elsewhere = tempfile::tempdir().unwrap();
    let car = elsewhere.path().join("out.car");
    let car = car.to_str().unwrap();
    for verb in [
        &["list"][..],
        &["show", &cid],
        &["verify", &cid],
        &["dump", &cid, car],
        &["status"],
    ] {
        run_in(&home, verb).ok();
    }
    let error = run_in(&home, ["pin", &cid]).failed(5);
    assert!(text(&error["hint"]).contains("writable"), "{error}");
}

#[test]
fn a_fetch_without_a_daemon_can_be_watched_and_is_not_pulled_away() {
    let chunks = chunk_folder(4, 4 << 20, 48);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"2 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 3);
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let joiner = Home::new();
    let mut child = joiner
        .command(["fetch", &cid, "--bootstrap", &address])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let listed = eventually("the download is listed", || {
        let listed = joiner.run(["list"]).ok();
        let first = listed["snapshots"].get(0)?.clone();
        Some(first)
    });
    assert_eq!(listed["complete"], false, "{listed}");
    joiner.run(["show", &cid]).ok();
    assert_eq!(joiner.run(["status"]).ok()["running"], false);
    for verb in [&["delete", &cid][..], &["fetch", &cid]] {
        let error = joiner.run(verb).failed(1);
        let hint = text(&error["hint"]);
        let home = joiner.path().display();
        let advice = format!("`snapswarm --home {home} list` shows what it brings");
        assert!(hint.contains(&advice), "{error}");
        assert!(hint.contains(&child.id().to_string()), "{error}");
    }
    kill(child.id(), Signal::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(6));
    joiner.run(["delete", &cid]).ok();
}

#[test]
fn a_download_of_a_daemon_is_not_deleted_under_its_fetch() {
    let chunks = chunk_folder(4, 4 << 20, 49);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"2 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 3);
    let seeding = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let address = seeding.address();
    let daemon = joiner.start(["--bootstrap", address.as_str()]);
    let mut child = joiner
        .command(["fetch", &cid])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the download is under way", || {
        daemon.status()["downloads"].get(0).map(|_| ())
    });
    let error = joiner.run(["delete", &cid]).failed(1);
    assert!(
        text(&error["message"]).contains("being downloaded"),
        "{error}"
    );
    let advice = format!("`snapswarm --home {} status`", joiner.path().display());
    assert!(text(&error["hint"]).contains(&advice), "{error}");
    kill(child.id(), Signal::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(6));
    joiner.run(["delete", &cid]).ok();
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_damaged_piece_is_refused_and_told_to_the_operator_instead_of_being_sent() {
    let chunks = chunk_folder(2, 2 << 20, 44);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 6);
    let shown = provider.run(["show", &cid]).ok();
    flip_a_byte(Path::new(text(&shown["file"])), 3 << 20);
    let daemon = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let ran = joiner.run([
        "fetch",
        &cid,
        "--bootstrap",
        &daemon.address(),
        "--timeout",
        "5",
    ]);
    ran.failed(3);
    assert!(!ran.stderr().contains("peer banned"), "{}", ran.stderr());
    assert_eq!(
        daemon.status()["upload"]["bytes"],
        3 << 20,
        "the three pieces that are right"
    );
}

#[test]
fn a_folder_that_cannot_be_a_home_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let home = file.path().join("home");
    let error = run_in(&home, ["list"]).failed(5);
    let message = text(&error["message"]);
    assert!(message.contains(home.to_str().unwrap()), "{message}");
}

#[test]
fn a_full_disk_stops_a_fetch_with_the_bytes_that_are_missing_and_nothing_is_lost() {
    let disk = tempfile::tempdir().unwrap();
    let Some(_unmount) = small_disk(disk.path(), "24m") else {
        return;
    };
    let home = disk.path().join("home");
    let older = load_in(&home, chunk_folder(2, 1 << 20, 50).path(), CHAIN, 4);
    let chunks = chunk_folder(8, 8 << 20, 43);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 5);
    let daemon = provider.start::<_, &str>([]);
    let fetch = ["fetch", &cid, "--bootstrap", &daemon.address()];
    let error = run_in(&home, fetch).failed(5);
    let message = text(&error["message"]);
    assert!(message.contains("no space"), "{error}");
    assert!(message.contains("free"), "{error}");
    has_whole(&home, &older);
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_daemon_whose_disk_fills_up_under_a_fetch_lives_serves_and_goes_on_when_there_is_room() {
    let disk = tempfile::tempdir().unwrap();
    let Some(_unmount) = small_disk(disk.path(), "24m") else {
        return;
    };
    let home = disk.path().join("home");
    let older = load_in(&home, chunk_folder(2, 1 << 20, 51).path(), CHAIN, 4);
    let chunks = chunk_folder(12, 1 << 20, 52);
    let provider = Home::new();
    // Twelve seconds: there is time to fill the disk meanwhile.
    provider.configure("[upload]\nbytes_per_s = \"1 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 5);
    let seeding = provider.start::<_, &str>([]);
    let daemon = start_in(&home, ["--bootstrap", &seeding.address()]);
    let fetch = ["fetch", &cid];
    let child = support::command_in(&home, fetch)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("a piece is written", || {
        let done = daemon.status()["downloads"].get(0)?["done"].as_u64()?;
        (done > 0).then_some(())
    });
    let filler = disk.path().join("filler");
    fill(&filler);
    let error = support::Ran(child.wait_with_output().unwrap()).failed(5);
    assert!(text(&error["message"]).contains("no space"), "{error}");

    // It lives, and gives what it has to others.
    assert_eq!(run_in(&home, ["status"]).ok()["running"], true);
    has_whole(&home, &older);
    let other = Home::new();
    let fetched = other
        .run(["fetch", &older, "--bootstrap", &daemon.address()])
        .ok();
    assert_eq!(fetched["received_bytes"], 2 << 20);

    std::fs::remove_file(&filler).unwrap();
    provider.run(["limits", "--upload-bytes-per-s", "0"]).ok();
    let done = run_in(&home, fetch).ok();
    assert!(done["resumed_bytes"].as_u64().unwrap() > 0, "{done}");
    has_whole(&home, &cid);
    assert_eq!(daemon.terminate(), Some(0));
}

/// The snapshot is listed, and every byte of it is right.
fn has_whole(home: &Path, cid: &str) {
    let listed = run_in(home, ["list"]).ok();
    let mut lines = listed["snapshots"].as_array().unwrap().iter();
    let line = lines.find(|line| line["manifest"] == cid);
    assert_eq!(line.unwrap()["complete"], true, "{listed}");
    run_in(home, ["verify", cid]).ok();
}

fn flip_a_byte(file: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1;
    file.write_all_at(&byte, at).unwrap();
}
