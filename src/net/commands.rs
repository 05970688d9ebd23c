//! What handles and serving tasks ask of the actor.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::announce::Announcement;
use super::error::NetError;
use super::keys::Key;
use crate::wire::PeerHint;

/// Commands that wait for the actor. It applies each without awaiting anything,
/// so a full channel lasts microseconds.
pub(super) const MAX_COMMANDS: usize = 256;

pub(super) type Reply<T> = oneshot::Sender<T>;

/// One command. The actor ignores replies that nobody awaits any more.
#[derive(Debug)]
pub(super) enum Command {
    /// Connect to whoever is there; `addresses` is one place, resolved.
    Dial {
        asked: Multiaddr,
        addresses: Vec<Multiaddr>,
        reply: Reply<Result<PeerId, NetError>>,
    },
    /// Connect to a peer by what is known of it.
    Connect {
        peer: PeerId,
        reply: Reply<Result<(), NetError>>,
    },
    /// Dial lost bootstrap and remembered peers now.
    Hurry,
    /// Replace what is announced.
    Announce(Announcement),
    /// Look for providers.
    Find {
        key: Key,
        sink: mpsc::Sender<PeerId>,
        reply: Reply<Result<(), NetError>>,
    },
    /// Shut a peer out.
    Ban {
        peer: PeerId,
        term: Duration,
        reason: String,
    },
    /// Let a peer in again.
    Lift { peer: PeerId },
    /// What a peer's catalogue said: chains that it serves, and others that do.
    /// The answer names those others whose addresses are believed or known.
    Learned {
        peer: PeerId,
        /// The chain that was asked about; absent: all.
        asked: Option<String>,
        chains: Vec<String>,
        hints: Vec<PeerHint>,
        reply: Reply<Vec<PeerId>>,
    },
    /// Others that serve a chain, as far as `asker` may know.
    Hints {
        asker: PeerId,
        chain_id: Option<String>,
        reply: Reply<Vec<PeerHint>>,
    },
}
