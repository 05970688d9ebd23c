//! What a manifest of state content may say besides.

use bytes::Bytes;
use prost::Message;

use super::{Raw, refused_field};
use crate::snapshot::*;

fn chunk(fill: u8, first_scope: u32, last_scope: u32) -> proto::Chunk {
    proto::Chunk {
        size: 7,
        sha256: vec![fill; 32].into(),
        pieces: vec![fill; 32].into(),
        first_scope,
        last_scope,
    }
}

/// Four scopes in three chunks: a, half of b | the rest of b | c and d.
fn valid() -> proto::Manifest {
    proto::Manifest {
        version: 1,
        chain_id: "chain-1".to_owned(),
        height: 42,
        unproven: true,
        format: STATE_FORMAT,
        hash: vec![0xbb; 32].into(),
        content: proto::ContentKind::State as i32,
        chunks: vec![chunk(1, 0, 1), chunk(2, 1, 1), chunk(3, 2, 3)],
        scopes: ["a", "b", "c", "d"].map(str::to_owned).to_vec(),
        ..proto::Manifest::default()
    }
}

fn with(change: impl FnOnce(&mut proto::Manifest)) -> Result<Manifest, ManifestError> {
    let mut message = valid();
    change(&mut message);
    Manifest::decode(message.encode_to_vec().into())
}

#[track_caller]
fn refused_chunk(result: Result<Manifest, ManifestError>, at: usize) {
    match result {
        Err(ManifestError::Chunk { position, .. }) if position == at => {}
        other => panic!("expected an error in chunk {at}, found {other:?}"),
    }
}

#[test]
fn state_content_says_its_base_and_the_scopes_of_each_chunk() {
    let manifest = with(|_| {}).unwrap();
    let state = manifest.state().unwrap();
    assert_eq!(state.base(), None);
    let names = |scopes: &[Scope]| -> String {
        scopes
            .iter()
            .map(Scope::as_str)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(names(state.scopes()), "a b c d");
    let of_chunks = manifest
        .chunk_indexes()
        .map(|chunk| names(state.scopes_of(chunk)));
    assert_eq!(of_chunks.collect::<Vec<_>>(), ["a b", "b", "c d"]);

    let delta = with(|m| m.base = vec![9; 32].into()).unwrap();
    let base = delta.state().unwrap().base();
    assert_eq!(base, Some(ManifestId(Digest([9; 32]))));
}

#[test]
fn a_base_is_the_name_of_a_manifest() {
    refused_field(with(|m| m.base = vec![9; 31].into()), "base");
    refused_field(with(|m| m.base = vec![9; 33].into()), "base");
    let empty = Raw(valid().encode_to_vec()).bytes(11, b"");
    refused_field(Manifest::decode(empty.0.into()), "base");
}

#[test]
fn scopes_stand_in_order_each_once() {
    let scopes = |texts: &[&str]| {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        with(|m| m.scopes = texts)
    };
    assert!(scopes(&["a", "a!", "b", "ä"]).is_ok());
    refused_field(scopes(&["a", "b", "d", "c"]), "scopes");
    refused_field(scopes(&["a", "b", "b", "c"]), "scopes");
    refused_field(scopes(&["", "b", "c", "d"]), "scopes");
    refused_field(scopes(&["a", "b", "c", "d\n"]), "scopes");
    let longest = "z".repeat(MAX_SCOPE_BYTES);
    assert!(scopes(&["a", "b", "c", &longest]).is_ok());
    refused_field(scopes(&["a", "b", "c", &format!("{longest}z")]), "scopes");
    let not_text = Raw(valid().encode_to_vec()).bytes(12, [0xff]);
    assert!(matches!(
        Manifest::decode(not_text.0.into()),
        Err(ManifestError::Syntax(_))
    ));
}

#[test]
fn there_are_no_more_scopes_than_a_content_may_have() {
    let scopes = |count: usize| {
        with(|m| {
            m.scopes = (0..count).map(|number| format!("{number:06}")).collect();
            m.chunks = vec![chunk(1, 0, count as u32 - 1)];
        })
    };
    assert!(scopes(MAX_SCOPES).is_ok());
    refused_field(scopes(MAX_SCOPES + 1), "scopes");
}

#[test]
fn each_chunk_goes_on_where_the_one_before_ends_and_all_scopes_are_in_one() {
    let ranges = |ranges: [(u32, u32); 3]| {
        with(|m| {
            for (chunk, (first, last)) in m.chunks.iter_mut().zip(ranges) {
                (chunk.first_scope, chunk.last_scope) = (first, last);
            }
        })
    };
    assert!(ranges([(0, 0), (0, 3), (3, 3)]).is_ok());
    assert!(ranges([(0, 1), (2, 2), (3, 3)]).is_ok());
    refused_chunk(ranges([(1, 1), (2, 2), (3, 3)]), 0);
    refused_chunk(ranges([(0, 1), (3, 3), (3, 3)]), 1);
    refused_chunk(ranges([(0, 1), (0, 2), (3, 3)]), 1);
    refused_chunk(ranges([(0, 1), (2, 1), (2, 3)]), 1);
    refused_chunk(ranges([(0, 1), (1, 2), (3, 4)]), 2);
    refused_chunk(ranges([(0, 1), (1, 2), (2, 2)]), 2);
    refused_chunk(ranges([(0, u32::MAX), (1, 2), (3, 3)]), 0);
}

#[test]
fn a_content_without_scopes_has_one_chunk() {
    let empty = |chunks: Vec<proto::Chunk>| {
        with(|m| {
            m.scopes.clear();
            m.chunks = chunks;
        })
    };
    let manifest = empty(vec![chunk(1, 0, 0)]).unwrap();
    let state = manifest.state().unwrap();
    assert!(state.scopes_of(manifest.chunk_index(0).unwrap()).is_empty());
    refused_chunk(empty(vec![chunk(1, 0, 0), chunk(2, 0, 0)]), 1);
    refused_chunk(empty(vec![chunk(1, 0, 1)]), 0);
    refused_field(empty(Vec::new()), "chunks");
}

#[test]
fn state_content_has_its_own_format_and_no_chunk_twice() {
    refused_field(with(|m| m.format = 1), "format");
    refused_field(with(|m| m.chunks[1] = chunk(1, 1, 1)), "chunks");
}

#[test]
fn opaque_content_says_nothing_of_a_state() {
    let opaque = |change: fn(&mut proto::Manifest)| {
        with(|m| {
            m.content = proto::ContentKind::Opaque as i32;
            m.scopes.clear();
            m.chunks = vec![chunk(1, 0, 0)];
            change(m);
        })
    };
    assert!(opaque(|_| {}).unwrap().state().is_none());
    refused_field(opaque(|m| m.base = vec![9; 32].into()), "base");
    refused_field(opaque(|m| m.scopes.push("a".to_owned())), "scopes");
    refused_field(opaque(|m| m.chunks[0].first_scope = 1), "scopes");
    refused_field(opaque(|m| m.chunks[0].last_scope = 1), "scopes");
}

#[test]
fn a_number_of_a_scope_that_does_not_fit_is_not_cut() {
    let mut message = valid();
    let last = message.chunks.pop().unwrap();
    let scopes = std::mem::take(&mut message.scopes);
    let head = message.encode_to_vec();
    let entry = |first: u64| {
        let entry = proto::Chunk {
            first_scope: 0,
            last_scope: 0,
            ..last.clone()
        };
        Raw(entry.encode_to_vec()).number(4, first).number(5, 3).0
    };
    let whole = |first: u64| {
        let scopes = scopes
            .iter()
            .fold(Raw(head.clone()).bytes(10, entry(first)), |raw, scope| {
                raw.bytes(12, scope)
            });
        Manifest::decode(Bytes::from(scopes.0))
    };
    assert!(whole(2).is_ok(), "the parts make the whole");
    assert_eq!(
        whole(2 + (1 << 32)).unwrap_err(),
        ManifestError::NotCanonical
    );
}

#[test]
fn a_builder_says_the_scopes_of_as_many_chunks_as_it_has() {
    let finish = |ranges: &[(u32, u32)]| {
        let mut builder = ManifestBuilder::new();
        builder.push(b"one").unwrap();
        builder.push(b"two").unwrap();
        let fields = SnapshotFields {
            chain_id: "chain-1".to_owned(),
            height: 9,
            app_hash: None,
            format: STATE_FORMAT,
            hash: None,
            metadata: Bytes::new(),
        };
        let state = StateFields {
            base: Some(ManifestId(Digest([9; 32]))),
            scopes: ["a", "b"].map(|text| Scope::new(text).unwrap()).to_vec(),
            chunks: ranges
                .iter()
                .map(|(first, last)| ScopeRange {
                    first: *first,
                    last: *last,
                })
                .collect(),
        };
        builder.finish_state(fields, state)
    };
    let manifest = finish(&[(0, 0), (0, 1)]).unwrap();
    assert_eq!(manifest.hash()[..], hash::sha256(b"onetwo").as_bytes()[..]);
    let state = manifest.state().unwrap();
    let last = manifest.chunk_index(1).unwrap();
    assert_eq!(state.range_of(last), ScopeRange { first: 0, last: 1 });
    assert_eq!(state.base(), Some(ManifestId(Digest([9; 32]))));
    refused_field(finish(&[(0, 1)]), "scopes");
    refused_field(finish(&[(0, 0), (0, 1), (1, 1)]), "scopes");
}
