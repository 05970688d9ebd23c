//! Snapshots travel between real processes.

mod support;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use support::{Home, chunk_folder, folder_digest, kill, wait};

const CHAIN: &str = "test-chain";

#[test]
fn a_snapshot_loaded_here_is_fetched_there_byte_for_byte_by_chain_and_by_name() {
    let chunks = chunk_folder(5, 3_000_000, 1);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 7);
    let daemon = provider.start::<_, &str>([]);

    let joiner = Home::new();
    let out = joiner.path().join("out");
    let fetched = joiner
        .run([
            "fetch",
            "--chain-id",
            CHAIN,
            "--bootstrap",
            &daemon.address(),
            "--out",
            out.to_str().unwrap(),
        ])
        .ok();
    assert_eq!(fetched["manifest"], cid.as_str());
    assert_eq!(fetched["bytes"], 15_000_000);
    assert_eq!(fetched["received_bytes"], 15_000_000);
    assert_eq!(fetched["wasted_bytes"], 0);
    assert_eq!(fetched["proven"], false);
    assert_eq!(fetched["peers"][0]["peer_id"], daemon.peer_id().as_str());
    assert_eq!(folder_digest(&out), folder_digest(chunks.path()));

    let by_name = Home::new();
    let fetched = by_name
        .run(["fetch", &cid, "--bootstrap", &daemon.address()])
        .ok();
    assert_eq!(fetched["manifest"], cid.as_str());
    assert_eq!(
        by_name.run(["verify", &cid]).ok()["verified_bytes"],
        15_000_000
    );
    assert_eq!(daemon.terminate(), Some(0));
}

#[test]
fn a_chunk_that_another_snapshot_of_the_home_has_is_not_fetched() {
    let (older, newer) = (chunk_folder(5, 1_500_000, 1), chunk_folder(6, 1_500_000, 1));
    let provider = Home::new();
    provider.load(older.path(), CHAIN, 7);
    let daemon = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let fetch = |cid: &str| {
        joiner
            .run(["fetch", cid, "--bootstrap", &daemon.address()])
            .ok()
    };
    let first = joiner.load(older.path(), "another-chain", 3);
    let second = provider.load(newer.path(), CHAIN, 8);
    let fetched = fetch(&second);
    assert_eq!(fetched["received_bytes"], 1_500_000);
    assert_eq!(fetched["resumed_bytes"], 7_500_000);
    assert_eq!(
        joiner.run(["verify", &second]).ok()["verified_bytes"],
        9_000_000
    );
    joiner.run(["delete", &first]).ok();
    assert_eq!(
        joiner.run(["verify", &second]).ok()["verified_bytes"],
        9_000_000
    );
}

#[test]
fn a_third_node_finds_a_provider_through_a_node_that_has_nothing() {
    let chunks = chunk_folder(2, 1_500_000, 2);
    let meeting_point = Home::new();
    let meeting = meeting_point.start::<_, &str>([]);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 9);
    let _seeding = provider.start(["--bootstrap", &meeting.address()]);

    let joiner = Home::new();
    let fetched = joiner
        .run([
            "fetch",
            "--chain-id",
            CHAIN,
            "--bootstrap",
            &meeting.address(),
            "--timeout",
            "90",
        ])
        .ok();
    assert_eq!(fetched["manifest"], cid.as_str());
}

/// What one kill may cost. The joiner has at most 8 requests open at a peer that
/// has everything: 1 + ceil(10 MiB/s x (0.5 s + round trip)) pieces of 1 MiB are
/// fewer (`src/sync/fetch/peer.rs`, up to 14 MiB/s). Besides those, 2 pieces may
/// be here and wait to be hashed and written: they come at 10 MiB/s and wait for
/// 20 ms (`src/node/fetch/disk.rs`). The longer runs bring more than all that, so
/// one that keeps nothing is found out.
const LOST_WITH_A_KILL_BYTES: u64 = (8 + 2) << 20;

#[test]
fn killed_twenty_times_a_download_finishes_and_a_kill_costs_at_most_what_was_under_way() {
    // All runs together last for less than 22 s: at 10 MiB/s they cannot bring
    // 240 MiB, so each of them is killed in the middle.
    let chunks = chunk_folder(24, 10 << 20, 3);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"10 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 11);
    let daemon = provider.start::<_, &str>([]);
    let seed: u64 = std::env::var("SNAPSWARM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("replay with SNAPSWARM_SEED={seed}");
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    // One random time from each of twenty spans: long runs and short ones.
    let mut kill_after_ms: Vec<u64> = (0..20)
        .map(|span| 150 + 90 * span + rng.random_range(0..90))
        .collect();
    kill_after_ms.shuffle(&mut rng);

    let joiner = Home::new();
    let address = daemon.address();
    let fetch = ["fetch", &cid, "--bootstrap", &address];
    // What the provider had sent, and what of it was here, when a run last told.
    let (mut sent_then, mut here_then, mut kills) = (0, 0, 0);
    let mut compare = |sent: u64, here: u64, kills: u64| {
        assert!(here >= here_then, "{here} bytes are here after {here_then}");
        let lost = (sent - sent_then).saturating_sub(here - here_then);
        println!("{kills} kills: {sent} bytes sent, {here} here, {lost} lost");
        assert!(
            lost <= kills * LOST_WITH_A_KILL_BYTES,
            "{lost} bytes lost with {kills} kills"
        );
        (sent_then, here_then) = (sent, here);
        lost
    };
    let mut lost = 0;
    for after_ms in kill_after_ms {
        let sent = uploaded(&daemon);
        let begun = Instant::now();
        let mut child = joiner
            .command(fetch)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(after_ms).saturating_sub(begun.elapsed()));
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
        kill(child.id(), Signal::SIGKILL);
        wait(&mut child);
        let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
        // A run that was killed before it began to fetch tells nothing.
        if let Some(here) = here_already(&said) {
            lost += compare(sent, here, kills);
            kills = 0;
        }
        kills += 1;
        support::eventually("the provider has noticed", || {
            (daemon.status()["peers"] == 0).then_some(())
        });
    }
    let sent = uploaded(&daemon);
    provider.run(["limits", "--upload-bytes-per-s", "0"]).ok();
    let done = joiner.run(fetch).ok();
    lost += compare(sent, done["resumed_bytes"].as_u64().unwrap(), kills);
    assert_eq!(done["wasted_bytes"], 0);
    assert_eq!(joiner.run(["verify", &cid]).ok()["chunks"], 24);
    println!("{lost} bytes lost with 20 kills");
}

/// What a run found here when it began to fetch, by its line on stderr.
fn here_already(said: &str) -> Option<u64> {
    let line = said.lines().find(|line| line.starts_with("fetching "))?;
    let bytes = line.split(", ").find_map(|part| {
        let bytes = part.strip_suffix(" of them are here already")?;
        Some(bytes.parse().expect("a number"))
    });
    Some(bytes.unwrap_or(0))
}

fn uploaded(daemon: &support::Daemon) -> u64 {
    daemon.status()["upload"]["bytes"].as_u64().unwrap()
}

#[test]
fn what_a_joiner_has_verified_it_serves_while_it_still_downloads() {
    let chunks = chunk_folder(12, 4 << 20, 4);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"6 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 13);
    let daemon = provider.start::<_, &str>([]);

    let (first, second) = (Home::new(), Home::new());
    let first_daemon = first.start(["--bootstrap", &daemon.address()]);
    let second_daemon = second.start(["--bootstrap", &first_daemon.address()]);
    let address = daemon.address();
    let fetch = ["fetch", &cid, "--bootstrap", &address];
    let spawn = |home: &Home| home.command(fetch).stdout(Stdio::piped()).spawn().unwrap();
    let (one, two) = (spawn(&first), spawn(&second));
    let ends = [one, two].map(|child| {
        let output = child.wait_with_output().unwrap();
        support::Ran(output).ok()
    });
    let from_each_other = |end: &serde_json::Value, other: &str| {
        let peers = end["peers"].as_array().unwrap();
        let gave = peers.iter().find(|peer| peer["peer_id"] == other);
        gave.map_or(0, |peer| peer["bytes"].as_u64().unwrap())
    };
    let exchanged = from_each_other(&ends[0], &second_daemon.peer_id())
        + from_each_other(&ends[1], &first_daemon.peer_id());
    assert!(
        exchanged >= 12 << 20,
        "joiners gave each other only {exchanged} bytes"
    );
}

#[test]
fn a_download_says_that_nobody_is_left_and_goes_on_when_its_only_provider_is_back() {
    let chunks = chunk_folder(8, 4 << 20, 6);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"4 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 15);
    let daemon = provider.start::<_, &str>([]);
    let (address, same_id) = (daemon.address(), daemon.peer_id());
    let joiner = Home::new();
    let mut child = joiner
        .command(["fetch", &cid, "--bootstrap", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    support::eventually("some of it is sent", || {
        (uploaded(&daemon) >= 4 << 20).then_some(())
    });
    daemon.kill();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let said = lines.by_ref().map(Result::unwrap);
    let said = said.filter(|line| line.contains("no connected peer has the rest"));
    let mut said = said.take(1);
    assert!(said.next().unwrap().contains("trying 1 known peer again"));
    let rest = std::thread::spawn(move || lines.map(Result::unwrap).collect::<Vec<_>>());

    let listen = address.split("/p2p/").next().unwrap();
    let again = provider.start_on(&[listen]);
    assert_eq!(again.peer_id(), same_id);
    let back = Instant::now();
    support::eventually("the download goes on", || {
        (uploaded(&again) > 0).then_some(())
    });
    println!("it went on after {:?}", back.elapsed());
    let done = support::Ran(child.wait_with_output().unwrap()).ok();
    assert_eq!(done["bytes"], 32 << 20);
    let rest = rest.join().unwrap();
    let said_again = |line: &String| line.contains("no connected peer has the rest");
    assert!(!rest.iter().any(said_again), "said once: {rest:#?}");
}

#[test]
fn a_provider_that_is_started_after_the_fetch_is_found() {
    let chunks = chunk_folder(1, 1 << 20, 7);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 17);
    let first = provider.start::<_, &str>([]);
    let address = first.address();
    first.kill();

    let joiner = Home::new();
    let mut child = joiner
        .command(["fetch", &cid, "--bootstrap", &address])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut said = lines.by_ref().map(Result::unwrap);
    assert!(said.any(|line| line.contains("a named peer is not reached")));
    let rest = std::thread::spawn(move || lines.count());
    let _late = provider.start_on(&[address.split("/p2p/").next().unwrap()]);
    let done = support::Ran(child.wait_with_output().unwrap()).ok();
    assert_eq!(done["bytes"], 1 << 20);
    rest.join().unwrap();
}

#[test]
fn over_ipv6_a_snapshot_travels_by_tcp_and_by_quic() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let chunks = chunk_folder(2, 1_500_000, 8);
    let provider = Home::new();
    let cid = provider.load(chunks.path(), CHAIN, 19);
    for listen in ["/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"] {
        let daemon = provider.start_on(&[listen]);
        let joiner = Home::new();
        let joining = joiner.start_on(&[listen]);
        for address in [daemon.address(), joining.address()] {
            assert!(address.starts_with(&listen[..11]), "{address}");
        }
        let fetched = joiner
            .run(["fetch", &cid, "--bootstrap", &daemon.address()])
            .ok();
        assert_eq!(fetched["received_bytes"], 3_000_000, "{listen}");
        assert_eq!(fetched["peers"][0]["peer_id"], daemon.peer_id().as_str());
        assert_eq!(joining.terminate(), Some(0));
        assert_eq!(daemon.terminate(), Some(0));
    }
}

#[test]
fn a_chunk_is_found_under_another_manifest_by_its_own_digest() {
    let chunks = chunk_folder(3, 2_000_000, 5);
    let (old, new) = (Home::new(), Home::new());
    // The same chunks at two heights are two snapshots.
    old.load(chunks.path(), CHAIN, 20);
    new.configure("[upload]\nbytes_per_s = \"200 KiB/s\"\n");
    let cid = new.load(chunks.path(), CHAIN, 21);
    let new_daemon = new.start::<_, &str>([]);
    let joiner = Home::new();
    let mut child = joiner
        .command(["fetch", &cid, "--bootstrap", &new_daemon.address()])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    support::eventually("the download begins", || {
        joiner
            .path()
            .join(format!("downloads/{cid}.bitmap"))
            .exists()
            .then_some(())
    });
    kill(child.id(), Signal::SIGINT);
    assert_eq!(wait(&mut child).code(), Some(6));
    new_daemon.kill();

    // Only the holder of the other snapshot is left.
    let old_daemon = old.start::<_, &str>([]);
    let done = joiner
        .run(["fetch", &cid, "--bootstrap", &old_daemon.address()])
        .ok();
    assert_eq!(done["bytes"], 6_000_000);
    assert_eq!(done["peers"][0]["peer_id"], old_daemon.peer_id().as_str());
}
