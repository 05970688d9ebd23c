//! Validators, as they were told and as they can be checked.
//!
//! A header names its validators by a hash: the Merkle root of each one's key and power.
//! That can be computed for every kind of key that CometBFT knows, also for those whose
//! signatures are not verified here: so it can be told whether a trusted header vouches
//! for validators with such keys, or whether only an endpoint says so.

use prost::Message;
use tendermint::crypto::default::Sha256;
use tendermint::validator::{Info, Set};
use tendermint::{Hash, PublicKey, merkle, vote};

use crate::comet::rpc::Validator;

/// The kind that is verified.
const ED25519: &str = "tendermint/PubKeyEd25519";

/// The field of CometBFT's `PublicKey` message in which a kind of key stands.
fn field_of(kind: &str) -> Option<u32> {
    match kind {
        ED25519 => Some(1),
        "tendermint/PubKeySecp256k1" => Some(2),
        "cometbft/PubKeyBls12_381" => Some(3),
        _ => None,
    }
}

/// Validators that were told, of which nothing is believed yet.
pub(super) enum Told {
    /// Their signatures can be verified.
    Verifiable(Set),
    /// Their signatures cannot.
    Foreign {
        /// The kind of a key that is none of ours.
        kind: String,
        /// By which a header names them, where that can be computed.
        hash: Option<Hash>,
    },
}

/// Looks through an answer; the error says what is wrong with it.
pub(super) fn read(validators: &[Validator]) -> Result<Told, String> {
    if let Some(foreign) = validators.iter().find(|one| one.key_type != ED25519) {
        return Ok(Told::Foreign {
            kind: shown(&foreign.key_type),
            hash: hash(validators),
        });
    }
    let mut infos = Vec::with_capacity(validators.len());
    let mut total: u64 = 0;
    for validator in validators {
        let key = PublicKey::from_raw_ed25519(&validator.key)
            .ok_or_else(|| format!("a key of {} bytes", validator.key.len()))?;
        total = total.saturating_add(validator.power);
        let power = vote::Power::try_from(validator.power);
        let power = power.map_err(|_| format!("a power of {}", validator.power))?;
        infos.push(Info::new(key, power));
    }
    // CometBFT's own limit.
    if total > Set::MAX_TOTAL_VOTING_POWER {
        return Err(format!("a power of {total} in all"));
    }
    Ok(Told::Verifiable(Set::without_proposer(infos)))
}

/// What a header names such validators by.
fn hash(validators: &[Validator]) -> Option<Hash> {
    let mut leaves = Vec::with_capacity(validators.len());
    for validator in validators {
        leaves.push(leaf(validator)?);
    }
    let root = merkle::simple_hash_from_byte_vectors::<Sha256>(&leaves);
    Some(Hash::Sha256(root))
}

/// CometBFT's `SimpleValidator`.
#[derive(Clone, PartialEq, Message)]
struct SimpleValidator {
    #[prost(bytes = "vec", optional, tag = "1")]
    key: Option<Vec<u8>>,
    #[prost(int64, tag = "2")]
    power: i64,
}

fn leaf(validator: &Validator) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    let field = field_of(&validator.key_type)?;
    prost::encoding::bytes::encode(field, &validator.key, &mut key);
    let leaf = SimpleValidator {
        key: Some(key),
        power: i64::try_from(validator.power).ok()?,
    };
    Some(leaf.encode_to_vec())
}

/// Characters of a kind's name that are shown.
const MAX_KIND_CHARS: usize = 60;

fn shown(kind: &str) -> String {
    let printable = kind.chars().filter(|c| c.is_ascii_graphic());
    printable.take(MAX_KIND_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator(kind: &str, key: &[u8], power: u64) -> Validator {
        Validator {
            key_type: kind.to_owned(),
            key: key.to_vec().into(),
            power,
        }
    }

    #[test]
    fn the_hash_of_foreign_validators_is_made_as_that_of_known_ones() {
        let known = [
            validator(ED25519, &[7; 32], 5),
            validator(ED25519, &[9; 32], 3),
        ];
        let Ok(Told::Verifiable(set)) = read(&known) else {
            panic!("they are verifiable");
        };
        assert_eq!(hash(&known), Some(set.hash()));
        let foreign = [validator("tendermint/PubKeySecp256k1", &[2; 33], 5)];
        assert_ne!(hash(&foreign), None);
        assert_eq!(hash(&[validator("own/Key", &[2; 33], 5)]), None);
    }

    #[test]
    fn numbers_and_keys_that_cannot_be_are_told() {
        for wrong in [
            [validator(ED25519, &[7; 31], 5)],
            [validator(ED25519, &[7; 32], u64::MAX)],
            [validator(ED25519, &[7; 32], i64::MAX as u64 / 8 + 1)],
        ] {
            assert!(read(&wrong).is_err());
        }
        let most = validator(ED25519, &[7; 32], i64::MAX as u64 / 8);
        assert!(read(std::slice::from_ref(&most)).is_ok());
        assert!(read(&[most, validator(ED25519, &[8; 32], 1)]).is_err());
    }

    #[test]
    fn the_name_of_a_kind_is_harmless_to_print() {
        let Ok(Told::Foreign { kind, hash }) = read(&[validator("\u{1b}[2J", &[], 1)]) else {
            panic!("it is foreign");
        };
        assert_eq!((kind.as_str(), hash), ("[2J", None));
        assert_eq!(shown(&"x".repeat(1000)).len(), MAX_KIND_CHARS);
    }
}
