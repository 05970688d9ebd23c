//! How far an address reaches, and from whom it is believed.
//!
//! A peer on the open internet cannot know our private network, so a private
//! address from it is an error or an attempt to make us knock at our own doors.
//! The scope of a teller is that of the connection over which it tells:
//!
//! | told over | public | private | loopback | memory |
//! |---|---|---|---|---|
//! | public | yes | no | no | no |
//! | private | yes | yes | no | no |
//! | loopback | yes | yes | yes | no |
//! | memory | yes | no | no | yes |
//!
//! The same table says what is told to whom. Host names count as public: where
//! they lead is not known before they are resolved. Names that lead to lists of
//! further addresses (`/dnsaddr`) are taken from the user only, never from peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::settings::without_peer;
use crate::wire::MAX_ADDRESS_BYTES;

/// How far an address reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Within this process: the memory transport.
    Memory,
    /// Within this machine.
    Loopback,
    /// Within a network that is not the internet: private, link-local, and
    /// carrier-grade ranges.
    Private,
    /// Everywhere.
    Public,
}

impl Scope {
    /// The scope of an address that somebody could be reached at; nothing when
    /// nobody can (unspecified, multicast, of an unknown transport, relayed).
    pub fn of(address: &Multiaddr) -> Option<Self> {
        let bare = without_peer(address);
        let parts: Vec<Protocol<'_>> = bare.iter().collect();
        let (host, transport) = parts.split_first()?;
        let dialable = match transport {
            [Protocol::Tcp(port)] => *port != 0,
            [Protocol::Udp(port), Protocol::QuicV1] => *port != 0,
            [] => matches!(host, Protocol::Memory(_)),
            _ => false,
        };
        if !dialable {
            return None;
        }
        match host {
            Protocol::Memory(_) => Some(Self::Memory),
            Protocol::Ip4(ip) => Self::of_ip(IpAddr::V4(*ip)),
            Protocol::Ip6(ip) => Self::of_ip(IpAddr::V6(*ip)),
            Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) => Some(Self::Public),
            _ => None,
        }
    }

    /// The scope of the far end of a connection. Its port says nothing, and an
    /// address that is none of the known is treated as public: it is believed
    /// least.
    pub fn of_remote(address: &Multiaddr) -> Self {
        match address.iter().next() {
            Some(Protocol::Memory(_)) => Self::Memory,
            Some(Protocol::Ip4(ip)) => Self::of_ip(IpAddr::V4(ip)).unwrap_or(Self::Public),
            Some(Protocol::Ip6(ip)) => Self::of_ip(IpAddr::V6(ip)).unwrap_or(Self::Public),
            _ => Self::Public,
        }
    }

    /// The scope of an IP address; nothing when no host has it.
    pub fn of_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => of_ip4(ip),
            IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
                Some(ip) => of_ip4(ip),
                None => of_ip6(ip),
            },
        }
    }

    /// Whether addresses of `told` scope may pass over a connection of this
    /// scope, in either direction.
    pub fn may_carry(self, told: Self) -> bool {
        match (self, told) {
            (_, Self::Public) => true,
            (Self::Memory, told) => told == Self::Memory,
            (Self::Public, _) | (_, Self::Memory) => false,
            (Self::Private, told) => told == Self::Private,
            (Self::Loopback, Self::Loopback | Self::Private) => true,
        }
    }
}

fn of_ip4(ip: Ipv4Addr) -> Option<Scope> {
    let [a, b, ..] = ip.octets();
    if ip.is_loopback() {
        return Some(Scope::Loopback);
    }
    // "This network", multicast, reserved, broadcast.
    if a == 0 || a >= 224 {
        return None;
    }
    let carrier_grade = a == 100 && (64..128).contains(&b);
    // Benchmarking between routers.
    let benchmarking = a == 198 && (b == 18 || b == 19);
    if ip.is_private() || ip.is_link_local() || carrier_grade || benchmarking {
        return Some(Scope::Private);
    }
    Some(Scope::Public)
}

fn of_ip6(ip: Ipv6Addr) -> Option<Scope> {
    if ip.is_loopback() {
        return Some(Scope::Loopback);
    }
    if ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    if ip.is_unique_local() || ip.is_unicast_link_local() {
        return Some(Scope::Private);
    }
    Some(Scope::Public)
}

/// The IP address of an address, where it has one.
pub fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => IpAddr::V4(ip),
            None => IpAddr::V6(ip),
        }),
        _ => None,
    }
}

/// Keeps of told addresses those that may pass over a connection of scope `over`,
/// at most `limit`; says how many were left out.
pub fn believe(addresses: &mut Vec<Multiaddr>, over: Scope, limit: usize) -> usize {
    let before = addresses.len();
    let mut kept = 0;
    addresses.retain(|address| {
        let good = kept < limit
            && address.len() <= MAX_ADDRESS_BYTES
            && Scope::of(address).is_some_and(|told| over.may_carry(told));
        kept += usize::from(good);
        good
    });
    before - addresses.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn every_range_has_its_scope() {
        for (host, scope) in [
            ("/ip4/127.0.0.1", Some(Scope::Loopback)),
            ("/ip4/127.9.9.9", Some(Scope::Loopback)),
            ("/ip4/10.0.0.1", Some(Scope::Private)),
            ("/ip4/172.16.0.1", Some(Scope::Private)),
            ("/ip4/172.32.0.1", Some(Scope::Public)),
            ("/ip4/192.168.1.1", Some(Scope::Private)),
            ("/ip4/169.254.1.1", Some(Scope::Private)),
            ("/ip4/100.64.0.1", Some(Scope::Private)),
            ("/ip4/100.128.0.1", Some(Scope::Public)),
            ("/ip4/8.8.8.8", Some(Scope::Public)),
            ("/ip4/0.0.0.0", None),
            ("/ip4/224.0.0.1", None),
            ("/ip4/255.255.255.255", None),
            ("/ip6/::1", Some(Scope::Loopback)),
            ("/ip6/::", None),
            ("/ip6/::ffff:10.0.0.1", Some(Scope::Private)),
            ("/ip6/::ffff:127.0.0.1", Some(Scope::Loopback)),
            ("/ip6/fd00::1", Some(Scope::Private)),
            ("/ip6/fe80::1", Some(Scope::Private)),
            ("/ip6/ff02::1", None),
            ("/ip6/2001:4860:4860::8888", Some(Scope::Public)),
            ("/dns4/example.org", Some(Scope::Public)),
        ] {
            let tcp = address(&format!("{host}/tcp/4001"));
            assert_eq!(Scope::of(&tcp), scope, "{tcp}");
            let quic = address(&format!("{host}/udp/4001/quic-v1"));
            assert_eq!(Scope::of(&quic), scope, "{quic}");
        }
    }

    #[test]
    fn nobody_can_be_reached_where_there_is_no_transport() {
        for text in [
            "/ip4/8.8.8.8",
            "/ip4/8.8.8.8/tcp/0",
            "/ip4/8.8.8.8/udp/1",
            "/ip4/8.8.8.8/tcp/1/ws",
            "/dnsaddr/example.org",
            "/ip4/8.8.8.8/tcp/1/p2p/12D3KooWD3bfmNbuuuVCYwkjnFt3ukm3qaB3hDED3peHHXawvRAi/p2p-circuit",
        ] {
            assert_eq!(Scope::of(&address(text)), None, "{text}");
        }
    }

    #[test]
    fn private_addresses_are_not_believed_from_public_peers() {
        let told = [
            "/ip4/203.0.113.9/tcp/1",
            "/ip4/192.168.0.1/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
            "/memory/5",
        ];
        for (over, believed) in [
            (Scope::Public, 1),
            (Scope::Private, 2),
            (Scope::Loopback, 3),
            (Scope::Memory, 2),
        ] {
            let mut addresses: Vec<Multiaddr> = told.iter().map(|text| address(text)).collect();
            let ignored = believe(&mut addresses, over, 8);
            assert_eq!(addresses.len(), believed, "{over:?}: {addresses:?}");
            assert_eq!(ignored, told.len() - believed);
        }
    }

    #[test]
    fn not_more_addresses_are_believed_than_the_limit() {
        let mut addresses: Vec<Multiaddr> = (1..100)
            .map(|port| address(&format!("/ip4/203.0.113.9/tcp/{port}")))
            .collect();
        assert_eq!(believe(&mut addresses, Scope::Public, 8), 91);
        assert_eq!(addresses.len(), 8);
    }

    #[test]
    fn the_remote_end_of_a_connection_has_a_scope_whatever_its_port() {
        assert_eq!(
            Scope::of_remote(&address("/ip4/10.0.0.1/tcp/0")),
            Scope::Private
        );
        assert_eq!(
            Scope::of_remote(&address("/ip4/8.8.4.4/tcp/9")),
            Scope::Public
        );
        assert_eq!(Scope::of_remote(&address("/memory/1")), Scope::Memory);
        assert_eq!(
            Scope::of_remote(&address("/dns4/example.org")),
            Scope::Public
        );
    }
}
