//! The chain's endpoints: they die, they come back, they are one and the same.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fake_rpc;
use crate::faults::NOBODY;
use crate::network::{Network, Running, SNAPSHOT_INTERVAL};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_to_the_tip_whatever_the_endpoints_do() {
    let network = Network::start().await;
    the_rpc_dies(&network);
    one_of_two_dies_late(&network);
    one_of_two_is_away_for_a_moment(&network);
    two_names_of_one_node_are_one(&network);
    nobody_is_named_to_dial(&network);
    trust_by_hand(&network).await;
    an_endpoint_lies_about_the_application_hash(&network).await;
}

fn the_rpc_dies(network: &Network) {
    let joiner = network.joiner("mute");
    let gates = [&network.validator, &network.follower].map(|node| Gate::before(&node.rpc_url));
    let urls = gates.each_ref().map(Gate::url).join(",");
    let mut join = Running::start(joiner.command(network, &["--chain-rpc", &urls]));
    join.wait_for("starting CometBFT");
    gates.iter().for_each(Gate::shut);
    // Without anybody who tells what to believe only the blocks themselves are left.
    let said = join.finish(8);
    assert_eq!(said["rung"], "blocks", "{said}");
    assert!(joiner.is_as_it_was());
}

/// From the restore on one endpoint is enough: the node has verified the blocks.
fn one_of_two_dies_late(network: &Network) {
    let joiner = network.joiner("late");
    let gate = Gate::before(&network.follower.rpc_url);
    let urls = format!("{},{}", network.validator.rpc_url, gate.url());
    let mut join = Running::start(joiner.command(network, &["--chain-rpc", &urls]));
    join.wait_for("the first block after the snapshot is stored");
    gate.shut();
    let said = join.finish(0);
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["steps"].as_array().unwrap().len(), 0, "{said}");
}

/// What is downloaded is not thrown away for it.
fn one_of_two_is_away_for_a_moment(network: &Network) {
    let joiner = network.joiner("moment");
    let gate = Gate::before(&network.follower.rpc_url);
    let urls = format!("{},{}", network.validator.rpc_url, gate.url());
    let mut join = Running::start(joiner.command(network, &["--chain-rpc", &urls]));
    join.wait_for("waiting until the chain is two blocks beyond");
    gate.shut();
    join.wait_for("asked again for");
    gate.open_again();
    let said = join.finish(0);
    assert_eq!(said["rung"], "swarm", "{said}");
    assert_eq!(said["steps"].as_array().unwrap().len(), 0, "{said}");
}

fn two_names_of_one_node_are_one(network: &Network) {
    let joiner = network.joiner("twice");
    let other_name = Gate::before(&network.validator.rpc_url).url();
    let urls = format!("{},{other_name}", network.validator.rpc_url);
    let ended = joiner.join(network, &["--chain-rpc", &urls]);
    assert_eq!(ended.code, Some(2), "{}", ended.ran.stderr());
    assert!(ended.ran.stderr().contains("are one node"));
    assert!(ended.ran.stdout().contains("one RPC endpoint alone"));
}

/// The home that `cometbft init` makes names no peer.
fn nobody_is_named_to_dial(network: &Network) {
    let joiner = network.joiner("alone");
    joiner.name_peers("");
    let timeout = [
        "--timeout",
        "3",
        "--fallback",
        "blocks",
        "--bootstrap",
        NOBODY,
    ];
    let ended = joiner.join(network, &timeout);
    assert_eq!(ended.code, Some(8), "{}", ended.ran.stderr());
    assert_eq!(ended.said()["rung"], "blocks");
    let told = ended.ran.stderr();
    let advice = format!("persistent_peers = \"{}", network.validator.address().id);
    assert!(told.contains(&advice), "{told}");
}

/// A block of yesterday is enough with one endpoint; also when the same command is
/// given again to a node that has blocks.
async fn trust_by_hand(network: &Network) {
    let listed = network.provider.run(["list"]).ok();
    let height = listed["snapshots"][0]["height"].as_u64().unwrap();
    let (_, hash) = network.validator.trusted(height).await;
    let joiner = network.joiner("trusting");
    let height = height.to_string();
    let more = [
        "--chain-rpc",
        &network.validator.rpc_url,
        "--trust-height",
        &height,
        "--trust-hash",
        &hash,
        "--fallback",
        "none",
    ];
    for rung in ["swarm", "none"] {
        let ended = joiner.join(network, &more);
        assert_eq!(ended.code, Some(0), "{}", ended.ran.stderr());
        assert_eq!(ended.said()["rung"], rung);
    }
}

/// With one endpoint and a block that is trusted, the signatures are all that stands
/// between a lie and the application; with two, the one that lies is named.
async fn an_endpoint_lies_about_the_application_hash(network: &Network) {
    let listed = network.provider.run(["list"]).ok();
    let height = listed["snapshots"][0]["height"].as_u64().unwrap();
    let trusted = height - 1;
    let (_, hash) = network.validator.trusted(trusted).await;
    // Of blocks that carry the application hash of a snapshot, and of all.
    let lies: [fn(u64, u64) -> bool; 2] = [
        |block, _| block % u64::from(SNAPSHOT_INTERVAL) == 1,
        |block, trusted| block > trusted,
    ];
    for (number, lies) in lies.into_iter().enumerate() {
        let liar = forging(&network.follower.rpc_url, move |block| lies(block, trusted));
        let both = format!("{},{liar}", network.validator.rpc_url);
        for (rpcs, text) in [(&liar, "does not verify"), (&both, "disagree about block")] {
            let joiner = network.joiner(&format!("lied-to-{number}-{}", rpcs.len()));
            let trusted = trusted.to_string();
            let more = [
                "--chain-rpc",
                rpcs,
                "--trust-height",
                &trusted,
                "--trust-hash",
                &hash,
            ];
            let ended = joiner.join(network, &more);
            let error = ended.ran.failed(4);
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(text) && message.contains(&liar), "{error}");
            let hint = error["hint"].as_str().unwrap();
            assert!(hint.contains(&format!("leave {liar} out")), "{error}");
            assert_eq!(joiner.app_log(), "", "nothing is given to the application");
            assert_eq!(joiner.home.run(["list"]).ok()["snapshots"], json!([]));
            assert!(joiner.is_as_it_was());
        }
    }
}

/// An endpoint of the chain that forges the application hash of these blocks.
fn forging(rpc_url: &str, lies: impl Fn(u64) -> bool + Send + Sync + 'static) -> String {
    let url = rpc_url.to_owned();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    fake_rpc::answering_to(move |method, params| {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let asked = reqwest::Client::new()
            .post(&url)
            .header("content-type", "application/json")
            .body(question.to_string());
        let answered = runtime.block_on(async { asked.send().await?.bytes().await });
        let answer: Value = serde_json::from_slice(&answered.unwrap()).unwrap();
        let mut result = answer["result"].clone();
        let height = params["height"].as_str().unwrap_or_default();
        let height: u64 = height.parse().unwrap_or_default();
        if method == "commit" && lies(height) && result.is_object() {
            result["signed_header"]["header"]["app_hash"] = "AB".repeat(32).into();
        }
        result
    })
}

/// A door to an RPC that can be shut.
struct Gate {
    address: SocketAddr,
    shut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn before(rpc_url: &str) -> Self {
        let inside = rpc_url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Self {
            address: listener.local_addr().unwrap(),
            shut: Arc::default(),
            open: Arc::default(),
        };
        let (shut, open) = (gate.shut.clone(), gate.open.clone());
        std::thread::spawn(move || {
            for outer in listener.incoming().map_while(Result::ok) {
                let Ok(inner) = TcpStream::connect(&inside) else {
                    continue;
                };
                let ends = [&outer, &inner].map(|end| end.try_clone().unwrap());
                open.lock().unwrap().extend(ends);
                if shut.load(Ordering::SeqCst) {
                    let _ = outer.shutdown(Shutdown::Both);
                    continue;
                }
                copy(outer.try_clone().unwrap(), inner.try_clone().unwrap());
                copy(inner, outer);
            }
        });
        gate
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whoever comes from now on finds nobody.
    fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    fn open_again(&self) {
        self.shut.store(false, Ordering::SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
