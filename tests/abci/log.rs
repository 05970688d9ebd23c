//! The program itself, when nobody reads its log.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use snapswarm::abci::Address;
use tendermint_proto::v0_38::abci::{RequestLoadSnapshotChunk, request};

use crate::app::{FakeApp, obliging};
use crate::between::{block, eventually, loaded};
use crate::node::Node;

struct Adapter(Child);

impl Drop for Adapter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing(chunk: u32) -> request::Value {
    request::Value::LoadSnapshotChunk(RequestLoadSnapshotChunk {
        height: 7,
        format: 1,
        chunk,
    })
}

#[test]
fn a_log_that_nobody_reads_stops_nothing_and_tells_later_what_it_lost() {
    let app = FakeApp::start(obliging(20, b"hash"));
    let home = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_snapswarm"))
        .arg("--home")
        .arg(home.path())
        .args(["--json", "adapter", "--listen", "127.0.0.1:0", "--app"])
        .arg(app.address.to_string())
        // A line for each chunk that is not here.
        .env("SNAPSWARM_LOG", "debug")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(Adapter)
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address: Address = started["listen"].as_str().unwrap().parse().unwrap();
    let mut consensus = Node::connect(&address);
    consensus.call(block(1, "hash"));
    let mut peers = Node::connect(&address);
    let start = Instant::now();
    // Far more lines than the pipe and the queue hold together.
    const LINES: u32 = 4000;
    for chunk in 0..LINES {
        peers.send(missing(chunk));
    }
    peers.flush();
    for _ in 0..LINES {
        assert_eq!(loaded(peers.answer().unwrap()), "");
    }
    for height in 2..50 {
        consensus.call(block(height, "hash"));
    }
    assert!(start.elapsed() < Duration::from_secs(30));
    // Somebody reads again.
    let mut stderr = child.0.stderr.take().unwrap();
    let (say, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut part = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut part) {
            let _ = say.send(String::from_utf8_lossy(&part[..read]).into_owned());
        }
    });
    let mut text = String::new();
    eventually("the loss is told", || {
        text.extend(said.try_iter());
        text.contains("log lines were lost")
    });
    assert!(text.matches("a peer asks for a chunk").count() < LINES as usize);
}
