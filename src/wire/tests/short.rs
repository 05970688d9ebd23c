//! Messages of the two short protocols.

use bytes::Bytes;

use super::{MANIFEST, refused};
use crate::snapshot::tests::Raw;
use crate::snapshot::{
    EndorsementKind, EndorserKey, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_CHUNK_BYTES,
    MAX_CHUNKS, MAX_ENDORSEMENTS, MAX_HEIGHT, MAX_MANIFEST_BYTES, SIGNATURE_BYTES,
    UntrustedEndorsement,
};
use crate::wire::*;

fn entry() -> CatalogueEntry {
    CatalogueEntry {
        chain_id: "chain-1".to_owned(),
        height: 5,
        format: 1,
        app_hash: Bytes::from_static(b"hash"),
        manifest: MANIFEST,
        manifest_bytes: 1000,
        total_bytes: 70,
        chunks: 7,
        complete: true,
        delta: false,
        endorsements: vec![endorsement(1)],
    }
}

fn endorsement(seed: u8) -> UntrustedEndorsement {
    UntrustedEndorsement {
        key: EndorserKey([seed; 32]),
        kind: EndorsementKind::Computed,
        signature: [seed; SIGNATURE_BYTES],
    }
}

fn hint() -> PeerHint {
    PeerHint {
        peer_id: vec![1; 38].into(),
        addresses: vec![Bytes::from_static(b"address")],
    }
}

/// The largest answer that all limits allow.
fn largest_catalogue() -> CatalogueResponse {
    let entry = CatalogueEntry {
        chain_id: "c".repeat(MAX_CHAIN_ID_BYTES),
        height: MAX_HEIGHT,
        format: u32::MAX,
        app_hash: vec![1; MAX_APP_HASH_BYTES].into(),
        manifest: MANIFEST,
        manifest_bytes: MAX_MANIFEST_BYTES,
        total_bytes: u64::from(MAX_CHUNKS) * u64::from(MAX_CHUNK_BYTES),
        chunks: MAX_CHUNKS,
        complete: true,
        delta: true,
        endorsements: Vec::new(),
    };
    let full = CatalogueEntry {
        endorsements: (0..MAX_ENDORSEMENTS as u8).map(endorsement).collect(),
        ..entry.clone()
    };
    let hint = PeerHint {
        peer_id: vec![1; MAX_PEER_ID_BYTES].into(),
        addresses: vec![vec![2; MAX_ADDRESS_BYTES].into(); MAX_HINT_ADDRESSES],
    };
    let endorsed = MAX_CATALOGUE_ENDORSEMENTS / MAX_ENDORSEMENTS;
    let mut entries = vec![full; endorsed];
    entries.resize(MAX_CATALOGUE_ENTRIES, entry);
    CatalogueResponse {
        entries,
        peers: vec![hint; MAX_PEER_HINTS],
    }
}

fn with_entry(change: impl FnOnce(&mut CatalogueEntry)) -> CatalogueResponse {
    let mut entry = entry();
    change(&mut entry);
    CatalogueResponse {
        entries: vec![entry],
        peers: vec![],
    }
}

#[test]
fn a_catalogue_survives_its_bytes_up_to_all_limits_together() {
    let small = CatalogueResponse {
        entries: vec![entry()],
        peers: vec![hint()],
    };
    for response in [CatalogueResponse::default(), small, largest_catalogue()] {
        let bytes = response.encode();
        assert!(bytes.len() <= MAX_CATALOGUE_BYTES as usize);
        assert_eq!(CatalogueResponse::decode(bytes.into()), Ok(response));
    }
}

#[test]
fn what_passes_a_limit_is_left_out_of_a_catalogue_of_ours() {
    let mut response = largest_catalogue();
    response.entries.push(entry());
    response.peers.push(hint());
    response.peers[0].addresses.push(Bytes::from_static(b"x"));
    let decoded = CatalogueResponse::decode(response.encode().into()).unwrap();
    assert_eq!(decoded, largest_catalogue());

    let foreign = CatalogueResponse {
        entries: vec![
            CatalogueEntry {
                height: 0,
                ..entry()
            },
            entry(),
        ],
        peers: vec![
            PeerHint {
                peer_id: Bytes::new(),
                ..hint()
            },
            PeerHint {
                addresses: vec![
                    vec![1; MAX_ADDRESS_BYTES + 1].into(),
                    Bytes::new(),
                    Bytes::from_static(b"address"),
                ],
                ..hint()
            },
        ],
    };
    let decoded = CatalogueResponse::decode(foreign.encode().into()).unwrap();
    assert_eq!(decoded.entries, [entry()]);
    assert_eq!(decoded.peers, [hint()]);
}

#[test]
fn the_newest_entries_keep_their_endorsements_when_there_are_too_many() {
    let mut response = largest_catalogue();
    let first_without = MAX_CATALOGUE_ENDORSEMENTS / MAX_ENDORSEMENTS;
    response.entries[0].endorsements.push(endorsement(99));
    response.entries[first_without]
        .endorsements
        .push(endorsement(1));
    let decoded = CatalogueResponse::decode(response.encode().into()).unwrap();
    assert_eq!(decoded, largest_catalogue());

    response.entries[1].endorsements.truncate(31);
    let decoded = CatalogueResponse::decode(response.encode().into()).unwrap();
    assert_eq!(
        decoded.entries[first_without].endorsements,
        [endorsement(1)]
    );
}

#[test]
fn endorsements_are_as_many_as_allowed_whole_and_of_a_kind_that_is_known() {
    let entry = |endorsements: &[Raw]| {
        let begin = Raw::default()
            .bytes(1, "chain-1")
            .number(2, 5)
            .bytes(5, MANIFEST.digest().as_bytes())
            .number(6, 1000)
            .number(7, 70)
            .number(8, 7);
        let all = endorsements
            .iter()
            .fold(begin, |raw, one| raw.bytes(10, &one.0));
        CatalogueResponse::decode(Raw::default().bytes(1, all.0).0.into())
    };
    let of_kind = |kind| {
        Raw::default()
            .number(1, kind)
            .bytes(2, [1; 32])
            .bytes(3, [2; SIGNATURE_BYTES])
    };
    assert!(entry(&vec![of_kind(1); MAX_ENDORSEMENTS]).is_ok());
    refused(
        entry(&vec![of_kind(1); MAX_ENDORSEMENTS + 1]),
        "more than 32 endorsements",
    );
    refused(entry(&[Raw::default().number(1, 1)]), "at least 100");
    let keyless = Raw::default().number(1, 1).bytes(9, [0; 100]);
    refused(entry(&[keyless]), "without a key");
    // A later version may say what is not known here.
    let later = entry(&[of_kind(9), of_kind(2)]).unwrap();
    assert_eq!(later.entries[0].endorsements.len(), 1);
}

#[test]
fn a_foreign_catalogue_has_no_more_endorsements_than_the_limit() {
    // Ours leaves out what is too much, so the entries are put together here.
    let bytes = |count: usize| {
        let full = with_entry(|entry| {
            entry.endorsements = (0..MAX_ENDORSEMENTS as u8).map(endorsement).collect();
        });
        let rest = with_entry(|entry| {
            entry.endorsements = (0..(count % MAX_ENDORSEMENTS) as u8)
                .map(endorsement)
                .collect();
        });
        let mut bytes = full.encode().repeat(count / MAX_ENDORSEMENTS);
        bytes.extend(rest.encode());
        Bytes::from(bytes)
    };
    assert!(CatalogueResponse::decode(bytes(MAX_CATALOGUE_ENDORSEMENTS)).is_ok());
    refused(
        CatalogueResponse::decode(bytes(MAX_CATALOGUE_ENDORSEMENTS + 1)),
        "more than 768 endorsements",
    );
}

#[test]
fn a_peer_that_knows_no_endorsements_is_understood_and_understands() {
    let before = with_entry(|entry| entry.endorsements.clear());
    let now = with_entry(|_| {});
    let decoded = CatalogueResponse::decode(before.encode().into()).unwrap();
    assert_eq!(decoded, before);
    // Beside the fields of before there is one that they skip, and nothing else.
    let (old, new) = (before.encode(), now.encode());
    // Behind the tag and the length of the entry.
    let (old, new) = (&old[2..], &new[3..]);
    assert_eq!(new[..old.len()], *old);
    assert_eq!(new[old.len()], 10 << 3 | 2);
}

#[test]
fn a_foreign_catalogue_is_held_to_its_limits() {
    let limit = MAX_CATALOGUE_BYTES as usize;
    let padding = |total: usize| Bytes::from(Raw::default().bytes(9, vec![0; total - 4]).0);
    assert_eq!(padding(limit).len(), limit);
    assert!(CatalogueResponse::decode(padding(limit)).is_ok());
    refused(CatalogueResponse::decode(padding(limit + 1)), "catalogue");

    let repeated = |field, count| {
        let raw = (0..count).fold(Raw::default(), |raw, _| raw.bytes(field, []));
        CatalogueResponse::decode(raw.0.into())
    };
    refused(repeated(1, MAX_CATALOGUE_ENTRIES), "manifest");
    refused(repeated(1, MAX_CATALOGUE_ENTRIES + 1), "more than 256");
    refused(repeated(2, MAX_PEER_HINTS), "peer id");
    refused(repeated(2, MAX_PEER_HINTS + 1), "more than 32");

    let peer =
        |message: Raw| CatalogueResponse::decode(Raw::default().bytes(2, message.0).0.into());
    let id = || Raw::default().bytes(1, [1; MAX_PEER_ID_BYTES]);
    let address = [9; MAX_ADDRESS_BYTES];
    let eight = (0..MAX_HINT_ADDRESSES).fold(id(), |raw, _| raw.bytes(2, address));
    assert!(peer(eight.clone()).is_ok());
    refused(peer(eight.bytes(2, address)), "more than 8");
    refused(peer(id().bytes(2, [9; MAX_ADDRESS_BYTES + 1])), "257 bytes");
    refused(peer(id().bytes(2, [])), "at least 1");
    let long_id = Raw::default().bytes(1, [1; MAX_PEER_ID_BYTES + 1]);
    refused(peer(long_id), "peer id");
    refused(peer(Raw::default().bytes(1, [])), "peer id");
}

#[test]
fn an_entry_has_numbers_that_a_snapshot_can_have() {
    type Change = fn(&mut CatalogueEntry);
    let decode = |change: Change| {
        let mut entry = entry();
        change(&mut entry);
        let message = Raw::default()
            .bytes(1, &entry.chain_id)
            .number(2, entry.height)
            .bytes(4, &entry.app_hash)
            .bytes(5, entry.manifest.digest().as_bytes())
            .number(6, entry.manifest_bytes.into())
            .number(7, entry.total_bytes)
            .number(8, entry.chunks.into());
        CatalogueResponse::decode(Raw::default().bytes(1, message.0).0.into())
    };
    let largest = u64::from(MAX_CHUNK_BYTES) * 7;
    assert_eq!(largest, 111_999_552);
    let good: [Change; 8] = [
        |_| {},
        |e| e.height = MAX_HEIGHT,
        |e| e.app_hash = Bytes::new(),
        |e| e.app_hash = vec![1; MAX_APP_HASH_BYTES].into(),
        |e| e.total_bytes = 7,
        |e| e.total_bytes = 111_999_552,
        |e| e.manifest_bytes = MAX_MANIFEST_BYTES,
        |e| (e.chunks, e.total_bytes) = (MAX_CHUNKS, 1 << 40),
    ];
    for change in good {
        assert!(decode(change).is_ok());
    }
    let bad: [(&str, Change); 11] = [
        ("chain id", |e| e.chain_id.clear()),
        ("chain id", |e| {
            e.chain_id = "a".repeat(MAX_CHAIN_ID_BYTES + 1)
        }),
        ("chain id", |e| e.chain_id = "\u{1b}".to_owned()),
        ("height", |e| e.height = 0),
        ("height", |e| e.height = MAX_HEIGHT + 1),
        ("app hash", |e| {
            e.app_hash = vec![1; MAX_APP_HASH_BYTES + 1].into()
        }),
        ("total size", |e| e.total_bytes = 6),
        ("total size", |e| e.total_bytes = 111_999_553),
        ("manifest size", |e| e.manifest_bytes = 0),
        ("manifest size", |e| {
            e.manifest_bytes = MAX_MANIFEST_BYTES + 1
        }),
        ("chunks", |e| e.chunks = MAX_CHUNKS + 1),
    ];
    for (about, change) in bad {
        refused(decode(change), about);
        assert!(
            with_entry(change).encode().is_empty(),
            "and is not sent: {about}"
        );
    }
    refused(decode(|e| (e.chunks, e.total_bytes) = (0, 0)), "chunks");
}

#[test]
fn short_requests_survive_their_bytes_and_are_short() {
    for chain_id in [None, Some("c".repeat(MAX_CHAIN_ID_BYTES))] {
        let request = CatalogueRequest { chain_id };
        assert_eq!(CatalogueRequest::decode(&request.encode()), Ok(request));
    }
    let request = ManifestRequest(MANIFEST);
    assert_eq!(ManifestRequest::decode(&request.encode()), Ok(request));

    let padding = |total: usize| Raw::default().bytes(9, vec![0; total - 3]).0;
    let limit = MAX_SHORT_REQUEST_BYTES as usize;
    assert_eq!(padding(limit).len(), limit);
    assert!(CatalogueRequest::decode(&padding(limit)).is_ok());
    refused(CatalogueRequest::decode(&padding(limit + 1)), "256");
    refused(ManifestRequest::decode(&padding(limit + 1)), "256");
    let long = Raw::default().bytes(1, [b'c'; MAX_CHAIN_ID_BYTES + 1]);
    refused(CatalogueRequest::decode(&long.0), "chain id");
    let dangerous = Raw::default().bytes(1, [0x1b]);
    refused(CatalogueRequest::decode(&dangerous.0), "chain id");
    refused(ManifestRequest::decode(&[]), "manifest");
}

#[test]
fn a_manifest_response_is_a_size_within_the_limit_or_a_refusal() {
    for response in [
        ManifestResponse::Size(1),
        ManifestResponse::Size(MAX_MANIFEST_BYTES),
        ManifestResponse::Refused(Refusal::NotAllowed),
    ] {
        let bytes = response.encode();
        assert!(bytes.len() <= MAX_MANIFEST_RESPONSE_BYTES as usize);
        assert_eq!(ManifestResponse::decode(&bytes), Ok(response));
    }
    let raw =
        |size, code| ManifestResponse::decode(&Raw::default().number(1, size).number(2, code).0);
    refused(raw(u64::from(MAX_MANIFEST_BYTES) + 1, 0), "manifest");
    refused(raw(1, 1), "two things");
    refused(raw(0, 0), "neither");
    refused(raw(0, 9), "code 9");
    let padding = Raw::default().number(1, 1).bytes(9, vec![0; 61]);
    refused(ManifestResponse::decode(&padding.0), "64");
}
