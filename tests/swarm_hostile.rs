//! Peers that lie, against a real joiner.

#[path = "support/liar.rs"]
mod liar;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use liar::{FalseLibrary, Liar, honest, manifest_of, read_chunks};
use snapswarm::snapshot::Manifest;
use support::{Home, chunk_folder, folder_digest};

const CHAIN: &str = "hostile-chain";

fn flipped(bytes: &Bytes) -> Bytes {
    bytes
        .iter()
        .map(|byte| byte ^ 1)
        .collect::<Vec<u8>>()
        .into()
}

#[test]
fn with_three_liars_of_four_the_download_ends_from_the_fourth_and_the_liars_are_banned() {
    let folder = chunk_folder(6, 4 << 20, 31);
    let chunks = read_chunks(folder.path(), 6);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"16 MiB/s\"\n");
    let cid = provider.load(folder.path(), CHAIN, 5);
    let daemon = provider.start::<_, &str>([]);

    let manifest = Arc::new(manifest_of(&chunks, CHAIN, 5));
    assert_eq!(manifest.id().to_string(), cid);
    let liars: Vec<Liar> = (0..3)
        .map(|_| {
            let mut false_chunks = honest(&manifest, &chunks);
            for bytes in false_chunks.values_mut() {
                *bytes = flipped(bytes);
            }
            let library = FalseLibrary {
                manifest: manifest.clone(),
                chunks: false_chunks,
                claimed_height: None,
            };
            Liar::start(library, &[])
        })
        .collect();

    let joiner = Home::new();
    let out = joiner.path().join("out");
    let mut arguments = vec![
        "fetch".to_owned(),
        cid.clone(),
        "--out".to_owned(),
        out.to_str().unwrap().to_owned(),
    ];
    // The liars first: the honest one must not win by being early.
    for address in liars.iter().map(Liar::address).chain([daemon.address()]) {
        arguments.extend(["--bootstrap".to_owned(), address]);
    }
    let ran = joiner.run(&arguments);
    let fetched = ran.ok();
    assert_eq!(folder_digest(&out), folder_digest(folder.path()));
    let from_honest = fetched["peers"]
        .as_array()
        .unwrap()
        .iter()
        .find(|peer| peer["peer_id"] == daemon.peer_id().as_str())
        .map(|peer| peer["bytes"].as_u64().unwrap());
    assert_eq!(
        from_honest,
        Some(24 << 20),
        "each piece came from the honest peer exactly once"
    );
    for liar in &liars {
        let banned = ran
            .stderr()
            .lines()
            .any(|line| line.contains("banned") && line.contains(&liar.peer_id()));
        assert!(
            banned,
            "{} was not banned:\n{}",
            liar.peer_id(),
            ran.stderr()
        );
    }
    assert!(
        !ran.stderr()
            .lines()
            .any(|line| line.contains("banned") && line.contains(&daemon.peer_id())),
        "the honest peer was banned"
    );
}

#[test]
fn when_the_only_provider_is_banned_the_fetch_says_whom_and_what_to_do() {
    let folder = chunk_folder(2, 2 << 20, 36);
    let chunks = read_chunks(folder.path(), 2);
    let manifest = Arc::new(manifest_of(&chunks, CHAIN, 9));
    let mut false_chunks = honest(&manifest, &chunks);
    for bytes in false_chunks.values_mut() {
        *bytes = flipped(bytes);
    }
    let liar = Liar::start(
        FalseLibrary {
            manifest: manifest.clone(),
            chunks: false_chunks,
            claimed_height: None,
        },
        &[],
    );
    let joiner = Home::new();
    let ran = joiner.run([
        "fetch",
        &manifest.id().to_string(),
        "--timeout",
        "4",
        "--bootstrap",
        &liar.address(),
    ]);
    let error = ran.failed(3);
    let message = error["message"].as_str().unwrap();
    let banned = format!("peer {} is banned", liar.peer_id());
    assert!(message.contains(&banned), "{message}");
    assert!(message.contains("sent other bytes"), "{message}");
    let hint = error["hint"].as_str().unwrap();
    assert!(hint.contains("another provider"), "{hint}");
}

#[test]
fn a_manifest_whose_pieces_do_not_make_its_chunks_is_rejected_and_bans_nobody() {
    let folder = chunk_folder(2, 3 << 20, 32);
    let chunks = read_chunks(folder.path(), 2);
    let good = manifest_of(&chunks, CHAIN, 6);
    // Another digest for the second chunk, its piece hashes left as they are.
    let second = good.unique_chunk(good.unique_index(1).unwrap()).id;
    let mut encoded = good.encoded().to_vec();
    let at = encoded
        .windows(32)
        .position(|window| window == second.digest().as_bytes())
        .unwrap();
    encoded[at] ^= 1;
    let manifest = Arc::new(Manifest::decode(encoded.into()).unwrap());
    let holders: Vec<Liar> = (0..2)
        .map(|_| {
            let library = FalseLibrary {
                manifest: manifest.clone(),
                chunks: honest(&manifest, &chunks),
                claimed_height: None,
            };
            Liar::start(library, &[])
        })
        .collect();

    let joiner = Home::new();
    let ran = joiner.run([
        "fetch",
        &manifest.id().to_string(),
        "--bootstrap",
        &holders[0].address(),
        "--bootstrap",
        &holders[1].address(),
    ]);
    let error = ran.failed(4);
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("false manifest"),
        "{error}"
    );
    assert!(!ran.stderr().contains("peer banned"), "{}", ran.stderr());
    let left = joiner.run(["list"]).ok();
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 0, "{left}");
}

#[test]
fn a_stranger_with_garbage_for_the_same_height_or_an_absurd_height_changes_nothing() {
    let folder = chunk_folder(3, 1 << 20, 33);
    let provider = Home::new();
    let cid = provider.load(folder.path(), CHAIN, 7);
    let daemon = provider.start::<_, &str>([]);

    let garbage = read_chunks(chunk_folder(3, 1 << 20, 34).path(), 3);
    let same_height = Arc::new(manifest_of(&garbage, CHAIN, 7));
    let far = Arc::new(manifest_of(&garbage, CHAIN, 1 << 62));
    let strangers: Vec<Liar> = [&same_height, &far]
        .into_iter()
        .map(|manifest| {
            let library = FalseLibrary {
                manifest: manifest.clone(),
                chunks: honest(manifest, &garbage),
                claimed_height: None,
            };
            let stranger = Liar::start(library, &[daemon.address()]);
            stranger.announce(manifest);
            stranger
        })
        .collect();
    support::eventually("the strangers are connected", || {
        let status: serde_json::Value = serde_json::from_str(&daemon.get("/v1/status")).unwrap();
        (status["peers"].as_u64() >= Some(2)).then_some(())
    });

    let joiner = Home::new();
    let fetched = joiner
        .run([
            "fetch",
            "--chain-id",
            CHAIN,
            "--bootstrap",
            &daemon.address(),
        ])
        .ok();
    assert_eq!(fetched["manifest"], cid.as_str());
    assert_eq!(fetched["bytes"], 3 << 20);
    drop(strangers);
}

#[test]
fn a_catalogue_that_lies_about_its_manifest_is_left_out_with_a_word() {
    let folder = chunk_folder(1, 1 << 20, 35);
    let chunks = read_chunks(folder.path(), 1);
    let manifest = Arc::new(manifest_of(&chunks, CHAIN, 8));
    let liar = Liar::start(
        FalseLibrary {
            manifest: manifest.clone(),
            chunks: honest(&manifest, &chunks),
            claimed_height: Some(9),
        },
        &[],
    );
    let joiner = Home::new();
    let ran = joiner.run([
        "fetch",
        "--chain-id",
        CHAIN,
        "--timeout",
        "5",
        "--bootstrap",
        &liar.address(),
    ]);
    ran.failed(3);
    assert!(
        ran.stderr().contains("is not what a catalogue says"),
        "{}",
        ran.stderr()
    );
}
