//! Endorsements: what is taken for one, and what a set of them holds.

use bytes::Bytes;
use ed25519_consensus::SigningKey;

use super::Raw;
use crate::snapshot::{
    Endorsement, EndorsementError, EndorsementKind, Endorsements, EndorserKey, MAX_ENDORSEMENTS,
    ManifestId, SnapshotName, UntrustedEndorsement, UntrustedEndorsements, hash,
};

const KINDS: [EndorsementKind; 2] = [EndorsementKind::Computed, EndorsementKind::Vouched];

fn about(manifest: &str) -> SnapshotName<'static> {
    SnapshotName {
        chain_id: "chain-1",
        height: 77,
        manifest: ManifestId(hash::sha256(manifest.as_bytes())),
    }
}

fn signed(seed: u8, kind: EndorsementKind, about: &SnapshotName) -> UntrustedEndorsement {
    let key = SigningKey::from([seed; 32]);
    UntrustedEndorsement {
        key: EndorserKey(key.verification_key().to_bytes()),
        kind,
        signature: key.sign(&about.bytes_to_sign(kind)).to_bytes(),
    }
}

fn checked(seed: u8, kind: EndorsementKind, about: &SnapshotName) -> Endorsement {
    signed(seed, kind, about).check(about).unwrap()
}

#[test]
fn a_signature_counts_for_its_key_its_kind_and_its_snapshot_alone() {
    let one = about("one");
    for kind in KINDS {
        let told = signed(1, kind, &one);
        let right = told.check(&one).unwrap();
        assert_eq!((right.key(), right.kind()), (told.key, kind));
        assert_eq!((right.manifest(), right.told()), (one.manifest, told));
        let others = [
            about("two"),
            SnapshotName { height: 78, ..one },
            SnapshotName {
                chain_id: "chain-2",
                ..one
            },
        ];
        for other in others {
            assert!(matches!(
                told.check(&other),
                Err(EndorsementError::Forged { .. })
            ));
        }
        for other in KINDS.into_iter().filter(|other| *other != kind) {
            let changed = UntrustedEndorsement {
                kind: other,
                ..told
            };
            changed.check(&one).unwrap_err();
        }
        let stranger = signed(2, kind, &one);
        for (key, signature) in [
            (stranger.key, told.signature),
            (told.key, stranger.signature),
            (EndorserKey([0xff; 32]), told.signature),
        ] {
            let mixed = UntrustedEndorsement {
                key,
                kind,
                signature,
            };
            mixed.check(&one).unwrap_err();
        }
    }
}

#[test]
fn any_changed_bit_of_a_signature_is_a_forgery() {
    let one = about("one");
    let good = signed(1, EndorsementKind::Computed, &one);
    for bit in 0..64 * 8 {
        let mut bad = good;
        bad.signature[bit / 8] ^= 1 << (bit % 8);
        bad.check(&one).unwrap_err();
    }
}

#[test]
fn of_one_key_a_set_holds_the_weightiest_endorsement() {
    let one = about("one");
    let vouched = checked(1, EndorsementKind::Vouched, &one);
    let computed = checked(1, EndorsementKind::Computed, &one);
    let mut set = Endorsements::none(one.manifest);
    assert!(set.insert(vouched));
    assert!(!set.insert(vouched));
    assert!(set.insert(computed));
    assert!(!set.insert(vouched));
    assert_eq!(set.of(&computed.key()), Some(&computed));
    assert_eq!(set.len(), 1);
    let of_another = checked(2, EndorsementKind::Computed, &about("two"));
    assert!(!set.insert(of_another));
    assert_eq!(set.len(), 1);
}

#[test]
fn a_set_takes_its_limit_and_not_one_more() {
    let one = about("one");
    let mut set = Endorsements::none(one.manifest);
    for seed in 0..MAX_ENDORSEMENTS as u8 {
        assert!(set.insert(checked(seed, EndorsementKind::Vouched, &one)));
    }
    let more = checked(200, EndorsementKind::Computed, &one);
    assert!(!set.insert(more));
    assert!(set.insert(checked(0, EndorsementKind::Computed, &one)));
    let kept = checked(3, EndorsementKind::Vouched, &one).key();
    set.retain(|key| *key == kept);
    assert!(set.insert(more));
    assert_eq!(set.len(), 2);
}

#[test]
fn a_set_survives_its_bytes_and_is_written_in_one_way() {
    let one = about("one");
    let mut set = Endorsements::none(one.manifest);
    let read = |bytes: Vec<u8>| UntrustedEndorsements::decode(Bytes::from(bytes));
    assert_eq!(set.encode(), Vec::<u8>::new());
    for seed in 0..MAX_ENDORSEMENTS as u8 {
        set.insert(checked(seed, KINDS[seed as usize % 2], &one));
        assert_eq!(read(set.encode()).unwrap().check(&one), Ok(set.clone()));
    }
    let bytes = set.encode();
    assert_eq!(bytes.len(), UntrustedEndorsements::MAX_BYTES);
    let told: Vec<UntrustedEndorsement> = set.iter().map(Endorsement::told).collect();
    let more = [told.clone(), told[..1].to_vec()].concat();
    read(UntrustedEndorsements(more).encode()).unwrap_err();
    let read_of = |told: &[UntrustedEndorsement]| {
        let written = UntrustedEndorsements(told.to_vec()).encode();
        read(written)
    };
    read_of(&told[..2]).unwrap();
    let turned = [told[1], told[0]];
    assert_eq!(read_of(&turned), Err(EndorsementError::NotCanonical));
    let twice = [told[0], told[0]];
    assert_eq!(read_of(&twice), Err(EndorsementError::NotCanonical));
    let with_more = Raw(read_of(&told[..2]).unwrap().encode()).bytes(9, []);
    assert_eq!(read(with_more.0), Err(EndorsementError::NotCanonical));
}

#[test]
fn what_is_no_endorsement_is_told_apart() {
    let read = |one: Raw| UntrustedEndorsements::decode(Raw::default().bytes(1, one.0).0.into());
    let (key, signature) = ([1; 32], [2; 64]);
    let whole = |kind| {
        Raw::default()
            .number(1, kind)
            .bytes(2, key)
            .bytes(3, signature)
    };
    for kind in [1, 2] {
        assert!(read(whole(kind)).is_ok());
    }
    assert_eq!(read(whole(3)), Err(EndorsementError::Kind(3)));
    let long_enough = |one: Raw| read(one.bytes(9, [0; 80]));
    assert_eq!(
        long_enough(Raw::default().number(1, 1).bytes(2, key)),
        Err(EndorsementError::Missing("signature"))
    );
    assert_eq!(
        long_enough(Raw::default().number(1, 1).bytes(3, signature)),
        Err(EndorsementError::Missing("key"))
    );
    for (key, signature) in [
        (&[1; 31][..], &signature[..]),
        (&key[..], &[2; 65]),
        (&key, &[2; 63]),
    ] {
        let one = Raw::default().number(1, 1).bytes(2, key);
        assert!(matches!(
            read(one.bytes(3, signature)),
            Err(EndorsementError::Syntax(_))
        ));
    }
}
