//! The ladder: each fault is made to happen, and the node ends synced by the next rung
//! or with the exit code and the sentence that its operator asked for.
//!
//! Which faults a run tries is drawn from a seed, `SNAPSWARM_FAULT_SEED` (1 unless told):
//! `SNAPSWARM_FAULT_RUNS` of them (5 unless told). With every other the join itself is
//! killed as well (`kill -9`), at a moment that is drawn, and started again: the end must
//! be the same. `SNAPSWARM_FAULT` names one fault by a part of its name. An application that hangs for ever is not among them: it looks as one at
//! work, and is given up only after the time that large ones need.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fake_rpc;
use crate::network::{CHAIN, Network, Running};

/// What a fault ends with.
struct Expected {
    code: i32,
    /// Of the document on stdout, or of the error in it.
    text: &'static str,
    /// Where the state comes from, for a node that is synced.
    rungs: &'static [&'static str],
}

struct Fault {
    name: &'static str,
    /// Of the application.
    script: &'static str,
    arguments: &'static [&'static str],
    expected: Expected,
}

const SWARM: &[&str] = &["swarm"];
const BLOCKS: &[&str] = &["blocks"];
const PEERS: &[&str] = &["peers"];

const fn synced(rungs: &'static [&'static str], code: i32, text: &'static str) -> Expected {
    Expected { code, text, rungs }
}

const fn failed(code: i32, text: &'static str) -> Expected {
    let rungs = &[];
    Expected { code, text, rungs }
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "the application rejects the first snapshot",
        script: "offer=rejectx1",
        arguments: &[],
        expected: synced(SWARM, 0, "Snapshot rejected"),
    },
    Fault {
        name: "the application rejects every snapshot",
        script: "offer=reject",
        arguments: &["--fallback", "blocks"],
        expected: synced(BLOCKS, 8, "Snapshot rejected"),
    },
    Fault {
        name: "the application rejects the format, and nothing else is wanted",
        script: "offer=reject-format",
        arguments: &["--fallback", "none"],
        expected: failed(7, "--fallback allows no other way"),
    },
    Fault {
        name: "the application aborts once",
        script: "offer=abortx1",
        arguments: &[],
        expected: synced(SWARM, 0, "State sync failed"),
    },
    Fault {
        name: "the application wants to begin again once",
        script: "apply=retry-snapshot@1x1",
        arguments: &[],
        expected: synced(SWARM, 0, ""),
    },
    Fault {
        name: "the application refuses in the middle",
        script: "apply=reject-snapshot@1x1",
        arguments: &[],
        expected: synced(SWARM, 0, "Snapshot rejected"),
    },
    Fault {
        name: "the application aborts in the middle",
        script: "apply=abort@1x1",
        arguments: &[],
        expected: synced(SWARM, 0, "State sync failed"),
    },
    Fault {
        name: "the application asks for the same bytes for a while",
        script: "apply=retry-forever@1x500",
        arguments: &[],
        expected: synced(SWARM, 0, ""),
    },
    Fault {
        name: "the application asks for the same bytes without end",
        script: "apply=retry-forever@1",
        arguments: &[],
        expected: synced(BLOCKS, 8, "goes round in circles"),
    },
    Fault {
        name: "the application dies while it restores",
        script: "die-at-apply=1",
        arguments: &[],
        expected: synced(SWARM, 0, "has ended by itself"),
    },
    Fault {
        name: "the restored state is another one",
        script: "wrong-hash,once",
        arguments: &[],
        expected: synced(SWARM, 0, ""),
    },
    Fault {
        name: "nobody provides a snapshot",
        script: "",
        arguments: &["--bootstrap", NOBODY, "--timeout", "3"],
        expected: synced(PEERS, 8, "was not found"),
    },
    Fault {
        name: "nobody provides a snapshot, and nothing else is wanted",
        script: "",
        arguments: &[
            "--bootstrap",
            NOBODY,
            "--timeout",
            "3",
            "--fallback",
            "none",
        ],
        expected: failed(7, "--fallback allows no other way"),
    },
    Fault {
        name: "one endpoint alone",
        script: "",
        arguments: &["--chain-rpc", "VALIDATOR"],
        expected: failed(2, "one RPC endpoint alone is not believed"),
    },
    Fault {
        name: "an endpoint that is not there beside one that is",
        script: "",
        arguments: &[
            "--chain-rpc",
            "VALIDATOR,http://127.0.0.1:1",
            "--fallback",
            "none",
        ],
        expected: failed(1, "one alone is not believed"),
    },
    Fault {
        name: "endpoints that disagree",
        script: "",
        arguments: &["--chain-rpc", "VALIDATOR,LIAR"],
        expected: failed(4, "the RPC endpoints disagree"),
    },
    Fault {
        name: "endpoints that disagree, the liar first",
        script: "",
        arguments: &["--chain-rpc", "LIAR,VALIDATOR"],
        expected: failed(4, "the RPC endpoints disagree"),
    },
    Fault {
        name: "an endpoint of another chain",
        script: "",
        arguments: &["--chain-rpc", "VALIDATOR,STRANGER"],
        expected: failed(2, "another-chain"),
    },
];

/// A join is killed within this; most faults show themselves sooner.
const KILLED_WITHIN_MS: u64 = 15_000;

/// A peer that is nowhere.
pub const NOBODY: &str =
    "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

/// What a run is told by the environment.
fn number(name: &str, usual: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_the_node_is_synced_or_its_operator_knows_why_not() {
    let network = Network::start().await;
    let (runs, seed) = (
        number("SNAPSWARM_FAULT_RUNS", 5),
        number("SNAPSWARM_FAULT_SEED", 1),
    );
    println!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: Vec<&Fault> = Vec::new();
    let named = std::env::var("SNAPSWARM_FAULT").unwrap_or_default();
    while drawn.len() < runs as usize {
        let mut all: Vec<&Fault> = FAULTS.iter().collect();
        all.retain(|fault| fault.name.contains(&named));
        all.shuffle(&mut rng);
        drawn.extend(all);
    }
    let mut wrong = Vec::new();
    for (number, fault) in drawn.iter().take(runs as usize).enumerate() {
        let killed_after = rng
            .random_bool(0.5)
            .then(|| Duration::from_millis(rng.random_range(0..KILLED_WITHIN_MS)));
        let problem = problem(&network, fault, number, killed_after).await;
        let and = killed_after.map_or_else(String::new, |time| format!(", killed after {time:?}"));
        println!(
            "{number}: {}{and}: {}",
            fault.name,
            if problem.is_some() {
                "WRONG"
            } else {
                "as expected"
            }
        );
        wrong.extend(problem);
    }
    assert!(wrong.is_empty(), "seed {seed}: {}", wrong.join("\n\n"));
}

/// What came otherwise than expected.
async fn problem(
    network: &Network,
    fault: &Fault,
    number: usize,
    killed_after: Option<Duration>,
) -> Option<String> {
    let mut joiner = network.joiner(&format!("fault{number}"));
    joiner.script = fault.script.to_owned();
    let arguments = fault.arguments.iter().map(|argument| {
        argument
            .replace("VALIDATOR", &network.validator.rpc_url)
            .replace("LIAR", &liar(network))
            .replace("STRANGER", &stranger())
    });
    let arguments: Vec<String> = arguments.collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended_before = killed_after.and_then(|time| {
        let join = Running::start(joiner.command(network, &arguments));
        join.end_within(time)
    });
    let was_killed = killed_after.is_some() && ended_before.is_none();
    let ended = ended_before.unwrap_or_else(|| joiner.join(network, &arguments));
    let Expected { code, text, rungs } = &fault.expected;
    let is_synced = || async {
        let said = ended.said();
        rungs.contains(&said["rung"].as_str()?).then_some(())?;
        let height = said["height"].as_u64()?;
        let header = network.validator.rpc().header(height).await.ok()?;
        (said["app_hash"] == hex::encode_upper(header.app_hash)).then_some(())
    };
    let problem = if ended.code != Some(*code) {
        format!("ended with {:?} and not {code}", ended.code)
    } else if !was_killed && !ended.ran.stdout().contains(text) {
        format!("does not tell of '{text}'")
    } else if !joiner.is_as_it_was() {
        "did not leave the node as it was".to_owned()
    } else if !rungs.is_empty() && is_synced().await.is_none() {
        format!("is not synced by {rungs:?}")
    } else {
        return None;
    };
    Some(format!(
        "{} {problem}\nstdout: {}\nstderr: {}\napp: {}\nnode: {}",
        fault.name,
        ended.ran.stdout(),
        ended.ran.stderr(),
        last(&joiner.app_log()),
        last(&joiner.node_log()),
    ))
}

fn last(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// An endpoint that has the chain's height and other blocks.
fn liar(network: &Network) -> String {
    let height = std::thread::scope(|scope| {
        let rpc = network.validator.rpc();
        let asking = scope.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(rpc.status()).unwrap().height
        });
        asking.join().unwrap()
    });
    fake_rpc::answering_to(move |method, params| match method {
        "commit" => serde_json::json!({
            "signed_header": {
                "header": { "height": params["height"], "app_hash": "AB".repeat(32) },
                "commit": { "block_id": { "hash": "CD".repeat(32) } },
            },
        }),
        _ => fake_rpc::status(CHAIN, height),
    })
}

fn stranger() -> String {
    fake_rpc::answering(|_| fake_rpc::status("another-chain", 5))
}
