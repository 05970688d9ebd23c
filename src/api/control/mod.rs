//! The control socket: one request for each connection.
//!
//! Everything is a line of JSON that ends with a newline. The client sends one
//! line, the request. The daemon answers with any number of progress lines and
//! exactly one last line, and closes:
//!
//! | line | meaning |
//! |---|---|
//! | `{"progress": VALUE}` | something to show while the request runs |
//! | `{"ok": VALUE}` | the last: it worked |
//! | `{"error": {"code", "message", "hint"}}` | the last: it failed |
//!
//! A client that closes its half of the connection, or sends anything after its
//! request, *cancels* the request. The daemon ends the work cleanly and still
//! sends the last line to a client that kept the other half open.

mod client;
mod server;
mod socket;

use std::{io, path::PathBuf, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use client::{CallError, call};
pub use server::serve;
pub use socket::{ControlSocket, bind};

/// File name of the socket in a home.
pub const SOCKET_NAME: &str = "api.sock";

/// The longest request line. The longest that is sent names a snapshot with its ABCI
/// metadata, 4 MB at most, in hex; most have a few hundred bytes. Held once for each
/// client, as long as it has sent: clients are processes of the home's own user.
pub const MAX_REQUEST_BYTES: usize = 10 << 20;

/// The longest answer line: the details of a snapshot of 100,000 chunks take
/// about 11 MB. Held once for each answer under way.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;

/// Requests that run at once. A person has a few terminals, a script a few
/// processes; one more is turned away with a sentence.
pub const MAX_CLIENTS: usize = 32;

/// Progress values between a request and its client. A slow client delays its
/// own request only.
pub const PROGRESS_QUEUE: usize = 64;

/// A client sends its request as soon as it is connected.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that takes no line for so long counts as gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How long requests get to end cleanly when the daemon stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Carries out requests. Many run at the same time.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Carries out one request. `progress` may be full or closed: use
    /// `try_send` for what may be dropped. After `cancel` the work ends soon
    /// and cleanly. The error is the document `{"code", "message", "hint"}`.
    async fn run(
        &self,
        request: Value,
        progress: mpsc::Sender<Value>,
        cancel: CancellationToken,
    ) -> Result<Value, Value>;
}

/// Why the socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers on it.
    #[error("a daemon already answers on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket lies in its place.
    #[error("{} is in the way of the control socket and is not a socket", path.display())]
    Occupied {
        /// Where.
        path: PathBuf,
    },
    /// The file system refuses.
    #[error("cannot open the control socket {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ControlError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "stop the other daemon, or use another home with --home",
            Self::Occupied { .. } => "move that file away and start again",
            Self::Open { .. } => "check that the home exists and that you may write to it",
        }
    }
}

/// The error document of DESIGN.md §11.
fn error_document(message: impl Into<String>, hint: Option<&str>) -> Value {
    json!({ "code": "failed", "message": message.into(), "hint": hint })
}
