//! Messages and frames of piece streams.

use bytes::Bytes;

use super::{MANIFEST, refused};
use crate::snapshot::tests::Raw;
use crate::snapshot::{ChunkId, Digest, MAX_PIECES, MAX_PIECES_PER_CHUNK, PIECE_BYTES};
use crate::wire::*;

const ID: RequestId = RequestId(7);
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
