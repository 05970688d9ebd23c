//! State content: chunks, manifests and notes.
//!
//! Every node makes its snapshots by itself, and they have the same names on all of
//! them only where every byte is the same, those of zstd included. Where one of
//! these tests fails because another zstd came in, the way is back to the one
//! before. Where the bytes are to change, they get a number of their own: the
//! version byte of payloads and `STATE_FORMAT`.

use std::fmt::Write as _;

use bytes::Bytes;
use snapswarm::snapshot::{
    ChunkId, Manifest, ManifestBuilder, ManifestId, STATE_FORMAT, SnapshotFields, StateFields, hash,
};
use snapswarm::state::{
    Change, Changes, ChunkSize, Encoder, Key, OpenChunk, Place, Record, Scope, Stamp, StampText,
    StateChunk, StateError, StateHasher, StateNotes,
};

use super::{golden_with, listing, read_listing};

const MEANING: &str = "Nodes of the last release would give the same state other names.";

fn place(scope: &str, key: &[u8]) -> Place {
    Place {
        scope: Scope::new(scope).unwrap(),
        key: Key::new(Bytes::copy_from_slice(key)).unwrap(),
    }
}

fn put(scope: &str, key: &[u8], value: Option<&str>, stamp: Stamp) -> Change {
    let value = value.map(|text| Bytes::copy_from_slice(text.as_bytes()));
    Change::Put(Record::new(place(scope, key), value, stamp).unwrap())
}

fn text(text: &str) -> Stamp {
    Stamp::Text(StampText::new(text).unwrap())
}

/// Every kind of entry.
fn kinds() -> Vec<Change> {
    let currency = "contract_state/currency";
    vec![
        put(currency, b"", Some("0"), Stamp::Absent),
        put(currency, b"balances", None, Stamp::Int(-1)),
        put(
            currency,
            b"balances\0alice",
            Some("1000"),
            text("1722470400123456789"),
        ),
        put(currency, b"balances\0alice\0con_dex", None, text("")),
        Change::Removed(place(currency, b"balances\0bob")),
        put(currency, b"balances\0carol", Some(""), Stamp::Int(i64::MIN)),
        put(
            "contract_state/w\u{e4}hrung",
            b"\x00\xff",
            Some("\u{e4}"),
            Stamp::Int(i64::MAX),
        ),
        Change::Removed(place("run_state/__n", b"alice")),
    ]
}

/// Records that another language can make as well.
fn many() -> Vec<Change> {
    let mut places: Vec<(Place, u64)> = (0..20_000u64)
        .map(|number| {
            let scope = [
                "contract_state/con_a",
                "contract_state/currency",
                "run_state/__n",
            ];
            let scope = scope[number as usize % 3];
            let address = hash::sha256(&number.to_be_bytes());
            (
                place(scope, format!("balances\0{address}").as_bytes()),
                number,
            )
        })
        .collect();
    places.sort();
    let change = |(place, number): (Place, u64)| {
        let value = format!(
            "{{\"__fixed__\":\"{}.{}\"}}",
            number * number % 99_991,
            number % 7
        );
        let stamp = text(&(1_722_470_400_000_000_000 + number * 2_000_000_011).to_string());
        Change::Put(Record::new(place, Some(value.into()), stamp).unwrap())
    };
    places.into_iter().map(change).collect()
}

struct Content {
    chunks: Vec<StateChunk>,
    scopes: Vec<Scope>,
}

fn encode(changes: &[Change], chunk_size: ChunkSize) -> Content {
    let mut encoder = Encoder::new(chunk_size).unwrap();
    let mut chunks = Vec::new();
    for change in changes {
        chunks.extend(encoder.push(change).unwrap());
    }
    let end = encoder.finish().unwrap();
    chunks.push(end.chunk);
    Content {
        chunks,
        scopes: end.scopes,
    }
}

fn notes(changes: &[Change]) -> StateNotes {
    let mut hasher = StateHasher::new();
    for change in changes {
        if let Change::Put(record) = change {
            hasher.push(record).unwrap();
        }
    }
    StateNotes {
        state: hasher.finish(),
        patches_sha256: None,
    }
}

fn manifest(content: &Content, base: Option<ManifestId>, notes: &StateNotes) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in &content.chunks {
        builder.push(&chunk.bytes).unwrap();
    }
    let fields = SnapshotFields {
        chain_id: "golden-1".to_owned(),
        height: 1_234_567,
        app_hash: Some(Bytes::from_static(&[b'7'; 64])),
        format: STATE_FORMAT,
        hash: None,
        metadata: notes.encode().into(),
    };
    let state = StateFields {
        base,
        scopes: content.scopes.clone(),
        chunks: content.chunks.iter().map(|chunk| chunk.scopes).collect(),
    };
    builder.finish_state(fields, state).unwrap()
}

#[test]
fn state_content_has_the_same_bytes_on_every_machine() {
    let (kinds, empty) = (kinds(), Vec::new());
    let notes = notes(&kinds);
    let with_patches = StateNotes {
        patches_sha256: Some(hash::sha256(b"patches")),
        ..notes
    };
    let contents = [&kinds, &empty].map(|changes| encode(changes, ChunkSize::MAX));
    let full = manifest(&encode(&many()[..100], ChunkSize::MAX), None, &notes);
    let delta = manifest(&contents[0], Some(full.id()), &with_patches);
    let found = [
        ("every kind of entry", contents[0].chunks[0].bytes.clone()),
        ("no entry", contents[1].chunks[0].bytes.clone()),
        ("notes", notes.encode().into()),
        ("notes with patches", with_patches.encode().into()),
        ("full manifest", full.encoded().clone()),
        ("delta manifest", delta.encoded().clone()),
        (
            "empty manifest",
            manifest(&contents[1], None, &notes).encoded().clone(),
        ),
    ];
    let found = found.map(|(name, bytes)| (name.to_owned(), bytes));
    let text = golden_with(MEANING, "state.txt", &listing(&found));

    let read: Vec<Bytes> = read_listing(&text)
        .into_iter()
        .map(|(_, bytes)| bytes)
        .collect();
    for (at, changes) in [&kinds, &empty].into_iter().enumerate() {
        let chunk = OpenChunk {
            bytes: read[at].clone(),
            scopes: contents[at].scopes.clone(),
        };
        let changes_read: Result<Vec<Change>, StateError> =
            Changes::new(std::iter::once(Ok(chunk))).unwrap().collect();
        assert_eq!(changes_read.as_ref(), Ok(changes));
    }
    assert_eq!(StateNotes::decode(&read[2]), Ok(notes));
    assert_eq!(StateNotes::decode(&read[3]), Ok(with_patches));
    let delta_read = Manifest::decode(read[5].clone()).unwrap();
    assert_eq!(delta_read.state().unwrap().base(), Some(full.id()));
    assert_eq!(delta_read.state().unwrap().scopes(), contents[0].scopes);
    assert_eq!(StateNotes::of(&delta_read), Ok(with_patches));
}

#[test]
fn many_records_end_in_the_same_chunks_on_every_machine() {
    let many = many();
    let state = notes(&many).state;
    let mut found = format!("state {} {} {}\n", state.sha256, state.records, state.bytes);
    for chunk_size in [
        ChunkSize::MIN,
        ChunkSize::new(200_000).unwrap(),
        ChunkSize::MAX,
    ] {
        writeln!(found, "chunk size {}", chunk_size.get()).unwrap();
        for chunk in encode(&many, chunk_size).chunks {
            let id = ChunkId(hash::sha256(&chunk.bytes));
            let (len, scopes) = (chunk.bytes.len(), chunk.scopes);
            writeln!(found, "{id} {len} {} {}", scopes.first, scopes.last).unwrap();
        }
    }
    golden_with(MEANING, "state_chunks.txt", &found);
}
