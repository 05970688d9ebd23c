//! The node: a process that runs `node.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

/// What the node says of its state.
#[derive(Clone, Deserialize)]
pub struct State {
    pub height: u64,
    /// So far.
    pub writes: u64,
    pub reads: u64,
    /// Records of the state.
    pub records: u64,
    /// What they add up to.
    pub sum: String,
}

pub struct Node {
    process: Child,
    words: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Node {
    pub fn start(storage: &Path) -> Self {
        let python =
            std::env::var("SNAPSWARM_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xian_writes/node.py");
        let mut process = Command::new(python)
            .env(
                "PYTHONPATH",
                std::env::var("SNAPSWARM_TEST_XIAN").unwrap_or_default(),
            )
            .args([&script, storage])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            words: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()),
            process,
        }
    }

    /// Carries out a block, up to the answer to its Commit.
    pub fn block(&mut self) -> State {
        self.ask("block")
    }

    /// Reads everything once more, and ends.
    pub fn end(mut self) -> State {
        let state = self.ask("end");
        assert!(self.process.wait().unwrap().success());
        state
    }

    fn ask(&mut self, word: &str) -> State {
        let asked = writeln!(self.words, "{word}");
        let mut line = String::new();
        let answered = self.answers.read_line(&mut line);
        assert!(
            asked.is_ok() && answered.is_ok_and(|bytes| bytes > 0),
            "a write or a read of the node failed: it has said so above"
        );
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
