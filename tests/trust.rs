//! Whom a node believes: endorsements travel between real daemons, and a state that no
//! application hash proves is fetched by its chain only when they suffice.

#[path = "support/liar.rs"]
mod liar;
mod support;

use std::sync::Arc;

use bytes::Bytes;
use liar::{FalseLibrary, Liar, honest};
use serde_json::Value;
use snapswarm::net::Identity;
use snapswarm::snapshot::{
    EndorsementKind, EndorserKey, Manifest, ManifestBuilder, ReceivedPiece, STATE_FORMAT,
    ScopeRange, SnapshotFields, SnapshotName, StateFields, UntrustedEndorsement, hash,
};
use snapswarm::store::{Store, StoreSettings};
use support::{Daemon, Home, eventually};

const CHAIN: &str = "trust-chain";
const CHUNK: &[u8] = b"records of a state";

/// A snapshot with state content: its chunk is only carried, so it may be anything.
fn state_at(height: u64) -> Manifest {
    let mut builder = ManifestBuilder::new();
    builder.push(CHUNK).unwrap();
    let fields = SnapshotFields {
        chain_id: CHAIN.to_owned(),
        height,
        app_hash: Some(Bytes::from_static(&[0xab; 32])),
        format: STATE_FORMAT,
        hash: None,
        metadata: Bytes::new(),
    };
    let state = StateFields {
        base: None,
        scopes: Vec::new(),
        chunks: vec![ScopeRange { first: 0, last: 0 }],
    };
    builder.finish_state(fields, state).unwrap()
}

/// The key of a home.
fn key_of(home: &Home) -> Identity {
    Identity::load_or_create(&home.path().join("identity.key")).unwrap()
}

fn signed(who: &Identity, kind: EndorsementKind, manifest: &Manifest) -> UntrustedEndorsement {
    UntrustedEndorsement {
        key: EndorserKey(who.public_key()),
        kind,
        signature: who.sign(&SnapshotName::from(manifest).bytes_to_sign(kind)),
    }
}

/// Puts a snapshot into a home.
fn put(home: &Home, manifest: &Manifest) -> Store {
    let store = Store::open(home.path(), StoreSettings::default()).unwrap();
    let download = store.begin_download(Arc::new(manifest.clone())).unwrap();
    let pieces = manifest.piece_indexes().map(|index| ReceivedPiece {
        index,
        bytes: Bytes::from_static(CHUNK),
    });
    for piece in hash::verify(manifest, pieces.collect()) {
        download.write(&[piece.unwrap()]).unwrap();
    }
    download.sync().unwrap();
    let chunks: Vec<_> = manifest.unique_indexes().collect();
    download.check_chunks(&chunks).unwrap();
    download.seal().unwrap();
    store
}

/// A home that holds a snapshot and whose node computed it.
fn maker(manifest: &Manifest) -> Home {
    let home = Home::new();
    let store = put(&home, manifest);
    let own = signed(&key_of(&home), EndorsementKind::Computed, manifest);
    let own = own.check(&SnapshotName::from(manifest)).unwrap();
    store
        .endorse(&manifest.id(), |set| {
            set.insert(own);
        })
        .unwrap();
    home
}

fn peer_id(home: &Home) -> String {
    key_of(home).peer_id().to_string()
}

/// A home that believes so many of these.
fn believer(endorsers: &[String], threshold: u32) -> Home {
    let home = Home::new();
    home.configure(&format!(
        "[trust]\nendorsers = {endorsers:?}\nthreshold = {threshold}\n"
    ));
    home
}

fn fetch_chain(home: &Home, from: &[&str], timeout_s: &str) -> support::Ran {
    let mut arguments = vec!["fetch", "--chain-id", CHAIN, "--timeout", timeout_s];
    for address in from {
        arguments.extend(["--bootstrap", address]);
    }
    home.run(arguments)
}

/// Who speaks for a snapshot, as `show` tells: peer id, kind, whether listed.
fn endorsements(home: &Home, cid: &str) -> Vec<(String, String, bool)> {
    let shown = home.run(["show", cid]).ok();
    let all = shown["endorsements"].as_array().unwrap();
    let one = |one: &Value| {
        let text = |field: &str| one[field].as_str().unwrap().to_owned();
        let listed = one["listed"].as_bool().unwrap();
        (text("endorser"), text("kind"), listed)
    };
    all.iter().map(one).collect()
}

fn names(value: &Value) -> Vec<String> {
    let mut names: Vec<String> = serde_json::from_value(value.clone()).unwrap();
    names.sort();
    names
}

#[test]
fn what_two_listed_nodes_computed_is_fetched_believed_and_passed_on_with_their_word() {
    let manifest = state_at(10);
    let cid = manifest.id().to_string();
    let makers = [maker(&manifest), maker(&manifest)];
    let mut listed: Vec<String> = makers.iter().map(peer_id).collect();
    listed.sort();
    let daemons: Vec<Daemon> = makers
        .iter()
        .map(|home| home.start::<_, &str>([]))
        .collect();
    let addresses: Vec<String> = daemons.iter().map(Daemon::address).collect();
    let from: Vec<&str> = addresses.iter().map(String::as_str).collect();

    let joiner = believer(&listed, 2);
    let fetched = fetch_chain(&joiner, &from, "60").ok();
    assert_eq!(fetched["manifest"], cid.as_str());
    assert_eq!(fetched["basis"]["because"], "endorsed");
    assert_eq!(names(&fetched["basis"]["endorsers"]), listed);
    let mut told = endorsements(&joiner, &cid);
    told.sort();
    let computed = |who: &String| (who.clone(), "computed".to_owned(), true);
    assert_eq!(told, listed.iter().map(computed).collect::<Vec<_>>());

    // Its makers may be gone: what was heard of them is passed on.
    drop(daemons);
    let seeding = joiner.start::<_, &str>([]);
    let late = believer(&listed, 2);
    let fetched = fetch_chain(&late, &[&seeding.address()], "60").ok();
    assert_eq!(names(&fetched["basis"]["endorsers"]), listed);
    // Who lists nobody passes nothing on and is told nothing.
    let stranger = Home::new();
    let ran = fetch_chain(&stranger, &[&seeding.address()], "60");
    assert_eq!(ran.ok()["basis"], Value::Null);
    let said = ran.stderr();
    assert!(said.contains("state not believed"), "{said}");
    assert!(endorsements(&stranger, &cid).is_empty());
}

#[test]
fn one_is_not_two_a_stranger_is_nobody_and_vouching_is_not_computing() {
    let manifest = state_at(20);
    let cid = manifest.id().to_string();
    let (listed, stranger, voucher) = (maker(&manifest), maker(&manifest), Home::new());
    drop(put(&voucher, &manifest));
    let vouched = voucher.run(["endorse", &cid]).ok();
    assert_eq!(vouched["kind"], "vouched");
    assert_eq!(vouched["endorser"], peer_id(&voucher).as_str());
    let computed = listed.run(["endorse", &cid]).ok();
    assert_eq!(computed["kind"], "computed", "it says more already");

    let daemons = [&listed, &stranger, &voucher].map(|home| home.start::<_, &str>([]));
    let addresses = daemons.each_ref().map(Daemon::address);
    let from = addresses.each_ref().map(String::as_str);
    let joiner = believer(&[peer_id(&listed), peer_id(&voucher)], 2);
    let error = fetch_chain(&joiner, &from, "6").failed(7);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("fewer than 2 of the 2"), "{error}");
    assert!(
        error["hint"].as_str().unwrap().contains("--timeout"),
        "{error}"
    );
    assert!(joiner.run(["list"]).ok()["snapshots"] == serde_json::json!([]));

    // The person may know better.
    let named = joiner
        .run(["fetch", &cid, "--bootstrap", &addresses[0]])
        .ok();
    assert_eq!(named["basis"]["because"], "named");
    let told = endorsements(&joiner, &cid);
    assert!(told.contains(&(peer_id(&listed), "computed".to_owned(), true)));
    let stranger = peer_id(&stranger);
    assert!(told.iter().all(|(who, ..)| *who != stranger), "{told:?}");
}

#[test]
fn a_forged_endorsement_counts_for_nothing_and_its_teller_is_left_alone() {
    let manifest = Arc::new(state_at(30));
    let (victim, other) = (Identity::generate(), Identity::generate());
    let computed = EndorsementKind::Computed;
    let forged = UntrustedEndorsement {
        key: EndorserKey(victim.public_key()),
        ..signed(&other, computed, &manifest)
    };
    let of_another = signed(&victim, computed, &state_at(31));
    for endorsement in [forged, of_another] {
        let library = FalseLibrary {
            chunks: honest(&manifest, &[Bytes::from_static(CHUNK)]),
            manifest: manifest.clone(),
            claimed_height: None,
            endorsements: vec![endorsement],
        };
        let liar = Liar::start(library, &[]);
        let joiner = believer(&[victim.peer_id().to_string()], 1);
        let error = fetch_chain(&joiner, &[&liar.address()], "6").failed(3);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("is banned"), "{error}");
        assert!(liar.heard() > 0);
        assert_eq!(liar.read(), 0);
    }
}

#[test]
fn who_vouches_by_hand_is_seen_at_a_peer_that_lists_the_voucher() {
    let manifest = state_at(40);
    let cid = manifest.id().to_string();
    let (voucher, witness) = (Home::new(), Home::new());
    for home in [&voucher, &witness] {
        drop(put(home, &manifest));
    }
    witness.configure(&format!(
        "[trust]\nendorsers = [\"{}\"]\n",
        peer_id(&voucher)
    ));
    let daemon = voucher.start::<_, &str>([]);
    let _watching = witness.start(["--bootstrap", &daemon.address()]);
    assert!(endorsements(&witness, &cid).is_empty());
    voucher.run(["endorse", &cid]).ok();
    let told = eventually("the endorsement is heard", || {
        let told = endorsements(&witness, &cid);
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(told, [(peer_id(&voucher), "vouched".to_owned(), true)]);

    witness.run(["delete", &cid]).ok();
    let kept = std::fs::read_dir(witness.path().join("snapshots")).unwrap();
    assert_eq!(kept.count(), 0, "they go with their snapshot");
    let missing = voucher.run(["endorse", &state_at(41).id().to_string()]);
    missing.failed(3);
}
