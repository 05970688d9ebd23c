//! What goes wrong with a CometBFT peer.

use std::{io, net::SocketAddr};

use super::NodeId;

/// Bytes of a peer that break its protocol. Always the sender's doing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// A packet, message or node info longer than it may be.
    #[error("a {what} of more than {limit} bytes")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its limit.
        limit: usize,
    },
    /// Bytes that are no protobuf message of the expected shape.
    #[error("a malformed {what}: {problem}")]
    Syntax {
        /// What was expected.
        what: &'static str,
        /// What the decoder says.
        problem: String,
    },
    /// A packet for a channel that we did not name.
    #[error("a packet for channel {0:#04x}, which is not ours")]
    Channel(i32),
    /// A message on a channel where it does not belong.
    #[error("a {what} on channel {channel:#04x}")]
    Misplaced {
        /// What it is.
        what: &'static str,
        /// Where it came.
        channel: u8,
    },
    /// A field whose value is impossible.
    #[error("a {what} with an impossible {field}: {problem}")]
    Field {
        /// In what.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Why there is no connection to a CometBFT node, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Nobody answers at the address.
    #[error("cannot reach the node at {place}")]
    Connect {
        /// `HOST:PORT`.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Our own listener cannot be opened.
    #[error("cannot listen on {addr} for the node")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The encrypted connection was not established.
    #[error(
        "the handshake with {place} failed: {problem} (if this goes on: is it the node's p2p \
         address, and has the node no other peer on our IP address while \
         allow_duplicate_ip = false?)"
    )]
    Handshake {
        /// `HOST:PORT`.
        place: String,
        /// What happened.
        problem: String,
    },
    /// Another node than expected.
    #[error(
        "the node at {place} has the id {found}, not {expected}: `cometbft show-node-id` \
         tells the right one"
    )]
    WrongNode {
        /// `HOST:PORT`.
        place: String,
        /// The id asked for.
        expected: NodeId,
        /// The id it proved.
        found: NodeId,
    },
    /// A node of another chain.
    #[error("the node at {place} is of chain '{found}', not '{expected}'")]
    WrongChain {
        /// `HOST:PORT`.
        place: String,
        /// The chain asked for.
        expected: String,
        /// The chain it named.
        found: String,
    },
    /// A node without state sync, or of another protocol generation.
    #[error("the node at {place} cannot be spoken to: {problem}")]
    Incompatible {
        /// `HOST:PORT`.
        place: String,
        /// What does not fit.
        problem: String,
    },
    /// The node took the handshake and hung up before it said anything more:
    /// so it treats a peer for whom it has no room.
    #[error(
        "the node at {place} hangs up on us after the handshake: it has no free inbound slot, \
         or a peer with our id already; put {own} into its unconditional_peer_ids"
    )]
    Unwanted {
        /// `HOST:PORT`.
        place: String,
        /// Our own id.
        own: NodeId,
    },
    /// The node hung up, or the connection broke.
    #[error("the connection to {place} ended: {problem}")]
    Lost {
        /// `HOST:PORT`.
        place: String,
        /// What is known about it.
        problem: String,
    },
    /// Nothing came for longer than a living node can be silent.
    #[error("{place} was silent for {seconds} s")]
    Silent {
        /// `HOST:PORT`.
        place: String,
        /// How long.
        seconds: u64,
    },
    /// It sent what no CometBFT node sends.
    #[error("{place} broke the peer protocol: {problem}")]
    Protocol {
        /// `HOST:PORT`.
        place: String,
        /// What it did.
        problem: ProtocolError,
    },
    /// It leaves requests unanswered although the connection stands.
    #[error("{place} does not answer requests for {what}")]
    Unanswered {
        /// `HOST:PORT`.
        place: String,
        /// Requests for what.
        what: String,
    },
    /// A chunk that is to be fed cannot be read.
    #[error("cannot read chunk {index} of the snapshot that is being fed")]
    Chunk {
        /// ABCI index.
        index: u32,
        /// Why.
        source: io::Error,
    },
    /// The snapshot cannot be sent to any node.
    #[error("the snapshot cannot be fed: {problem}")]
    Unfit {
        /// Why not.
        problem: String,
    },
    /// We were asked to stop.
    #[error("stopped on request")]
    Stopped,
}

impl PeerError {
    /// Whether trying again later can help without anyone changing a setting
    /// or repairing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Unwanted { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Protocol { .. }
            | Self::Unanswered { .. } => true,
            Self::Listen { .. }
            | Self::WrongNode { .. }
            | Self::WrongChain { .. }
            | Self::Incompatible { .. }
            | Self::Chunk { .. }
            | Self::Unfit { .. }
            | Self::Stopped => false,
        }
    }

    /// Whether someone has to change or repair something first.
    pub fn is_fatal(&self) -> bool {
        !self.is_retryable()
    }
}
