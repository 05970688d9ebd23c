//! What goes wrong on an operator's machine: each time a sentence, the exit code
//! of DESIGN.md §11, and nothing lost.

mod support;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::{Home, chunk_folder, eventually, kill, wait};

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
    let status_bytes = || {
        let status: serde_json::Value = serde_json::from_str(&daemon.get("/v1/status")).unwrap();
        status["upload"]["bytes"].as_u64().unwrap()
    };
    eventually("some pieces are sent", || {
        (status_bytes() >= 5 << 20).then_some(())
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
    let rpc = FakeRpc::start(
        r#"{"jsonrpc":"2.0","id":1,"result":{"node_info":{"id":"00","network":"other-chain","version":"0.38.25","moniker":"m"},"sync_info":{"latest_block_height":"100","earliest_block_height":"1","catching_up":false}}}"#,
    );
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
    assert_eq!(home.run(["status"]).ok()["running"], true);
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
    let sent = serde_json::from_str::<serde_json::Value>(&daemon.get("/v1/status")).unwrap();
    assert_eq!(
        sent["upload"]["bytes"],
        3 << 20,
        "the three pieces that are right"
    );
}

#[test]
fn a_folder_that_cannot_be_a_home_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let home = file.path().join("home");
    let output = Command::new(support::SNAPSWARM)
        .arg("--home")
        .arg(&home)
        .args(["--json", "list"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(home.to_str().unwrap()), "{said}");
}

#[test]
fn a_full_disk_stops_a_fetch_with_the_bytes_that_are_missing_and_nothing_is_lost() {
    let disk = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(disk.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("no small file system can be mounted here (not root?): nothing was tested");
        return;
    }
    let _unmount = Unmount(disk.path());
    let chunks = chunk_folder(8, 8 << 20, 43);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 5);
    let daemon = provider.start::<_, &str>([]);
    let home = disk.path().join("home");
    let output = Command::new(support::SNAPSWARM)
        .arg("--home")
        .arg(&home)
        .args(["--json", "fetch", &cid, "--bootstrap", &daemon.address()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("no space") && said.contains("free"), "{said}");
    assert_eq!(daemon.terminate(), Some(0));
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
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

/// An RPC that gives one answer to everything.
struct FakeRpc;

impl FakeRpc {
    fn start(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(mut socket) = socket else { return };
                let mut asked = [0; 4096];
                let _ = socket.read(&mut asked);
                let _ = write!(
                    socket,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                    answer.len()
                );
            }
        });
        url
    }
}
