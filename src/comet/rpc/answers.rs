//! The JSON of CometBFT's RPC, as far as it is read.

use std::net::IpAddr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, de::Error as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{MAX_ERROR_CHARS, NodeAddress};

#[derive(Deserialize)]
pub(super) struct Answer<T> {
    #[serde(default = "Option::default")]
    pub(super) result: Option<T>,
    pub(super) error: Option<ErrorAnswer>,
}

#[derive(Deserialize)]
pub(super) struct ErrorAnswer {
    #[serde(default)]
    pub(super) code: i64,
    #[serde(default)]
    pub(super) message: String,
    #[serde(default)]
    pub(super) data: serde_json::Value,
}

impl ErrorAnswer {
    pub(super) fn text(&self) -> String {
        let whole = match &self.data {
            serde_json::Value::String(data) => format!("{}: {data}", self.message),
            _ => self.message.clone(),
        };
        whole
            .chars()
            .filter(|c| !c.is_control())
            .take(MAX_ERROR_CHARS)
            .collect()
    }
}

/// CometBFT writes 64-bit numbers as strings.
#[derive(Default)]
pub(super) struct Number(pub(super) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => text
                .parse()
                .map(Self)
                .map_err(|_| D::Error::custom(format!("'{text}' is no number"))),
            serde_json::Value::Number(number) => number
                .as_u64()
                .map(Self)
                .ok_or_else(|| D::Error::custom(format!("{number} is no height"))),
            other => Err(D::Error::custom(format!("{other} is no number"))),
        }
    }
}

/// CometBFT writes bytes of ABCI answers as base64, and none as null.
#[derive(Default)]
pub(super) struct Base64(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let text = Option::<String>::deserialize(from)?.unwrap_or_default();
        BASE64_STANDARD
            .decode(text)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

#[derive(Deserialize)]
pub(super) struct StatusAnswer {
    pub(super) node_info: NodeInfoAnswer,
    pub(super) sync_info: SyncInfoAnswer,
}

#[derive(Deserialize)]
pub(super) struct NodeInfoAnswer {
    pub(super) id: String,
    pub(super) network: String,
    pub(super) version: String,
    #[serde(default)]
    pub(super) moniker: String,
    #[serde(default)]
    pub(super) listen_addr: String,
    /// Of the peer protocol, two hexadecimal digits each.
    #[serde(default)]
    pub(super) channels: String,
}

#[derive(Deserialize)]
pub(super) struct SyncInfoAnswer {
    pub(super) latest_block_height: Number,
    #[serde(default)]
    pub(super) earliest_block_height: Number,
    #[serde(default)]
    pub(super) latest_block_time: String,
    pub(super) catching_up: bool,
}

#[derive(Deserialize)]
pub(super) struct CommitAnswer<T> {
    pub(super) signed_header: T,
}

#[derive(Deserialize)]
pub(super) struct SignedHeaderAnswer {
    pub(super) header: HeaderAnswer,
    #[serde(default)]
    pub(super) commit: Option<CommitOfAnswer>,
}

#[derive(Deserialize)]
pub(super) struct CommitOfAnswer {
    pub(super) block_id: BlockIdAnswer,
}

#[derive(Deserialize)]
pub(super) struct BlockIdAnswer {
    pub(super) hash: String,
}

#[derive(Deserialize)]
pub(super) struct HeaderAnswer {
    #[serde(default)]
    pub(super) version: VersionAnswer,
    pub(super) height: Number,
    #[serde(default)]
    pub(super) time: String,
    pub(super) app_hash: String,
}

/// Zero fields are left out.
#[derive(Default, Deserialize)]
pub(super) struct VersionAnswer {
    #[serde(default)]
    pub(super) app: Number,
}

#[derive(Deserialize)]
pub(super) struct ValidatorsAnswer {
    pub(super) block_height: Number,
    pub(super) validators: Vec<ValidatorAnswer>,
    #[serde(default)]
    pub(super) total: Number,
}

#[derive(Deserialize)]
pub(super) struct ValidatorAnswer {
    pub(super) pub_key: KeyAnswer,
    pub(super) voting_power: Number,
}

#[derive(Deserialize)]
pub(super) struct KeyAnswer {
    #[serde(rename = "type")]
    pub(super) key_type: String,
    pub(super) value: Base64,
}

#[derive(Deserialize)]
pub(super) struct AbciInfoAnswer {
    pub(super) response: AppInfoAnswer,
}

/// Zero fields are left out.
#[derive(Deserialize)]
pub(super) struct AppInfoAnswer {
    #[serde(default)]
    pub(super) last_block_height: Number,
    #[serde(default)]
    pub(super) last_block_app_hash: Base64,
    #[serde(default)]
    pub(super) app_version: Number,
}

#[derive(Deserialize)]
pub(super) struct NetInfoAnswer {
    pub(super) n_peers: Number,
    #[serde(default)]
    pub(super) peers: Vec<PeerAnswer>,
}

#[derive(Deserialize)]
pub(super) struct PeerAnswer {
    pub(super) node_info: NodeInfoAnswer,
    #[serde(default)]
    pub(super) remote_ip: String,
    #[serde(default)]
    pub(super) is_outbound: bool,
}

#[derive(Deserialize)]
pub(super) struct AbciQueryAnswer {
    pub(super) response: QueryAnswer,
}

/// Zero fields are left out.
#[derive(Deserialize)]
pub(super) struct QueryAnswer {
    #[serde(default)]
    pub(super) code: u32,
    #[serde(default)]
    pub(super) value: Base64,
}

impl NodeInfoAnswer {
    /// `ID@HOST:PORT` where the node listens, seen from `host`: it may not know its
    /// own address. Nothing when it does not tell, or has no blocks to give: who takes
    /// snapshots from a node, as our daemon does, is a peer of it, too.
    pub(super) fn address(&self, host: &str) -> Option<NodeAddress> {
        let mut channels = self.channels.as_bytes().chunks(2);
        if !self.channels.is_empty() && !channels.any(|channel| channel == BLOCKS) {
            return None;
        }
        let place = self.listen_addr.rsplit_once("://");
        let place = place.map_or(&self.listen_addr[..], |(_, place)| place);
        let (named, port) = place.rsplit_once(':')?;
        // Several nodes of one machine share the address that they come from.
        let is_loopback = |host: &str| host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        let host = match is_loopback(host) && is_loopback(named) {
            true => named,
            false => host,
        };
        Some(NodeAddress {
            id: self.id.to_lowercase().parse().ok()?,
            host: host.to_owned(),
            port: port.parse().ok().filter(|port| *port != 0)?,
        })
    }
}

/// The channel of block sync.
const BLOCKS: &[u8] = b"40";

/// A time as CometBFT writes it.
pub(super) fn moment(text: &str) -> Option<SystemTime> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(time.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_blocks_to_give_has_an_address() {
        // A node, nobody's word, a daemon that harvests, and digits that only look right.
        for (channels, is_node) in [
            ("402021222330386061", true),
            ("", true),
            ("6061", false),
            ("6400", false),
        ] {
            let told = serde_json::json!({
                "id": "ab".repeat(20),
                "network": "c",
                "version": "0.38.1",
                "listen_addr": "tcp://0.0.0.0:26656",
                "channels": channels,
            });
            let node: NodeInfoAnswer = serde_json::from_value(told).unwrap();
            assert_eq!(node.address("10.0.0.1").is_some(), is_node, "{channels}");
        }
    }
}
