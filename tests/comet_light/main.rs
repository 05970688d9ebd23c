//! The light client against blocks of real chains: what the validators signed is
//! proven, and nothing else is, whatever an endpoint makes of it.

#[path = "../support/fake_rpc.rs"]
mod fake_rpc;
mod recorded;

use std::time::{Duration, SystemTime};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use recorded::{CHAIN, Endpoint, Recorded, YEARS, rules};
use serde_json::{Value, json};
use snapswarm::comet::light::{LightError, Problem, Proven, Rules, Trusted, Unable, prove};
use snapswarm::comet::rpc::RpcError;

/// Before validators change.
const EARLY: u64 = 3;

async fn proved(
    recorded: &Recorded,
    trusted: &Trusted,
    height: u64,
) -> (Result<Proven, LightError>, Endpoint) {
    let endpoint = recorded.clone().serve();
    let now = recorded.time(recorded.tip());
    let proved = prove(&endpoint.rpc, &rules(YEARS), trusted, height, now).await;
    (proved, endpoint)
}

/// Proves the state before the newest block from a trusted block.
async fn proved_from(recorded: &Recorded, trusted: u64) -> Result<Proven, LightError> {
    let trusted = recorded.trusted(trusted);
    proved(recorded, &trusted, recorded.tip() - 1).await.0
}

#[track_caller]
fn problem(proved: Result<Proven, LightError>) -> Problem {
    match proved {
        Err(LightError::Problem { problem, .. }) => problem,
        other => panic!("no problem is told: {other:?}"),
    }
}

/// The reason for which a header does not verify.
#[track_caller]
fn reason(proved: Result<Proven, LightError>, height: u64) -> String {
    match problem(proved) {
        Problem::Header { height: of, reason } if of == height => reason,
        other => panic!("another problem is told: {other:?}"),
    }
}

#[tokio::test]
async fn the_next_block_is_proven_with_few_questions() {
    for recorded in [Recorded::v0_38(), Recorded::v1_0()] {
        for height in 1..recorded.tip() {
            let (proven, endpoint) = proved(&recorded, &recorded.trusted(height), height).await;
            let proven = proven.unwrap();
            let header = recorded.header(height + 1).header;
            assert_eq!(proven.after().app_hash, header.app_hash.as_bytes());
            assert_eq!(proven.after().app_version, 1);
            assert_eq!(
                proven.block_hash()[..],
                recorded.hash(height + 1).as_bytes()[..]
            );
            let commit = |height| ("commit".to_owned(), height);
            let validators = ("validators".to_owned(), height + 1);
            let expected = [commit(height), commit(height + 1), validators];
            assert_eq!(endpoint.asked(), expected);
        }
    }
}

#[tokio::test]
async fn a_later_block_is_proven_by_those_between_where_the_validators_changed() {
    for recorded in [Recorded::v0_38(), Recorded::v1_0()] {
        let trusted = recorded.trusted(EARLY);
        // Nobody who signed the trusted block signs the newest.
        let (proven, endpoint) = proved(&recorded, &trusted, recorded.tip() - 1).await;
        let app_hash = recorded.header(recorded.tip()).header.app_hash;
        assert_eq!(proven.unwrap().after().app_hash, app_hash.as_bytes());
        let between = |(method, height): &(String, u64)| {
            method == "commit" && *height > EARLY && *height < recorded.tip()
        };
        let asked = endpoint.asked();
        assert!(asked.iter().any(between), "{asked:?}");
        assert!(asked.len() < 12, "{asked:?}");
        // While they are the same, one step is enough.
        let (_, endpoint) = proved(&recorded, &recorded.trusted(1), EARLY).await;
        assert_eq!(endpoint.asked().len(), 3);
    }
}

#[tokio::test]
async fn validators_come_in_pages() {
    let mut recorded = Recorded::v0_38();
    recorded.page = 1;
    let (proven, endpoint) = proved(&recorded, &recorded.trusted(EARLY), EARLY).await;
    proven.unwrap();
    let asked = endpoint.asked();
    let pages = asked.iter().filter(|(method, _)| method == "validators");
    assert_eq!(pages.count(), 2);
}

#[tokio::test]
async fn validators_without_end_are_not_read() {
    let recorded = Recorded::v0_38();
    let commits = recorded.clone();
    let url = fake_rpc::answering_to(move |method, params| {
        let height = params["height"].as_str().unwrap_or_default();
        let height: u64 = height.parse().unwrap_or_default();
        match method {
            "validators" => {
                let one = commits.clone().validators(EARLY)[0].take();
                json!({
                    "block_height": height.to_string(),
                    "validators": vec![one; 100],
                    "total": "1000000",
                })
            }
            _ => json!({ "signed_header": commits.clone().signed(height) }),
        }
    });
    let rpc = snapswarm::comet::rpc::Rpc::new(&url).unwrap();
    let trusted = recorded.trusted(EARLY);
    let now = recorded.time(EARLY + 1);
    match prove(&rpc, &rules(YEARS), &trusted, EARLY, now).await {
        Err(LightError::Rpc(RpcError::Answer { problem, .. })) => {
            assert!(problem.contains("10000 validators"), "{problem}");
        }
        other => panic!("they were read: {other:?}"),
    }
}

#[tokio::test]
async fn a_forged_application_hash_is_not_what_was_signed() {
    let tip = Recorded::v0_38().tip();
    for trusted in [EARLY, tip - 1] {
        let mut forged = Recorded::v0_38();
        forged.signed(tip)["header"]["app_hash"] = "AB".repeat(8).into();
        let why = reason(proved_from(&forged, trusted).await, tip);
        assert!(why.contains("the signatures are for block"), "{why}");
        // Nor when the commit is made to fit.
        forged.name_anew(tip);
        let why = reason(proved_from(&forged, trusted).await, tip);
        assert!(why.contains("the signature of validator"), "{why}");
    }
}

#[tokio::test]
async fn the_application_version_is_signed_as_well() {
    let mut forged = Recorded::v0_38();
    let tip = forged.tip();
    forged.signed(tip)["header"]["version"]["app"] = "2".into();
    reason(proved_from(&forged, EARLY).await, tip);
}

#[tokio::test]
async fn a_commit_needs_two_thirds_of_the_power() {
    let mut forged = Recorded::v0_38();
    let tip = forged.tip();
    let absent = json!({
        "block_id_flag": 1,
        "validator_address": "",
        "timestamp": "0001-01-01T00:00:00Z",
        "signature": null,
    });
    forged.signed(tip)["commit"]["signatures"][0] = absent.clone();
    let why = reason(proved_from(&forged, EARLY).await, tip);
    assert!(why.contains("a power of 10 of 20 signed it"), "{why}");
    forged.signed(tip)["commit"]["signatures"][1] = absent;
    let why = reason(proved_from(&forged, EARLY).await, tip);
    assert_eq!(why, "signatures are missing");
    // Somebody else's signature is none.
    let mut forged = Recorded::v0_38();
    let other = forged.signed(EARLY)["commit"]["signatures"].clone();
    forged.signed(tip)["commit"]["signatures"] = other;
    let why = reason(proved_from(&forged, EARLY).await, tip);
    assert!(why.contains("who is no validator"), "{why}");
    // One counts once.
    let mut forged = Recorded::v0_38();
    let one = forged.signed(tip)["commit"]["signatures"][0].clone();
    forged.signed(tip)["commit"]["signatures"][1] = one;
    let why = reason(proved_from(&forged, EARLY).await, tip);
    assert!(why.contains("signed it twice"), "{why}");
}

#[tokio::test]
async fn other_validators_than_the_header_names_are_refused() {
    let tip = Recorded::v0_38().tip();
    for (at, trusted) in [(tip, tip - 1), (tip, EARLY), (EARLY + 1, EARLY)] {
        let mut forged = Recorded::v0_38();
        forged.validators(at)[0]["voting_power"] = "1000".into();
        let why = reason(proved_from(&forged, trusted).await, at);
        assert!(why.contains("not those that headers name"), "{why}");
    }
    // An address that belongs to another key changes nothing: it is not read.
    let mut odd = Recorded::v0_38();
    odd.validators(tip)[0]["address"] = "00".repeat(20).into();
    proved_from(&odd, EARLY).await.unwrap();
}

#[tokio::test]
async fn validators_of_the_endpoints_own_making_prove_nothing() {
    let tip = Recorded::v0_38().tip();
    let mut forged = Recorded::v0_38();
    forged.usurp(tip, &"AB".repeat(8));
    let why = reason(proved_from(&forged, tip - 1).await, tip);
    assert!(why.contains("the block before names"), "{why}");
    // All blocks but the first, which the trusted one binds.
    for height in EARLY + 2..tip {
        forged.usurp(height, &"AB".repeat(8));
    }
    let why = reason(proved_from(&forged, EARLY).await, EARLY + 2);
    assert!(why.contains("the block before names"), "{why}");
    // And that one.
    let validators = forged.validators(EARLY + 1).clone();
    forged.usurp(EARLY + 1, &"AB".repeat(8));
    *forged.validators(EARLY + 1) = validators;
    let why = reason(proved_from(&forged, EARLY).await, EARLY + 1);
    assert!(why.contains("the block before names"), "{why}");
}

#[tokio::test]
async fn a_header_from_the_future_is_refused_beyond_a_little_drift() {
    let recorded = Recorded::v0_38();
    let trusted = recorded.trusted(EARLY);
    let endpoint = recorded.clone().serve();
    let made = recorded.time(EARLY + 1);
    let prove_at =
        async |now: SystemTime| prove(&endpoint.rpc, &rules(YEARS), &trusted, EARLY, now).await;
    prove_at(made - Duration::from_millis(9_900)).await.unwrap();
    let early = prove_at(made - Duration::from_secs(10)).await;
    let Problem::Future { height, time } = problem(early) else {
        panic!("it is believed");
    };
    assert_eq!(height, EARLY + 1);
    assert_eq!(time, recorded.header(EARLY + 1).header.time.to_rfc3339());
}

#[tokio::test]
async fn a_trusted_block_is_trusted_for_the_trust_period() {
    let recorded = Recorded::v0_38();
    let trusted = recorded.trusted(EARLY);
    let endpoint = recorded.clone().serve();
    let hour = Duration::from_secs(3600);
    let end = recorded.time(EARLY) + hour;
    let prove_at =
        async |now: SystemTime| prove(&endpoint.rpc, &rules(3600), &trusted, EARLY, now).await;
    prove_at(end - Duration::from_millis(1)).await.unwrap();
    let late = prove_at(end).await.unwrap_err().to_string();
    assert!(late.contains("is trusted for 1 hours only"), "{late}");
}

#[tokio::test]
async fn another_chain_and_another_trusted_block_are_refused() {
    let recorded = Recorded::v0_38();
    let trusted = recorded.trusted(EARLY);
    let endpoint = recorded.clone().serve();
    let now = recorded.time(recorded.tip());
    let other = Rules {
        chain_id: "other-1".to_owned(),
        ..rules(YEARS)
    };
    let proved = prove(&endpoint.rpc, &other, &trusted, EARLY, now).await;
    let why = reason(proved, EARLY);
    assert_eq!(why, format!("it is of the chain {CHAIN}"));

    let fork = Trusted {
        hash: recorded.hash(EARLY + 1),
        ..trusted
    };
    let proved = prove(&endpoint.rpc, &rules(YEARS), &fork, EARLY, now).await;
    let expected = Problem::OtherBlock {
        height: EARLY,
        found: hex::encode_upper(recorded.hash(EARLY).as_bytes()),
        trusted: hex::encode_upper(fork.hash.as_bytes()),
    };
    assert_eq!(problem(proved), expected);
    let above = recorded.trusted(EARLY + 1);
    let proved = prove(&endpoint.rpc, &rules(YEARS), &above, EARLY, now).await;
    let target = EARLY + 1;
    let height = EARLY + 1;
    assert_eq!(problem(proved), Problem::Above { height, target });
}

#[tokio::test]
async fn keys_of_another_kind_are_told_and_whether_the_trusted_block_vouches_for_them() {
    let kind = "tendermint/PubKeySecp256k1".to_owned();
    let foreign = Recorded::secp256k1();
    for height in [1, foreign.tip() - 1] {
        let (proved, _) = proved(&foreign, &foreign.trusted(1), height).await;
        let expected = Unable::Keys {
            kind: kind.clone(),
            is_certain: true,
        };
        assert_eq!(problem(proved), Problem::Unable(expected));
    }
    // An endpoint that only says so, to get around the proof.
    let mut lying = Recorded::v0_38();
    let tip = lying.tip();
    lying.validators(tip)[0]["pub_key"]["type"] = kind.clone().into();
    let expected = Unable::Keys {
        kind,
        is_certain: false,
    };
    let proved = proved_from(&lying, EARLY).await;
    assert_eq!(problem(proved), Problem::Unable(expected));
}

#[tokio::test]
async fn whatever_is_changed_in_an_answer_only_what_was_signed_is_proven() {
    let recorded = Recorded::v0_38();
    let tip = recorded.tip();
    let (trusted, now) = (recorded.trusted(EARLY), recorded.time(tip));
    let (truth, endpoint) = proved(&recorded, &trusted, tip - 1).await;
    let (truth, asked) = (truth.unwrap(), endpoint.asked());
    let mut random = ChaCha8Rng::seed_from_u64(0x6c69_6768_7421);
    let mut refused = 0;
    for _ in 0..300 {
        let mut changed = recorded.clone();
        let (method, height) = &asked[random.random_range(0..asked.len())];
        let answer = match method.as_str() {
            "commit" => changed.signed(*height),
            _ => changed.validators(*height),
        };
        damage(answer, &mut random);
        let endpoint = changed.serve();
        match prove(&endpoint.rpc, &rules(YEARS), &trusted, tip - 1, now).await {
            Ok(proven) => assert_eq!(proven, truth),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "{refused}");
}

/// Changes one value somewhere.
fn damage(value: &mut Value, random: &mut ChaCha8Rng) {
    match value {
        Value::Object(fields) => {
            let at = random.random_range(0..fields.len());
            damage(fields.values_mut().nth(at).unwrap(), random);
        }
        Value::Array(all) if !all.is_empty() => {
            let at = random.random_range(0..all.len());
            damage(&mut all[at], random);
        }
        Value::String(text) if !text.is_empty() && random.random_range(0..4) > 0 => {
            let at = random.random_range(0..text.len());
            let to = char::from(random.random_range(b'0'..=b'F'));
            text.replace_range(at..=at, &to.to_string());
        }
        other => {
            let values = [
                Value::Null,
                json!({}),
                json!([]),
                json!(-1),
                json!("9223372036854775807"),
                json!(u64::MAX),
            ];
            *other = values[random.random_range(0..values.len())].clone();
        }
    }
}
