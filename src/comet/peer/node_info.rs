//! What a node says of itself in the handshake.

use std::net::SocketAddr;

use prost::Message as _;
use tendermint_proto::v0_38::p2p as proto;

use super::packet::{CHUNK_CHANNEL, SNAPSHOT_CHANNEL};
use super::{Identity, NodeId, ProtocolError};
use crate::snapshot::MAX_CHAIN_ID_BYTES;

/// The largest node info (`p2p/node_info.go`).
pub const MAX_NODE_INFO_BYTES: usize = 10_240;
/// Channels in a node info (`p2p/node_info.go`).
const MAX_CHANNELS: usize = 16;
/// The version, for people: more than this no node says.
const MAX_TEXT_BYTES: usize = 128;
/// Our name in the node's log and in its `/net_info`.
const MONIKER: &str = "snapswarm";

/// A node's description of itself. Its texts are printable ASCII.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// Its id. Only a claim, until it is compared with the key of the
    /// encrypted connection.
    pub id: NodeId,
    /// Its chain.
    pub chain_id: String,
    /// Its version of CometBFT; may be empty.
    pub version: String,
    /// The channels it knows.
    pub channels: Vec<u8>,
    /// Protocol versions: peer, block, application.
    pub protocol: (u64, u64, u64),
}

impl NodeInfo {
    /// Decodes a node info without its length.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        if bytes.len() > MAX_NODE_INFO_BYTES {
            return Err(ProtocolError::TooLong {
                what: "node info",
                limit: MAX_NODE_INFO_BYTES,
            });
        }
        let info =
            proto::DefaultNodeInfo::decode(bytes).map_err(|error| ProtocolError::Syntax {
                what: "node info",
                problem: error.to_string(),
            })?;
        let id = info
            .default_node_id
            .parse()
            .map_err(|_| wrong("id", "not 40 hex digits"))?;
        if info.channels.len() > MAX_CHANNELS {
            return Err(wrong("list of channels", "more than 16"));
        }
        let protocol = info.protocol_version.unwrap_or_default();
        Ok(Self {
            id,
            chain_id: text("chain id", info.network, MAX_CHAIN_ID_BYTES)?,
            version: match info.version {
                none if none.is_empty() => none,
                version => text("version", version, MAX_TEXT_BYTES)?,
            },
            channels: info.channels,
            protocol: (protocol.p2p, protocol.block, protocol.app),
        })
    }

    /// Whether the node takes part in state sync.
    pub fn has_state_sync(&self) -> bool {
        self.channels.contains(&SNAPSHOT_CHANNEL) && self.channels.contains(&CHUNK_CHANNEL)
    }

    /// The node info of our own that this node accepts: its chain and protocol
    /// versions, our id, the two channels.
    pub(super) fn answer(&self, identity: &Identity, listen: SocketAddr) -> Vec<u8> {
        let (p2p, block, app) = self.protocol;
        proto::DefaultNodeInfo {
            protocol_version: Some(proto::ProtocolVersion { p2p, block, app }),
            default_node_id: identity.id().to_string(),
            listen_addr: format!("tcp://{listen}"),
            network: self.chain_id.clone(),
            version: self.version.clone(),
            channels: vec![SNAPSHOT_CHANNEL, CHUNK_CHANNEL],
            moniker: MONIKER.to_owned(),
            other: Some(proto::DefaultNodeInfoOther {
                tx_index: "off".to_owned(),
                rpc_address: String::new(),
            }),
        }
        .encode_length_delimited_to_vec()
    }
}

fn text(field: &'static str, text: String, limit: usize) -> Result<String, ProtocolError> {
    if text.is_empty() || text.len() > limit {
        return Err(wrong(field, "empty or too long"));
    }
    if !text
        .bytes()
        .all(|byte| byte == b' ' || byte.is_ascii_graphic())
    {
        return Err(wrong(field, "not printable ASCII"));
    }
    Ok(text)
}

fn wrong(field: &'static str, problem: &str) -> ProtocolError {
    ProtocolError::Field {
        what: "node info",
        field,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> NodeInfo {
        NodeInfo {
            id: Identity::from_seed([7; 32]).id(),
            chain_id: "chain-1".to_owned(),
            version: "0.38.25".to_owned(),
            channels: vec![0x20, 0x60, 0x61],
            protocol: (8, 11, 1),
        }
    }

    #[test]
    fn our_answer_mirrors_the_node_and_names_us() {
        let us = Identity::from_seed([1; 32]);
        let answer = info().answer(&us, "127.0.0.2:99".parse().unwrap());
        let mut bytes = &answer[..];
        let len = prost::decode_length_delimiter(&mut bytes).unwrap();
        assert_eq!(len, bytes.len());
        let ours = NodeInfo::decode(bytes).unwrap();
        assert_eq!(ours.id, us.id());
        assert_eq!(ours.channels, [0x60, 0x61]);
        assert_eq!(
            (ours.chain_id, ours.version, ours.protocol),
            (info().chain_id, info().version, info().protocol)
        );
    }

    #[test]
    fn texts_that_could_deceive_a_reader_are_refused() {
        let us = Identity::from_seed([1; 32]);
        for chain_id in ["", "a\u{1b}[2J", "é", &"x".repeat(51)] {
            let odd = NodeInfo {
                chain_id: chain_id.to_owned(),
                ..info()
            };
            let bytes = odd.answer(&us, "127.0.0.2:99".parse().unwrap());
            let start = bytes.len() - prost::decode_length_delimiter(&bytes[..]).unwrap();
            assert!(matches!(
                NodeInfo::decode(&bytes[start..]),
                Err(ProtocolError::Field {
                    field: "chain id",
                    ..
                })
            ));
        }
        assert!(NodeInfo::decode(&vec![0; MAX_NODE_INFO_BYTES + 1]).is_err());
    }
}
