//! The command line's side of the control socket.

use std::{io, path::Path, time::Duration};

use futures::StreamExt;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, sync::mpsc};
use tokio_util::{
    codec::{FramedRead, LinesCodec},
    sync::CancellationToken,
};

use super::{MAX_ANSWER_BYTES, socket};

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No daemon answers at this socket: there is none, or it died.
    #[error("no daemon runs on this home")]
    NoDaemon,
    /// The socket cannot be used.
    #[error("cannot talk to the daemon over its control socket")]
    Connect(#[source] io::Error),
    /// The connection ended without a last line.
    #[error("the daemon ended before it answered")]
    Gone,
    /// What came is not of this protocol.
    #[error("the daemon answered something that is not understood: {0}")]
    Answer(String),
}

/// A daemon that was told to end the work says its last word within this: it puts what it
/// has to the disk before.
const LAST_WORD: Duration = Duration::from_secs(60);

/// Asks the daemon behind the socket at `path`: `Ok(Ok(_))` when it worked,
/// `Ok(Err(document))` when the daemon says why not. Progress that `progress`
/// does not take is dropped. `cancel` makes the daemon end the work; its last
/// word is still waited for, for a minute at most.
pub async fn call(
    path: &Path,
    request: &Value,
    progress: mpsc::Sender<Value>,
    cancel: CancellationToken,
) -> Result<Result<Value, Value>, CallError> {
    let stream = socket::connect(path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused => CallError::NoDaemon,
            _ => CallError::Connect(error),
        })?;
    let (read, mut write) = stream.into_split();
    let mut request = request.to_string();
    request.push('\n');
    // A daemon that turns a client away closes at once but says why: whatever
    // the write gives, the answer is read.
    let _ = write.write_all(request.as_bytes()).await;
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(MAX_ANSWER_BYTES));
    let mut write = Some(write);
    let mut late = None;
    loop {
        let text = tokio::select! {
            () = cancel.cancelled(), if write.is_some() => {
                // Dropping this half closes it, which is the word for cancel.
                write = None;
                late = Some(tokio::time::Instant::now() + LAST_WORD);
                continue;
            }
            () = until(late) => return Err(CallError::Gone),
            text = lines.next() => text,
        };
        let text = match text {
            None => return Err(CallError::Gone),
            Some(Err(tokio_util::codec::LinesCodecError::Io(_))) => return Err(CallError::Gone),
            Some(Err(error)) => return Err(CallError::Answer(error.to_string())),
            Some(Ok(text)) => text,
        };
        let Ok(Value::Object(mut answer)) = serde_json::from_str(&text) else {
            return Err(CallError::Answer(text.chars().take(80).collect()));
        };
        if let Some(value) = answer.remove("progress") {
            let _ = progress.try_send(value);
        } else if let Some(value) = answer.remove("ok") {
            return Ok(Ok(value));
        } else if let Some(value) = answer.remove("error") {
            return Ok(Err(value));
        } else {
            return Err(CallError::Answer(text.chars().take(80).collect()));
        }
    }
}

/// Waits until then; without a time, for ever.
async fn until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
