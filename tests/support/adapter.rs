//! A running `snapswarm adapter`.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use super::support::{Home, Running};

/// Between a node and an application; killed when it is dropped.
pub struct Adapter {
    /// `tcp://IP:PORT`: the node's `proxy_app`.
    pub listen: String,
    log: PathBuf,
    _process: Running,
}

impl Adapter {
    /// Starts it on a free port, with more arguments.
    pub fn start(home: &Home, app: &str, arguments: &[&str]) -> Self {
        let log = home.path().join("adapter.log");
        let mut child = home
            .command(["adapter", "--app", app, "--listen", "tcp://127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let started: Value = serde_json::from_str(&line).unwrap();
        Self {
            listen: started["listen"].as_str().unwrap().to_owned(),
            log,
            _process: Running(child),
        }
    }

    #[allow(dead_code)] // benches do not look into it
    pub fn has_logged(&self, text: &str) -> bool {
        std::fs::read_to_string(&self.log).unwrap().contains(text)
    }
}
