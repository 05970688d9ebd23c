//! What the actor shows to everyone else: plain data, written by it alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use super::announce::AnnounceStats;

/// Who began a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// This node.
    Outbound,
}

/// A connected peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerInfo {
    /// Its id.
    pub peer: PeerId,
    /// Its address on the oldest connection.
    pub address: Multiaddr,
    /// Who began that connection.
    pub direction: Direction,
    /// Round trip of the last ping; absent until the first answer.
    pub rtt: Option<Duration>,
    /// Program and version, as the peer says; absent until it said so. At most
    /// 64 characters.
    pub agent: Option<String>,
}

/// A peer that this node was connected to before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RememberedPeer {
    /// Its id.
    pub peer: PeerId,
    /// Where it was.
    pub addresses: Vec<Multiaddr>,
    /// When it was seen last, seconds since 1970.
    pub last_seen_unix_s: u64,
}

/// What happens in the swarm. A receiver that lags loses the oldest events, so
/// nothing that must not be missed may hang on one: ask [`super::Net`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetEvent {
    /// The first connection to a peer stands.
    Connected {
        /// The peer.
        peer: PeerId,
        /// Its address.
        address: Multiaddr,
    },
    /// A peer told who it is, and is of our network.
    Identified {
        /// The peer.
        peer: PeerId,
    },
    /// A round trip was measured.
    Rtt {
        /// The peer.
        peer: PeerId,
        /// Time.
        rtt: Duration,
    },
    /// The last connection to a peer is gone.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A peer of another network was disconnected.
    Foreign {
        /// The peer.
        peer: PeerId,
        /// What it said its network is.
        network: String,
    },
    /// A peer broke the protocol on a piece stream that it opened on this node.
    Fault {
        /// The peer.
        peer: PeerId,
        /// What it did.
        fault: String,
    },
    /// A DHT peer came into the routing table.
    Routed {
        /// The peer.
        peer: PeerId,
    },
    /// A ban ended, by time or by [`super::Net::lift`].
    Lifted {
        /// The peer.
        peer: PeerId,
    },
    /// The addresses that this node listens on changed.
    Listening {
        /// All of them, with the peer id.
        addresses: Vec<Multiaddr>,
    },
    /// A key was given to the DHT nodes closest to it.
    Published {
        /// SHA-256 in the key.
        key: [u8; 32],
    },
}

/// Counters and gauges of the network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NetStats {
    /// Peers connected now.
    pub peers: usize,
    /// Peers in the DHT's routing table.
    pub routed_peers: usize,
    /// Whether this node answers for the DHT.
    pub dht_server: bool,
    /// Peers in the address book.
    pub known_peers: usize,
    /// Peers banned now.
    pub banned_peers: usize,
    /// Own provider records.
    pub own_records: usize,
    /// Provider records held for others.
    pub foreign_records: usize,
    /// Records of others that were refused or displaced for lack of room.
    pub refused_records: u64,
    /// Connections that came.
    pub inbound_connections: u64,
    /// Connections that were made.
    pub outbound_connections: u64,
    /// Attempts that failed, either way.
    pub failed_connections: u64,
    /// Peers of other networks that were turned away.
    pub foreign_network_peers: u64,
    /// Addresses of peers that were not believed.
    pub ignored_addresses: u64,
    /// Look-ups begun.
    pub lookups: u64,
    /// Catalogue requests answered.
    pub catalogues_served: u64,
    /// Manifest requests answered.
    pub manifests_served: u64,
    /// Short requests that were dropped: over a limit, broken, too slow.
    pub requests_dropped: u64,
    /// Publication of own keys.
    pub announce: AnnounceStats,
}

/// What is known of the ways in from outside.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reachability {
    /// External addresses that peers agree on, with a way in that was used.
    pub confirmed: Vec<Multiaddr>,
    /// External addresses that peers name and that are not confirmed.
    pub observed: Vec<Multiaddr>,
    /// Whether a person named external addresses.
    pub configured: bool,
    /// Whether a connection came in from a public address since the start.
    pub inbound_from_outside: bool,
}

/// The board on which the actor writes.
#[derive(Debug, Default)]
pub(super) struct View {
    board: Mutex<Board>,
}

#[derive(Debug, Default)]
pub(super) struct Board {
    pub listeners: Vec<Multiaddr>,
    pub peers: BTreeMap<PeerId, PeerInfo>,
    pub remembered: Vec<RememberedPeer>,
    pub stats: NetStats,
    pub reachability: Reachability,
}

impl View {
    /// The board. Held only to copy something in or out, never across an await;
    /// plain data stays whole even if a holder panicked.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
