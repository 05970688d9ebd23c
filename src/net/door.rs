//! Where peers are to be found, and which IP addresses stay outside.
//!
//! The swarm asks this behaviour for the addresses of a peer that is dialled by
//! its id, and refuses connections from and to banned addresses.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::IpAddr;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use super::book::PeerBook;
use super::scope::ip_of;

/// The IP address of this connection is banned.
#[derive(Debug, thiserror::Error)]
#[error("{0} is banned for now")]
struct BannedIp(IpAddr);

/// The behaviour.
pub(super) struct Door {
    pub book: PeerBook,
    banned: HashSet<IpAddr>,
}

impl Door {
    pub fn new(book: PeerBook) -> Self {
        Self {
            book,
            banned: HashSet::new(),
        }
    }

    /// Exactly these stay outside from now on.
    pub fn set_banned(&mut self, ips: impl Iterator<Item = IpAddr>) {
        self.banned = ips.collect();
    }

    fn check(&self, address: &Multiaddr) -> Result<(), ConnectionDenied> {
        match ip_of(address) {
            Some(ip) if self.banned.contains(&ip) => Err(ConnectionDenied::new(BannedIp(ip))),
            _ => Ok(()),
        }
    }
}

impl NetworkBehaviour for Door {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.check(remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(remote)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let known = peer.map(|peer| self.book.addresses(&peer).to_vec());
        Ok(known.unwrap_or_default())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(address)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banned_ip_is_refused_both_ways_until_it_is_lifted() {
        let mut door = Door::new(PeerBook::new(PeerId::random()));
        let remote: Multiaddr = "/ip4/203.0.113.1/tcp/1".parse().unwrap();
        let mapped: Multiaddr = "/ip6/::ffff:203.0.113.1/tcp/1".parse().unwrap();
        let other: Multiaddr = "/ip4/203.0.113.2/tcp/1".parse().unwrap();
        door.set_banned(ip_of(&remote).into_iter());
        assert!(door.check(&remote).is_err());
        assert!(door.check(&mapped).is_err());
        assert!(door.check(&other).is_ok());
        door.set_banned(std::iter::empty());
        assert!(door.check(&remote).is_ok());
    }
}
