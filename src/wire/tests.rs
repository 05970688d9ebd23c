//! The limits of the messages, each a step below and a step above, and what the
//! decoder of protobuf would let pass.

use bytes::Bytes;

use super::*;
use crate::snapshot::tests::Raw;
use crate::snapshot::{
    ChunkId, Digest, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_CHUNK_BYTES, MAX_CHUNKS,
    MAX_HEIGHT, MAX_MANIFEST_BYTES, MAX_PIECES, MAX_PIECES_PER_CHUNK, ManifestId, PIECE_BYTES,
};

const ID: RequestId = RequestId(7);
const MANIFEST: ManifestId = ManifestId(Digest([1; 32]));
const CHUNK: ChunkId = ChunkId(Digest([2; 32]));

fn payload(frame: Bytes) -> Bytes {
    let (head, payload) = frame.split_at(FRAME_HEADER_BYTES);
    let header = FrameHeader::decode(head.try_into().unwrap()).unwrap();
    assert_eq!(header.kind, FrameKind::Control);
    assert_eq!(header.len as usize, payload.len());
    frame.slice(FRAME_HEADER_BYTES..)
}

fn ask(field: u64, message: Raw) -> Result<Ask, WireError> {
    Ask::decode(Raw::default().bytes(field, message.0).0.into())
}

fn answer(field: u64, message: Raw) -> Result<Answer, WireError> {
    Answer::decode(Raw::default().bytes(field, message.0).0.into())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, WireError>, about: &str) {
    let error = result.expect_err(about).to_string();
    assert!(error.contains(about), "'{error}' does not say {about}");
}

fn holdings() -> [Holding; 4] {
    [
        Holding::Complete,
        Holding::Pieces(Bytes::from_static(&[5, 1])),
        Holding::Pieces(vec![0xff; MAX_PIECES as usize / 8].into()),
        Holding::Refused(Refusal::Gone),
    ]
}

#[test]
fn every_ask_survives_its_frame() {
    let mut asks = vec![
        Ask::Open(MANIFEST),
        Ask::Probe {
            id: ID,
            chunks: vec![CHUNK; MAX_PROBE_CHUNKS],
        },
        Ask::Probe {
            id: RequestId(0),
            chunks: vec![],
        },
        Ask::Request {
            id: RequestId(u32::MAX),
            chunk: CHUNK,
            piece: MAX_PIECES_PER_CHUNK - 1,
        },
        Ask::Cancel(RequestId(0)),
        Ask::Have {
            manifest: MANIFEST,
            pieces: vec![MAX_PIECES - 1; MAX_HAVE_PIECES],
        },
        Ask::Ack { bytes: u64::MAX },
        Ask::Ack { bytes: 0 },
    ];
    asks.extend(holdings().map(|holding| Ask::Holdings {
        manifest: MANIFEST,
        holding,
    }));
    for ask in asks {
        assert_eq!(Ask::decode(payload(ask.to_frame())), Ok(ask));
    }
}

#[test]
fn every_answer_survives_its_frame() {
    let mut answers = vec![
        Answer::Have {
            manifest: MANIFEST,
            pieces: vec![0],
        },
        Answer::Holds {
            id: ID,
            chunks: vec![1; MAX_PROBE_CHUNKS / 8].into(),
        },
        Answer::Started {
            id: ID,
            size: PIECE_BYTES,
        },
        Answer::Started { id: ID, size: 1 },
        Answer::Aborted(ID),
    ];
    answers.extend(holdings().map(|holding| Answer::Holdings {
        manifest: MANIFEST,
        holding,
    }));
    answers.extend(
        [
            Refusal::Gone,
            Refusal::Busy,
            Refusal::OverLimit,
            Refusal::NotAllowed,
        ]
        .map(|refusal| Answer::Refused { id: ID, refusal }),
    );
    for answer in answers {
        assert_eq!(Answer::decode(payload(answer.to_frame())), Ok(answer));
    }
}

#[test]
fn a_control_message_may_fill_its_frame_and_not_pass_it() {
    let limit = MAX_CONTROL_BYTES as usize;
    let padding = |total: usize| {
        let ack = Raw::default().bytes(6, Raw::default().number(1, 5).0);
        let head = ack.0.len() + 2 + 3;
        Bytes::from(ack.bytes(100, vec![0; total - head]).0)
    };
    let full = padding(limit);
    assert_eq!(full.len(), limit);
    assert_eq!(Ask::decode(full), Ok(Ask::Ack { bytes: 5 }));
    refused(Ask::decode(padding(limit + 1)), "control frame");
    refused(Answer::decode(padding(limit + 1)), "control frame");
}

#[test]
fn counts_and_lengths_end_at_their_limits() {
    let have = |count: usize| {
        let message = Raw::default().bytes(1, [1; 32]);
        message.bytes(2, vec![3; count])
    };
    assert!(ask(5, have(MAX_HAVE_PIECES)).is_ok());
    refused(ask(5, have(MAX_HAVE_PIECES + 1)), "have-message");
    refused(answer(2, have(MAX_HAVE_PIECES + 1)), "have-message");
    let unpacked =
        (0..=MAX_HAVE_PIECES).fold(Raw::default().bytes(1, [1; 32]), |raw, _| raw.number(2, 3));
    refused(ask(5, unpacked), "have-message");

    let probe = |bytes: usize| Raw::default().bytes(2, vec![3; bytes]);
    assert!(ask(2, probe(MAX_PROBE_CHUNKS * 32)).is_ok());
    refused(ask(2, probe(MAX_PROBE_CHUNKS * 32 + 32)), "probe");
    refused(ask(2, probe(33)), "32 bytes");

    let holds = |bytes: usize| Raw::default().bytes(2, vec![3; bytes]);
    assert!(answer(3, holds(MAX_PROBE_CHUNKS / 8)).is_ok());
    refused(answer(3, holds(MAX_PROBE_CHUNKS / 8 + 1)), "probe answer");

    let pieces = |bytes: usize| {
        let message = Raw::default().bytes(1, [1; 32]);
        message.bytes(3, vec![3; bytes])
    };
    assert!(ask(7, pieces(MAX_PIECES as usize / 8)).is_ok());
    refused(ask(7, pieces(MAX_PIECES as usize / 8 + 1)), "pieces");
}

#[test]
fn numbers_end_at_their_limits() {
    let request = |piece: u64| {
        let message = Raw::default().bytes(2, [2; 32]);
        ask(3, message.number(3, piece))
    };
    assert!(request(u64::from(MAX_PIECES_PER_CHUNK) - 1).is_ok());
    refused(request(MAX_PIECES_PER_CHUNK.into()), "piece");
    let have = |piece: u64| ask(5, Raw::default().bytes(1, [1; 32]).number(2, piece));
    assert!(have(u64::from(MAX_PIECES) - 1).is_ok());
    refused(have(MAX_PIECES.into()), "have-message");
    let started = |size: u64| answer(4, Raw::default().number(2, size));
    assert!(started(1).is_ok());
    assert!(started(PIECE_BYTES.into()).is_ok());
    refused(started(0), "piece size");
    refused(started(u64::from(PIECE_BYTES) + 1), "piece size");
    let wide_id = Raw::default().number(1, 1 << 32);
    refused(ask(4, wide_id), "id");
}

#[test]
fn digests_have_32_bytes() {
    for len in [0, 31, 33] {
        refused(ask(1, Raw::default().bytes(1, vec![1; len])), "manifest");
        let request = Raw::default().bytes(2, vec![1; len]);
        refused(ask(3, request), "chunk");
    }
    refused(ask(1, Raw::default()), "manifest");
    refused(ask(3, Raw::default()), "chunk");
    refused(answer(1, Raw::default()), "manifest");
    refused(answer(2, Raw::default()), "manifest");
}

#[test]
fn a_message_says_one_thing() {
    let manifest = Raw::default().bytes(1, [1; 32]);
    let complete = manifest.clone().number(2, 1);
    refused(ask(7, complete.clone().bytes(3, [1])), "two things");
    refused(ask(7, complete.number(4, 1)), "two things");
    refused(
        answer(1, manifest.clone().bytes(3, [1]).number(4, 1)),
        "two things",
    );
    refused(ask(7, manifest.clone().number(4, 5)), "code 5");
    refused(answer(5, Raw::default().number(2, 0)), "code 0");
    refused(answer(5, Raw::default().number(2, u64::MAX)), "refusal");

    let open = Raw::default().bytes(1, manifest.0.clone());
    let open_and_cancel = open.clone().bytes(4, []);
    refused(Ask::decode(open_and_cancel.0.into()), "two messages");
    let twice = open.bytes(1, manifest.0);
    refused(Ask::decode(twice.0.into()), "stands twice");
}

#[test]
fn merging_duplicates_does_not_pass_a_limit() {
    let have = Raw::default().bytes(1, [1; 32]).bytes(2, [3; 3000]).0;
    let two = Raw::default().bytes(5, &have).bytes(5, &have);
    refused(Ask::decode(two.0.into()), "stands twice");
    let runs = Raw::default().bytes(1, [1; 32]);
    let runs = runs.bytes(2, [3; 3000]).bytes(2, [3; 3000]);
    refused(ask(5, runs), "have-message");
    refused(
        ask(4, Raw::default().number(1, 1).number(1, 2)),
        "stands twice",
    );
}

#[test]
fn what_later_versions_add_is_skipped_and_an_unknown_message_is_a_fault() {
    let later = Raw::default().number(1, 7).bytes(90, b"later");
    assert_eq!(ask(4, later), Ok(Ask::Cancel(ID)));
    refused(ask(8, Raw::default()), "unknown kind");
    refused(answer(7, Raw::default()), "unknown kind");
    refused(Ask::decode(Bytes::new()), "unknown kind");
    refused(Answer::decode(Bytes::new()), "unknown kind");
    for group in [&[0x43, 0x44][..], &[0x23, 0x24]] {
        assert!(Ask::decode(Bytes::copy_from_slice(group)).is_err());
    }
}

#[test]
#[should_panic(expected = "no peer would take")]
fn a_message_above_a_limit_is_never_sent() {
    Ask::Have {
        manifest: MANIFEST,
        pieces: vec![0; MAX_HAVE_PIECES + 1],
    }
    .to_frame();
}

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
    };
    let hint = PeerHint {
        peer_id: vec![1; MAX_PEER_ID_BYTES].into(),
        addresses: vec![vec![2; MAX_ADDRESS_BYTES].into(); MAX_HINT_ADDRESSES],
    };
    CatalogueResponse {
        entries: vec![entry; MAX_CATALOGUE_ENTRIES],
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
    let decode = |change: fn(&mut CatalogueEntry)| {
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
    let good: [fn(&mut CatalogueEntry); 8] = [
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
    let bad: [(&str, fn(&mut CatalogueEntry)); 11] = [
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
