//! Kademlia, with an eye on who tells which address.
//!
//! Kademlia takes the addresses in answers from anyone and dials them, and tells
//! everything in its routing table to everyone. This behaviour stands between it
//! and its connections: in answers that come in, addresses that the teller's
//! [`Scope`] does not allow are removed before Kademlia sees them, and in answers
//! that go out those that the asker has no use for.
//!
//! It also gives more providers in an answer than Kademlia's twenty: who seeks a
//! popular snapshot wants twenty to forty neighbours from one look-up.

use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Instant;

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::kad::{self, ConnectionType, KadPeer};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};

use super::book::MAX_PEER_ADDRESSES;
use super::keys::DhtKey;
use super::records::Records;
use super::scope::{Scope, believe};

type Inner = kad::Behaviour<Records>;
/// What Kademlia's connections tell it.
type Told = THandlerOutEvent<Inner>;
/// What it tells its connections.
type Tells = THandlerInEvent<Inner>;

/// Closer peers in an answer; Kademlia's k.
const MAX_CLOSER_PEERS: usize = 20;
/// Providers in an answer. With four addresses of 40 bytes each takes 200 bytes.
const MAX_PROVIDER_PEERS: usize = 64;
/// Requests for providers that Kademlia has not answered yet. It answers each in
/// its next turn, so the limit is for the case that it does not.
const MAX_UNANSWERED: usize = 1024;

/// The behaviour.
pub(super) struct Behaviour {
    kad: Inner,
    scopes: HashMap<ConnectionId, Scope>,
    /// Who asked for the providers of which key, in order: Kademlia's answers
    /// come in the same order, but do not name the key.
    unanswered: VecDeque<(ConnectionId, PeerId, Option<DhtKey>)>,
    ignored_addresses: u64,
}

impl Behaviour {
    pub fn new(kad: Inner) -> Self {
        Self {
            kad,
            scopes: HashMap::new(),
            unanswered: VecDeque::new(),
            ignored_addresses: 0,
        }
    }

    /// Kademlia itself.
    pub fn kad(&mut self) -> &mut Inner {
        &mut self.kad
    }

    /// The record store.
    pub fn records(&mut self) -> &mut Records {
        self.kad.store_mut()
    }

    /// Addresses that were not believed, so far.
    pub fn ignored_addresses(&self) -> u64 {
        self.ignored_addresses
    }

    /// Peers in the routing table.
    pub fn routed_peers(&mut self) -> usize {
        self.kad.kbuckets().map(|bucket| bucket.num_entries()).sum()
    }

    /// Where Kademlia would dial a peer: by its routing table and by the look-ups
    /// under way. A provider's addresses are known nowhere else, and only as long
    /// as the look-up that found it.
    pub fn addresses(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        // Kademlia's answer to a dial is a plain look-up without any effect, and
        // the only door to the addresses of a look-up.
        let no_connection = ConnectionId::new_unchecked(usize::MAX);
        self.kad
            .handle_pending_outbound_connection(no_connection, Some(peer), &[], Endpoint::Dialer)
            .unwrap_or_default()
    }

    fn scope(&self, connection: ConnectionId) -> Scope {
        let known = self.scopes.get(&connection).copied();
        known.unwrap_or(Scope::Public)
    }

    /// Removes from an answer what must not pass a connection of this scope.
    fn filter(peers: &mut Vec<KadPeer>, over: Scope) -> usize {
        peers.truncate(MAX_CLOSER_PEERS);
        let mut ignored = 0;
        peers.retain_mut(|peer| {
            ignored += believe(&mut peer.multiaddrs, over, MAX_PEER_ADDRESSES);
            !peer.multiaddrs.is_empty()
        });
        ignored
    }

    fn filter_told(&mut self, connection: ConnectionId, event: &mut Told) {
        let over = self.scope(connection);
        let ignored = match event {
            Told::FindNodeRes { closer_peers, .. } | Told::GetRecordRes { closer_peers, .. } => {
                Self::filter(closer_peers, over)
            }
            Told::GetProvidersRes {
                closer_peers,
                provider_peers,
                ..
            } => Self::filter(closer_peers, over) + filter_providers(provider_peers, over),
            Told::AddProvider { provider, .. } => {
                believe(&mut provider.multiaddrs, over, MAX_PEER_ADDRESSES)
            }
            _ => 0,
        };
        self.ignored_addresses += ignored as u64;
    }

    fn filter_tells(&mut self, connection: ConnectionId, event: &mut Tells) {
        let over = self.scope(connection);
        match event {
            Tells::FindNodeRes { closer_peers, .. } | Tells::GetRecordRes { closer_peers, .. } => {
                Self::filter(closer_peers, over);
            }
            Tells::GetProvidersRes {
                closer_peers,
                provider_peers,
                ..
            } => {
                Self::filter(closer_peers, over);
                self.add_providers(connection, provider_peers);
                filter_providers(provider_peers, over);
            }
            _ => {}
        }
    }

    /// Completes the providers that Kademlia chose for an answer.
    fn add_providers(&mut self, connection: ConnectionId, providers: &mut Vec<KadPeer>) {
        let asked = self
            .unanswered
            .iter()
            .position(|(id, ..)| *id == connection);
        let asked = asked.and_then(|index| self.unanswered.remove(index));
        let Some((_, asker, Some(key))) = asked else {
            return;
        };
        for (peer, addresses) in self.kad.store_mut().foreign_providers(&key, Instant::now()) {
            if providers.len() >= MAX_PROVIDER_PEERS {
                return;
            }
            if peer != asker && providers.iter().all(|named| named.node_id != peer) {
                providers.push(KadPeer {
                    node_id: peer,
                    multiaddrs: addresses.to_vec(),
                    connection_ty: ConnectionType::NotConnected,
                });
            }
        }
    }
}

/// A provider without an address that passes is still named: the other side may
/// be connected to it.
fn filter_providers(providers: &mut Vec<KadPeer>, over: Scope) -> usize {
    providers.truncate(MAX_PROVIDER_PEERS);
    let each = providers.iter_mut();
    each.map(|peer| believe(&mut peer.multiaddrs, over, MAX_PEER_ADDRESSES))
        .sum()
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <Inner as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = kad::Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.scopes.insert(connection, Scope::of_remote(remote));
        self.kad
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.kad
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.scopes.insert(connection, Scope::of_remote(address));
        self.kad
            .handle_established_outbound_connection(connection, peer, address, role, port)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match &event {
            FromSwarm::ConnectionClosed(closed) => {
                self.scopes.remove(&closed.connection_id);
                self.unanswered
                    .retain(|(connection, ..)| *connection != closed.connection_id);
            }
            // A later behaviour may refuse what this one has accepted.
            FromSwarm::ListenFailure(failure) => {
                self.scopes.remove(&failure.connection_id);
            }
            FromSwarm::DialFailure(failure) => {
                self.scopes.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        mut event: THandlerOutEvent<Self>,
    ) {
        self.filter_told(connection, &mut event);
        if let Told::GetProvidersReq { key, .. } = &event {
            self.unanswered.truncate(MAX_UNANSWERED - 1);
            let key = DhtKey::from_record_key(key);
            self.unanswered.push_back((connection, peer, key));
        }
        self.kad
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let mut action = std::task::ready!(self.kad.poll(cx));
        if let ToSwarm::NotifyHandler {
            handler: NotifyHandler::One(connection),
            event,
            ..
        } = &mut action
        {
            self.filter_tells(*connection, event);
        }
        Poll::Ready(action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(addresses: &[&str]) -> KadPeer {
        KadPeer {
            node_id: PeerId::random(),
            multiaddrs: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            connection_ty: ConnectionType::NotConnected,
        }
    }

    #[test]
    fn an_answer_over_a_public_connection_keeps_public_addresses_only() {
        let mut peers = vec![
            peer(&["/ip4/10.0.0.1/tcp/1"]),
            peer(&["/ip4/127.0.0.1/tcp/1", "/ip4/203.0.113.1/tcp/1"]),
        ];
        assert_eq!(Behaviour::filter(&mut peers, Scope::Public), 2);
        assert_eq!(peers.len(), 1);
        assert_eq!(peers[0].multiaddrs.len(), 1);
    }

    #[test]
    fn a_provider_without_a_believed_address_is_still_named() {
        let mut providers = vec![peer(&["/ip4/10.0.0.1/tcp/1"])];
        assert_eq!(filter_providers(&mut providers, Scope::Public), 1);
        assert_eq!(providers.len(), 1);
        assert!(providers[0].multiaddrs.is_empty());
    }

    #[test]
    fn an_answer_ends_at_twenty_closer_peers_and_64_providers() {
        let mut peers: Vec<KadPeer> = (0..100)
            .map(|_| peer(&["/ip4/203.0.113.1/tcp/1"]))
            .collect();
        let mut providers = peers.clone();
        Behaviour::filter(&mut peers, Scope::Public);
        filter_providers(&mut providers, Scope::Public);
        assert_eq!((peers.len(), providers.len()), (20, 64));
    }
}
