//! What each message may contain: the limits of the wire, held before a message
//! is decoded, so that nothing is allocated for what passes them.

use super::{
    MAX_ADDRESS_BYTES, MAX_CATALOGUE_ENTRIES, MAX_HAVE_PIECES, MAX_HINT_ADDRESSES, MAX_PEER_HINTS,
    MAX_PEER_ID_BYTES, MAX_PROBE_CHUNKS, WireError,
};
use crate::snapshot::shape::{
    BOOL, CODE, DIGEST, Field, Kind, Shape, ShapeError, U32, U64, many, one,
};
use crate::snapshot::{
    ENDORSEMENT, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_CHUNKS, MAX_ENDORSEMENTS, MAX_HEIGHT,
    MAX_PIECES, MAX_PIECES_PER_CHUNK, PIECE_BYTES,
};

const CHAIN_ID: Kind = Kind::Bytes(0, MAX_CHAIN_ID_BYTES);

const fn message(fields: &'static [Field]) -> Shape {
    Shape {
        fields,
        one_of: false,
    }
}

const fn choice(fields: &'static [Field]) -> Shape {
    Shape {
        fields,
        one_of: true,
    }
}

/// `CatalogueRequest`.
pub(super) const CATALOGUE_REQUEST: Shape = message(&[one(1, "chain id", CHAIN_ID)]);

/// `CatalogueResponse`.
pub(super) const CATALOGUE_RESPONSE: Shape = message(&[
    many(
        1,
        "catalogue entries",
        MAX_CATALOGUE_ENTRIES,
        Kind::Message(&CATALOGUE_ENTRY),
    ),
    many(2, "peer hints", MAX_PEER_HINTS, Kind::Message(&PEER_HINT)),
]);

const CATALOGUE_ENTRY: Shape = message(&[
    one(1, "chain id", CHAIN_ID),
    one(2, "height", Kind::Number(MAX_HEIGHT)),
    one(3, "format", U32),
    one(4, "app hash", Kind::Bytes(0, MAX_APP_HASH_BYTES)),
    one(5, "manifest", DIGEST),
    one(6, "manifest size", U32),
    one(7, "total size", U64),
    one(8, "chunks", Kind::Number(MAX_CHUNKS as u64)),
    one(9, "complete", BOOL),
    many(
        10,
        "endorsements of a snapshot",
        MAX_ENDORSEMENTS,
        ENDORSEMENT,
    ),
    one(11, "delta", BOOL),
]);

const PEER_HINT: Shape = message(&[
    one(1, "peer id", Kind::Bytes(1, MAX_PEER_ID_BYTES)),
    many(
        2,
        "addresses of a peer",
        MAX_HINT_ADDRESSES,
        Kind::Bytes(1, MAX_ADDRESS_BYTES),
    ),
]);

/// `ManifestRequest`.
pub(super) const MANIFEST_REQUEST: Shape = message(&[one(1, "manifest", DIGEST)]);

/// `ManifestResponse`.
pub(super) const MANIFEST_RESPONSE: Shape =
    message(&[one(1, "manifest size", U32), one(2, "refusal", CODE)]);

/// `Ask`.
pub(super) const ASK: Shape = choice(&[
    one(1, "open", Kind::Message(&OPEN)),
    one(2, "probe", Kind::Message(&PROBE)),
    one(3, "request", Kind::Message(&REQUEST)),
    one(4, "cancel", Kind::Message(&ID_ONLY)),
    one(5, "have", Kind::Message(&HAVE)),
    one(6, "ack", Kind::Message(&ACK)),
    one(7, "holdings", Kind::Message(&HOLDINGS)),
]);

/// `Answer`.
pub(super) const ANSWER: Shape = choice(&[
    one(1, "holdings", Kind::Message(&HOLDINGS)),
    one(2, "have", Kind::Message(&HAVE)),
    one(3, "holds", Kind::Message(&HOLDS)),
    one(4, "started", Kind::Message(&STARTED)),
    one(5, "refused", Kind::Message(&REFUSED)),
    one(6, "aborted", Kind::Message(&ID_ONLY)),
]);

const OPEN: Shape = message(&[one(1, "manifest", DIGEST)]);

const PROBE: Shape = message(&[
    one(1, "id", U32),
    one(
        2,
        "chunks of a probe",
        Kind::Bytes(0, MAX_PROBE_CHUNKS * 32),
    ),
]);

const REQUEST: Shape = message(&[
    one(1, "id", U32),
    one(2, "chunk", DIGEST),
    one(3, "piece", Kind::Number(MAX_PIECES_PER_CHUNK as u64 - 1)),
]);

/// `Cancel` and `Aborted`.
const ID_ONLY: Shape = message(&[one(1, "id", U32)]);

const HAVE: Shape = message(&[
    one(1, "manifest", DIGEST),
    many(
        2,
        "pieces of a have-message",
        MAX_HAVE_PIECES,
        Kind::Number(MAX_PIECES as u64 - 1),
    ),
]);

const ACK: Shape = message(&[one(1, "bytes", U64)]);

const HOLDINGS: Shape = message(&[
    one(1, "manifest", DIGEST),
    one(2, "complete", BOOL),
    one(3, "pieces", Kind::Bytes(0, MAX_PIECES.div_ceil(8) as usize)),
    one(4, "refusal", CODE),
]);

const HOLDS: Shape = message(&[
    one(1, "id", U32),
    one(
        2,
        "probe answer",
        Kind::Bytes(0, MAX_PROBE_CHUNKS.div_ceil(8)),
    ),
]);

const STARTED: Shape = message(&[
    one(1, "id", U32),
    one(2, "piece size", Kind::Number(PIECE_BYTES as u64)),
]);

const REFUSED: Shape = message(&[one(1, "id", U32), one(2, "refusal", CODE)]);

impl From<ShapeError> for WireError {
    fn from(error: ShapeError) -> Self {
        match error {
            ShapeError::TooMany { what, limit } => Self::TooMany { what, limit },
            ShapeError::TooLong { what, found, limit } => Self::TooLong { what, found, limit },
            ShapeError::Value { what, problem } => Self::Field {
                field: what,
                problem,
            },
            ShapeError::Syntax(problem) => Self::Syntax(problem),
        }
    }
}
