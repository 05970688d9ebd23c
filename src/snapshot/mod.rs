//! What a snapshot is.
//!
//! A snapshot of an application's state is an ordered list of **chunks**, as
//! ABCI hands them over. A chunk is named by its SHA-256 ([`ChunkId`]) and is
//! moved in **pieces** of 1 MiB ([`PIECE_BYTES`]), each with a SHA-256 of its
//! own, so that a wrong byte is found, and its sender known, within a piece.
//! The **manifest** lists all of it and is named by the SHA-256 of its own
//! canonical bytes ([`ManifestId`]).
//!
//! Three numberings, each with a type of its own:
//!
//! * a *position* ([`ChunkIndex`]) is the ABCI chunk index, `0..chunk_count`;
//! * a *unique chunk* ([`UniqueIndex`]) counts distinct chunks in the order of
//!   their first position: equal chunks are fetched and stored as one;
//! * a *piece number* ([`PieceIndex`]) counts the pieces of all unique chunks in
//!   that order. Bitmaps and have-messages speak in piece numbers.
//!
//! Laws:
//!
//! * Foreign bytes become trusted by a change of type only:
//!   [`Manifest::decode`] for manifests, [`hash::verify`] for pieces,
//!   [`UntrustedEndorsement::check`] for endorsements. All of them check every
//!   limit before they allocate for what it bounds.
//! * The same content gives the same bytes and the same name on every machine.
//! * This room is pure: no clock, no file, no socket, no global.

// Tests may begin at a real moment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod bitmap;
mod build;
mod content;
mod digest;
mod endorsement;
pub mod hash;
mod manifest;
mod rules;
mod scope;
pub(crate) mod shape;
#[cfg(test)]
pub(crate) mod tests;
mod traits;

pub use bitmap::{Bitmap, BitmapError};
pub use build::{ManifestBuilder, SnapshotFields, StateFields};
pub use content::StateContent;
pub use digest::{ChunkId, Digest, IdError, ManifestId};
pub(crate) use endorsement::ENDORSEMENT;
pub use endorsement::{
    Endorsement, EndorsementError, EndorsementKind, Endorsements, EndorserKey, MAX_ENDORSEMENTS,
    SIGNATURE_BYTES, SnapshotName, UntrustedEndorsement, UntrustedEndorsements,
};
pub use hash::{BadPiece, ReceivedPiece, VerifiedPiece};
pub use manifest::{
    ChunkIndex, Manifest, ManifestError, Piece, PieceIndex, UniqueChunk, UniqueIndex,
};
pub(crate) use rules::check_chain_id;
pub use scope::{MAX_SCOPE_BYTES, MAX_SCOPES, Scope, ScopeError, ScopeRange};
pub use traits::{Offer, OpenSnapshot, Source, SourceError, Target, TargetError};

/// The longest text that is read as a CID. In base 2, the widest that CIDs know,
/// one of ours has 289 characters.
pub const MAX_CID_TEXT_BYTES: usize = 300;

/// The messages of `proto/snapswarm/v1`, as generated.
pub(crate) mod proto {
    #![allow(missing_docs, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/snapswarm.v1.rs"));
}

/// The unit of transfer and of blame. Fixed in format version 1: it is part of
/// what a manifest's piece hashes mean.
pub const PIECE_BYTES: u32 = 1 << 20;

/// The largest chunk. CometBFT takes a `ChunkResponse` message of at most
/// 16,000,000 bytes (`statesync/messages.go`); 64 bytes hold its other fields.
pub const MAX_CHUNK_BYTES: u32 = 16_000_000 - 64;

/// The most pieces that a chunk has.
pub const MAX_PIECES_PER_CHUNK: u32 = MAX_CHUNK_BYTES.div_ceil(PIECE_BYTES);

/// CometBFT disconnects a peer that offers a snapshot of more chunks
/// (`statesync/messages.go`).
pub const MAX_CHUNKS: u32 = 100_000;

/// The largest manifest: with chunks of 10 MiB it describes about 900 GiB. It is
/// held in memory while a snapshot is gathered or served, with up to 10 MB of
/// numbers for the most chunks; twice its size while it is checked.
pub const MAX_MANIFEST_BYTES: u32 = 32 << 20;

/// More pieces than any manifest has room for: each takes 32 bytes of it.
pub const MAX_PIECES: u32 = MAX_MANIFEST_BYTES / 32;

/// CometBFT's limit on the length of a chain id (`types/genesis.go`).
pub const MAX_CHAIN_ID_BYTES: usize = 50;

/// Application hashes in use have 32 to 64 bytes; CometBFT sets no limit.
pub const MAX_APP_HASH_BYTES: usize = 256;

/// The ABCI `hash` of a snapshot is 32 bytes in every known application.
pub const MAX_SNAPSHOT_HASH_BYTES: usize = 1024;

/// CometBFT takes a `SnapshotsResponse` of at most 4,000,000 bytes, the other
/// fields included (`statesync/messages.go`).
pub const MAX_METADATA_BYTES: usize = 4_000_000 - 4096;

/// The ABCI snapshot format of state content, version 1: a number that no
/// application's own format has. Chunks that are encoded in another way get
/// another number.
pub const STATE_FORMAT: u32 = u32::from_be_bytes(*b"SWS\x01");

/// CometBFT heights are signed 64-bit integers.
pub const MAX_HEIGHT: u64 = i64::MAX as u64;
