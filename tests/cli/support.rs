//! What these tests share: the program, and a daemon whose answers are made up.

use std::{
    path::Path,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::Value;
use snapswarm::{
    api::control,
    node::{
        command::{
            Changed, Command, Failure, FailureCode, Fetched, LimitsNow, Outcome, PeerBytes,
            Progress, SnapshotList, SnapshotSummary,
        },
        remote::{Carrier, Door},
    },
};
use tokio::{process, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(30);

pub const CID: &str = "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e";

pub fn program(home: &Path) -> process::Command {
    let mut command = process::Command::new(env!("CARGO_BIN_EXE_snapswarm"));
    command
        .env("SNAPSWARM_HOME", home)
        .env_remove("SNAPSWARM_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub async fn run(home: &Path, arguments: &[&str]) -> Output {
    end_of(program(home).args(arguments).spawn().unwrap()).await
}

pub async fn end_of(child: process::Child) -> Output {
    timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("the program takes too long")
        .unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.lines().count(), 1, "one document: {text}");
    serde_json::from_str(&text).unwrap()
}

/// A daemon that answers every command with what a test needs.
pub struct Fake {
    asked: mpsc::UnboundedSender<Command>,
    cancelled: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl Carrier for Fake {
    async fn carry_out(
        &self,
        command: Command,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        self.asked.send(command.clone()).unwrap();
        match command {
            Command::List => Ok(Outcome::List(SnapshotList {
                snapshots: vec![hostile_snapshot()],
                damaged: Vec::new(),
                missing: Vec::new(),
            })),
            Command::Fetch(_) => {
                for news in fetch_progress() {
                    progress.send(news).await.unwrap();
                }
                Ok(Outcome::Fetched(fetched()))
            }
            Command::Feed(_) => {
                cancel.cancelled().await;
                self.cancelled.send(()).unwrap();
                Err(failure(
                    FailureCode::Interrupted,
                    "the feed was interrupted",
                ))
            }
            Command::Dump(_) => {
                cancel.cancelled().await;
                self.cancelled.send(()).unwrap();
                std::future::pending().await
            }
            Command::Pin(asked) => Ok(Outcome::Changed(Changed {
                manifest: asked.manifest,
                done: "pinned".to_owned(),
                needed_by: Vec::new(),
            })),
            Command::Verify(_) => Err(failure(FailureCode::Verification, "chunk 3 is wrong")),
            Command::Show(_) => Err(failure(FailureCode::NotFound, "evil\u{1b}[2J\u{9b}")),
            Command::Limits(asked) => Ok(Outcome::Limits(LimitsNow {
                upload_bytes_per_s: asked.upload_bytes_per_s.unwrap_or(7),
                upload_slots: asked.upload_slots.unwrap_or(3),
            })),
            _ => Err(failure(FailureCode::Policy, "not by this daemon")),
        }
    }
}

pub fn failure(code: FailureCode, message: &str) -> Failure {
    Failure::new(code, message)
}

pub fn hostile_snapshot() -> SnapshotSummary {
    SnapshotSummary {
        manifest: CID.to_owned(),
        chain_id: "chain\u{1b}[31m\u{202e}\u{9b}x".to_owned(),
        height: 1000,
        format: 1,
        chunks: 16,
        bytes: 16 << 20,
        have_bytes: 16 << 20,
        complete: true,
        base: None,
        pinned: false,
        proven: false,
        app_hash_confirmed: false,
        origin: "fetched".to_owned(),
        only: Vec::new(),
    }
}

pub fn fetch_progress() -> Vec<Progress> {
    let bytes = |done| Progress::Bytes {
        done,
        total: 16 << 20,
        rate: 1 << 20,
        peers: 4,
        eta_s: Some(8),
    };
    vec![
        Progress::Phase {
            text: "downloading".to_owned(),
            next: Some("sealing".to_owned()),
        },
        bytes(1 << 20),
        bytes(8 << 20),
        bytes(16 << 20),
        Progress::Note {
            text: "peer \u{1b}[2Jevil was banned".to_owned(),
        },
    ]
}

pub fn fetched() -> Fetched {
    Fetched {
        height: 7,
        manifest: CID.to_owned(),
        bytes: 16 << 20,
        received_bytes: 16 << 20,
        resumed_bytes: 0,
        wasted_bytes: 0,
        seconds: 2.0,
        proven: false,
        app_hash_confirmed: false,
        app_hash: Some("AB".to_owned()),
        peers: vec![PeerBytes {
            peer_id: "12D3KooW".to_owned(),
            bytes: 16 << 20,
        }],
        state: false,
        was_here: false,
        only: Vec::new(),
        basis: None,
        base: None,
    }
}

pub struct Daemon {
    pub home: tempfile::TempDir,
    pub asked: mpsc::UnboundedReceiver<Command>,
    pub cancelled: mpsc::UnboundedReceiver<()>,
}

impl Daemon {
    pub async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let socket = control::bind(&home.path().join("api.sock")).await.unwrap();
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let (cancelled_sender, cancelled) = mpsc::unbounded_channel();
        let fake = Fake {
            asked: asked_sender,
            cancelled: cancelled_sender,
        };
        tokio::spawn(control::serve(
            socket,
            Arc::new(Door(Arc::new(fake))),
            CancellationToken::new(),
        ));
        Self {
            home,
            asked,
            cancelled,
        }
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        run(self.home.path(), arguments).await
    }
}
