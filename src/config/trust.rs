//! `[trust]`: whom this node believes where the chain proves nothing.

use std::collections::BTreeSet;

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::check::{check_cid, check_len, key};

/// Endorsers in the list. A snapshot carries at most 32 endorsements, and one place of
/// them is for this node's own.
const MAX_ENDORSERS: usize = 31;

/// `[trust]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrustConfig {
    /// CIDs of manifests: where a chain has one of these, `fetch --chain-id`
    /// takes no other.
    pub pinned_manifests: Vec<String>,
    /// Peer ids, or ed25519 public keys in hex, of those whose endorsements count.
    pub endorsers: Vec<String>,
    /// How many of them must have computed a snapshot; absent: more than half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
}

impl TrustConfig {
    /// The public keys of the endorsers.
    pub fn endorser_keys(&self) -> BTreeSet<[u8; 32]> {
        // The settings were checked when they were read.
        let keys = self.endorsers.iter();
        keys.filter_map(|text| endorser_key(text).ok()).collect()
    }

    /// How many endorsers must have computed a snapshot; without endorsers of no
    /// meaning.
    pub fn threshold(&self) -> u32 {
        let half = self.endorsers.len() as u32 / 2;
        self.threshold.unwrap_or(half + 1)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        check_len("trust.pinned_manifests", self.pinned_manifests.len())?;
        for (index, cid) in self.pinned_manifests.iter().enumerate() {
            check_cid(cid)
                .map_err(|problem| key(&format!("trust.pinned_manifests[{index}]"), problem))?;
        }
        let listed = self.endorsers.len();
        if listed > MAX_ENDORSERS {
            let problem = format!("has more than {MAX_ENDORSERS} entries");
            return Err(key("trust.endorsers", problem));
        }
        let mut seen = BTreeSet::new();
        for (index, text) in self.endorsers.iter().enumerate() {
            let path = format!("trust.endorsers[{index}]");
            let endorser = endorser_key(text).map_err(|problem| key(&path, problem))?;
            if !seen.insert(endorser) {
                return Err(key(
                    &path,
                    "stands twice in the list; each endorser counts once",
                ));
            }
        }
        match self.threshold {
            Some(0) => Err(key("trust.threshold", "must be at least 1")),
            Some(_) if listed == 0 => Err(key(
                "trust.threshold",
                "counts endorsers, and trust.endorsers names none; name them, or leave it out",
            )),
            Some(threshold) if threshold as usize > listed => Err(key(
                "trust.threshold",
                format!("must be at most {listed}, the number of endorsers"),
            )),
            _ => Ok(()),
        }
    }
}

/// The public key that a text names: of a peer id, or in hex.
fn endorser_key(text: &str) -> Result<[u8; 32], String> {
    let problem = || {
        format!(
            "'{text}' names no endorser: give a peer id such as 12D3KooW…, as `snapswarm init` and \
             `snapswarm status` print it, or the 64 hex digits of an ed25519 public key"
        )
    };
    let key = match hex::decode(text) {
        Ok(bytes) => ed25519::PublicKey::try_from_bytes(&bytes).map_err(|_| problem())?,
        Err(_) => {
            let peer: PeerId = text.parse().map_err(|_| problem())?;
            // The name of an ed25519 key is the key itself, behind two bytes that say so.
            let bytes = peer.to_bytes();
            let encoded = bytes.strip_prefix(&[0x00, 0x24]).ok_or_else(problem)?;
            PublicKey::try_decode_protobuf(encoded)
                .ok()
                .and_then(|key| key.try_into_ed25519().ok())
                .ok_or_else(problem)?
        }
    };
    Ok(key.to_bytes())
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::super::Config;
    use super::*;

    fn keypair(seed: u8) -> Keypair {
        Keypair::ed25519_from_bytes([seed; 32]).unwrap()
    }

    fn peer_id(seed: u8) -> String {
        keypair(seed).public().to_peer_id().to_string()
    }

    fn public_hex(seed: u8) -> String {
        hex::encode(
            keypair(seed)
                .public()
                .try_into_ed25519()
                .unwrap()
                .to_bytes(),
        )
    }

    fn read(endorsers: &[String], threshold: Option<u32>) -> Result<TrustConfig, String> {
        let mut text = format!("[trust]\nendorsers = {endorsers:?}\n");
        if let Some(threshold) = threshold {
            text += &format!("threshold = {threshold}\n");
        }
        let config = Config::parse(&text).map_err(|error| error.to_string())?;
        Ok(config.trust)
    }

    #[test]
    fn a_peer_id_and_its_public_key_name_the_same_endorser() {
        let by_id = read(&[peer_id(1)], None).unwrap();
        let by_key = read(&[public_hex(1)], None).unwrap();
        assert_eq!(by_id.endorser_keys(), by_key.endorser_keys());
        assert_eq!(by_id.endorser_keys().len(), 1);
        let twice = read(&[peer_id(1), public_hex(1)], None).unwrap_err();
        assert!(
            twice.contains("trust.endorsers[1]") && twice.contains("twice"),
            "{twice}"
        );
    }

    #[test]
    fn what_names_no_ed25519_key_is_no_endorser() {
        // A name that is a hash tells no key.
        let hashed = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N".to_owned();
        for text in [hashed, "ab".repeat(31), "x".to_owned(), String::new()] {
            let problem = read(&[text], None).unwrap_err();
            assert!(problem.starts_with("trust.endorsers[0]: "), "{problem}");
        }
    }

    #[test]
    fn a_threshold_is_from_one_to_the_number_of_endorsers_and_else_more_than_half() {
        let three: Vec<String> = (1..4).map(peer_id).collect();
        for threshold in 1..=3 {
            let trust = read(&three, Some(threshold)).unwrap();
            assert_eq!(trust.threshold(), threshold);
        }
        for threshold in [0, 4] {
            let problem = read(&three, Some(threshold)).unwrap_err();
            assert!(problem.starts_with("trust.threshold: "), "{problem}");
        }
        let of_none = read(&[], Some(1)).unwrap_err();
        assert!(of_none.contains("trust.endorsers names none"), "{of_none}");
        let default = |count| read(&three[..count], None).unwrap().threshold();
        assert_eq!((default(1), default(2), default(3)), (1, 2, 2));
    }

    #[test]
    fn the_list_takes_its_limit_and_not_one_more() {
        let peers: Vec<String> = (0..=MAX_ENDORSERS as u8).map(peer_id).collect();
        read(&peers[..MAX_ENDORSERS], None).unwrap();
        let problem = read(&peers, None).unwrap_err();
        assert!(problem.contains("more than 31"), "{problem}");
    }
}
