//! How a snapshot is gathered from many peers, and in which order it is given.
//!
//! Three deterministic machines without a clock, a socket or a thread: the
//! caller tells what happened (`handle_*`), asks what to do (`poll`) and when to
//! come back (`poll_timeout`); the time is an argument and randomness grows from
//! a seed, so that the same calls give the same answers.
//!
//! * [`Fetch`] gathers one snapshot: which piece is asked of whom.
//! * [`Uploads`] gives to others: whose request is served next.
//! * [`Bans`] remembers who broke the rules, for a term that grows.
//!
//! Laws:
//!
//! * Each piece of a [`Fetch`] is in exactly one [`PieceState`], and each open
//!   request is known on both sides: to the piece and to the peer.
//! * A peer is blamed for what it alone can have done: bytes that do not hash
//!   to what it announced, or a broken protocol. Slowness, silence, refusals and
//!   false claims cost it our patience, never its good name.
//! * With one honest holder for each piece the download finishes, whatever the
//!   others do: nobody is waited for while another could deliver, and every
//!   pause has an end.
//! * Every collection here has a bound; memory grows with the manifest (about
//!   27 bits for each piece, and one for each peer that has a part of it).

// Tests may begin at a real moment.
#![cfg_attr(not(test), deny(clippy::disallowed_methods, clippy::disallowed_types))]

mod bans;
mod bits;
mod fetch;
mod rate;
mod uploads;

pub use bans::{BanTerm, Bans};
pub use fetch::{
    Fetch, FetchAction, FetchLimits, FetchStats, HaveWhen, MAX_COPIES, MAX_HAVE_BATCH, MAX_WINDOW,
    PeerStats, PieceState,
};
pub use uploads::{ConnKey, MAX_SLOTS, UploadAction, UploadLimits, UploadStats, Uploads};

use crate::snapshot::Bitmap;

/// A peer, as the scheduler knows it. The caller makes it from the first eight
/// bytes of the SHA-256 of the peer's id: all joiners then rank the same seeders
/// in the same order and ask the same one for the same piece.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerKey(pub u64);

/// What a peer says it has of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerHolding {
    /// Everything.
    Complete,
    /// These pieces.
    Pieces(Bitmap),
    /// Nothing, or nothing for us.
    Nothing,
}

/// Why a piece is not given; never a fault of either side. The wire protocol has
/// a code for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// Not here, or not here any more.
    Gone,
    /// Here, but no slot is free: ask again later.
    Busy,
    /// The request passes a limit.
    OverLimit,
    /// The answering node does not serve this peer.
    NotAllowed,
}

/// A request of a connection, by the number that the asking side gave it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestKey(pub u32);

/// Requests open on one connection; one more is refused. The windows of the
/// asking side end at half of it.
pub const MAX_OPEN_REQUESTS: usize = 64;
/// Snapshots opened on one connection.
pub const MAX_OPEN_SNAPSHOTS: usize = 16;

/// What a peer is banned for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Offence {
    /// It announced a snapshot and sent other bytes than the manifest says.
    WrongBytes,
    /// It broke the protocol.
    Protocol,
}
