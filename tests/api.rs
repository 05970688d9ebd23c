//! The doors of a daemon, as any program on this machine meets them: lines over
//! the control socket, HTTP over loopback.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Value, json};
use snapswarm::api::{
    control::{self, CallError, Handler, MAX_CLIENTS, MAX_REQUEST_BYTES},
    http::{self, StatusPage},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Nothing here takes long; a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says what it was asked; `wait` runs until it is cancelled and tells `ended`.
struct Fake {
    begun: mpsc::UnboundedSender<()>,
    ended: mpsc::UnboundedSender<()>,
}

#[async_trait]
impl Handler for Fake {
    async fn run(
        &self,
        request: Value,
        progress: mpsc::Sender<Value>,
        cancel: CancellationToken,
    ) -> Result<Value, Value> {
        match request["verb"].as_str() {
            Some("echo") => {
                for step in 0..3 {
                    progress.send(json!(step)).await.unwrap();
                }
                Ok(request)
            }
            Some("wait") => {
                self.begun.send(()).unwrap();
                cancel.cancelled().await;
                self.ended.send(()).unwrap();
                Err(json!({ "code": "interrupted", "message": "stopped", "hint": null }))
            }
            Some("panic") => panic!("as asked"),
            Some("large") => Ok(json!(
                "x".repeat(request["bytes"].as_u64().unwrap() as usize)
            )),
            _ => Err(json!({ "code": "usage", "message": "no such verb", "hint": null })),
        }
    }
}

struct Daemon {
    home: tempfile::TempDir,
    begun: mpsc::UnboundedReceiver<()>,
    ended: mpsc::UnboundedReceiver<()>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Daemon {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let (begun_sender, begun) = mpsc::unbounded_channel();
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let socket = control::bind(&home.path().join("api.sock")).await.unwrap();
        let handler = Arc::new(Fake {
            begun: begun_sender,
            ended: ended_sender,
        });
        let serving = tokio::spawn(control::serve(socket, handler, stop.clone()));
        Self {
            home,
            begun,
            ended,
            stop,
            serving,
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join("api.sock")
    }

    async fn raw(&self, bytes: &[u8]) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        BufReader::new(stream)
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

async fn call(path: &Path, request: Value) -> Result<Result<Value, Value>, CallError> {
    let (progress, _) = mpsc::channel(1);
    soon(control::call(
        path,
        &request,
        progress,
        CancellationToken::new(),
    ))
    .await
}

async fn line(reader: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    soon(reader.read_line(&mut line)).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_by_progress_lines_and_one_last_line() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.raw(b"{\"verb\":\"echo\",\"n\":1}\n").await;
    for step in 0..3 {
        assert_eq!(line(&mut reader).await, json!({ "progress": step }));
    }
    assert_eq!(
        line(&mut reader).await,
        json!({ "ok": { "verb": "echo", "n": 1 } })
    );
    let mut rest = Vec::new();
    soon(reader.read_to_end(&mut rest)).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn call_gives_progress_and_outcome_or_the_daemons_reason() {
    let daemon = Daemon::start().await;
    let (progress, mut said) = mpsc::channel(8);
    let answer = soon(control::call(
        &daemon.socket(),
        &json!({ "verb": "echo" }),
        progress,
        CancellationToken::new(),
    ))
    .await;
    assert_eq!(answer.unwrap().unwrap(), json!({ "verb": "echo" }));
    for step in 0..3 {
        assert_eq!(said.recv().await, Some(json!(step)));
    }
    let refused = call(&daemon.socket(), json!({ "verb": "dance" })).await;
    assert_eq!(refused.unwrap().unwrap_err()["code"], "usage");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_with_it() {
    let mut daemon = Daemon::start().await;
    let client = daemon.raw(b"{\"verb\":\"wait\"}\n").await;
    soon(daemon.begun.recv()).await.unwrap();
    drop(client);
    soon(daemon.ended.recv()).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_cancelled_still_gets_the_daemons_last_word() {
    let mut daemon = Daemon::start().await;
    let cancel = CancellationToken::new();
    let (progress, _) = mpsc::channel(1);
    let socket = daemon.socket();
    let request = json!({ "verb": "wait" });
    let calling = control::call(&socket, &request, progress, cancel.clone());
    let cancelling = async {
        soon(daemon.begun.recv()).await.unwrap();
        cancel.cancel();
    };
    let (answer, ()) = soon(async { tokio::join!(calling, cancelling) }).await;
    assert_eq!(answer.unwrap().unwrap_err()["code"], "interrupted");
}

#[tokio::test]
async fn a_request_of_the_allowed_length_passes_and_a_longer_one_is_refused() {
    let daemon = Daemon::start().await;
    let frame = json!({ "verb": "dance", "x": "" }).to_string().len();
    for (length, code) in [
        (MAX_REQUEST_BYTES, "usage"),
        (MAX_REQUEST_BYTES + 1, "failed"),
    ] {
        let request = json!({ "verb": "dance", "x": "x".repeat(length - frame) });
        assert_eq!(request.to_string().len(), length);
        let answer = call(&daemon.socket(), request).await.unwrap().unwrap_err();
        assert_eq!(answer["code"], code, "{answer}");
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_becomes_an_error() {
    let daemon = Daemon::start().await;
    let large = |bytes: usize| json!({ "verb": "large", "bytes": bytes });
    let fits = control::MAX_ANSWER_BYTES - "{\"ok\":\"\"}\n".len();
    let answer = call(&daemon.socket(), large(fits)).await.unwrap();
    assert_eq!(answer.unwrap().as_str().unwrap().len(), fits);
    let answer = call(&daemon.socket(), large(fits + 1)).await.unwrap();
    assert!(
        answer.unwrap_err()["message"]
            .as_str()
            .unwrap()
            .contains("longer")
    );
}

#[tokio::test]
async fn what_is_not_json_is_refused_with_a_sentence() {
    let daemon = Daemon::start().await;
    let mut reader = daemon.raw(b"list please\n").await;
    let answer = line(&mut reader).await;
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("not JSON")
    );
}

#[tokio::test]
async fn one_client_too_many_is_turned_away_and_the_others_stay() {
    let mut daemon = Daemon::start().await;
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        clients.push(daemon.raw(b"{\"verb\":\"wait\"}\n").await);
        soon(daemon.begun.recv()).await.unwrap();
    }
    let answer = call(&daemon.socket(), json!({ "verb": "echo" })).await;
    let message = answer.unwrap().unwrap_err()["message"].to_string();
    assert!(message.contains("already"), "{message}");
    assert!(daemon.ended.try_recv().is_err());
    drop(clients.pop());
    soon(daemon.ended.recv()).await.unwrap();
    // The place is free a moment after the request ended.
    let again = async {
        while call(&daemon.socket(), json!({ "verb": "echo" }))
            .await
            .unwrap()
            .is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    soon(again).await;
}

#[tokio::test]
async fn a_command_that_panics_is_an_error_of_that_command_only() {
    let daemon = Daemon::start().await;
    let answer = call(&daemon.socket(), json!({ "verb": "panic" })).await;
    assert!(
        answer.unwrap().unwrap_err()["message"]
            .as_str()
            .unwrap()
            .contains("broke off")
    );
    let answer = call(&daemon.socket(), json!({ "verb": "echo" })).await;
    assert!(answer.unwrap().is_ok());
}

#[tokio::test]
async fn a_daemon_that_stops_ends_its_requests_and_takes_its_socket_away() {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.raw(b"{\"verb\":\"wait\"}\n").await;
    soon(daemon.begun.recv()).await.unwrap();
    daemon.stop.cancel();
    assert_eq!(line(&mut client).await["error"]["code"], "interrupted");
    let socket = daemon.socket();
    soon(daemon.serving).await.unwrap();
    assert!(!socket.exists());
    assert!(matches!(
        call(&socket, json!({})).await,
        Err(CallError::NoDaemon)
    ));
}

#[tokio::test]
async fn the_socket_of_a_killed_daemon_is_no_daemon_and_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(
        call(&path, json!({})).await,
        Err(CallError::NoDaemon)
    ));
    let _socket = control::bind(&path).await.unwrap();
}

struct Page;

#[async_trait]
impl StatusPage for Page {
    async fn status(&self) -> Value {
        json!({ "running": true })
    }

    async fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }
}

/// One request over a connection of its own; the whole answer.
async fn ask(address: std::net::SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{head}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

async fn page() -> (std::net::SocketAddr, CancellationToken, JoinHandle<()>) {
    let server = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = server.address();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http::serve(server, Arc::new(Page), stop.clone()));
    (address, stop, serving)
}

#[tokio::test]
async fn the_page_shows_status_and_metrics() {
    let (address, stop, serving) = page().await;
    let status = ask(
        address,
        &format!("GET /v1/status HTTP/1.1\r\nHost: {address}"),
    )
    .await;
    assert!(status.starts_with("HTTP/1.1 200"), "{status}");
    assert!(status.contains("application/json") && status.ends_with("{\"running\":true}"));
    let metrics = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("openmetrics-text") && metrics.ends_with("# EOF\n"));
    stop.cancel();
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn a_request_by_another_name_than_loopbacks_is_refused_with_the_reason() {
    let (address, _stop, _serving) = page().await;
    for head in [
        "GET /v1/status HTTP/1.1\r\nHost: evil.example",
        "GET /v1/status HTTP/1.1\r\nHost: 10.0.0.1:80",
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.example",
        "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost",
        "GET /metrics HTTP/1.0",
        "POST /nothing HTTP/1.1\r\nHost: evil.example",
    ] {
        let answer = ask(address, head).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.0 403"),
            "{head}: {answer}"
        );
        assert!(answer.contains("Host header"), "{answer}");
        assert!(!answer.contains("running") && !answer.contains("# EOF"));
    }
}

#[tokio::test]
async fn the_page_is_read_only_and_names_what_there_is() {
    let (address, _stop, _serving) = page().await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer = ask(
            address,
            &format!("{method} /v1/status HTTP/1.1\r\nHost: {address}"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
        assert!(answer.to_lowercase().contains("allow: get"), "{answer}");
    }
    let answer = ask(address, &format!("GET / HTTP/1.1\r\nHost: {address}")).await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("/v1/status"));
}
