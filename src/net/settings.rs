//! What the network can be told, and the check of it.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use super::announce::Pacing;
use super::error::NetError;
use crate::sync::UploadLimits;

/// Characters in a network name: it is part of protocol names.
const MAX_NETWORK_NAME_BYTES: usize = 32;

/// Which part a node takes in the DHT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DhtMode {
    /// As the room's documentation says.
    #[default]
    Auto,
    /// Answers and stores for others.
    Server,
    /// Only asks.
    Client,
}

/// The name of a network whose nodes meet only each other; empty for the common
/// one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct NetworkName(String);

impl NetworkName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Kademlia protocol name of this network.
    pub(super) fn dht_protocol(&self) -> String {
        self.in_protocol("kad/1")
    }

    /// What identify says that this network is.
    pub(super) fn identify_protocol(&self) -> String {
        self.in_protocol("1")
    }

    fn in_protocol(&self, tail: &str) -> String {
        if self.0.is_empty() {
            format!("/snapswarm/{tail}")
        } else {
            format!("/snapswarm/{tail}/{}", self.0)
        }
    }
}

impl FromStr for NetworkName {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.len() > MAX_NETWORK_NAME_BYTES || !text.chars().all(allowed) {
            return Err(NetError::BadSetting {
                setting: "network name",
                problem: format!(
                    "is '{text}': at most {MAX_NETWORK_NAME_BYTES} letters, digits, '-', '_' and \
                     '.' are allowed"
                ),
            });
        }
        Ok(Self(text.to_owned()))
    }
}

/// A key that all nodes of a private network share.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PreSharedKey(pub [u8; 32]);

impl FromStr for PreSharedKey {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text.trim(), &mut key).map_err(|_| NetError::BadSetting {
            setting: "pre-shared key",
            problem: "must be 64 hexadecimal digits (make one with: openssl rand -hex 32)"
                .to_owned(),
        })?;
        Ok(Self(key))
    }
}

impl fmt::Debug for PreSharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreSharedKey(…)")
    }
}

/// Bounds on what strangers can make this node hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetLimits {
    /// Connections in all. Each costs about 100 KiB when idle.
    pub max_connections: u32,
    /// Connections to one peer: one each way, and one more while an old one
    /// dies.
    pub max_connections_per_peer: u32,
    /// Incoming connections in the middle of their handshake.
    pub max_pending_incoming: u32,
    /// Outgoing connections in the middle of their handshake.
    pub max_pending_outgoing: u32,
    /// Resident memory of the process above which no connection is taken or
    /// made, bytes.
    pub max_memory_bytes: usize,
    /// A connection that carried no stream for so long is closed.
    pub idle_timeout: Duration,
    /// Wait for one short message of a peer.
    pub answer_timeout: Duration,
    /// Wait for a whole manifest (32 MiB at most).
    pub manifest_timeout: Duration,
    /// Catalogue and manifest requests of one peer that are answered at once.
    pub max_exchanges_per_peer: usize,
    /// Catalogue and manifest requests of all peers that are answered at once.
    pub max_exchanges: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            max_connections: 256,
            max_connections_per_peer: 3,
            max_pending_incoming: 64,
            max_pending_outgoing: 64,
            max_memory_bytes: 1 << 30,
            // Longer than the 2 minutes between the DHT's own look-ups, which
            // thereby keep a small network connected.
            idle_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(10),
            manifest_timeout: Duration::from_secs(60),
            max_exchanges_per_peer: 4,
            max_exchanges: 64,
        }
    }
}

/// Settings of the network.
#[derive(Clone, Debug)]
pub struct NetSettings {
    /// Addresses to listen on: `/ip4/…/tcp/…` or `/ip4/…/udp/…/quic-v1`; none is
    /// enough to download.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach this node, when they differ from those
    /// that it listens on.
    pub external: Vec<Multiaddr>,
    /// Peers to begin with.
    pub bootstrap: Vec<Multiaddr>,
    /// Which network.
    pub network: NetworkName,
    /// Keeps everyone out who does not have it.
    pub pre_shared_key: Option<PreSharedKey>,
    /// Part in the DHT.
    pub mode: DhtMode,
    /// When set, nobody else may connect.
    pub allow: Option<Vec<PeerId>>,
    /// File of remembered peers; absent: none are.
    pub peers_file: Option<PathBuf>,
    /// How much is given to others, at the start.
    pub upload: UploadLimits,
    /// How fast keys are published.
    pub pacing: Pacing,
    /// Limits.
    pub limits: NetLimits,
    /// Adds the memory transport (`/memory/…`), for several nodes in one
    /// process.
    pub memory_transport: bool,
}

impl Default for NetSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            external: Vec::new(),
            bootstrap: Vec::new(),
            network: NetworkName::default(),
            pre_shared_key: None,
            mode: DhtMode::Auto,
            allow: None,
            peers_file: None,
            upload: UploadLimits::default(),
            pacing: Pacing::default(),
            limits: NetLimits::default(),
            memory_transport: false,
        }
    }
}

impl NetSettings {
    /// Checks what can be checked without the network.
    pub fn check(&self) -> Result<(), NetError> {
        for address in self.listen.iter().chain(&self.external) {
            let quic = address.iter().any(|part| part == Protocol::QuicV1);
            if quic && self.pre_shared_key.is_some() {
                return Err(bad_address(
                    address,
                    "QUIC cannot be used with a pre-shared key; use a /tcp/ address",
                ));
            }
            check_transport(address, self.memory_transport)?;
        }
        for address in &self.bootstrap {
            check_transport(address, self.memory_transport)?;
        }
        self.pacing.check()
    }
}

/// Reads an address to listen on or to announce.
pub fn parse_address(text: &str) -> Result<Multiaddr, NetError> {
    let address = Multiaddr::from_str(text).map_err(|error| NetError::BadAddress {
        text: text.to_owned(),
        problem: format!("{error}; one looks like /ip4/203.0.113.7/tcp/4001"),
    })?;
    check_transport(&address, true)?;
    Ok(address)
}

/// Reads the address of a peer; its id may stand at the end.
pub fn parse_peer_address(text: &str) -> Result<(Multiaddr, Option<PeerId>), NetError> {
    let address = parse_address(text)?;
    let peer = peer_of(&address);
    Ok((address, peer))
}

/// The peer id at the end of an address.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// The address without a peer id at its end.
pub(super) fn without_peer(address: &Multiaddr) -> Multiaddr {
    let mut address = address.clone();
    if peer_of(&address).is_some() {
        address.pop();
    }
    address
}

fn bad_address(address: &Multiaddr, problem: &str) -> NetError {
    NetError::BadAddress {
        text: address.to_string(),
        problem: problem.to_owned(),
    }
}

/// Whether this program has a transport for the address.
fn check_transport(address: &Multiaddr, memory: bool) -> Result<(), NetError> {
    let bare = without_peer(address);
    let parts: Vec<Protocol<'_>> = bare.iter().collect();
    match parts.as_slice() {
        [host, Protocol::Tcp(_)] if is_host(host) => Ok(()),
        [host, Protocol::Udp(_), Protocol::QuicV1] if is_host(host) => Ok(()),
        [Protocol::Dnsaddr(_)] => Ok(()),
        [Protocol::Memory(_)] if memory => Ok(()),
        _ => Err(bad_address(
            address,
            "use /ip4/ADDRESS/tcp/PORT or /ip4/ADDRESS/udp/PORT/quic-v1 (or /ip6/…, /dns4/…)",
        )),
    }
}

fn is_host(part: &Protocol<'_>) -> bool {
    matches!(
        part,
        Protocol::Ip4(_)
            | Protocol::Ip6(_)
            | Protocol::Dns(_)
            | Protocol::Dns4(_)
            | Protocol::Dns6(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_name_is_part_of_every_protocol_that_joins_nodes() {
        let common = NetworkName::default();
        assert_eq!(common.dht_protocol(), "/snapswarm/kad/1");
        let named: NetworkName = "testnet-3".parse().unwrap();
        assert_eq!(named.dht_protocol(), "/snapswarm/kad/1/testnet-3");
        assert_ne!(named.identify_protocol(), common.identify_protocol());
    }

    #[test]
    fn a_network_name_that_would_break_a_protocol_name_is_refused() {
        for name in ["a/b", "ü", &"x".repeat(MAX_NETWORK_NAME_BYTES + 1)] {
            assert!(name.parse::<NetworkName>().is_err(), "{name}");
        }
        let longest = "x".repeat(MAX_NETWORK_NAME_BYTES);
        assert!(longest.parse::<NetworkName>().is_ok());
    }

    #[test]
    fn an_address_that_no_transport_serves_is_refused_with_an_example() {
        for text in ["", "localhost:4001", "/ip4/1.2.3.4", "/ip4/1.2.3.4/udp/1"] {
            let error = parse_address(text).unwrap_err();
            assert!(error.to_string().contains("/ip4/"), "{error}");
        }
        assert!(parse_address("/ip4/1.2.3.4/tcp/1").is_ok());
        assert!(parse_address("/ip6/::1/udp/1/quic-v1").is_ok());
        assert!(parse_address("/dns4/seed.example.org/tcp/1").is_ok());
    }

    #[test]
    fn quic_and_a_pre_shared_key_are_refused_together() {
        let settings = NetSettings {
            listen: vec!["/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap()],
            pre_shared_key: Some(PreSharedKey([1; 32])),
            ..NetSettings::default()
        };
        let error = settings.check().unwrap_err();
        assert!(error.to_string().contains("pre-shared key"), "{error}");
    }

    #[test]
    fn a_pre_shared_key_is_64_hexadecimal_digits_and_never_printed() {
        let key: PreSharedKey = "ab".repeat(32).parse().unwrap();
        assert_eq!(key, PreSharedKey([0xab; 32]));
        assert!(!format!("{key:?}").contains("ab"));
        assert!("ab".parse::<PreSharedKey>().is_err());
    }
}
