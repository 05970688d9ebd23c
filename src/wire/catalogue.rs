//! Messages of the two short protocols, checked.

use bytes::Bytes;
use prost::Message;

use super::pieces::{decode_digest, decode_manifest, digest_bytes};
use super::shapes::{CATALOGUE_REQUEST, CATALOGUE_RESPONSE, MANIFEST_REQUEST, MANIFEST_RESPONSE};
use super::{
    MAX_ADDRESS_BYTES, MAX_CATALOGUE_BYTES, MAX_CATALOGUE_ENDORSEMENTS, MAX_CATALOGUE_ENTRIES,
    MAX_HINT_ADDRESSES, MAX_MANIFEST_RESPONSE_BYTES, MAX_PEER_HINTS, MAX_PEER_ID_BYTES,
    MAX_SHORT_REQUEST_BYTES, Refusal, WireError, limit_len,
};
use crate::snapshot::{
    EndorsementError, MAX_APP_HASH_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS, MAX_ENDORSEMENTS,
    MAX_HEIGHT, MAX_MANIFEST_BYTES, ManifestId, SnapshotName, UntrustedEndorsement, check_chain_id,
    proto,
};

/// Asks what a peer has.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CatalogueRequest {
    /// Only of this chain; absent: of all.
    pub chain_id: Option<String>,
}

impl CatalogueRequest {
    /// The message, without its length.
    pub fn encode(&self) -> Vec<u8> {
        proto::CatalogueRequest {
            chain_id: self.chain_id.clone().unwrap_or_default(),
        }
        .encode_to_vec()
    }

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        limit_len(
            "catalogue request",
            bytes.len(),
            MAX_SHORT_REQUEST_BYTES as usize,
        )?;
        CATALOGUE_REQUEST.check(bytes)?;
        let chain_id = proto::CatalogueRequest::decode(bytes)?.chain_id;
        if chain_id.is_empty() {
            return Ok(Self { chain_id: None });
        }
        checked_chain_id(&chain_id)?;
        Ok(Self {
            chain_id: Some(chain_id),
        })
    }
}

/// What a peer has, and whom it knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CatalogueResponse {
    /// Newest first; at most [`MAX_CATALOGUE_ENTRIES`].
    pub entries: Vec<CatalogueEntry>,
    /// At most [`MAX_PEER_HINTS`].
    pub peers: Vec<PeerHint>,
}

/// One snapshot in a peer's catalogue. All of it is the peer's claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueEntry {
    /// The chain.
    pub chain_id: String,
    /// The height.
    pub height: u64,
    /// ABCI snapshot format.
    pub format: u32,
    /// Application hash; empty when unproven.
    pub app_hash: Bytes,
    /// The snapshot's name.
    pub manifest: ManifestId,
    /// Size of the manifest in bytes.
    pub manifest_bytes: u32,
    /// Bytes of all chunks.
    pub total_bytes: u64,
    /// Number of chunks.
    pub chunks: u32,
    /// Whether the peer has all of it.
    pub complete: bool,
    /// Whether it is a delta, which only those can use that have what it builds on.
    pub delta: bool,
    /// Who speaks for it, unchecked; at most [`MAX_ENDORSEMENTS`].
    pub endorsements: Vec<UntrustedEndorsement>,
}

/// Another peer that serves the chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerHint {
    /// Multihash bytes of its peer id.
    pub peer_id: Bytes,
    /// Multiaddr bytes, at most [`MAX_HINT_ADDRESSES`].
    pub addresses: Vec<Bytes>,
}

impl CatalogueResponse {
    /// The message, without its length. What passes a limit is left out:
    /// addresses come from other peers, and one that is too long must not make
    /// the whole answer a fault of ours. The newest entries keep their endorsements.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter().filter(|entry| entry.check().is_ok());
        let peers = self.peers.iter().filter(|peer| peer.has_id());
        let mut room = MAX_CATALOGUE_ENDORSEMENTS;
        proto::CatalogueResponse {
            entries: entries
                .take(MAX_CATALOGUE_ENTRIES)
                .map(|entry| entry.to_proto(&mut room))
                .collect(),
            peers: peers.take(MAX_PEER_HINTS).map(PeerHint::to_proto).collect(),
        }
        .encode_to_vec()
    }

    /// Reads the message.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        limit_len("catalogue", bytes.len(), MAX_CATALOGUE_BYTES as usize)?;
        CATALOGUE_RESPONSE.check(&bytes)?;
        let message = proto::CatalogueResponse::decode(bytes)?;
        let endorsements = message.entries.iter().map(|entry| entry.endorsements.len());
        if endorsements.sum::<usize>() > MAX_CATALOGUE_ENDORSEMENTS {
            return Err(WireError::TooMany {
                what: "endorsements",
                limit: MAX_CATALOGUE_ENDORSEMENTS,
            });
        }
        Ok(Self {
            entries: message
                .entries
                .into_iter()
                .map(CatalogueEntry::from_proto)
                .collect::<Result<_, _>>()?,
            peers: message
                .peers
                .into_iter()
                .map(PeerHint::from_proto)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl CatalogueEntry {
    /// The snapshot that it speaks of.
    pub fn name(&self) -> SnapshotName<'_> {
        SnapshotName {
            chain_id: &self.chain_id,
            height: self.height,
            manifest: self.manifest,
        }
    }

    /// With as many endorsements as there is room for, which becomes less.
    fn to_proto(&self, room: &mut usize) -> proto::CatalogueEntry {
        let endorsements = self.endorsements.iter();
        let endorsements: Vec<_> = endorsements
            .take(MAX_ENDORSEMENTS.min(*room))
            .map(|endorsement| endorsement.to_proto())
            .collect();
        *room -= endorsements.len();
        proto::CatalogueEntry {
            endorsements,
            chain_id: self.chain_id.clone(),
            height: self.height,
            format: self.format,
            app_hash: self.app_hash.clone(),
            manifest: digest_bytes(self.manifest.digest()),
            manifest_bytes: self.manifest_bytes,
            total_bytes: self.total_bytes,
            chunks: self.chunks,
            complete: self.complete,
            delta: self.delta,
        }
    }

    fn from_proto(entry: proto::CatalogueEntry) -> Result<Self, WireError> {
        let mut endorsements = Vec::with_capacity(entry.endorsements.len());
        for told in &entry.endorsements {
            endorsements.extend(UntrustedEndorsement::from_proto(told)?);
        }
        let entry = Self {
            manifest: decode_manifest(&entry.manifest)?,
            chain_id: entry.chain_id,
            height: entry.height,
            format: entry.format,
            app_hash: detached(&entry.app_hash),
            manifest_bytes: entry.manifest_bytes,
            total_bytes: entry.total_bytes,
            chunks: entry.chunks,
            complete: entry.complete,
            delta: entry.delta,
            endorsements,
        };
        entry.check().map(|()| entry)
    }

    /// Whether the numbers can be those of a snapshot.
    fn check(&self) -> Result<(), WireError> {
        checked_chain_id(&self.chain_id)?;
        limit_len("app hash", self.app_hash.len(), MAX_APP_HASH_BYTES)?;
        let in_range = |field, value: u64, least: u64, most: u64| {
            if value < least || value > most {
                return Err(WireError::Field {
                    field,
                    problem: format!("{value} is not in {least} to {most}"),
                });
            }
            Ok(())
        };
        let chunks = u64::from(self.chunks);
        in_range("height", self.height, 1, MAX_HEIGHT)?;
        in_range("chunks", chunks, 1, MAX_CHUNKS.into())?;
        in_range(
            "manifest size",
            self.manifest_bytes.into(),
            1,
            MAX_MANIFEST_BYTES.into(),
        )?;
        in_range(
            "total size",
            self.total_bytes,
            chunks,
            chunks * u64::from(MAX_CHUNK_BYTES),
        )
    }
}

impl PeerHint {
    fn has_id(&self) -> bool {
        (1..=MAX_PEER_ID_BYTES).contains(&self.peer_id.len())
    }

    fn to_proto(&self) -> proto::PeerHint {
        let addresses = self.addresses.iter();
        proto::PeerHint {
            peer_id: self.peer_id.clone(),
            addresses: addresses
                .filter(|address| (1..=MAX_ADDRESS_BYTES).contains(&address.len()))
                .take(MAX_HINT_ADDRESSES)
                .cloned()
                .collect(),
        }
    }

    fn from_proto(hint: proto::PeerHint) -> Result<Self, WireError> {
        let hint = Self {
            peer_id: detached(&hint.peer_id),
            addresses: hint.addresses.iter().map(detached).collect(),
        };
        if !hint.has_id() {
            return Err(WireError::Field {
                field: "peer id",
                problem: "is missing".to_owned(),
            });
        }
        Ok(hint)
    }
}

impl From<EndorsementError> for WireError {
    fn from(error: EndorsementError) -> Self {
        Self::Field {
            field: "endorsements",
            problem: error.to_string(),
        }
    }
}

/// A copy of its own: a few bytes that are kept must not keep the whole message.
fn detached(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn checked_chain_id(chain_id: &str) -> Result<(), WireError> {
    check_chain_id(chain_id).map_err(|problem| WireError::Field {
        field: "chain id",
        problem,
    })
}

/// Asks for a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ManifestRequest(pub ManifestId);

impl ManifestRequest {
    /// The message, without its length.
    pub fn encode(&self) -> Vec<u8> {
        proto::ManifestRequest {
            manifest: digest_bytes(self.0.digest()),
        }
        .encode_to_vec()
    }

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        limit_len(
            "manifest request",
            bytes.len(),
            MAX_SHORT_REQUEST_BYTES as usize,
        )?;
        MANIFEST_REQUEST.check(bytes)?;
        let message = proto::ManifestRequest::decode(bytes)?;
        decode_digest("manifest", &message.manifest).map(|digest| Self(ManifestId(digest)))
    }
}

/// What stands ahead of a manifest's bytes, or instead of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManifestResponse {
    /// So many bytes follow: 1 to 32 MiB.
    Size(u32),
    /// The manifest is not given.
    Refused(Refusal),
}

impl ManifestResponse {
    /// The message, without its length.
    pub fn encode(&self) -> Vec<u8> {
        match *self {
            Self::Size(size) => proto::ManifestResponse { size, refusal: 0 },
            Self::Refused(refusal) => proto::ManifestResponse {
                size: 0,
                refusal: refusal.encode(),
            },
        }
        .encode_to_vec()
    }

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        limit_len(
            "manifest response",
            bytes.len(),
            MAX_MANIFEST_RESPONSE_BYTES as usize,
        )?;
        MANIFEST_RESPONSE.check(bytes)?;
        let message = proto::ManifestResponse::decode(bytes)?;
        let problem = match (message.size, message.refusal) {
            (0, 0) => "says neither a size nor a refusal",
            (0, code) => return Refusal::decode(code).map(Self::Refused),
            (size, 0) => {
                limit_len("manifest", size as usize, MAX_MANIFEST_BYTES as usize)?;
                return Ok(Self::Size(size));
            }
            _ => "says two things at once",
        };
        Err(WireError::Field {
            field: "manifest response",
            problem: problem.to_owned(),
        })
    }
}
