//! SHA-256 digests and the names made of them.

use std::{fmt, str::FromStr};

use cid::Cid;
use cid::multibase::Base;
use cid::multihash::Multihash;

use super::MAX_CID_TEXT_BYTES;

/// Multicodec `raw`: the block is opaque bytes.
const CODEC_RAW: u64 = 0x55;
/// Multihash `sha2-256`.
pub(crate) const MULTIHASH_SHA2_256: u64 = 0x12;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest in `bytes`, or nothing when they are not 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The digest as a CIDv1 with codec raw: the form in which people and other
    /// tools name it.
    pub fn to_cid(&self) -> Cid {
        let hash =
            Multihash::wrap(MULTIHASH_SHA2_256, &self.0).expect("32 bytes fit a multihash of 64");
        Cid::new_v1(CODEC_RAW, hash)
    }

    /// The digest inside a CID, which must be version 1, raw, sha2-256.
    pub fn from_cid(cid: &Cid) -> Result<Self, IdError> {
        let hash = cid.hash();
        if cid.version() != cid::Version::V1
            || cid.codec() != CODEC_RAW
            || hash.code() != MULTIHASH_SHA2_256
        {
            return Err(IdError::Kind(cid.to_string()));
        }
        Self::from_slice(hash.digest()).ok_or_else(|| IdError::Kind(cid.to_string()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// Why a text is no name of a chunk or a manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// The text does not parse as a CID. Carries its beginning, without
    /// characters that a terminal would act on.
    #[error("'{0}' is not a CID (one looks like bafkrei…)")]
    Syntax(String),
    /// A CID of another kind.
    #[error("CID {0} is not of the kind that snapswarm uses (version 1, raw, sha2-256)")]
    Kind(String),
}

/// Reads a CID in any base but identity, which is no text to print. The text must
/// be exactly what the CID is in that base: the crate also takes whatever stands
/// ahead of `/ipfs/` and behind the digest.
fn parse_cid(text: &str) -> Option<Cid> {
    if text.len() > MAX_CID_TEXT_BYTES {
        return None;
    }
    let cid = Cid::from_str(text).ok()?;
    let base = match cid.version() {
        cid::Version::V0 => Base::Base58Btc,
        cid::Version::V1 => Base::from_code(text.chars().next()?).ok()?,
    };
    // The crate panics when it shows bytes that are not UTF-8 in base identity.
    if base == Base::Identity {
        return None;
    }
    (cid.to_string_of_base(base).ok()? == text).then_some(cid)
}

/// The beginning of a text, fit for a message.
fn shown(text: &str) -> String {
    const SHOWN_CHARS: usize = 64;
    let mut printable = text.chars().flat_map(char::escape_debug);
    let mut shown: String = printable.by_ref().take(SHOWN_CHARS).collect();
    if printable.next().is_some() {
        shown.push('…');
    }
    shown
}

macro_rules! name_by_digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Digest);

        impl $name {
            /// The SHA-256 that this name carries.
            pub fn digest(&self) -> &Digest {
                &self.0
            }

            /// The CIDv1 (raw, sha2-256) form.
            pub fn to_cid(&self) -> Cid {
                self.0.to_cid()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_cid().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse_cid(text)
                    .ok_or_else(|| IdError::Syntax(shown(text)))
                    .and_then(|cid| Digest::from_cid(&cid))
                    .map(Self)
            }
        }
    };
}

name_by_digest! {
    /// The name of a chunk: the SHA-256 of its bytes, shown as a CID. The same
    /// digest stands in a Cosmos SDK snapshot's `chunk_hashes`.
    ChunkId
}

name_by_digest! {
    /// The name of a snapshot: the SHA-256 of its manifest's canonical bytes,
    /// shown as a CID.
    ManifestId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_text_form_and_other_kinds_of_cid_are_refused() {
        let id = ManifestId(super::super::hash::sha256(b"hello"));
        let text = id.to_string();
        assert!(text.starts_with("bafkrei"), "{text}");
        assert_eq!(text.parse::<ManifestId>().unwrap(), id);

        let dag = Cid::new_v1(0x70, *id.to_cid().hash());
        assert!(matches!(
            dag.to_string().parse::<ChunkId>(),
            Err(IdError::Kind(_))
        ));
        assert!(matches!("x".parse::<ChunkId>(), Err(IdError::Syntax(_))));
        let v0 = Cid::new_v0(*id.to_cid().hash()).unwrap().to_string();
        assert!(matches!(v0.parse::<ChunkId>(), Err(IdError::Kind(_))));
        let sha512 = Multihash::wrap(0x13, &[7; 64]).unwrap();
        let sha512 = Cid::new_v1(CODEC_RAW, sha512).to_string();
        assert!(matches!(sha512.parse::<ChunkId>(), Err(IdError::Kind(_))));
        let short = Multihash::wrap(MULTIHASH_SHA2_256, &[7; 31]).unwrap();
        let short = Cid::new_v1(CODEC_RAW, short).to_string();
        assert!(matches!(short.parse::<ChunkId>(), Err(IdError::Kind(_))));
    }

    #[test]
    fn a_name_is_read_in_every_base_and_has_one_text_in_each() {
        let id = ChunkId(super::super::hash::sha256(b"hello"));
        for base in [
            Base::Base2,
            Base::Base16Lower,
            Base::Base16Upper,
            Base::Base32Lower,
            Base::Base32Upper,
            Base::Base58Btc,
            Base::Base64Url,
            Base::Base256Emoji,
        ] {
            let text = id.to_cid().to_string_of_base(base).unwrap();
            assert!(text.len() <= MAX_CID_TEXT_BYTES);
            assert_eq!(text.parse::<ChunkId>(), Ok(id), "{text}");
        }
    }

    #[test]
    fn what_stands_around_a_name_is_not_overlooked() {
        let id = ChunkId(super::super::hash::sha256(b"hello"));
        let with_tail = [id.to_cid().to_bytes(), vec![0, 0, 0, 0]].concat();
        let upper_inside = id.to_string().replace("bafkrei", "bAFKREI");
        for text in [
            format!("\0\u{1}U\u{12} a{}", "é".repeat(16)),
            format!("/ipfs/{id}"),
            format!("x/ipfs/{id}"),
            format!("{id}/"),
            format!(" {id}"),
            format!("{id}="),
            format!("B{id}"),
            cid::multibase::encode(Base::Base32Lower, with_tail),
            upper_inside,
        ] {
            assert!(
                matches!(text.parse::<ChunkId>(), Err(IdError::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_shows_the_beginning_of_a_long_or_dangerous_text() {
        let text = format!("\u{1b}[2J{}", "z".repeat(1 << 20));
        let shown = text.parse::<ManifestId>().unwrap_err().to_string();
        assert!(shown.len() < 200, "{shown}");
        assert!(!shown.contains('\u{1b}'), "{shown}");
        assert!(shown.contains('…'), "{shown}");
    }
}
