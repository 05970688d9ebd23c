//! The daemon's side of the control socket.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    sync::CancellationToken,
    task::AbortOnDropHandle,
};

use super::{
    ControlSocket, Handler, MAX_ANSWER_BYTES, MAX_CLIENTS, MAX_REQUEST_BYTES, PROGRESS_QUEUE,
    REQUEST_TIMEOUT, STOP_TIMEOUT, WRITE_TIMEOUT, error_document,
};

/// After a failed `accept` (no descriptor is free) the next try waits so long.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);

/// Serves the socket until `stop`. Then the file goes away, running requests
/// are cancelled, and this returns when they have ended or after
/// [`STOP_TIMEOUT`].
pub async fn serve(socket: ControlSocket, handler: Arc<dyn Handler>, stop: CancellationToken) {
    let mut clients = JoinSet::new();
    let free = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = clients.join_next() => continue,
            accepted = socket.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept a client");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let Ok(place) = free.clone().try_acquire_owned() else {
            turn_away(&stream);
            continue;
        };
        let (handler, stop) = (handler.clone(), stop.clone());
        clients.spawn(async move {
            attend(stream, handler, stop).await;
            drop(place);
        });
    }
    drop(socket);
    let ended = async { while clients.join_next().await.is_some() {} };
    if timeout(STOP_TIMEOUT, ended).await.is_err() {
        tracing::warn!("requests that do not end are given up");
    }
}

fn turn_away(stream: &UnixStream) {
    let answer = line(&json!({
        "error": error_document(
            format!("the daemon is working on {MAX_CLIENTS} commands already"),
            Some("try again when one of them has ended"),
        )
    }));
    // A fresh socket's buffer takes so short a line at once, or nobody needs it.
    let _ = stream.try_write(&answer);
}

/// One client, from its request to the last line.
async fn attend(stream: UnixStream, handler: Arc<dyn Handler>, stop: CancellationToken) {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_REQUEST_BYTES));
    let request = match timeout(REQUEST_TIMEOUT, lines.next()).await {
        Ok(Some(text)) => match parse(text) {
            Ok(request) => request,
            Err(problem) => {
                send(&mut write, &json!({ "error": problem })).await;
                return;
            }
        },
        // Gone, or silent: there is nobody to answer.
        Ok(None) | Err(_) => return,
    };
    let cancel = stop.child_token();
    // Whatever ends this client's task ends its request.
    let _ends = cancel.clone().drop_guard();
    let (progress, mut said) = mpsc::channel(PROGRESS_QUEUE);
    let mut work = AbortOnDropHandle::new(tokio::spawn({
        let cancel = cancel.clone();
        async move { handler.run(request, progress, cancel).await }
    }));
    let mut listening = true;
    let mut reachable = true;
    let last = loop {
        tokio::select! {
            Some(value) = said.recv() => {
                if reachable && !send(&mut write, &json!({ "progress": value })).await {
                    reachable = false;
                    cancel.cancel();
                }
            }
            _ = lines.next(), if listening => {
                listening = false;
                cancel.cancel();
            }
            ended = &mut work => break match ended {
                Ok(Ok(value)) => json!({ "ok": value }),
                Ok(Err(error)) => json!({ "error": error }),
                Err(error) => {
                    tracing::error!(%error, "a command broke off");
                    json!({ "error": error_document(
                        "the command broke off inside the daemon",
                        Some("the daemon's log says why; please report it"),
                    ) })
                }
            },
        }
    };
    while reachable && let Ok(value) = said.try_recv() {
        reachable = send(&mut write, &json!({ "progress": value })).await;
    }
    if reachable {
        send(&mut write, &last).await;
    }
}

fn parse(text: Result<String, LinesCodecError>) -> Result<Value, Value> {
    match text {
        Ok(text) => serde_json::from_str(&text)
            .map_err(|error| error_document(format!("the request is not JSON: {error}"), None)),
        Err(LinesCodecError::MaxLineLengthExceeded) => Err(error_document(
            format!("the request is longer than {MAX_REQUEST_BYTES} bytes"),
            None,
        )),
        Err(LinesCodecError::Io(error)) => Err(error_document(
            format!("the request cannot be read: {error}"),
            None,
        )),
    }
}

fn line(value: &Value) -> Vec<u8> {
    let mut bytes = value.to_string().into_bytes();
    if bytes.len() >= MAX_ANSWER_BYTES {
        bytes = json!({
            "error": error_document(
                format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"),
                None,
            )
        })
        .to_string()
        .into_bytes();
    }
    bytes.push(b'\n');
    bytes
}

/// Whether the client took it.
async fn send(write: &mut OwnedWriteHalf, value: &Value) -> bool {
    matches!(
        timeout(WRITE_TIMEOUT, write.write_all(&line(value))).await,
        Ok(Ok(()))
    )
}
