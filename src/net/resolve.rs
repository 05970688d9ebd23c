//! Host names in addresses that the user gave.
//!
//! They are resolved here and not in the transport, because the scope of a
//! connection is read from its IP address: in a container network peers are
//! named, and their private addresses must be believed there.

use std::net::IpAddr;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

/// Wait for the resolver.
const TIMEOUT: Duration = Duration::from_secs(10);
/// IP addresses of one name that are tried.
const MAX_IPS: usize = 8;

/// The same place with IP addresses in front. An address without a name, or
/// with one that does not resolve, comes back as it is: dialling it then says
/// what is wrong.
pub(super) async fn resolve(address: &Multiaddr) -> Vec<Multiaddr> {
    let mut parts = address.iter();
    let first = parts.next();
    let (name, ip4, ip6) = match &first {
        Some(Protocol::Dns(name)) => (name.to_string(), true, true),
        Some(Protocol::Dns4(name)) => (name.to_string(), true, false),
        Some(Protocol::Dns6(name)) => (name.to_string(), false, true),
        _ => return vec![address.clone()],
    };
    let tail: Vec<Protocol<'_>> = parts.collect();
    let lookup = tokio::net::lookup_host((name.as_str(), 0));
    let found: Vec<IpAddr> = match tokio::time::timeout(TIMEOUT, lookup).await {
        Ok(Ok(found)) => found.map(|socket| socket.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let mut resolved = Vec::new();
    for ip in found {
        let head = match ip {
            IpAddr::V4(ip) if ip4 => Protocol::Ip4(ip),
            IpAddr::V6(ip) if ip6 => Protocol::Ip6(ip),
            _ => continue,
        };
        let whole: Multiaddr = std::iter::once(head).chain(tail.iter().cloned()).collect();
        if resolved.len() < MAX_IPS && !resolved.contains(&whole) {
            resolved.push(whole);
        }
    }
    if resolved.is_empty() {
        resolved.push(address.clone());
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_becomes_its_ip_addresses_and_the_rest_stays() {
        let address: Multiaddr = "/dns4/localhost/tcp/4001".parse().unwrap();
        let resolved = resolve(&address).await;
        assert_eq!(resolved, ["/ip4/127.0.0.1/tcp/4001".parse().unwrap()]);
    }

    #[tokio::test]
    async fn an_address_without_a_name_stays_as_it_is() {
        let address: Multiaddr = "/ip4/203.0.113.1/udp/1/quic-v1".parse().unwrap();
        assert_eq!(resolve(&address).await, [address]);
    }
}
