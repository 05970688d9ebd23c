//! `fetch` of states, whole, in part and by deltas: real daemons, real homes.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};
use snapswarm::snapshot::{ReceivedPiece, Scope, hash};
use snapswarm::state::{ChunkSize, Record, Stamp};
use snapswarm::store::{Store, StoreSettings};

use crate::homes::Home;
use crate::states::*;

const WANTED: &str = "contract_state/con_b";

/// The line of `list` about a snapshot.
fn listed(home: &Home, cid: &str) -> Value {
    let list = home.run(["list"]).ok();
    let mut all = list["snapshots"].as_array().unwrap().iter();
    all.find(|one| one["manifest"] == cid).unwrap().clone()
}

/// What `dump` writes of a snapshot, as keys.
fn dumped(home: &Home, cid: &str) -> Vec<(String, String)> {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("state.jsonl");
    let file = path.to_str().unwrap();
    home.run(["dump", cid, file, "--format", "jsonl"]).ok();
    let text = std::fs::read_to_string(path).unwrap();
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let word = |name: &str| line[name].as_str().unwrap().to_owned();
        (word("scope"), word("key"))
    };
    text.lines().map(line).collect()
}

fn keys<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<(String, String)> {
    let key = |record: &Record| {
        let key = String::from_utf8(record.key().as_bytes().to_vec()).unwrap();
        (record.scope().as_str().to_owned(), key)
    };
    records.into_iter().map(key).collect()
}

#[test]
fn the_chunks_of_a_contract_come_alone_and_are_no_snapshot_for_anybody() {
    let records = records(3000, "x");
    let provider = Home::new();
    let cid = Snapshot::full(7, &records).publish(provider.path());
    let all = listed(&provider, &cid)["bytes"].as_u64().unwrap();
    let daemon = provider.start::<_, &str>([]);

    let joiner = Home::new();
    let from = ["--bootstrap", &daemon.address()];
    let only = [&["fetch", &cid, "--only", "con_b"][..], &from].concat();
    let fetched = joiner.run(&only).ok();
    let part = fetched["bytes"].as_u64().unwrap();
    assert!(part > all / 3 && part < all * 2 / 3, "{part} of {all}");
    assert_eq!(fetched["received_bytes"], part);
    assert_eq!(fetched["only"], json!([WANTED]));
    let again = joiner.run(&only).ok();
    assert_eq!(
        (&again["received_bytes"], &again["resumed_bytes"]),
        (&json!(0), &json!(part))
    );

    let line = listed(&joiner, &cid);
    assert_eq!(line["complete"], false);
    assert_eq!(line["only"], json!([WANTED]));
    assert_eq!(line["have_bytes"], part);
    let shown = joiner.run(["show", &cid]).ok();
    assert_eq!(shown["snapshot"]["only"], json!([WANTED]));
    assert_eq!(shown["scopes"].as_array().unwrap().len(), 2);
    assert_eq!(shown["records"], 6000);
    // What was not asked for takes no room.
    let file = std::fs::metadata(shown["file"].as_str().unwrap()).unwrap();
    assert!(file.blocks() * 512 < file.len() * 3 / 4, "{file:?}");

    let wanted = records
        .iter()
        .filter(|record| record.scope().as_str() == WANTED);
    assert_eq!(dumped(&joiner, &cid), keys(wanted));
    let out = tempfile::tempdir().unwrap();
    let car = out.path().join("x.car");
    joiner.run(["dump", &cid, car.to_str().unwrap()]).failed(3);
    joiner.run(["diff", &cid, &cid]).failed(3);
    let said = joiner.run(["verify", &cid]).failed(3);
    assert!(
        said["message"]
            .as_str()
            .unwrap()
            .contains("for some contracts only"),
        "{said}"
    );
    let genesis = ["genesis", "--from", &cid, "--format", "xian", "--out"];
    joiner
        .run([&genesis[..], &[car.to_str().unwrap()]].concat())
        .failed(3);
    assert!(names(out.path()).is_empty());

    // Who asks its daemon for a snapshot of the chain finds none.
    drop(daemon);
    let seeding = joiner.start::<_, &str>([]);
    let other = Home::new();
    let from = ["--bootstrap", &seeding.address(), "--timeout", "3"];
    let newest = [&["fetch", "--chain-id", CHAIN][..], &from].concat();
    other.run(newest).failed(3);
    // What it has is there for others who want the same.
    let only = [&["fetch", &cid, "--only", WANTED][..], &from].concat();
    assert_eq!(other.run(only).ok()["received_bytes"], part);
}

#[test]
fn what_was_fetched_in_parts_becomes_whole_and_nothing_comes_twice() {
    let records = records(3000, "x");
    let provider = Home::new();
    let cid = Snapshot::full(7, &records).publish(provider.path());
    let all = listed(&provider, &cid)["bytes"].as_u64().unwrap();
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let fetch = |home: &Home, more: &[&str]| {
        let begin = ["fetch", &cid, "--bootstrap", &address];
        home.run([&begin[..], more].concat()).ok()
    };
    let joiner = Home::new();
    let part = fetch(&joiner, &["--only", "con_a"])["bytes"]
        .as_u64()
        .unwrap();
    let rest = fetch(&joiner, &[]);
    assert_eq!(rest["received_bytes"].as_u64().unwrap(), all - part);
    assert_eq!(rest.get("only"), None);
    let line = listed(&joiner, &cid);
    assert_eq!((&line["complete"], line.get("only")), (&json!(true), None));
    assert_eq!(dumped(&joiner, &cid), keys(&records));
    joiner.run(["verify", &cid]).ok();

    let both = Home::new();
    fetch(&both, &["--only", "con_b"]);
    let second = fetch(&both, &["--only", "con_a"]);
    assert!(second.get("only").is_none(), "both contracts are all of it");
    assert_eq!(listed(&both, &cid)["complete"], true);
}

#[test]
fn a_part_that_is_here_does_not_keep_the_newest_from_being_fetched() {
    let provider = Home::new();
    let older = Snapshot::full(7, &records(3000, "x")).publish(provider.path());
    let newest = Snapshot::full(8, &records(3000, "y")).publish(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let joiner = Home::new();
    let fetch = |what: &[&str]| {
        let begin = ["fetch", "--bootstrap", &address];
        joiner.run([&begin[..], what].concat())
    };
    fetch(&[&older, "--only", "con_a"]).ok();
    let fetched = fetch(&["--chain-id", CHAIN]).ok();
    assert_eq!(fetched["manifest"], newest.as_str());
    assert_eq!(fetched["height"], 8);
}

#[test]
fn of_a_chain_the_pinned_one_is_taken_and_what_is_left_out_for_it_is_told() {
    let provider = Home::new();
    let older = Snapshot::full(7, &records(50, "x")).publish(provider.path());
    let newest = Snapshot::full(8, &records(50, "y")).publish(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let fetch = |home: &Home, more: &[&str]| {
        let begin = ["fetch", "--chain-id", CHAIN, "--bootstrap", &address];
        home.run([&begin[..], &["--timeout", "5"], more].concat())
    };
    let joiner = Home::new();
    let pin = |cid: &str| format!("[trust]\npinned_manifests = [\"{cid}\"]\n");
    joiner.configure(&pin(&older));
    assert_eq!(fetch(&joiner, &[]).ok()["manifest"], older.as_str());
    let told = fetch(&joiner, &["--height", "8"]).failed(7);
    let said = told["message"].as_str().unwrap();
    assert!(said.contains("not among the pinned_manifests"), "{said}");

    // One that is known to be of another chain is no pin of this one.
    let other = Home::new();
    let file = other.path().join("chunk");
    std::fs::write(&file, "a chunk").unwrap();
    let load = [
        "load",
        file.to_str().unwrap(),
        "--kind",
        "file",
        "--height",
        "1",
    ];
    let loaded = other
        .run([&load[..], &["--chain-id", "other-1"]].concat())
        .ok();
    other.configure(&pin(loaded["manifest"].as_str().unwrap()));
    assert_eq!(fetch(&other, &[]).ok()["manifest"], newest.as_str());
}

#[test]
fn of_parts_only_what_came_is_said_to_be_here() {
    let provider = Home::new();
    let cid = Snapshot::full(7, &records(3000, "x")).publish(provider.path());
    let open = |home: &Home| Store::open(home.path(), StoreSettings::default()).unwrap();
    let manifest = open(&provider).manifest(&cid.parse().unwrap()).unwrap();
    let joiner = Home::new();
    // A fetch of this one was stopped before anything came.
    let other = Scope::new("contract_state/con_a").unwrap();
    drop(open(&joiner).begin_selection(manifest, &[other]).unwrap());
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let fetched = joiner.run(["fetch", &cid, "--only", "con_b", "--bootstrap", &address]);
    assert_eq!(fetched.ok()["only"], json!([WANTED]));
    let asked = json!(["contract_state/con_a", WANTED]);
    assert_eq!(listed(&joiner, &cid)["only"], asked);
}

#[test]
fn a_part_of_what_has_no_such_contract_is_refused() {
    let provider = Home::new();
    let before = records(50, "x");
    let after = records(50, "y");
    let cid = Snapshot::full(7, &before).publish(provider.path());
    let delta = Snapshot::delta(8, &cid, &before, &after).publish(provider.path());
    let opaque = publish_opaque(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let joiner = Home::new();
    let fetch =
        |cid: &str, only: &str| joiner.run(["fetch", cid, "--bootstrap", &address, "--only", only]);
    let told = fetch(&cid, "con_a,con_z").failed(3);
    assert!(told.to_string().contains("no contract con_z"), "{told}");
    assert!(told.to_string().contains("contract_state/con_b"), "{told}");
    let told = fetch(&delta, "con_a").failed(2);
    assert!(told.to_string().contains("is a delta"), "{told}");
    fetch(&opaque, "con_a").failed(2);
    assert_eq!(joiner.run(["list"]).ok()["snapshots"], json!([]));
}

#[test]
fn a_chunk_of_two_contracts_gives_the_records_of_the_one_that_was_asked_for() {
    let value = Some(&b"1"[..]);
    let three: Vec<Record> = ["contract_state/a", "contract_state/b", "contract_state/c"]
        .map(|scope| record(scope, b"k", value, Stamp::Absent))
        .to_vec();
    let more = records(3000, "x");
    let all: Vec<Record> = three.iter().chain(&more).cloned().collect();
    let provider = Home::new();
    let cid = Snapshot::full(7, &all).publish(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let address = daemon.address();
    let fetch = |only: &str| joiner.run(["fetch", &cid, "--bootstrap", &address, "--only", only]);
    fetch("").failed(2);
    fetch("b").ok();
    assert_eq!(dumped(&joiner, &cid), keys(&three[1..2]));
    // The next one adds to it, and is told all that is here.
    let second = fetch("c").ok();
    let only = json!(["contract_state/b", "contract_state/c"]);
    assert_eq!(
        (&second["only"], &listed(&joiner, &cid)["only"]),
        (&only, &only)
    );
    assert_eq!(dumped(&joiner, &cid), keys(&three[1..3]));
}

#[test]
fn who_asks_for_a_snapshot_of_the_chain_is_not_given_a_delta() {
    let before = records(100, "x");
    let after = records(101, "x");
    let provider = Home::new();
    let base = Snapshot::full(7, &before).publish(provider.path());
    let delta = Snapshot::delta(8, &base, &before, &after).publish(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let joiner = Home::new();
    let newest = ["fetch", "--chain-id", CHAIN, "--bootstrap", &address];
    assert_eq!(joiner.run(newest).ok()["manifest"], base.as_str());
    joiner.run(["fetch", &delta, "--bootstrap", &address]).ok();
    assert_eq!(listed(&joiner, &delta)["base"], base.as_str());
    assert_eq!(dumped(&joiner, &delta), keys(&after));
    let node = format!("{}@127.0.0.1:1", "0".repeat(40));
    let feed = [
        "feed",
        &delta,
        "--node-p2p",
        &node,
        "--node-rpc",
        "http://127.0.0.1:1",
    ];
    let told = joiner.run(feed).failed(2);
    assert!(told.to_string().contains("is a delta"), "{told}");
}

/// A provider's full snapshots of two states, and the delta between them; a joiner that
/// has the first.
struct Following {
    joiner: Home,
    first: String,
    second: String,
    delta: String,
    after: Vec<Record>,
    provider: Home,
    daemon: crate::homes::Daemon,
}

impl Following {
    fn new(chunk_size: ChunkSize) -> Self {
        let before = records(3000, "x");
        let mut after = before.clone();
        let key = after[100].key().as_bytes().to_vec();
        after[100] = record("contract_state/con_a", &key, Some(b"7"), Stamp::Int(1));
        after.remove(5000);
        let publish = |height, records: &[Record], home: &Home| {
            let mut snapshot = Snapshot::full(height, records);
            snapshot.chunk_size = chunk_size;
            snapshot.publish(home.path())
        };
        let (provider, joiner) = (Home::new(), Home::new());
        let first = publish(7, &before, &provider);
        assert_eq!(publish(7, &before, &joiner), first);
        let second = publish(8, &after, &provider);
        let delta = Snapshot::delta(8, &first, &before, &after).publish(provider.path());
        let daemon = provider.start::<_, &str>([]);
        Self {
            joiner,
            first,
            second,
            delta,
            after,
            provider,
            daemon,
        }
    }

    /// As a run that was killed leaves it: the joiner has the delta, as a step.
    fn leave_step(&self) {
        let open = |home: &Home| Store::open_for_reading(home.path(), StoreSettings::default());
        let provider = open(&self.provider).unwrap();
        let archive = provider.archive(&self.delta.parse().unwrap()).unwrap();
        let manifest = archive.manifest().clone();
        let store = Store::open(self.joiner.path(), StoreSettings::default()).unwrap();
        let step = store.begin_step(manifest.clone()).unwrap();
        for index in manifest.piece_indexes() {
            let place = manifest.piece(index);
            let chunk = manifest.unique_chunk(place.chunk).id;
            let bytes = archive.read_piece(&chunk, place.index_in_chunk);
            let bytes = bytes.unwrap().unwrap();
            let verified = hash::verify(&manifest, vec![ReceivedPiece { index, bytes }]);
            let verified: Result<Vec<_>, _> = verified.into_iter().collect();
            step.write(&verified.unwrap()).unwrap();
        }
        let chunks: Vec<_> = manifest.unique_indexes().collect();
        step.check_chunks(&chunks).unwrap();
        step.seal().unwrap();
    }

    fn fetch(&self) -> (Value, u64, u64) {
        let address = self.daemon.address();
        let fetched = self
            .joiner
            .run(["fetch", &self.second, "--bootstrap", &address]);
        let fetched = fetched.ok();
        let number = |name: &str| fetched[name].as_u64().unwrap();
        let (bytes, received) = (number("bytes"), number("received_bytes"));
        (fetched, bytes, received)
    }
}

#[test]
fn who_has_the_state_before_takes_the_delta_and_makes_the_snapshot_of_both() {
    let following = Following::new(ChunkSize::MAX);
    let (fetched, bytes, received) = following.fetch();
    assert!(received * 100 < bytes, "{fetched}");
    assert_eq!(fetched["manifest"], following.second.as_str());
    assert_eq!(fetched["wasted_bytes"], 0);
    let joiner = &following.joiner;
    joiner.run(["verify", &following.second]).ok();
    assert_eq!(dumped(joiner, &following.second), keys(&following.after));
    let list = joiner.run(["list"]).ok();
    assert_eq!(
        list["snapshots"].as_array().unwrap().len(),
        2,
        "no delta is left: {list}"
    );
    joiner.run(["show", &following.first]).ok();
    joiner.run(["show", &following.delta]).failed(3);
}

#[test]
fn a_delta_that_a_killed_run_left_is_taken_from_there_and_goes() {
    let following = Following::new(ChunkSize::MAX);
    following.leave_step();
    let joiner = &following.joiner;
    assert_eq!(listed(joiner, &following.delta)["origin"], "step");
    let (fetched, _, received) = following.fetch();
    assert_eq!(received, 0, "{fetched}");
    assert_eq!(listed(joiner, &following.second)["complete"], true);
    joiner.run(["show", &following.delta]).failed(3);
    joiner.run(["show", &following.first]).ok();

    // It goes also where it is of no use.
    let following = Following::new(ChunkSize::MIN);
    following.leave_step();
    following.fetch();
    following.joiner.run(["show", &following.delta]).failed(3);
}

#[test]
fn a_delta_that_a_killed_run_left_stays_with_who_wants_it_by_its_name() {
    let following = Following::new(ChunkSize::MAX);
    following.leave_step();
    let joiner = &following.joiner;
    joiner.run(["fetch", &following.delta]).ok();
    assert_eq!(listed(joiner, &following.delta)["origin"], "fetched");
    following.fetch();
    assert_eq!(listed(joiner, &following.delta)["complete"], true);
}

#[test]
fn a_state_that_the_disk_damaged_is_moved_aside_and_no_delta_is_blamed() {
    let following = Following::new(ChunkSize::MAX);
    let joiner = &following.joiner;
    let file = joiner
        .path()
        .join(format!("snapshots/{}.h5", following.first));
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let address = following.daemon.address();
    let ran = joiner.run(["fetch", &following.second, "--bootstrap", &address]);
    assert_eq!(ran.ok()["manifest"], following.second.as_str());
    let said = ran.stderr();
    assert!(!said.contains("not what it says"), "{said}");
    assert!(
        said.contains("not by deltas") && said.contains("damaged"),
        "{said}"
    );
    joiner.run(["verify", &following.second]).ok();
    let list = joiner.run(["list"]).ok();
    assert_eq!(list["damaged"][0]["manifest"], following.first.as_str());
}

#[test]
fn a_snapshot_that_cannot_be_made_of_a_delta_is_fetched_itself() {
    // Its chunks are of another size than what is made here.
    let following = Following::new(ChunkSize::MIN);
    let (fetched, bytes, received) = following.fetch();
    assert!(
        received * 2 < bytes,
        "what the first has is not fetched: {fetched}"
    );
    let delta = listed(&following.provider, &following.delta)["bytes"].clone();
    assert_eq!(fetched["wasted_bytes"], delta);
    let joiner = &following.joiner;
    joiner.run(["verify", &following.second]).ok();
    assert_eq!(listed(joiner, &following.second)["complete"], true);
    let list = joiner.run(["list"]).ok();
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 2, "{list}");
}

#[test]
fn who_is_many_states_behind_goes_by_as_many_deltas() {
    // A peer is asked for so many manifests that it would not give at once.
    const DELTAS: usize = 6;
    let states: Vec<Vec<Record>> = (0..=DELTAS)
        .map(|step| {
            let mut state = records(3000, "x");
            for number in 0..step {
                let key = state[100 * number].key().as_bytes().to_vec();
                state[100 * number] =
                    record("contract_state/con_a", &key, Some(b"7"), Stamp::Int(1));
            }
            state
        })
        .collect();
    let (provider, joiner) = (Home::new(), Home::new());
    let publish = |(height, state): (u64, &Vec<Record>), home: &Home| {
        let mut snapshot = Snapshot::full(height, state);
        snapshot.chunk_size = ChunkSize::MAX;
        snapshot.publish(home.path())
    };
    let fulls: Vec<String> = (7..)
        .zip(&states)
        .map(|state| publish(state, &provider))
        .collect();
    for (height, step) in (8..).zip(1..=DELTAS) {
        Snapshot::delta(height, &fulls[step - 1], &states[step - 1], &states[step])
            .publish(provider.path());
    }
    publish((7, &states[0]), &joiner);
    let daemon = provider.start::<_, &str>([]);
    let fetch = ["fetch", &fulls[DELTAS], "--bootstrap", &daemon.address()];
    let fetched = joiner.run(fetch).ok();
    let number = |name: &str| fetched[name].as_u64().unwrap();
    assert!(
        number("received_bytes") * 100 < number("bytes"),
        "{fetched}"
    );
    assert_eq!(number("wasted_bytes"), 0);
    assert_eq!(dumped(&joiner, &fulls[DELTAS]), keys(&states[DELTAS]));
}

#[test]
fn a_delta_that_says_of_itself_what_it_is_not_is_left_for_the_next() {
    let before = records(3000, "x");
    let mut after = before.clone();
    after.remove(5000);
    let full = |height, records: &[Record], home: &Home| {
        let mut snapshot = Snapshot::full(height, records);
        snapshot.chunk_size = ChunkSize::MAX;
        snapshot.publish(home.path())
    };
    let (provider, joiner) = (Home::new(), Home::new());
    let first = full(7, &before, &provider);
    full(7, &before, &joiner);
    let second = full(8, &after, &provider);
    Snapshot::delta(8, &first, &before, &after).publish(provider.path());
    // Nothing changes, and the state that is looked for comes out: it takes the fewest bytes.
    let mut lie = Snapshot::delta(8, &first, &before, &before);
    lie.state = Snapshot::full(8, &after).state;
    let lie = lie.publish(provider.path());
    let daemon = provider.start::<_, &str>([]);
    let fetched = joiner.run(["fetch", &second, "--bootstrap", &daemon.address()]);
    let fetched = fetched.ok();
    let number = |name: &str| fetched[name].as_u64().unwrap();
    assert!(number("received_bytes") * 50 < number("bytes"), "{fetched}");
    assert_eq!(fetched["wasted_bytes"], listed(&provider, &lie)["bytes"]);
    assert_eq!(dumped(&joiner, &second), keys(&after));
}
