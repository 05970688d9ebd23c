//! What peers say to each other: the protocol's specification.
//!
//! Three protocols run over libp2p streams (an authenticated, encrypted
//! connection; the peer id of the other side is known).
//!
//! **`/snapswarm/catalogue/1`** and **`/snapswarm/manifest/1`**: the opening
//! side sends one length-prefixed message and closes its half; the other side
//! answers with one length-prefixed message and closes. The length is four
//! bytes, big-endian, and is checked against the limits below before anything
//! is allocated. A manifest's bytes follow its `ManifestResponse`, whose `size`
//! announces them. The endorsements of a catalogue entry are those of the answering
//! node itself and of the keys that it lists, and it has checked each of them: one
//! that is forged is its fault.
//!
//! **`/snapswarm/pieces/1`** is long-lived. The side that opens it *asks*
//! ([`Ask`]), the other *answers* ([`Answer`]); bulk data flows one way only.
//! Two nodes that want pieces from each other open one stream each.
//! Everything is a frame: one byte of kind, four bytes of length (big-endian),
//! the payload.
//!
//! | kind | payload | at most |
//! |---|---|---|
//! | 0 control | protobuf `Ask` or `Answer` | [`MAX_CONTROL_BYTES`] |
//! | 1 data | bytes of the piece that was started last | [`MAX_DATA_BYTES`] |
//!
//! * After `Open` the answer is `Holdings`; from then on `Have` follows as more
//!   is verified there. `Open` may be sent for several snapshots on a stream.
//! * `Request` is answered by `Started`, then data frames that add up to its
//!   `size`, or by `Refused`. **A refusal is no fault.** A started piece may end
//!   early with `Aborted`. One piece is under way at a time; control frames may
//!   stand between its data frames. Pieces come in the order that the answering
//!   side chooses.
//! * `Cancel` takes back a request. The answering side forgets a queued one
//!   without a word and ends a started one with `Aborted`; the asking side
//!   treats whatever still comes for it as answers to a forgotten request.
//! * The asking side sends `Ack` after each [`ACK_EVERY_BYTES`] of data, or for
//!   more of it at once when that came within 2 ms. The answering side keeps at
//!   most a credit of unacknowledged bytes ([`BASE_CREDIT_BYTES`] + rate × (round
//!   trip + a few milliseconds)), because bytes that are written cannot be
//!   reordered or cancelled any more.
//! * Request and probe ids are chosen by the asking side and not used again
//!   while open.
//! * What breaks these rules ends the stream and counts as a fault of the peer.
//!
//! # Messages
//!
//! A message is proto3. Before it is decoded it is held against its limits
//! (`shapes.rs`), so that nothing is allocated for what passes them. Refused are:
//! a field that stands twice without being repeated, two messages in one `Ask` or
//! `Answer`, a number that its field cannot hold, a field of another wire type, a
//! group. Fields that are unknown are skipped, so that a later version may add
//! some, as the endorsements of a catalogue entry were; an unknown kind of `Ask` or `Answer` is a fault, because it would stay
//! without an answer. What must be understood by both sides needs a new protocol
//! name.

// Tests may begin at a real moment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod catalogue;
mod frame;
mod pieces;
mod shapes;
#[cfg(test)]
mod tests;

pub use catalogue::{
    CatalogueEntry, CatalogueRequest, CatalogueResponse, ManifestRequest, ManifestResponse,
    PeerHint,
};
pub use frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
pub use pieces::{Answer, Ask, Holding, RequestId};

use crate::snapshot::proto;

/// Protocol name of the catalogue exchange.
pub const CATALOGUE_PROTOCOL: &str = "/snapswarm/catalogue/1";
/// Protocol name of manifest requests.
pub const MANIFEST_PROTOCOL: &str = "/snapswarm/manifest/1";
/// Protocol name of piece streams.
pub const PIECES_PROTOCOL: &str = "/snapswarm/pieces/1";

/// The largest control frame: `Holdings` of the largest manifest (about a
/// million pieces, 128 KiB of bits) fits, with room. Held once for each stream.
pub const MAX_CONTROL_BYTES: u32 = 256 << 10;
/// The largest data frame. Small enough that control frames overtake soon.
pub const MAX_DATA_BYTES: u32 = 64 << 10;
/// The asking side acknowledges each time it has read so many data bytes.
pub const ACK_EVERY_BYTES: u64 = 32 << 10;
/// Unacknowledged bytes that are always allowed. A longer path gets its rate
/// times its round trip on top (`facts/swarm-policy.md`: 128 KiB of unsent bytes
/// cost nothing, 4 MiB double the time of a flash crowd).
pub const BASE_CREDIT_BYTES: u64 = 256 << 10;
/// Requests open on one stream; one more is refused (over limit). The windows
/// of the asking side end at half of it.
pub const MAX_OPEN_REQUESTS: usize = 64;
/// Snapshots opened on one stream.
pub const MAX_OPEN_SNAPSHOTS: usize = 16;
/// Piece numbers in one `Have`.
pub const MAX_HAVE_PIECES: usize = 4096;
/// Digests in one `Probe`.
pub const MAX_PROBE_CHUNKS: usize = 1024;

/// Entries in one catalogue answer.
pub const MAX_CATALOGUE_ENTRIES: usize = 256;
/// Peers named in one catalogue answer.
pub const MAX_PEER_HINTS: usize = 32;
/// Addresses of one named peer.
pub const MAX_HINT_ADDRESSES: usize = 8;
/// One address, encoded: a QUIC address with a peer id has about 60 bytes.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// A peer id's multihash: an ed25519 key inline has 38 bytes.
pub const MAX_PEER_ID_BYTES: usize = 64;
/// Endorsements in one catalogue answer: those of 24 snapshots that have as many as
/// they can, or three for each of the most entries. Together with all limits above
/// they fit into the answer that has been allowed since its first version.
pub const MAX_CATALOGUE_ENDORSEMENTS: usize = 768;
/// The largest catalogue answer, all limits above together.
pub const MAX_CATALOGUE_BYTES: u32 = 256 << 10;
/// The largest request of the two short protocols.
pub const MAX_SHORT_REQUEST_BYTES: u32 = 256;
/// The largest `ManifestResponse` ahead of the manifest's bytes.
pub const MAX_MANIFEST_RESPONSE_BYTES: u32 = 64;

/// Why something asked for is not given. Never a fault of either side.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// Not here, or not here any more.
    Gone,
    /// Here, but no slot is free: ask again later.
    Busy,
    /// The request passes one of the limits of the protocol.
    OverLimit,
    /// The answering node does not serve this peer.
    NotAllowed,
}

impl Refusal {
    fn encode(self) -> i32 {
        let code = match self {
            Self::Gone => proto::Refusal::Gone,
            Self::Busy => proto::Refusal::Busy,
            Self::OverLimit => proto::Refusal::OverLimit,
            Self::NotAllowed => proto::Refusal::NotAllowed,
        };
        code as i32
    }

    fn decode(code: i32) -> Result<Self, WireError> {
        match proto::Refusal::try_from(code) {
            Ok(proto::Refusal::Gone) => Ok(Self::Gone),
            Ok(proto::Refusal::Busy) => Ok(Self::Busy),
            Ok(proto::Refusal::OverLimit) => Ok(Self::OverLimit),
            Ok(proto::Refusal::NotAllowed) => Ok(Self::NotAllowed),
            Ok(proto::Refusal::Unspecified) | Err(_) => Err(WireError::Field {
                field: "refusal",
                problem: format!("code {code} is unknown"),
            }),
        }
    }
}

/// What breaks the rules of the protocol. Always the sender's fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// A frame kind that does not exist.
    #[error("frame kind {0} does not exist")]
    FrameKind(u8),
    /// A frame or message longer than it may be.
    #[error("{what}: {found} bytes, at most {limit} are allowed")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Announced length.
        found: usize,
        /// Its limit.
        limit: usize,
    },
    /// More elements than allowed.
    #[error("more than {limit} {what}")]
    TooMany {
        /// Elements of what.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// Bytes that are no protobuf message of the expected shape.
    #[error("not a message of this protocol: {0}")]
    Syntax(String),
    /// A field whose value is impossible.
    #[error("{field}: {problem}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<prost::DecodeError> for WireError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Syntax(error.to_string())
    }
}

fn limit_len(what: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    if found > limit {
        return Err(WireError::TooLong { what, found, limit });
    }
    Ok(())
}
