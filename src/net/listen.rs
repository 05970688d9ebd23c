//! Whether an address can be listened on, asked before the transport is.
//!
//! The TCP transport binds with `SO_REUSEPORT` (it dials from the port it listens
//! on), so two daemons of one user would share a port without noticing. A plain
//! socket, bound for a moment and closed, is refused then, and says why in a form
//! that can be told to a person.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use super::error::NetError;

/// Refuses an address on which nothing can listen now.
pub(super) fn probe(address: &Multiaddr) -> Result<(), NetError> {
    let parts: Vec<Protocol<'_>> = address.iter().collect();
    let ip = match parts.first() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(*ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(*ip),
        Some(Protocol::Memory(_)) => return Ok(()),
        _ => {
            return Err(NetError::BadAddress {
                text: address.to_string(),
                problem:
                    "listening needs an IP address, not a name (/ip4/0.0.0.0/tcp/PORT listens \
                          on all of this machine)"
                        .to_owned(),
            });
        }
    };
    let bound = match parts.get(1) {
        Some(Protocol::Tcp(port)) => TcpListener::bind(SocketAddr::new(ip, *port)).map(drop),
        Some(Protocol::Udp(port)) => UdpSocket::bind(SocketAddr::new(ip, *port)).map(drop),
        _ => Ok(()),
    };
    bound.map_err(|source| listen_error(address, source))
}

/// Why listening failed, for a person.
pub(super) fn listen_error(address: &Multiaddr, source: io::Error) -> NetError {
    let address = address.clone();
    match source.kind() {
        io::ErrorKind::AddrInUse => NetError::PortTaken { address },
        io::ErrorKind::AddrNotAvailable => NetError::AddressNotHere { address },
        io::ErrorKind::PermissionDenied => NetError::PortForbidden { address },
        _ => NetError::Listen { address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_what_to_do() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
        let error = probe(&address).unwrap_err();
        assert!(matches!(error, NetError::PortTaken { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&address.to_string()), "{text}");
        assert!(text.contains("choose another port"), "{text}");
        drop(other);
        assert!(probe(&address).is_ok());
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let address: Multiaddr = "/ip4/203.0.113.77/tcp/0".parse().unwrap();
        assert!(matches!(
            probe(&address),
            Err(NetError::AddressNotHere { .. })
        ));
    }

    #[test]
    fn a_name_cannot_be_listened_on() {
        let address: Multiaddr = "/dns4/localhost/tcp/0".parse().unwrap();
        assert!(matches!(probe(&address), Err(NetError::BadAddress { .. })));
    }
}
