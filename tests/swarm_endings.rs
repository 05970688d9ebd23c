//! Downloads that nearly end wrongly: a slow one, and one that somebody else
//! finishes.

mod support;

use std::process::Stdio;

use support::{Home, Ran, chunk_folder, eventually};

const CHAIN: &str = "test-chain";

#[test]
fn an_uplink_on_which_a_piece_takes_longer_than_a_person_waits_still_delivers() {
    let chunks = chunk_folder(1, 400_000, 21);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"40 KB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 3);
    let daemon = provider.start::<_, &str>([]);
    let address = daemon.address();
    let fetched = Home::new()
        .run(["fetch", &cid, "--bootstrap", &address, "--timeout", "4"])
        .ok();
    assert_eq!(fetched["received_bytes"], 400_000);
    let seconds = fetched["seconds"].as_f64().unwrap();
    assert!(seconds > 6.0, "it was not slow: {seconds} s");
}

#[test]
fn a_snapshot_that_is_loaded_while_it_is_fetched_ends_the_fetch_well() {
    let chunks = chunk_folder(8, 4 << 20, 22);
    let provider = Home::new();
    provider.configure("[upload]\nbytes_per_s = \"2 MiB/s\"\n");
    let cid = provider.load(chunks.path(), CHAIN, 4);
    let daemon = provider.start::<_, &str>([]);
    let joiner = Home::new();
    let joining = joiner.start::<_, &str>([]);
    let fetch = joiner
        .command(["fetch", &cid, "--bootstrap", &daemon.address()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("some of it is here", || {
        let list = joiner.run(["list"]).ok();
        let have = list["snapshots"][0]["have_bytes"].as_u64();
        have.is_some_and(|bytes| bytes > 0).then_some(())
    });
    assert_eq!(joiner.load(chunks.path(), CHAIN, 4), cid);
    let fetched = Ran(fetch.wait_with_output().unwrap()).ok();
    assert_eq!(fetched["manifest"], cid.as_str());
    assert!(fetched["received_bytes"].as_u64().unwrap() < 32 << 20);
    let list = joiner.run(["list"]).ok();
    assert_eq!(list["snapshots"][0]["complete"], true);
    joiner.run(["verify", &cid]).ok();
    assert_eq!(joining.terminate(), Some(0));
}

#[test]
fn an_rpc_that_takes_a_question_and_never_answers_is_what_a_fetch_ends_with() {
    let chunks = chunk_folder(1, 1000, 23);
    let provider = Home::new();
    provider.load(chunks.path(), CHAIN, 5);
    let daemon = provider.start::<_, &str>([]);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let ran = Home::new().run([
        "fetch",
        "--chain-id",
        CHAIN,
        "--bootstrap",
        &daemon.address(),
        "--node-rpc",
        &url,
        "--timeout",
        "2",
    ]);
    let error = ran.failed(1);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&url) && message.contains("did not answer in time"));
}
