//! Events of the swarm, applied.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, GetProvidersOk, InboundRequest, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, identify, ping};

use super::super::behaviour::BehaviourEvent;
use super::super::book::MAX_PEER_ADDRESSES;
use super::super::connections::Connection;
use super::super::keys::DhtKey;
use super::super::scope::believe;
use super::super::view::{Direction, NetEvent, PeerInfo};
use super::{Actor, Dialling, chance, unix_now_s};

/// Characters of what a peer says its program is.
const MAX_AGENT_CHARS: usize = 64;

impl Actor {
    pub(super) fn handle_swarm(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            } => self.connection_opened(peer_id, connection_id, &endpoint),
            SwarmEvent::ConnectionClosed {
                peer_id,
                connection_id,
                ..
            } => self.connection_closed(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError {
                connection_id,
                peer_id,
                error,
            } => self.dial_ended(connection_id, peer_id, &error),
            SwarmEvent::IncomingConnectionError {
                error,
                send_back_addr,
                ..
            } => {
                tracing::debug!(%send_back_addr, %error, "An incoming connection failed");
                self.stats.failed_connections += 1;
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "Listening");
                self.listening_changed();
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.listening_changed(),
            SwarmEvent::ListenerClosed {
                addresses, reason, ..
            } => {
                if let Err(error) = reason {
                    tracing::warn!(?addresses, %error, "A listener ended");
                }
                self.listening_changed();
            }
            SwarmEvent::ListenerError { error, .. } => {
                tracing::debug!(%error, "A listener had an error");
            }
            SwarmEvent::Behaviour(event) => self.handle_behaviour(event),
            _ => {}
        }
    }

    fn handle_behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received {
                connection_id,
                peer_id,
                info,
            }) => self.identified(peer_id, connection_id, info),
            BehaviourEvent::Ping(ping::Event {
                peer,
                result: Ok(rtt),
                ..
            }) => {
                if let Some(info) = self.parts.view.board().peers.get_mut(&peer) {
                    info.rtt = Some(rtt);
                }
                self.emit(NetEvent::Rtt { peer, rtt });
            }
            BehaviourEvent::Dht(event) => self.handle_dht(event),
            _ => {}
        }
    }

    fn connection_opened(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let remote = endpoint.get_remote_address().clone();
        let dialled = endpoint.is_dialer();
        let direction = if dialled {
            self.stats.outbound_connections += 1;
            Direction::Outbound
        } else {
            self.stats.inbound_connections += 1;
            self.reach.handle_inbound(&remote);
            Direction::Inbound
        };
        let first = self.connections.opened(
            peer,
            Connection {
                id,
                remote: remote.clone(),
                direction,
            },
        );
        let now = Instant::now();
        self.book().connected(peer, dialled.then_some(&remote));
        match self.dials.remove(&id) {
            Some(Dialling::Asked { reply, .. }) => {
                let _ = reply.send(Ok(peer));
            }
            Some(Dialling::Target(target)) => self.redial.handle_reached(target, peer, now),
            None => {}
        }
        self.redial.handle_connected(peer, now);
        for reply in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Ok(()));
        }
        if first {
            tracing::debug!(%peer, %remote, ?direction, "Connected");
            let info = PeerInfo {
                peer,
                address: remote.clone(),
                direction,
                rtt: None,
                agent: None,
            };
            self.parts.view.board().peers.insert(peer, info);
            self.emit(NetEvent::Connected {
                peer,
                address: remote,
            });
        }
        self.update_mode();
    }

    fn connection_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if !self.connections.closed(&peer, id) {
            return;
        }
        tracing::debug!(%peer, "Disconnected");
        self.book().disconnected(&peer, unix_now_s());
        self.redial.handle_lost(peer, chance(), Instant::now());
        self.parts.view.board().peers.remove(&peer);
        self.emit(NetEvent::Disconnected { peer });
        self.update_mode();
    }

    fn dial_ended(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.stats.failed_connections += 1;
        match self.dials.remove(&id) {
            Some(Dialling::Asked { asked, reply }) => {
                let _ = reply.send(Err(self.dial_failed(asked, peer, error)));
            }
            Some(Dialling::Target(target)) => self.target_failed(target, peer, error),
            None => {}
        }
        let Some(peer) = peer.filter(|peer| !self.connections.contains(peer)) else {
            return;
        };
        self.book().failed(&peer);
        for reply in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = reply.send(Err(self.unreachable(peer, error)));
        }
    }

    fn listening_changed(&mut self) {
        let addresses: Vec<Multiaddr> = self
            .swarm
            .listeners()
            .map(|address| address.clone().with(Protocol::P2p(self.own_id)))
            .collect();
        self.reach.handle_listening(&addresses);
        self.parts.view.board().listeners.clone_from(&addresses);
        self.emit(NetEvent::Listening { addresses });
        self.update_mode();
    }

    fn identified(&mut self, peer: PeerId, id: ConnectionId, info: identify::Info) {
        if info.protocol_version != self.identify_protocol {
            self.turn_away(peer, &info.protocol_version);
            return;
        }
        let Some(connection) = self.connections.get(&peer, id) else {
            return;
        };
        let remote = connection.remote.clone();
        self.reach.handle_observed(&info.observed_addr, &remote);
        let mut addresses = info.listen_addrs;
        let over = self.connections.scope(&peer);
        let ignored = believe(&mut addresses, over, MAX_PEER_ADDRESSES);
        self.stats.ignored_addresses += ignored as u64;
        let proven = self.connections.proven(&peer).cloned();
        self.book()
            .identified(peer, &addresses, proven.as_ref(), unix_now_s());
        if info.protocols.contains(&self.dht_protocol) {
            for address in addresses {
                self.swarm
                    .behaviour_mut()
                    .dht
                    .kad()
                    .add_address(&peer, address);
            }
            self.count_routed(Instant::now());
        }
        let agent = info.agent_version.chars().filter(|c| !c.is_control());
        let agent: String = agent.take(MAX_AGENT_CHARS).collect();
        if let Some(info) = self.parts.view.board().peers.get_mut(&peer) {
            info.agent = Some(agent);
        }
        self.emit(NetEvent::Identified { peer });
        self.update_mode();
    }

    /// Disconnects a peer of another network, and forgets it.
    fn turn_away(&mut self, peer: PeerId, network: &str) {
        let network: String = network.chars().take(MAX_AGENT_CHARS).collect();
        tracing::debug!(%peer, network, "A peer of another network was turned away");
        self.stats.foreign_network_peers += 1;
        // Redialling it would only repeat this.
        self.redial.handle_stranger(peer);
        let behaviour = self.swarm.behaviour_mut();
        behaviour.door.book.forget(&peer);
        behaviour.dht.kad().remove_peer(&peer);
        let _ = self.swarm.disconnect_peer_id(peer);
        self.emit(NetEvent::Foreign { peer, network });
    }

    fn handle_dht(&mut self, event: kad::Event) {
        let now = Instant::now();
        match event {
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.record_offered(record, now),
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => self.query_progressed(id, result, step.last, now),
            kad::Event::RoutingUpdated {
                peer, is_new_peer, ..
            } => {
                self.count_routed(now);
                if is_new_peer {
                    self.emit(NetEvent::Routed { peer });
                }
            }
            _ => {}
        }
    }

    /// Keeps the record of a peer. Kademlia takes it from the provider itself
    /// only, and its addresses are believed already.
    fn record_offered(&mut self, record: kad::ProviderRecord, now: Instant) {
        let Some(key) = DhtKey::from_record_key(&record.key) else {
            return;
        };
        if self.bans.contains(&record.provider) {
            return;
        }
        let mut addresses = record.addresses;
        if addresses.is_empty() {
            // A peer without an external address names none: on a LAN, what it
            // told by identify is where others find it.
            addresses = self.book().addresses(&record.provider).to_vec();
        }
        let records = self.swarm.behaviour_mut().dht.records();
        records.add_foreign(key, record.provider, addresses, now);
    }

    fn query_progressed(&mut self, id: QueryId, result: QueryResult, last: bool, now: Instant) {
        match result {
            QueryResult::GetProviders(result) => {
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    self.found(id, providers.into_iter().collect());
                }
                if last {
                    self.finds.running.remove(&id);
                }
            }
            QueryResult::StartProviding(result) => {
                let Some(key) = self.publishing.remove(&id) else {
                    return;
                };
                if result.is_ok() {
                    self.announcer.handle_published(key, now);
                    self.emit(NetEvent::Published { key: key.0 });
                } else {
                    self.announcer.handle_failed(key, now);
                }
            }
            _ => {}
        }
    }

    fn found(&mut self, id: QueryId, providers: Vec<PeerId>) {
        let Some(mut find) = self.finds.running.remove(&id) else {
            return;
        };
        for peer in providers {
            let addresses = self.swarm.behaviour_mut().dht.addresses(peer);
            self.book().heard(peer, &addresses);
            self.tell(&mut find, peer);
        }
        if find.is_over() {
            if let Some(mut query) = self.swarm.behaviour_mut().dht.kad().query_mut(&id) {
                query.finish();
            }
        } else {
            self.finds.running.insert(id, find);
        }
    }
}
