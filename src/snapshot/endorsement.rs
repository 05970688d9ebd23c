//! Who speaks for a snapshot.
//!
//! Where a chain's application hash does not prove the state, a node can only
//! believe others. An **endorsement** is a signature by a key that people know: its
//! holder *computed* this very snapshot on a node of its own, or *vouches* for it.
//! Whom to believe, and how many of them, is not decided here.
//!
//! What is signed is `EndorsementStatement` of
//! `proto/snapswarm/v1/endorsement.proto`. It names the chain and the height beside
//! the manifest, so that an endorsement can be checked by whoever has heard of a
//! snapshot and has not yet seen its manifest.
//!
//! Laws:
//!
//! * An [`Endorsement`] is one whose signature was checked, for the manifest that it
//!   carries; [`UntrustedEndorsement::check`] makes it and nothing else does, for
//!   the endorsements of the own key, too.
//! * Of one key a set holds one endorsement: who computed a snapshot need not vouch
//!   for it.
//! * Checking a signature takes some 50 µs. Whoever takes endorsements from
//!   strangers drops those of keys that it does not know before.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use ed25519_consensus::{Signature, VerificationKey};
use prost::Message;

use super::shape::{CODE, DIGEST, Kind, Shape, ShapeError, many, one};
use super::{Manifest, ManifestId, proto};

/// Begins what is signed: a signature that was made for anything else is none.
const DOMAIN: &str = "snapswarm/endorsement/1";

/// Endorsements of one snapshot (DESIGN.md §6): far more than anybody asks for, and
/// less than 5 KB of memory.
pub const MAX_ENDORSEMENTS: usize = 32;

/// An ed25519 signature.
pub const SIGNATURE_BYTES: usize = 64;

/// An endorsement of a set, encoded: its kind, key and signature, and its length.
const ENTRY_BYTES: usize = 2 + 34 + 66 + 2;

/// An endorsement, wherever it stands: a message with a key and a signature.
pub(crate) const ENDORSEMENT: Kind = Kind::LongMessage(34 + 66, &SHAPE);

const SHAPE: Shape = Shape {
    fields: &[
        one(1, "endorsement's kind", CODE),
        one(2, "endorser's key", DIGEST),
        one(
            3,
            "endorser's signature",
            Kind::Bytes(SIGNATURE_BYTES, SIGNATURE_BYTES),
        ),
    ],
    one_of: false,
};

const SET_SHAPE: Shape = Shape {
    fields: &[many(1, "endorsements", MAX_ENDORSEMENTS, ENDORSEMENT)],
    one_of: false,
};

/// The public key of an endorser: the key in its peer id. It may be any 32 bytes;
/// with such as are no key no signature is right.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndorserKey(pub [u8; 32]);

impl fmt::Display for EndorserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for EndorserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndorserKey({self})")
    }
}

/// What an endorser says; the derived order is that of their weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum EndorsementKind {
    /// A person vouches for the snapshot.
    Vouched,
    /// The endorser's own node made this very snapshot.
    Computed,
}

impl EndorsementKind {
    /// The word for people and scripts: computed, vouched.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Computed => "computed",
            Self::Vouched => "vouched",
        }
    }

    fn to_proto(self) -> i32 {
        match self {
            Self::Computed => proto::EndorsementKind::Computed as i32,
            Self::Vouched => proto::EndorsementKind::Vouched as i32,
        }
    }

    fn from_proto(code: i32) -> Option<Self> {
        match proto::EndorsementKind::try_from(code) {
            Ok(proto::EndorsementKind::Computed) => Some(Self::Computed),
            Ok(proto::EndorsementKind::Vouched) => Some(Self::Vouched),
            Ok(proto::EndorsementKind::Unspecified) | Err(_) => None,
        }
    }
}

/// The snapshot that an endorsement is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotName<'a> {
    /// Its chain.
    pub chain_id: &'a str,
    /// Its height.
    pub height: u64,
    /// Its manifest.
    pub manifest: ManifestId,
}

impl<'a> From<&'a Manifest> for SnapshotName<'a> {
    fn from(manifest: &'a Manifest) -> Self {
        Self {
            chain_id: manifest.chain_id(),
            height: manifest.height(),
            manifest: manifest.id(),
        }
    }
}

impl SnapshotName<'_> {
    /// What an endorser of this kind signs.
    pub fn bytes_to_sign(&self, kind: EndorsementKind) -> Vec<u8> {
        proto::EndorsementStatement {
            domain: DOMAIN.to_owned(),
            chain_id: self.chain_id.to_owned(),
            height: self.height,
            manifest: Bytes::copy_from_slice(self.manifest.digest().as_bytes()),
            kind: kind.to_proto(),
        }
        .encode_to_vec()
    }
}

/// An endorsement as somebody told it: anything can stand in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UntrustedEndorsement {
    /// By whom it says it is.
    pub key: EndorserKey,
    /// What is said.
    pub kind: EndorsementKind,
    /// What should be the signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl UntrustedEndorsement {
    /// Checks the signature.
    pub fn check(self, about: &SnapshotName) -> Result<Endorsement, EndorsementError> {
        let forged = || EndorsementError::Forged {
            key: self.key,
            manifest: about.manifest,
        };
        let key = VerificationKey::try_from(self.key.0).map_err(|_| forged())?;
        let signature = Signature::from(self.signature);
        key.verify(&signature, &about.bytes_to_sign(self.kind))
            .map_err(|_| forged())?;
        Ok(Endorsement {
            told: self,
            manifest: about.manifest,
        })
    }

    /// The message; the caller encodes it, alone or inside of another one.
    pub(crate) fn to_proto(self) -> proto::Endorsement {
        proto::Endorsement {
            kind: self.kind.to_proto(),
            key: Bytes::copy_from_slice(&self.key.0),
            signature: Bytes::copy_from_slice(&self.signature),
        }
    }

    /// Reads a message that has its shape; nothing of a kind that is not known here,
    /// which a later version may say.
    pub(crate) fn from_proto(
        message: &proto::Endorsement,
    ) -> Result<Option<Self>, EndorsementError> {
        let Some(kind) = EndorsementKind::from_proto(message.kind) else {
            return Ok(None);
        };
        let key = message.key[..].try_into();
        let signature = message.signature[..].try_into();
        Ok(Some(Self {
            key: EndorserKey(key.map_err(|_| EndorsementError::Missing("key"))?),
            kind,
            signature: signature.map_err(|_| EndorsementError::Missing("signature"))?,
        }))
    }
}

/// An endorsement whose signature was checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endorsement {
    told: UntrustedEndorsement,
    manifest: ManifestId,
}

impl Endorsement {
    /// Whose it is.
    pub fn key(&self) -> EndorserKey {
        self.told.key
    }

    /// What it says.
    pub fn kind(&self) -> EndorsementKind {
        self.told.kind
    }

    /// Of which snapshot.
    pub fn manifest(&self) -> ManifestId {
        self.manifest
    }

    /// As it is told to others.
    pub fn told(&self) -> UntrustedEndorsement {
        self.told
    }
}

/// The endorsements of one snapshot: at most [`MAX_ENDORSEMENTS`], one of each key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endorsements {
    manifest: ManifestId,
    by_key: BTreeMap<EndorserKey, Endorsement>,
}

impl Endorsements {
    /// None of this snapshot.
    pub fn none(manifest: ManifestId) -> Self {
        Self {
            manifest,
            by_key: BTreeMap::new(),
        }
    }

    /// The snapshot.
    pub fn manifest(&self) -> ManifestId {
        self.manifest
    }

    /// Adds one; tells whether the set changed by it. One of another snapshot, one
    /// that says no more than what is there of its key, and one for which there is no
    /// place change nothing.
    pub fn insert(&mut self, endorsement: Endorsement) -> bool {
        let key = endorsement.key();
        let has_place = match self.by_key.get(&key) {
            Some(before) => endorsement.kind() > before.kind(),
            None => self.by_key.len() < MAX_ENDORSEMENTS,
        };
        if !has_place || endorsement.manifest != self.manifest {
            return false;
        }
        self.by_key.insert(key, endorsement);
        true
    }

    /// Keeps those of these keys only.
    pub fn retain(&mut self, keep: impl Fn(&EndorserKey) -> bool) {
        self.by_key.retain(|key, _| keep(key));
    }

    /// The one of a key.
    pub fn of(&self, key: &EndorserKey) -> Option<&Endorsement> {
        self.by_key.get(key)
    }

    /// All of them, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = &Endorsement> {
        self.by_key.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The message `Endorsements`.
    pub fn encode(&self) -> Vec<u8> {
        UntrustedEndorsements(self.iter().map(Endorsement::told).collect()).encode()
    }
}

/// The endorsements of one snapshot as they lie on a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UntrustedEndorsements(pub Vec<UntrustedEndorsement>);

impl UntrustedEndorsements {
    /// The most bytes that an encoded set has.
    pub const MAX_BYTES: usize = MAX_ENDORSEMENTS * ENTRY_BYTES;

    /// The message `Endorsements`.
    pub fn encode(&self) -> Vec<u8> {
        let told = self.0.iter();
        proto::Endorsements {
            endorsements: told.map(|one| one.to_proto()).collect(),
        }
        .encode_to_vec()
    }

    /// Reads what [`Endorsements::encode`] gives and nothing else.
    pub fn decode(bytes: Bytes) -> Result<Self, EndorsementError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(EndorsementError::TooLong(bytes.len()));
        }
        SET_SHAPE.check(&bytes)?;
        let message = proto::Endorsements::decode(bytes.clone())
            .map_err(|error| EndorsementError::Syntax(error.to_string()))?;
        let mut told: Vec<UntrustedEndorsement> = Vec::with_capacity(message.endorsements.len());
        for one in &message.endorsements {
            let one =
                UntrustedEndorsement::from_proto(one)?.ok_or(EndorsementError::Kind(one.kind))?;
            if told.last().is_some_and(|before| before.key >= one.key) {
                return Err(EndorsementError::NotCanonical);
            }
            told.push(one);
        }
        let this = Self(told);
        match this.encode()[..] == bytes[..] {
            true => Ok(this),
            false => Err(EndorsementError::NotCanonical),
        }
    }

    /// Checks every signature; one that is wrong is an error.
    pub fn check(self, about: &SnapshotName) -> Result<Endorsements, EndorsementError> {
        let mut set = Endorsements::none(about.manifest);
        for one in self.0 {
            set.insert(one.check(about)?);
        }
        Ok(set)
    }
}

/// Why something is no endorsement.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EndorsementError {
    /// The signature is not of this key, or not for this snapshot.
    #[error("the endorsement of {manifest} is not signed by the key {key}")]
    Forged {
        /// Whose it is said to be.
        key: EndorserKey,
        /// What it is said to be about.
        manifest: ManifestId,
    },
    /// A field is not there.
    #[error("an endorsement without a {0}")]
    Missing(&'static str),
    /// A kind that is not known here.
    #[error("an endorsement of kind {0}, which is unknown here")]
    Kind(i32),
    /// More bytes than a full set has.
    #[error("{0} bytes of endorsements; at most {max} are possible", max = UntrustedEndorsements::MAX_BYTES)]
    TooLong(usize),
    /// Bytes of another shape.
    #[error("not a set of endorsements: {0}")]
    Syntax(String),
    /// The bytes mean something, and are written in another way than ours.
    #[error("endorsements that stand twice, or not in the one way they are written in")]
    NotCanonical,
}

impl From<ShapeError> for EndorsementError {
    fn from(error: ShapeError) -> Self {
        Self::Syntax(match error {
            ShapeError::TooMany { what, limit } => format!("more than {limit} {what}"),
            ShapeError::TooLong { what, found, limit } => {
                format!("the {what} has {found} bytes, at most {limit} are possible")
            }
            ShapeError::Value { what, problem } => format!("the {what} {problem}"),
            ShapeError::Syntax(problem) => problem,
        })
    }
}
