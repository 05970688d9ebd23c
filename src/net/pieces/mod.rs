//! Piece streams: the long-lived, pipelined exchange of
//! [`crate::wire::PIECES_PROTOCOL`], both sides of it.
//!
//! # Model
//!
//! The side that opens a stream asks ([`Client`]), the other answers
//! ([`Server`]). A client is one task around one stream that polls a reader,
//! which turns frames into [`PieceEvent`]s, and a writer, which empties an outbox
//! that [`Asker`] fills. A server is one task that owns the order of uploads
//! ([`crate::sync::Uploads`]) and nothing else, and for each stream a task with a
//! reader and a writer; bytes of pieces never pass through the ordering task.
//!
//! # Laws
//!
//! * **Bounded.** Received bytes lie in buffers of a [`Budget`]; a full event
//!   channel, an empty budget or a full outbox stops the reading of that stream
//!   and of no other. Every queue has a named limit; see the constants below.
//! * **Nothing unasked.** The client knows the length of each piece it asked
//!   for. What does not belong to a request of its own ends the stream with a
//!   [`Fault`].
//! * **Late binding.** Not more than a credit of bytes is under way on a stream
//!   ([`crate::wire::BASE_CREDIT_BYTES`] and rate × round trip); what is not yet
//!   written can be reordered and cancelled. Control frames overtake data.
//! * **A peer that does not read costs a stream**, not memory: a stream that
//!   takes nothing for [`STALL_TIMEOUT`] while it is owed something is ended.

mod answering;
mod asker;
mod budget;
mod client;
mod credit;
mod event;
mod frames;
mod ledger;
mod limiter;
mod link;
mod ordering;
mod pace;
mod sending;
mod server;

pub use crate::sync::UploadLimits;
pub use asker::{AskError, Asker, ClientStats};
pub use budget::{Budget, MAX_CLIENT_STREAMS, Reservation, SHARED_BUFFERS};
pub use client::{Client, OpenError};
pub use event::{Closed, Fault, PieceEvent};
pub use server::{PeerFault, PeerStats, Server, ServerStats};

use std::time::Duration;

/// A stream that takes none of the bytes that it is owed for so long is ended:
/// twice the longest retransmission pause of a path that still works.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause between two progress events of a stream: fine enough for a rate over
/// two seconds, coarse enough to cost nothing.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(50);
/// Streams that one peer may have open on us; one is enough, a second bridges a
/// reconnect that the first has not noticed.
pub const MAX_STREAMS_PER_PEER: usize = 2;
/// Streams open on us in all. Each costs two tasks and at most
/// [`crate::wire::MAX_CONTROL_BYTES`] twice, beside the pieces, which have a
/// bound of their own.
pub const MAX_STREAMS: usize = 256;
