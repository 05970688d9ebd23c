//! Whether others can reach this node, and its part in the DHT that follows.
//!
//! An external address that peers observed is confirmed when two of them, at
//! different public IP addresses, agree on it, its port is one that we listen on,
//! and a connection came in from outside: then the way in is open. One peer alone
//! cannot make us announce an address of its choice.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::scope::{Scope, ip_of};
use super::settings::{DhtMode, without_peer};
use super::view::Reachability;

/// Observed addresses that wait for a second observer.
const MAX_CANDIDATES: usize = 16;
/// Peers that must agree.
const MIN_OBSERVERS: usize = 2;
/// External addresses that are confirmed from observation.
const MAX_CONFIRMED: usize = 4;

/// What is known of the ways in.
#[derive(Debug, Default)]
pub(super) struct Reach {
    mode: DhtMode,
    configured: bool,
    listening: BTreeSet<Multiaddr>,
    candidates: BTreeMap<Multiaddr, BTreeSet<IpAddr>>,
    confirmed: BTreeSet<Multiaddr>,
    inbound_from_outside: bool,
}

impl Reach {
    pub fn new(mode: DhtMode, configured: bool) -> Self {
        Self {
            mode,
            configured,
            ..Self::default()
        }
    }

    /// The addresses that this node listens on.
    pub fn handle_listening(&mut self, addresses: &[Multiaddr]) {
        self.listening = addresses.iter().map(without_peer).collect();
    }

    /// A connection came in from this address.
    pub fn handle_inbound(&mut self, remote: &Multiaddr) {
        if Scope::of_remote(remote) == Scope::Public && ip_of(remote).is_some() {
            self.inbound_from_outside = true;
        }
    }

    /// A peer at `observer` says that it sees this node at `observed`.
    pub fn handle_observed(&mut self, observed: &Multiaddr, observer: &Multiaddr) {
        let observed = without_peer(observed);
        let Some(ip) = ip_of(observer) else {
            return;
        };
        if Scope::of_remote(observer) != Scope::Public
            || Scope::of(&observed) != Some(Scope::Public)
            || ip_of(&observed).is_none()
            || !self.listens_on_port_of(&observed)
        {
            return;
        }
        if !self.candidates.contains_key(&observed) && self.candidates.len() >= MAX_CANDIDATES {
            // Fewest observers first: an honest address gathers more.
            let weakest = self.candidates.iter().min_by_key(|(_, seen)| seen.len());
            if let Some(weakest) = weakest.map(|(address, _)| address.clone()) {
                self.candidates.remove(&weakest);
            }
        }
        let observers = self.candidates.entry(observed).or_default();
        if observers.len() < MIN_OBSERVERS {
            observers.insert(ip);
        }
    }

    /// External addresses that are confirmed now and were not before.
    pub fn newly_confirmed(&mut self) -> Vec<Multiaddr> {
        // Who configured an external address knows better.
        if !self.inbound_from_outside || self.configured {
            return Vec::new();
        }
        let agreed = self
            .candidates
            .iter()
            .filter(|(address, seen)| {
                seen.len() >= MIN_OBSERVERS && !self.confirmed.contains(address)
            })
            .map(|(address, _)| address.clone());
        let room = MAX_CONFIRMED.saturating_sub(self.confirmed.len());
        let new: Vec<Multiaddr> = agreed.take(room).collect();
        for address in &new {
            self.candidates.remove(address);
            self.confirmed.insert(address.clone());
        }
        new
    }

    /// What is known by now.
    pub fn known(&self) -> Reachability {
        Reachability {
            confirmed: self.confirmed.iter().cloned().collect(),
            observed: self.candidates.keys().cloned().collect(),
            configured: self.configured,
            inbound_from_outside: self.inbound_from_outside,
        }
    }

    /// Whether this node answers for the DHT. `outside` tells whether a
    /// connected peer is at a public address.
    pub fn is_server(&self, outside: bool) -> bool {
        match self.mode {
            DhtMode::Server => true,
            DhtMode::Client => false,
            DhtMode::Auto => {
                let listens = |scopes: fn(Scope) -> bool| {
                    let mut scopes_here = self.listening.iter().filter_map(Scope::of);
                    scopes_here.any(scopes)
                };
                self.configured
                    || !self.confirmed.is_empty()
                    || listens(|scope| scope == Scope::Public)
                    || (!outside && listens(|_| true))
            }
        }
    }

    fn listens_on_port_of(&self, address: &Multiaddr) -> bool {
        let wanted = port_of(address);
        wanted.is_some() && self.listening.iter().any(|here| port_of(here) == wanted)
    }
}

/// Transport and port of an address: what a router's forwarding keeps.
fn port_of(address: &Multiaddr) -> Option<(bool, u16)> {
    address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some((true, port)),
        Protocol::Udp(port) => Some((false, port)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn at_home() -> Reach {
        let mut reach = Reach::new(DhtMode::Auto, false);
        reach.handle_listening(&[
            address("/ip4/127.0.0.1/tcp/4001"),
            address("/ip4/192.168.1.5/tcp/4001"),
        ]);
        reach
    }

    #[test]
    fn a_node_on_loopback_or_a_lan_serves_until_it_meets_the_internet() {
        let reach = at_home();
        assert!(reach.is_server(false));
        assert!(!reach.is_server(true));
    }

    #[test]
    fn a_node_that_does_not_listen_is_a_client() {
        assert!(!Reach::new(DhtMode::Auto, false).is_server(false));
    }

    #[test]
    fn a_public_or_configured_address_makes_a_server() {
        let mut reach = Reach::new(DhtMode::Auto, false);
        reach.handle_listening(&[address("/ip4/203.0.113.1/tcp/4001")]);
        assert!(reach.is_server(true));
        assert!(Reach::new(DhtMode::Auto, true).is_server(true));
    }

    #[test]
    fn a_fixed_mode_is_kept_whatever_happens() {
        let mut client = Reach::new(DhtMode::Client, true);
        client.handle_listening(&[address("/ip4/203.0.113.1/tcp/4001")]);
        assert!(!client.is_server(false));
        assert!(Reach::new(DhtMode::Server, false).is_server(true));
    }

    #[test]
    fn two_observers_and_a_way_in_confirm_an_address_and_one_peer_alone_cannot() {
        let mut reach = at_home();
        let observed = address("/ip4/203.0.113.50/tcp/4001");
        for _ in 0..3 {
            reach.handle_observed(&observed, &address("/ip4/198.51.100.1/tcp/9"));
        }
        reach.handle_inbound(&address("/ip4/198.51.100.1/tcp/9"));
        assert!(reach.newly_confirmed().is_empty());
        let known = reach.known();
        assert_eq!(known.observed, std::slice::from_ref(&observed));
        assert!(known.inbound_from_outside && known.confirmed.is_empty());
        reach.handle_observed(&observed, &address("/ip4/198.51.100.2/tcp/9"));
        assert_eq!(reach.newly_confirmed(), std::slice::from_ref(&observed));
        assert_eq!(reach.known().confirmed, [observed]);
        assert!(reach.newly_confirmed().is_empty(), "told once");
        assert!(reach.is_server(true));
    }

    #[test]
    fn without_an_inbound_connection_from_outside_nothing_is_confirmed() {
        let mut reach = at_home();
        let observed = address("/ip4/203.0.113.50/tcp/4001");
        reach.handle_observed(&observed, &address("/ip4/198.51.100.1/tcp/9"));
        reach.handle_observed(&observed, &address("/ip4/198.51.100.2/tcp/9"));
        reach.handle_inbound(&address("/ip4/192.168.1.9/tcp/9"));
        assert!(reach.newly_confirmed().is_empty());
    }

    #[test]
    fn ports_that_we_do_not_listen_on_and_private_addresses_are_no_candidates() {
        let mut reach = at_home();
        reach.handle_inbound(&address("/ip4/198.51.100.1/tcp/9"));
        for observed in [
            "/ip4/203.0.113.50/tcp/4002",
            "/ip4/203.0.113.50/udp/4001/quic-v1",
            "/ip4/192.168.1.5/tcp/4001",
        ] {
            for n in 1..4 {
                let observer = address(&format!("/ip4/198.51.100.{n}/tcp/9"));
                reach.handle_observed(&address(observed), &observer);
            }
        }
        assert!(reach.newly_confirmed().is_empty());
    }

    #[test]
    fn a_flood_of_observations_ends_at_the_limit_and_keeps_the_agreed_one() {
        let mut reach = at_home();
        reach.handle_inbound(&address("/ip4/198.51.100.1/tcp/9"));
        let honest = address("/ip4/203.0.113.50/tcp/4001");
        reach.handle_observed(&honest, &address("/ip4/198.51.100.1/tcp/9"));
        reach.handle_observed(&honest, &address("/ip4/198.51.100.2/tcp/9"));
        for n in 0..100 {
            let lie = address(&format!("/ip4/203.0.114.{n}/tcp/4001"));
            reach.handle_observed(&lie, &address("/ip4/198.51.100.3/tcp/9"));
            assert!(reach.candidates.len() <= MAX_CANDIDATES);
        }
        assert_eq!(reach.newly_confirmed(), [honest]);
    }
}
