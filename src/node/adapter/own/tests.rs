use std::ops::ControlFlow;
use std::os::unix::net::UnixListener;

use serde_json::Value;

use super::*;
use crate::snapshot::SnapshotFields;
use crate::store::Origin;

const APP_HASH: &[u8] = b"the trusted application hash";

/// A home, and what an adapter tells of it.
struct House {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl House {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
        }
    }

    fn own(&self, policy: OfferPolicy) -> OwnSnapshots {
        let _runtime = self.runtime.enter();
        OwnSnapshots::new(self.folder.path(), StoreSettings::default(), policy, None)
    }

    fn store(&self) -> Store {
        Store::open(self.folder.path(), StoreSettings::default()).unwrap()
    }

    /// Puts a snapshot of two chunks into the home.
    fn publish(&self, chain: &str, height: u64, proven: bool) -> ManifestId {
        publish(&self.store(), chain, height, proven)
    }

    /// Begins a download of a snapshot of this chain and height.
    fn begin(&self, chain: &str, height: u64) -> Arc<Manifest> {
        let elsewhere = Self::new();
        let store = elsewhere.store();
        let manifest = store.manifest(&publish(&store, chain, height, true));
        let manifest = manifest.unwrap();
        drop(self.store().begin_download(manifest.clone()).unwrap());
        manifest
    }
}

fn publish(store: &Store, chain: &str, height: u64, proven: bool) -> ManifestId {
    let mut spool = store.publish().unwrap();
    for chunk in ["one", "two"] {
        spool
            .push(format!("{chain} {height} {chunk}").as_bytes())
            .unwrap();
    }
    let fields = SnapshotFields {
        chain_id: chain.to_owned(),
        height,
        app_hash: Some(APP_HASH.into()),
        format: 1,
        hash: None,
        metadata: Bytes::new(),
    };
    let mut go_on = |_, _| ControlFlow::Continue(());
    let archive = spool.finish(fields, Origin::Loaded, proven, &mut go_on);
    archive.unwrap().manifest().id()
}

fn chain(id: Option<&str>, tip: u64) -> Chain {
    Chain {
        id: id.map(str::to_owned),
        tip,
        ..Chain::default()
    }
}

fn offered(manifest: &Manifest) -> Offered {
    Offered {
        offer: Offer::of(manifest),
        app_hash: APP_HASH.into(),
        may_wait: true,
        since_first: Duration::ZERO,
    }
}

/// An offer that nobody has.
fn strange(manifest: &Manifest) -> Offered {
    let mut strange = offered(manifest);
    strange.offer.height += 10;
    strange
}

fn name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Checked(_) => "checked",
        Verdict::Unchecked => "unchecked",
        Verdict::Wait(_) => "wait",
        Verdict::Reject(_) => "reject",
    }
}

fn heights(own: &OwnSnapshots, chain: &Chain) -> Vec<u64> {
    own.list(chain).iter().map(|offer| offer.height).collect()
}

#[test]
fn what_the_chain_confirmed_is_listed_two_blocks_behind_its_tip_and_once_for_a_name() {
    let house = House::new();
    for (name, height, proven) in [
        ("a", 10, true),
        ("a", 20, true),
        ("a", 15, false),
        ("b", 12, true),
    ] {
        house.publish(name, height, proven);
    }
    let own = house.own(OfferPolicy::Any);
    for (tip, expected) in [
        (0, &[][..]),
        (11, &[]),
        (12, &[10]),
        (21, &[10]),
        (22, &[20, 10]),
    ] {
        assert_eq!(heights(&own, &chain(Some("a"), tip)), expected, "{tip}");
    }
    let of_a = chain(Some("a"), 22);
    assert_eq!(own.chunk(&of_a, 20, 1, 1).unwrap(), "a 20 two");
    assert_eq!(own.chunk(&of_a, 20, 1, 2), None);
    assert_eq!(own.chunk(&of_a, 12, 1, 0), None, "of another chain");
    assert_eq!(
        own.chunk(&of_a, 15, 1, 0),
        None,
        "the chain did not confirm it"
    );
    // Which of two chains it is, nobody knows.
    assert_eq!(heights(&own, &chain(None, 22)), [0; 0]);
}

#[test]
fn the_version_of_an_application_is_known_where_the_home_has_its_proof() {
    let house = House::new();
    let proven = house.publish("a", 10, true);
    house.publish("a", 20, true);
    let of_b = house.publish("b", 20, true);
    let store = house.store();
    store.set_proven(&proven, 3).unwrap();
    store.set_proven(&of_b, 4).unwrap();
    drop(store);
    let own = house.own(OfferPolicy::Any);
    let of_a = chain(Some("a"), 0);
    assert_eq!(own.app_version(&of_a, 10), Some(3));
    assert_eq!(own.app_version(&of_a, 20), None, "proven without one");
    assert_eq!(own.app_version(&of_a, 11), None);
    assert_eq!(own.app_version(&chain(Some("b"), 0), 20), Some(4));
}

#[test]
fn a_home_that_goes_and_comes_and_a_file_that_is_damaged_harm_nobody() {
    let house = House::new();
    house.publish("a", 10, true);
    let own = house.own(OfferPolicy::Any);
    let of_a = chain(Some("a"), 100);
    let look_again = || lock(&own.looked).as_mut().unwrap().at -= LOOK_AGAIN;
    assert_eq!(heights(&own, &of_a), [10]);
    // Bytes of a chunk are other ones on the disk.
    let file = house.store().list().remove(0).file;
    let sound = std::fs::read(&file).unwrap();
    let mut bytes = sound.clone();
    let at = bytes
        .windows(8)
        .position(|part| part == b"a 10 one")
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(own.chunk(&of_a, 10, 1, 0), None);
    assert_eq!(own.chunk(&of_a, 10, 1, 1).unwrap(), "a 10 two");
    assert_eq!(lock(&own.unreadable).len(), 1);
    std::fs::write(&file, sound).unwrap();
    assert!(own.chunk(&of_a, 10, 1, 0).is_some());

    let (there, aside) = (
        house.folder.path().join("snapshots"),
        house.folder.path().join("x"),
    );
    std::fs::rename(&there, &aside).unwrap();
    look_again();
    assert_eq!(heights(&own, &of_a), [0; 0]);
    assert_eq!(own.chunk(&of_a, 10, 1, 0), None);
    std::fs::rename(&aside, &there).unwrap();
    look_again();
    assert_eq!(heights(&own, &of_a), [10]);
}

#[test]
fn a_home_that_did_not_change_is_not_looked_through_again() {
    let house = House::new();
    house.publish("a", 10, true);
    let old = SystemTime::now() - Duration::from_secs(100);
    for name in ["snapshots", "downloads", "catalogue.json"] {
        let file = std::fs::File::open(house.folder.path().join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    let own = house.own(OfferPolicy::Any);
    let of_a = chain(Some("a"), 100);
    assert_eq!(heights(&own, &of_a), [10]);
    let stamp = lock(&own.looked).as_ref().unwrap().stamp;
    assert!(stamp.is_some());
    let manifest = own.store(true).unwrap().list().remove(0).manifest;
    let again = own.store(true).unwrap().list().remove(0).manifest;
    assert!(Arc::ptr_eq(&manifest, &again));
    house.publish("a", 20, true);
    let now = own.store(true).unwrap().list();
    assert_eq!(now.len(), 2);
}

#[test]
fn what_is_here_is_checked_and_what_is_not_is_judged_by_the_policy() {
    for (policy, of_others) in [
        (OfferPolicy::Any, "unchecked"),
        (OfferPolicy::SwarmOnly, "reject"),
        (OfferPolicy::PreferSwarm, "reject"),
    ] {
        let house = House::new();
        let id = house.publish("a", 10, true);
        let manifest = house.store().manifest(&id).unwrap();
        let own = house.own(policy);
        let ask = |offered: &Offered| name(&own.offered(&chain(None, 0), offered));
        assert_eq!(ask(&offered(&manifest)), "checked");
        let mut other_hash = offered(&manifest);
        other_hash.app_hash = "another".into();
        assert_eq!(ask(&other_hash), of_others);
        assert_eq!(
            ask(&strange(&manifest)),
            of_others,
            "one that came lately is here"
        );
        let mut late = strange(&manifest);
        late.since_first = Duration::from_secs(3600);
        let expected = match policy {
            OfferPolicy::SwarmOnly => "reject",
            _ => "unchecked",
        };
        assert_eq!(ask(&late), expected);
    }
}

#[test]
fn the_very_snapshot_that_the_swarm_is_bringing_waits_until_it_is_here() {
    for policy in [OfferPolicy::SwarmOnly, OfferPolicy::PreferSwarm] {
        let house = House::new();
        let manifest = house.begin("a", 10);
        let own = house.own(policy);
        let ask = |offered: &Offered| name(&own.offered(&chain(None, 0), offered));
        assert_eq!(ask(&offered(&manifest)), "wait");
        assert_eq!(ask(&strange(&manifest)), "reject");
        let mut too_long = offered(&manifest);
        too_long.may_wait = false;
        assert_eq!(ask(&too_long), "reject");
        house.publish("a", 10, true);
        assert_eq!(ask(&offered(&manifest)), "checked");
    }
}

#[test]
fn a_download_of_another_chain_or_one_that_nobody_carries_on_is_no_reason_to_reject() {
    let house = House::new();
    let manifest = house.begin("a", 10);
    let own = house.own(OfferPolicy::PreferSwarm);
    let ask = |id| name(&own.offered(&chain(Some(id), 0), &strange(&manifest)));
    assert_eq!(ask("a"), "reject");
    assert_eq!(ask("b"), "unchecked");
    let file = house.store().list().remove(0).file;
    let long_ago = SystemTime::now() - STALLED_AFTER - Duration::from_secs(9);
    let file = std::fs::File::options().append(true).open(file).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(ask("a"), "unchecked");
    let verdict = own.offered(&chain(Some("a"), 0), &offered(&manifest));
    assert_eq!(name(&verdict), "unchecked", "nor to wait");
}

#[test]
fn the_status_tells_counts_and_the_daemon_and_comes_while_that_hangs() {
    let house = House::new();
    let socket = house.folder.path().join(crate::api::control::SOCKET_NAME);
    let _silent = UnixListener::bind(socket).unwrap();
    let own = house.own(OfferPolicy::Any);
    let mut standing = Standing::default();
    standing.served.missing_chunks = 7;
    let status = own.sync_status(&chain(Some("a"), 5), &standing);
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["daemon"], false);
    assert!(status["daemon_problem"].as_str().unwrap().contains("2 s"));
    assert_eq!(status["served"]["missing_chunks"], 7);
    assert_eq!(status["height"], 5);
}
