//! Peers that lie, against a real joiner.

#[path = "support/fake_rpc.rs"]
mod fake_rpc;
#[path = "support/liar.rs"]
mod liar;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use liar::{FalseLibrary, Liar, honest, manifest_of, read_chunks};
use serde_json::json;
use snapswarm::snapshot::Manifest;
use support::{Daemon, Home, Ran, chunk_folder, folder_digest};

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
fn a_newer_snapshot_that_nobody_gives_is_left_for_one_that_somebody_has() {
    let folder = chunk_folder(2, 1 << 20, 34);
    let provider = Home::new();
    let cid = provider.load(folder.path(), CHAIN, 5);
    let daemon = provider.start::<_, &str>([]);
    let invented = read_chunks(chunk_folder(3, 1 << 20, 35).path(), 3);
    let invented = Arc::new(manifest_of(&invented, CHAIN, 9));
    let liars: Vec<Liar> = (0..2)
        .map(|_| {
            let library = FalseLibrary {
                manifest: invented.clone(),
                chunks: Default::default(),
                claimed_height: None,
            };
            Liar::start(library, &[])
        })
        .collect();
    let joiner = Home::new();
    let mut arguments = vec![
        "fetch".to_owned(),
        "--chain-id".to_owned(),
        CHAIN.to_owned(),
    ];
    let addresses = liars.iter().map(Liar::address).chain([daemon.address()]);
    for address in addresses {
        arguments.extend(["--bootstrap".to_owned(), address]);
    }
    let ran = joiner.run(&arguments);
    assert!(
        ran.stderr().contains("looking for another snapshot"),
        "{}",
        ran.stderr()
    );
    assert_eq!(ran.ok()["manifest"], cid.as_str());
    // What came to nothing takes no room.
    assert_eq!(
        joiner.run(["list"]).ok()["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
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

/// A joiner that named only a meeting point with nothing to give, and whom
/// everybody else has joined: two honest providers and two poisoners. It hears
/// all of them at once, and none of them is named.
struct Crowd {
    joiner: Home,
    joining: Daemon,
    cid: String,
    honest: Vec<(Home, Daemon)>,
    strangers: Vec<Liar>,
    _meeting: (Home, Daemon),
}

impl Crowd {
    fn gather() -> Self {
        let folder = chunk_folder(3, 1 << 20, 33);
        let meeting_point = Home::new();
        let meeting = meeting_point.start::<_, &str>([]);
        let joiner = Home::new();
        let joining = joiner.start(["--bootstrap", &meeting.address()]);
        let address = joining.address();

        let mut cid = String::new();
        let honest: Vec<(Home, Daemon)> = (0..2)
            .map(|_| {
                let provider = Home::new();
                cid = provider.load(folder.path(), CHAIN, 7);
                let daemon = provider.start(["--bootstrap", &address]);
                (provider, daemon)
            })
            .collect();
        let real = manifest_of(&read_chunks(folder.path(), 3), CHAIN, 7);
        assert_eq!(real.id().to_string(), cid);
        let strangers = [7, 1 << 62].map(|height| poisoner(&real, height, &address));
        support::eventually("everybody has joined", || {
            (joining.status()["peers"].as_u64() >= Some(5)).then_some(())
        });
        Self {
            joiner,
            joining,
            cid,
            honest,
            strangers: strangers.into(),
            _meeting: (meeting_point, meeting),
        }
    }

    /// Fetches the chain's newest snapshot: the strangers were asked what they
    /// have before it was chosen, and nothing of it was taken.
    fn fetch(&self, more: &[&str]) -> Ran {
        let ran = self
            .joiner
            .run([&["fetch", "--chain-id", CHAIN], more].concat());
        let fetched = ran.ok();
        assert_eq!(fetched["manifest"], self.cid.as_str(), "{}", ran.stderr());
        assert_eq!(fetched["bytes"], 3 << 20);
        let honest: Vec<String> = self.honest.iter().map(|(_, d)| d.peer_id()).collect();
        for peer in fetched["peers"].as_array().unwrap() {
            assert!(honest.iter().any(|id| peer["peer_id"] == id.as_str()));
        }
        for stranger in &self.strangers {
            assert!(stranger.heard() > 0, "it was not even asked");
            assert_eq!(stranger.read(), 0, "pieces were taken from it");
        }
        assert_eq!(self.joining.status()["snapshots"][0]["height"], 7);
        ran
    }
}

/// Has garbage of the right chain and application hash. Its manifest would win
/// against `real` if only the names of the two were compared.
fn poisoner(real: &Manifest, height: u64, joiner: &str) -> Liar {
    let garbage = |seed| read_chunks(chunk_folder(3, 1 << 20, seed).path(), 3);
    let (manifest, chunks) = (100..)
        .map(garbage)
        .map(|chunks| (manifest_of(&chunks, CHAIN, height), chunks))
        .find(|(manifest, _)| manifest.id() > real.id())
        .unwrap();
    let manifest = Arc::new(manifest);
    let library = FalseLibrary {
        manifest: manifest.clone(),
        chunks: honest(&manifest, &chunks),
        claimed_height: None,
    };
    let stranger = Liar::start(library, &[joiner.to_owned()]);
    stranger.announce(&manifest);
    stranger
}

#[test]
fn strangers_with_garbage_for_the_same_height_or_an_absurd_height_are_heard_and_not_believed() {
    Crowd::gather().fetch(&[]);
}

#[test]
fn with_the_chains_rpc_a_claim_above_its_height_is_left_out_with_a_line() {
    let crowd = Crowd::gather();
    let rpc = fake_rpc::answering(|method| match method {
        "commit" => json!({ "signed_header": { "header": { "height": "8", "app_hash": "AB" } } }),
        _ => fake_rpc::status(CHAIN, 100),
    });
    let ran = crowd.fetch(&["--node-rpc", &rpc]);
    assert_eq!(ran.ok()["proven"], true);
    let said = ran.stderr();
    let line = "1 claim was left out: not below the chain's height 100";
    assert!(said.lines().any(|said| said == line), "{said}");
}

#[test]
fn garbage_with_another_application_hash_than_the_chains_is_left_out_with_a_line() {
    let folder = chunk_folder(1, 1 << 20, 37);
    let chunks = read_chunks(folder.path(), 1);
    let manifest = Arc::new(manifest_of(&chunks, CHAIN, 7));
    let library = FalseLibrary {
        manifest: manifest.clone(),
        chunks: honest(&manifest, &chunks),
        claimed_height: None,
    };
    let liar = Liar::start(library, &[]);
    let rpc = fake_rpc::answering(|method| match method {
        "commit" => json!({ "signed_header": { "header": { "height": "8", "app_hash": "CD" } } }),
        _ => fake_rpc::status(CHAIN, 100),
    });
    let joiner = Home::new();
    let ran = joiner.run([
        "fetch",
        "--chain-id",
        CHAIN,
        "--timeout",
        "5",
        "--node-rpc",
        &rpc,
        "--bootstrap",
        &liar.address(),
    ]);
    ran.failed(3);
    let said = ran.stderr();
    let line = format!(
        "left out: {} claims another application hash at height 7 than the chain has",
        manifest.id()
    );
    assert!(said.lines().any(|said| said == line), "{said}");
    assert_eq!(liar.read(), 0);
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
