//! Names of CometBFT nodes.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use sha2::{Digest, Sha256};

/// Bytes of a node id.
const ID_BYTES: usize = 20;
/// The longest host name of the DNS.
const MAX_HOST_BYTES: usize = 253;

/// A CometBFT node id: the first 20 bytes of the SHA-256 of the node's ed25519
/// public key. People see it as 40 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; ID_BYTES]);

impl NodeId {
    /// The id of the node that holds this public key.
    pub fn of(key: &ed25519_consensus::VerificationKey) -> Self {
        let digest = Sha256::digest(key.as_bytes());
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&digest[..ID_BYTES]);
        Self(id)
    }

    /// The 20 bytes.
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut id = [0; ID_BYTES];
        hex::decode_to_slice(text, &mut id).map_err(|_| AddressError::Id(text.to_owned()))?;
        Ok(Self(id))
    }
}

/// Where a CometBFT node's p2p listener is and who it must be: `ID@HOST:PORT`,
/// as in CometBFT's own `persistent_peers`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeAddress {
    /// Who answers there; the handshake proves it.
    pub id: NodeId,
    /// Name or IP address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Why a text is no node address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// No `@`.
    #[error("'{0}' is no node address: expected ID@HOST:PORT")]
    Shape(String),
    /// The part before the `@` is no node id.
    #[error("'{0}' is no node id: expected 40 hex digits, as `cometbft show-node-id` prints them")]
    Id(String),
    /// The part after the `@` names no host.
    #[error("'{0}' names no host")]
    Host(String),
    /// The part after the last `:` is no port.
    #[error("'{0}' ends in no port (1 to 65535)")]
    Port(String),
}

impl NodeAddress {
    /// The socket addresses that the host has now. Asks the resolver: blocking.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl FromStr for NodeAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let whole = || text.to_owned();
        let (id, place) = text
            .split_once('@')
            .ok_or_else(|| AddressError::Shape(whole()))?;
        let id = id.parse()?;
        let (host, port) = place
            .rsplit_once(':')
            .ok_or_else(|| AddressError::Port(whole()))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| AddressError::Port(whole()))?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !host.contains([':', '[', ']', '@', '/']) => host,
            _ => return Err(AddressError::Host(whole())),
        };
        if host.is_empty() || host.len() > MAX_HOST_BYTES {
            return Err(AddressError::Host(whole()));
        }
        Ok(Self {
            id,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, host, port } = self;
        if host.contains(':') {
            write!(f, "{id}@[{host}]:{port}")
        } else {
            write!(f, "{id}@{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn an_address_survives_its_text() {
        for place in ["127.0.0.1:26656", "node-3.example.org:1", "[::1]:65535"] {
            let text = format!("{ID}@{place}");
            let address: NodeAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let v6: NodeAddress = format!("{ID}@[::1]:80").parse().unwrap();
        assert_eq!(v6.resolve().unwrap(), ["[::1]:80".parse().unwrap()]);
    }

    #[test]
    fn a_wrong_address_is_refused_with_the_part_that_is_wrong() {
        let parse = |text: &str| text.parse::<NodeAddress>().unwrap_err();
        assert!(matches!(parse("127.0.0.1:26656"), AddressError::Shape(_)));
        assert!(matches!(parse("01@h:1"), AddressError::Id(_)));
        assert!(matches!(parse(&format!("{ID}ff@h:1")), AddressError::Id(_)));
        for place in ["h", "h:", "h:0", "h:65536", "h:+x", "::1"] {
            let error = parse(&format!("{ID}@{place}"));
            assert!(
                matches!(error, AddressError::Port(_) | AddressError::Host(_)),
                "{place}: {error}"
            );
        }
        for place in [":1", "[]:1", "[h]:1", "a/b:1", "[::1:1", "::1:1"] {
            let error = parse(&format!("{ID}@{place}"));
            assert!(matches!(error, AddressError::Host(_)), "{place}: {error}");
        }
        assert!(matches!(
            parse(&format!("{ID}@{}:1", "h".repeat(254))),
            AddressError::Host(_)
        ));
    }

    #[test]
    fn the_id_of_a_key_is_the_head_of_its_hash() {
        // As `cometbft show-node-id` names the key of this seed.
        let key = ed25519_consensus::SigningKey::from([0; 32]);
        let id = NodeId::of(&key.verification_key());
        assert_eq!(id.to_string(), "139e3940e64b5491722088d9a0d741628fc826e0");
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
    }
}
