//! Names in the DHT.

use libp2p::kad::RecordKey;
use sha2::{Digest as _, Sha256};

use crate::snapshot::{ChunkId, ManifestId};

/// Ahead of the chain id, so that a chain's key is no content's digest.
const CHAIN_TAG: &[u8] = b"snapswarm/chain/1\0";
/// A SHA-256 multihash begins so: code 0x12, 32 bytes.
const SHA2_256_MULTIHASH: [u8; 2] = [0x12, 0x20];

/// What providers are sought for, or announced.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// Nodes that serve snapshots of a chain: the rendezvous.
    Chain(String),
    /// Nodes that have a manifest, and all or some of its chunks.
    Manifest(ManifestId),
    /// Nodes that have a chunk.
    Chunk(ChunkId),
}

impl Key {
    /// The digest that stands in the DHT for this key.
    pub fn digest(&self) -> DhtKey {
        DhtKey(match self {
            Self::Chain(chain_id) => {
                let mut hash = Sha256::new();
                hash.update(CHAIN_TAG);
                hash.update(chain_id.as_bytes());
                hash.finalize().into()
            }
            Self::Manifest(id) => *id.digest().as_bytes(),
            Self::Chunk(id) => *id.digest().as_bytes(),
        })
    }
}

/// The SHA-256 inside a key of the DHT.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DhtKey(pub [u8; 32]);

impl DhtKey {
    /// As the DHT has it: a SHA-256 multihash.
    pub fn to_record_key(self) -> RecordKey {
        let mut bytes = Vec::with_capacity(SHA2_256_MULTIHASH.len() + self.0.len());
        bytes.extend_from_slice(&SHA2_256_MULTIHASH);
        bytes.extend_from_slice(&self.0);
        RecordKey::from(bytes)
    }

    /// Reads a key of the DHT; nothing when it is no SHA-256 multihash.
    pub fn from_record_key(key: &RecordKey) -> Option<Self> {
        let digest = key.as_ref().strip_prefix(&SHA2_256_MULTIHASH)?;
        digest.try_into().ok().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Digest;

    #[test]
    fn a_content_key_is_the_multihash_of_its_cid() {
        let chunk = ChunkId(Digest([7; 32]));
        let key = Key::Chunk(chunk).digest();
        let in_cid = chunk.to_cid().hash().to_bytes();
        assert_eq!(key.to_record_key().to_vec(), in_cid);
        assert_eq!(DhtKey::from_record_key(&key.to_record_key()), Some(key));
    }

    #[test]
    fn a_chain_key_is_the_sha256_of_tag_and_chain_id() {
        let expected: [u8; 32] = Sha256::digest(b"snapswarm/chain/1\0cosmoshub-4").into();
        let key = Key::Chain("cosmoshub-4".to_owned());
        assert_eq!(key.digest(), DhtKey(expected));
        assert_ne!(key.digest(), Key::Chain("cosmoshub-5".to_owned()).digest());
    }

    #[test]
    fn bytes_that_are_no_sha256_multihash_are_no_key() {
        for bytes in [vec![], vec![0x12; 34], vec![0x12, 0x20, 1], vec![0; 34]] {
            let whole = bytes.len() == 34 && bytes[..2] == SHA2_256_MULTIHASH;
            let key = RecordKey::from(bytes);
            assert_eq!(DhtKey::from_record_key(&key).is_some(), whole);
        }
        let long = [&SHA2_256_MULTIHASH[..], &[0; 33]].concat();
        assert_eq!(DhtKey::from_record_key(&RecordKey::from(long)), None);
    }
}
