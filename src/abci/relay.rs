//! One connection of CometBFT, and the one to the application that stands behind
//! it: two pumps and the list of answers that are awaited.
//!
//! The pump of requests enters what it expects into the list *before* the request
//! leaves, so an answer that comes while the list is empty was not asked for
//! (an Exception), and passes at once.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::address::{ReadSide, WriteSide};
use super::answers::Answers;
use super::frame::{FrameReader, FrameWriter};
use super::requests::Requests;
use super::restore::Proposal;
use super::session::{Question, Session};
use super::walk::Value;

/// Answers awaited at once. CometBFT sends a Flush at least every 20 ms, so even
/// a flood of transactions stays far below. About 5 MB at most.
const MAX_AWAITED: usize = 65_536;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    /// CometBFT closed it.
    Node,
    /// The application closed it.
    App,
    /// One of the two sockets broke.
    Broken(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Broken(error)
    }
}

/// What is to come next on the way back.
pub(super) enum Expected {
    /// The application's answer, as it comes.
    App,
    /// The same, in which a field is read as it goes by.
    Watched(u64, fn(&Session, Value)),
    /// The answer to Commit.
    Commit,
    /// The answer to an offer.
    Offer(Box<Proposal>),
    /// The answer to a chunk; the sender, when its bytes were wrong.
    Apply(u32, Option<String>),
    /// An answer of ours that is ready.
    Ready(Bytes),
    /// An answer of ours that is made when its turn comes: however many are asked for
    /// at once, one is being made, and one is on its way out.
    Ours(Question),
}

/// Moves frames until one side closes. `node` was read from already.
pub(super) async fn relay(
    session: Arc<Session>,
    connection: u32,
    node: (FrameReader, FrameWriter),
    app: (ReadSide, WriteSide),
) -> End {
    let (expect, expected) = mpsc::channel(MAX_AWAITED);
    let to_app = FrameWriter::new(app.1);
    let mut requests = Requests::new(session.clone(), node.0, to_app, expect);
    let from_app = FrameReader::new(app.0);
    let mut answers = Answers::new(session.clone(), connection, from_app, node.1, expected);
    // Both in one task: what the one enters, the other sees in order.
    let end = tokio::select! {
        end = requests.pump() => end,
        end = answers.pump() => end,
    };
    session.ended(connection);
    end
}

/// Consensus decided a block.
pub(super) fn decided(session: &Session, value: Value) {
    if let Value::Number(height) = value {
        session.learn(|memory| memory.decided(height));
    }
}

/// The application executed a block.
pub(super) fn executed(session: &Session, value: Value) {
    if let Value::Bytes(app_hash) = value {
        session.learn(|memory| memory.executed(app_hash));
    }
}

/// The application says how far it is.
pub(super) fn informed(session: &Session, value: Value) {
    if let Value::Number(height) = value {
        session.learn(|memory| memory.informed(height));
    }
}

/// A chain begins.
pub(super) fn began(session: &Session, value: Value) {
    if let Value::Bytes(id) = value {
        session.genesis(String::from_utf8_lossy(&id).into_owned());
    }
}
