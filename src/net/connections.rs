//! The connections that stand.

use std::collections::BTreeMap;
use std::net::IpAddr;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};

use super::scope::{Scope, ip_of};
use super::view::Direction;

/// One connection.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub id: ConnectionId,
    pub remote: Multiaddr,
    pub direction: Direction,
}

/// All of them, by peer; their number is bounded by the swarm's limits.
#[derive(Debug, Default)]
pub(super) struct Connections {
    peers: BTreeMap<PeerId, Vec<Connection>>,
}

impl Connections {
    /// Says whether it is the first to this peer.
    pub fn opened(&mut self, peer: PeerId, connection: Connection) -> bool {
        let of_peer = self.peers.entry(peer).or_default();
        of_peer.push(connection);
        of_peer.len() == 1
    }

    /// Says whether it was the last to this peer.
    pub fn closed(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(of_peer) = self.peers.get_mut(peer) else {
            return false;
        };
        of_peer.retain(|connection| connection.id != id);
        if of_peer.is_empty() {
            self.peers.remove(peer);
            return true;
        }
        false
    }

    pub fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Connected peers.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// The connections to a peer, the oldest first.
    pub fn of(&self, peer: &PeerId) -> &[Connection] {
        self.peers.get(peer).map_or(&[], Vec::as_slice)
    }

    pub fn get(&self, peer: &PeerId, id: ConnectionId) -> Option<&Connection> {
        self.of(peer).iter().find(|connection| connection.id == id)
    }

    /// The scope of what passes between this node and a peer: that of its nearest
    /// connection, since nobody can pretend to come from our own network.
    pub fn scope(&self, peer: &PeerId) -> Scope {
        let scopes = self.of(peer).iter();
        scopes
            .map(|connection| Scope::of_remote(&connection.remote))
            .min()
            .unwrap_or(Scope::Public)
    }

    /// The address at which this node reached a peer, when it did.
    pub fn proven(&self, peer: &PeerId) -> Option<&Multiaddr> {
        let mut dialled = self.of(peer).iter();
        dialled
            .find(|connection| connection.direction == Direction::Outbound)
            .map(|connection| &connection.remote)
    }

    /// Whether a connected peer is at a public address.
    pub fn outside(&self) -> bool {
        self.peers
            .keys()
            .any(|peer| self.scope(peer) == Scope::Public)
    }

    /// The public IP addresses of a peer.
    pub fn public_ips(&self, peer: &PeerId) -> Vec<IpAddr> {
        let public = self.of(peer).iter().filter_map(|connection| {
            let ip = ip_of(&connection.remote)?;
            (Scope::of_ip(ip) == Some(Scope::Public)).then_some(ip)
        });
        public.collect()
    }
}
