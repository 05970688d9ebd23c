//! Bytes that must be the same on every machine and in every release of format
//! and protocol version 1: manifests and their names, bitmaps, every message and
//! every frame, state content, endorsements.
//!
//! Where one of these tests fails, nodes of the last release would not understand
//! this one. Only before a first release, or together with a new version number,
//! are the files written anew: `SNAPSWARM_BLESS=1 cargo test --release --test
//! golden`, and the difference is read line by line.

#[path = "golden/endorsements.rs"]
mod endorsements;
#[path = "golden/state.rs"]
mod state;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use bytes::Bytes;
use snapswarm::snapshot::{
    Bitmap, ChunkId, Digest, EndorsementKind, MAX_APP_HASH_BYTES, MAX_CHAIN_ID_BYTES, MAX_HEIGHT,
    Manifest, ManifestBuilder, ManifestId, PIECE_BYTES, SnapshotFields, hash,
};
use snapswarm::wire::{
    Answer, Ask, CatalogueEntry, CatalogueRequest, CatalogueResponse, FRAME_HEADER_BYTES,
    FrameHeader, FrameKind, Holding, MAX_DATA_BYTES, ManifestRequest, ManifestResponse, PeerHint,
    Refusal, RequestId,
};

/// Names and bytes, as a text whose differences can be read: a line for each
/// name, then its bytes in hexadecimal digits, 32 to a line.
fn listing(items: &[(String, Bytes)]) -> String {
    let mut text = String::new();
    for (name, bytes) in items {
        writeln!(text, "{name}").unwrap();
        for line in bytes.chunks(32) {
            writeln!(text, "  {}", hex::encode(line)).unwrap();
        }
    }
    text
}

/// The names and bytes of a listing.
fn read_listing(text: &str) -> Vec<(String, Bytes)> {
    let mut items: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        match line.strip_prefix("  ") {
            Some(digits) => {
                let (_, bytes) = items.last_mut().expect("a name comes first");
                bytes.extend(hex::decode(digits).expect("hexadecimal digits"));
            }
            None => items.push((line.to_owned(), Vec::new())),
        }
    }
    let own = |(name, bytes): (String, Vec<u8>)| (name, Bytes::from(bytes));
    items.into_iter().map(own).collect()
}

/// What is wrong with `found` where the file says `golden`.
fn drift(golden: &str, found: &str) -> Option<String> {
    if golden == found {
        return None;
    }
    let lines = golden.lines().count().max(found.lines().count());
    let line = |text: &str, at| text.lines().nth(at).unwrap_or("(nothing)").to_owned();
    let at = (0..lines).find(|at| line(golden, *at) != line(found, *at));
    let at = at.unwrap_or(lines);
    Some(format!(
        "line {}:\n  golden: {}\n  now:    {}",
        at + 1,
        line(golden, at),
        line(found, at)
    ))
}

/// Holds `found` against the golden file; gives the file's text.
#[track_caller]
fn golden(file: &str, found: &str) -> String {
    let meaning = "Peers of the last release would not take these bytes.";
    golden_with(meaning, file, found)
}

/// As [`golden`], with what a difference would mean.
#[track_caller]
fn golden_with(meaning: &str, file: &str, found: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(file);
    if std::env::var_os("SNAPSWARM_BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    if let Some(drift) = drift(&text, found) {
        panic!(
            "tests/golden/{file} has drifted, {drift}\n\
             {meaning} If the change is meant:\n\
             SNAPSWARM_BLESS=1 cargo test --release --test golden"
        );
    }
    text
}

/// Content that another language can make as well.
fn content(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| ((n * 31 + seed) % 251) as u8).collect()
}

/// The chunks of the golden manifests: two pieces, one short one, a full piece.
fn chunks() -> [Vec<u8>; 3] {
    let piece = PIECE_BYTES as usize;
    [content(piece + 1, 1), content(7, 2), content(piece, 3)]
}

fn make(fields: SnapshotFields, order: &[usize]) -> Manifest {
    let chunks = chunks();
    let mut builder = ManifestBuilder::new();
    for at in order {
        builder.push(&chunks[*at]).unwrap();
    }
    builder.finish(fields).unwrap()
}

fn manifests() -> Vec<(&'static str, Manifest)> {
    let plain = SnapshotFields {
        chain_id: "golden-1".to_owned(),
        height: 1_234_567,
        app_hash: Some(Bytes::copy_from_slice(hash::sha256(b"state").as_bytes())),
        format: 1,
        hash: None,
        metadata: Bytes::from_static(b"\x0a\x20metadata"),
    };
    let unproven = SnapshotFields {
        app_hash: None,
        format: 0,
        hash: Some(Bytes::from_static(b"the application's own hash")),
        metadata: Bytes::new(),
        ..plain.clone()
    };
    let extreme = SnapshotFields {
        chain_id: "~".repeat(MAX_CHAIN_ID_BYTES),
        height: MAX_HEIGHT,
        app_hash: Some(vec![0xff; MAX_APP_HASH_BYTES].into()),
        format: u32::MAX,
        ..plain.clone()
    };
    vec![
        ("proven", make(plain.clone(), &[0, 1, 2])),
        ("repeated chunks", make(plain, &[1, 0, 1, 0, 1])),
        ("unproven", make(unproven, &[1])),
        ("largest numbers", make(extreme, &[2])),
    ]
}

#[test]
fn manifests_have_the_same_bytes_on_every_machine() {
    let made = manifests();
    let found: Vec<_> = made
        .iter()
        .map(|(name, manifest)| ((*name).to_owned(), manifest.encoded().clone()))
        .collect();
    let text = golden("manifests.txt", &listing(&found));
    for ((name, bytes), (_, made)) in read_listing(&text).into_iter().zip(made) {
        let read = Manifest::decode_as(&made.id(), bytes).unwrap();
        assert_eq!(read.chain_id(), made.chain_id(), "{name}");
        assert_eq!(read.chunk_count(), made.chunk_count(), "{name}");
    }
}

#[test]
fn names_are_the_same_on_every_machine() {
    let mut found = String::new();
    for (chunk, bytes) in ["two pieces", "short", "full piece"].iter().zip(chunks()) {
        let id = ChunkId(hash::sha256(&bytes));
        writeln!(found, "chunk {} {id} {chunk}", id.digest()).unwrap();
    }
    for (name, manifest) in manifests() {
        let id = manifest.id();
        writeln!(found, "manifest {} {id} {name}", id.digest()).unwrap();
    }
    let text = golden("names.txt", &found);
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let id: ManifestId = words[2].parse().unwrap();
        assert_eq!(id.digest().to_string(), words[1]);
    }
}

#[test]
fn bitmaps_have_the_same_bytes_on_every_machine() {
    let mut found = Vec::new();
    for (len, members) in [
        (0, vec![]),
        (1, vec![0]),
        (8, vec![0, 7]),
        (9, vec![8]),
        (20, vec![1, 2, 3, 5, 8, 13]),
        (32, (0..32).collect()),
    ] {
        let mut bits = Bitmap::new(len);
        for member in &members {
            bits.insert(*member);
        }
        let bytes = Bytes::copy_from_slice(bits.as_bytes());
        assert_eq!(Bitmap::from_bytes(len, &bytes), Ok(bits));
        found.push((format!("{len} bits, set {members:?}"), bytes));
    }
    golden("bitmaps.txt", &listing(&found));
}

fn manifest_id() -> ManifestId {
    ManifestId(hash::sha256(b"manifest"))
}

fn chunk_id(text: &str) -> ChunkId {
    ChunkId(hash::sha256(text.as_bytes()))
}

fn holdings() -> [(&'static str, Holding); 6] {
    [
        ("complete", Holding::Complete),
        ("pieces", Holding::Pieces(Bytes::from_static(&[0xa5, 0x01]))),
        ("gone", Holding::Refused(Refusal::Gone)),
        ("busy", Holding::Refused(Refusal::Busy)),
        ("over limit", Holding::Refused(Refusal::OverLimit)),
        ("not allowed", Holding::Refused(Refusal::NotAllowed)),
    ]
}

fn asks() -> Vec<(String, Ask)> {
    let (id, manifest) = (RequestId(300), manifest_id());
    let mut asks = vec![
        ("open".to_owned(), Ask::Open(manifest)),
        (
            "probe".to_owned(),
            Ask::Probe {
                id,
                chunks: vec![chunk_id("a"), chunk_id("b")],
            },
        ),
        (
            "request".to_owned(),
            Ask::Request {
                id,
                chunk: chunk_id("a"),
                piece: 15,
            },
        ),
        (
            "request, all numbers zero".to_owned(),
            Ask::Request {
                id: RequestId(0),
                chunk: chunk_id("a"),
                piece: 0,
            },
        ),
        ("cancel".to_owned(), Ask::Cancel(id)),
        (
            "have".to_owned(),
            Ask::Have {
                manifest,
                pieces: vec![0, 1, 127, 128, 70_000],
            },
        ),
        ("ack".to_owned(), Ask::Ack { bytes: 1 << 40 }),
    ];
    for (name, holding) in holdings() {
        asks.push((
            format!("holdings, {name}"),
            Ask::Holdings { manifest, holding },
        ));
    }
    asks
}

fn answers() -> Vec<(String, Answer)> {
    let (id, manifest) = (RequestId(300), manifest_id());
    let mut answers = vec![
        (
            "have".to_owned(),
            Answer::Have {
                manifest,
                pieces: vec![0, 1, 127, 128, 70_000],
            },
        ),
        (
            "holds".to_owned(),
            Answer::Holds {
                id,
                chunks: Bytes::from_static(&[2]),
            },
        ),
        (
            "started".to_owned(),
            Answer::Started {
                id,
                size: PIECE_BYTES,
            },
        ),
        ("aborted".to_owned(), Answer::Aborted(id)),
    ];
    for (name, holding) in holdings() {
        if let Holding::Refused(refusal) = holding {
            answers.push((format!("refused, {name}"), Answer::Refused { id, refusal }));
        }
        answers.push((
            format!("holdings, {name}"),
            Answer::Holdings { manifest, holding },
        ));
    }
    answers
}

#[test]
fn frames_have_the_same_bytes_on_every_machine() {
    let named = |kind: &str, name: String| format!("{kind}: {name}");
    let mut found = Vec::new();
    for (name, ask) in asks() {
        found.push((named("ask", name), ask.to_frame()));
    }
    for (name, answer) in answers() {
        found.push((named("answer", name), answer.to_frame()));
    }
    let data = FrameHeader {
        kind: FrameKind::Data,
        len: MAX_DATA_BYTES,
    };
    found.push((
        "header of the largest data frame".to_owned(),
        Bytes::copy_from_slice(&data.encode()),
    ));
    let text = golden("frames.txt", &listing(&found));

    let mut payloads = read_listing(&text).into_iter().map(|(name, frame)| {
        let head = frame[..FRAME_HEADER_BYTES].try_into().unwrap();
        let header = FrameHeader::decode(head).unwrap();
        (name, header, frame.slice(FRAME_HEADER_BYTES..))
    });
    for (_, ask) in asks() {
        let (name, header, payload) = payloads.next().unwrap();
        assert_eq!(header.len as usize, payload.len(), "{name}");
        assert_eq!(Ask::decode(payload), Ok(ask), "{name}");
    }
    for (_, answer) in answers() {
        let (name, header, payload) = payloads.next().unwrap();
        assert_eq!(header.len as usize, payload.len(), "{name}");
        assert_eq!(Answer::decode(payload), Ok(answer), "{name}");
    }
    assert_eq!(payloads.next().unwrap().1, data);
}

fn catalogue() -> CatalogueResponse {
    let entry = CatalogueEntry {
        chain_id: "golden-1".to_owned(),
        height: 1_234_567,
        format: 1,
        app_hash: Bytes::copy_from_slice(hash::sha256(b"state").as_bytes()),
        manifest: manifest_id(),
        manifest_bytes: 4096,
        total_bytes: 10 << 30,
        chunks: 1024,
        complete: true,
        delta: false,
        endorsements: Vec::new(),
    };
    let unproven = CatalogueEntry {
        app_hash: Bytes::new(),
        complete: false,
        delta: false,
        format: 0,
        ..entry.clone()
    };
    CatalogueResponse {
        entries: vec![entry, unproven],
        peers: vec![PeerHint {
            peer_id: Bytes::copy_from_slice(
                &[[0x00, 0x24, 0x08, 0x01], [0x12, 0x20, 7, 7]].concat(),
            ),
            addresses: vec![
                // /ip4/192.0.2.1/tcp/4001
                Bytes::from_static(&[4, 192, 0, 2, 1, 6, 0x0f, 0xa1]),
                // /ip4/192.0.2.1/udp/4001/quic-v1
                Bytes::from_static(&[4, 192, 0, 2, 1, 0x91, 2, 0x0f, 0xa1, 0xcd, 3]),
            ],
        }],
    }
}

/// The same with endorsements of the first entry.
fn endorsed() -> CatalogueResponse {
    let mut response = catalogue();
    response.entries[0].endorsements = vec![
        endorsements::signed(1, EndorsementKind::Computed),
        endorsements::signed(2, EndorsementKind::Vouched),
    ];
    response
}

#[test]
fn messages_of_the_short_protocols_have_the_same_bytes_on_every_machine() {
    let requests =
        [None, Some("golden-1".to_owned())].map(|chain_id| CatalogueRequest { chain_id });
    let manifest_request = ManifestRequest(ManifestId(Digest([0xab; 32])));
    let responses = [
        ManifestResponse::Size(32 << 20),
        ManifestResponse::Refused(Refusal::Gone),
        ManifestResponse::Refused(Refusal::NotAllowed),
    ];
    let mut found = vec![
        ("catalogue request, all chains", requests[0].encode()),
        ("catalogue request, one chain", requests[1].encode()),
        (
            "catalogue response, empty",
            CatalogueResponse::default().encode(),
        ),
        ("catalogue response", catalogue().encode()),
        ("manifest request", manifest_request.encode()),
    ];
    for (name, response) in [
        "manifest response, size",
        "manifest response, gone",
        "manifest response, not allowed",
    ]
    .iter()
    .zip(&responses)
    {
        found.push((name, response.encode()));
    }
    found.push(("catalogue response, endorsed", endorsed().encode()));
    let found: Vec<_> = found
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)))
        .collect();
    let text = golden("messages.txt", &listing(&found));

    let read: Vec<Bytes> = read_listing(&text).into_iter().map(|(_, b)| b).collect();
    assert_eq!(
        CatalogueRequest::decode(&read[0]).as_ref(),
        Ok(&requests[0])
    );
    assert_eq!(
        CatalogueRequest::decode(&read[1]).as_ref(),
        Ok(&requests[1])
    );
    assert_eq!(
        CatalogueResponse::decode(read[2].clone()),
        Ok(CatalogueResponse::default())
    );
    assert_eq!(CatalogueResponse::decode(read[3].clone()), Ok(catalogue()));
    assert_eq!(ManifestRequest::decode(&read[4]), Ok(manifest_request));
    for (bytes, response) in read[5..].iter().zip(responses) {
        assert_eq!(ManifestResponse::decode(bytes), Ok(response));
    }
    assert_eq!(CatalogueResponse::decode(read[8].clone()), Ok(endorsed()));
}

#[test]
fn drift_is_seen_and_says_where() {
    let items = [
        ("a".to_owned(), Bytes::from_static(&[1; 40])),
        ("b".to_owned(), Bytes::new()),
    ];
    let text = listing(&items);
    assert_eq!(read_listing(&text), items);
    assert_eq!(drift(&text, &text), None);
    let changed = text.replace("0101\n", "0102\n");
    assert!(drift(&text, &changed).unwrap().starts_with("line 2:"));
    let shorter = text.replace("b\n", "");
    assert!(drift(&text, &shorter).unwrap().contains("(nothing)"));
    assert!(drift("", &text).is_some(), "a missing file");
}
