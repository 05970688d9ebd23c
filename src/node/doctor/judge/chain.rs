//! The chain's endpoints: whether they answer, agree, and remember enough; the clock.

use std::time::Duration;

use crate::comet::rules::MAX_CLOCK_DRIFT;
use crate::node::doctor::facts::{Answer, Endpoint, Facts, Snapshot};
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding, Level};

const ENDPOINTS: Check = Check {
    subject: "endpoints",
    why: "the light client checks a state by them, and one alone is not believed",
};
const CHAIN_ID: Check = Check {
    subject: "chain id",
    why: "a snapshot is of use to nodes of its own chain only",
};
const AGREEMENT: Check = Check {
    subject: "agreement",
    why: "endpoints that disagree about a block: one of them lies or follows a fork",
};
const HISTORY: Check = Check {
    subject: "history",
    why: "the light client needs the blocks H+1 and H+2 of a snapshot, and the node goes on from \
          H+1",
};
const APP_HASH: Check = Check {
    subject: "application hash",
    why: "it says whether the snapshot is the chain's state",
};
const BELIEF: Check = Check {
    subject: "state",
    why: "no application hash proves the records of a state: they are restored only where you \
          or the settings ([trust]) say whom to believe",
};
const CLOCK: Check = Check {
    subject: "clock",
    why: "CometBFT believes no block from more than 10 s in the future, and trusts by time",
};

/// Endpoints that have to answer.
const ENOUGH: usize = 2;
/// Blocks come more often than that, on a chain that goes on.
const STALE: Duration = Duration::from_secs(60);
/// Blocks behind a snapshot that the light client needs.
const BLOCKS_AFTER: u64 = 2;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = endpoints(facts);
    found.extend(chain_id(facts));
    found.extend(agreement(facts));
    found.extend(clock(facts));
    if let Some(snapshot) = &facts.snapshot {
        found.extend(history(facts, snapshot));
        found.push(app_hash(facts, snapshot));
        found.extend(belief(snapshot));
    }
    found
}

fn endpoints(facts: &Facts) -> Vec<Finding> {
    if facts.chain.is_empty() {
        return vec![ENDPOINTS.hint(
            "none is known: the chain was not looked at",
            "snapswarm doctor --chain-rpc URL,URL",
        )];
    }
    let answering = facts.chain_answers().count();
    let remedy = match facts.chain_was_named {
        true => "name another with --chain-rpc".to_owned(),
        false => super::p2p::write(facts, "statesync", "rpc_servers = \"URL,URL\""),
    };
    let mut found = Vec::new();
    for endpoint in &facts.chain {
        if let Err(why) = &endpoint.answer {
            let level = match answering < ENOUGH {
                true => Level::Problem,
                false => Level::Hint,
            };
            found.push(ENDPOINTS.finding(level, why.clone(), remedy.clone()));
        }
    }
    if !found.is_empty() {
        return found;
    }
    let told = format!("{answering} answer");
    vec![match answering < ENOUGH {
        true => ENDPOINTS.hint(
            "only one is known",
            "name a second one, of somebody else: --chain-rpc URL,URL",
        ),
        false => ENDPOINTS.good(told),
    }]
}

fn chain_id(facts: &Facts) -> Option<Finding> {
    let mut told: Vec<(String, &str)> = Vec::new();
    if let Some(Ok(id)) = facts.node_home.as_ref().map(|node| node.chain_id.as_ref()) {
        told.push(("the node's genesis".to_owned(), id));
    }
    for (endpoint, answer) in facts.answers() {
        told.push((endpoint.url.clone(), &answer.status.chain_id));
    }
    if let Some(snapshot) = &facts.snapshot {
        told.push(("the snapshot".to_owned(), &snapshot.chain_id));
    }
    let (_, first) = told.first()?;
    if told.iter().all(|(_, id)| id == first) {
        return Some(CHAIN_ID.good((*first).to_owned()));
    }
    let told: Vec<String> = told
        .iter()
        .map(|(who, id)| format!("{who}: {id}"))
        .collect();
    Some(CHAIN_ID.problem(
        format!("not everything is of one chain: {}", told.join(", ")),
        "check --node-home, --node-rpc, --chain-rpc and --cid, and take out what is of another \
         chain",
    ))
}

fn agreement(facts: &Facts) -> Option<Finding> {
    let height = facts.recent?;
    let mut told: Vec<(&str, &str)> = Vec::new();
    for (endpoint, answer) in facts.answers() {
        // The node may be one of the endpoints.
        let is_new = told.iter().all(|(url, _)| *url != endpoint.url);
        if let Some(hash) = answer.recent.as_deref().filter(|_| is_new) {
            told.push((&endpoint.url, hash));
        }
    }
    let (first_url, first) = told.first()?;
    if let Some((url, other)) = told.iter().find(|(_, hash)| hash != first) {
        return Some(AGREEMENT.problem(
            format!("block {height}: {first_url} has the hash {first}, {url} has {other}"),
            "find out which one is wrong (ask a third one), and leave it out",
        ));
    }
    let all = told.len();
    (all > 1).then(|| AGREEMENT.good(format!("{all} have the same block {height}")))
}

fn clock(facts: &Facts) -> Option<Finding> {
    let newest = facts
        .answers()
        .filter_map(|(_, answer)| Some((answer.status.tip_time?, answer.seen)))
        .max_by_key(|(tip, _)| *tip);
    let Some((tip, seen)) = newest else {
        return facts.answers().next().map(|_| {
            CLOCK.hint(
                "no node tells the time of a block: the clock was not looked at",
                "snapswarm doctor --chain-rpc URL,URL",
            )
        });
    };
    if let Ok(ahead) = tip.duration_since(seen)
        && ahead > MAX_CLOCK_DRIFT
    {
        return Some(CLOCK.problem(
            format!(
                "this machine's clock is behind: the newest block is {} in its future",
                figures::time(ahead)
            ),
            "timedatectl set-ntp true",
        ));
    }
    let age = seen.duration_since(tip).unwrap_or_default();
    Some(match age > STALE {
        true => CLOCK.hint(
            format!(
                "the newest block is {} old: the chain stands, the endpoints lag, or this \
                 machine's clock is ahead",
                figures::time(age)
            ),
            "`timedatectl` tells whether the clock is synchronised; compare with a block explorer",
        ),
        false => CLOCK.good(format!("fits the newest block, {} old", figures::time(age))),
    })
}

/// How an endpoint stands to the blocks behind a snapshot.
enum Reach {
    Has,
    Pruned(u64),
    TooNew(u64),
}

fn reach(answer: &Answer, snapshot: &Snapshot) -> Reach {
    let status = &answer.status;
    if status.earliest_height > snapshot.height.saturating_add(1) {
        Reach::Pruned(status.earliest_height)
    } else if status.height < snapshot.height.saturating_add(BLOCKS_AFTER) {
        Reach::TooNew(status.height)
    } else {
        Reach::Has
    }
}

fn history(facts: &Facts, snapshot: &Snapshot) -> Vec<Finding> {
    let answers: Vec<(&Endpoint, Reach)> = facts
        .chain_answers()
        .map(|(endpoint, answer)| (endpoint, reach(answer, snapshot)))
        .collect();
    let having = answers
        .iter()
        .filter(|(_, reach)| matches!(reach, Reach::Has));
    let level = match having.count() {
        0 => Level::Problem,
        _ => Level::Hint,
    };
    let next = snapshot.height.saturating_add(1);
    let mut found = Vec::new();
    for (endpoint, reach) in &answers {
        let url = &endpoint.url;
        match reach {
            Reach::Has => {}
            Reach::Pruned(earliest) => found.push(HISTORY.finding(
                level,
                format!("{url} keeps blocks from {earliest} on, and block {next} is needed"),
                format!(
                    "name an endpoint with a longer history, or take a younger snapshot: \
                     `snapswarm fetch --chain-id {} --node-rpc {url}`",
                    snapshot.chain_id
                ),
            )),
            Reach::TooNew(tip) => found.push(HISTORY.finding(
                level,
                format!("{url} is at block {tip}, and {} is needed", next.saturating_add(1)),
                "wait until the chain is two blocks further than the snapshot, or name an endpoint \
                 that is at the tip"
                    .to_owned(),
            )),
        }
    }
    if found.is_empty() && !answers.is_empty() {
        found.push(HISTORY.good(format!("all have block {next}")));
    }
    found
}

fn belief(snapshot: &Snapshot) -> Option<Finding> {
    let remedy = format!("snapswarm show {}", snapshot.manifest);
    let what = "the application hash says which height it is, and nothing of the state";
    snapshot.is_state.then(|| BELIEF.hint(what, remedy))
}

fn app_hash(facts: &Facts, snapshot: &Snapshot) -> Finding {
    let Some(own) = &snapshot.app_hash else {
        return APP_HASH.problem(
            "the snapshot has none: its state cannot be proven, and `feed` and `join` refuse it",
            "snapswarm load … --app-hash HEX (of the header of the next height), or fetch another",
        );
    };
    let told: Vec<(&str, &str)> = facts
        .answers()
        .filter_map(|(endpoint, answer)| {
            let after = answer.after.as_ref()?.as_ref().ok()?;
            Some((endpoint.url.as_str(), after.app_hash.as_str()))
        })
        .collect();
    if let Some((url, other)) = told.iter().find(|(_, hash)| hash != own) {
        return APP_HASH.problem(
            format!(
                "the snapshot of height {} has {own}, and {url} has {other}",
                snapshot.height
            ),
            format!(
                "do not feed it: `snapswarm delete {}`, then fetch another with --node-rpc",
                snapshot.manifest
            ),
        );
    }
    match (told.first(), snapshot.proven) {
        (Some((url, _)), _) => APP_HASH.good(format!("as {url} has it")),
        (None, true) => APP_HASH.good("the chain confirmed it before"),
        (None, false) => APP_HASH.hint(
            "nobody has confirmed it yet",
            "snapswarm doctor --chain-rpc URL,URL, of nodes that have the block behind it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Told, answer, facts, now, own, told};
    use super::*;

    #[test]
    fn an_endpoint_that_does_not_answer_is_a_problem_only_when_too_few_are_left() {
        let mut facts = facts();
        facts.chain.push(Endpoint {
            url: "http://c".to_owned(),
            answer: Err("it does not answer".to_owned()),
        });
        assert!(told(&judge(&facts), "endpoints").is_hint("--chain-rpc"));
        facts.chain.remove(0);
        assert!(told(&judge(&facts), "endpoints").is_problem("--chain-rpc"));
        facts.chain_was_named = false;
        assert!(told(&judge(&facts), "endpoints").is_problem("rpc_servers"));
        facts.chain.truncate(1);
        assert!(told(&judge(&facts), "endpoints").is_hint("--chain-rpc"));
        facts.chain.clear();
        assert!(told(&judge(&facts), "endpoints").is_hint("doctor --chain-rpc"));
    }

    #[test]
    fn everything_has_to_be_of_one_chain() {
        let other = || "other".to_owned();
        let mut genesis = facts();
        genesis.node_home.as_mut().unwrap().chain_id = Ok(other());
        let mut endpoint = facts();
        answer(&mut endpoint, 1).status.chain_id = other();
        let mut node = facts();
        own(&mut node).status.chain_id = other();
        let mut snapshot = facts();
        snapshot.snapshot.as_mut().unwrap().chain_id = other();
        for facts in [genesis, endpoint, node, snapshot] {
            assert!(told(&judge(&facts), "chain id").is_problem("--chain-rpc"));
        }
    }

    #[test]
    fn endpoints_with_different_blocks_are_a_problem() {
        let mut facts = facts();
        answer(&mut facts, 1).recent = Some("EE".to_owned());
        assert!(told(&judge(&facts), "agreement").is_problem("a third one"));
        answer(&mut facts, 1).recent = None;
        assert_eq!(
            told(&judge(&facts), "agreement"),
            Told::Nothing,
            "one agrees with itself"
        );
        answer(&mut facts, 1).recent = Some("DD".to_owned());
        facts.chain[1].url = "http://a".to_owned();
        assert_eq!(
            told(&judge(&facts), "agreement"),
            Told::Nothing,
            "twice the same"
        );
    }

    #[test]
    fn a_clock_is_judged_by_the_newest_block() {
        let judged = |seen| {
            let mut facts = facts();
            for at in 0..2 {
                answer(&mut facts, at).seen = seen;
            }
            judge(&facts)
        };
        let seconds = Duration::from_secs;
        assert!(told(&judged(now() - seconds(10)), "clock").is_good());
        assert!(told(&judged(now() - seconds(11)), "clock").is_problem("timedatectl"));
        assert!(told(&judged(now() + seconds(60)), "clock").is_good());
        assert!(told(&judged(now() + seconds(61)), "clock").is_hint("timedatectl"));
        let mut silent = facts();
        for at in 0..2 {
            answer(&mut silent, at).status.tip_time = None;
        }
        assert!(told(&judge(&silent), "clock").is_hint("--chain-rpc"));
    }

    #[test]
    fn endpoints_have_to_have_the_two_blocks_behind_the_snapshot() {
        let judged = |first: (u64, u64), second: (u64, u64)| {
            let mut facts = facts();
            for (at, (earliest, height)) in [first, second].into_iter().enumerate() {
                answer(&mut facts, at).status.earliest_height = earliest;
                answer(&mut facts, at).status.height = height;
            }
            judge(&facts)
        };
        assert!(told(&judged((101, 110), (1, 102)), "history").is_good());
        assert!(told(&judged((102, 110), (1, 102)), "history").is_hint("longer history"));
        assert!(told(&judged((1, 101), (1, 102)), "history").is_hint("wait"));
        assert!(told(&judged((102, 110), (1, 101)), "history").is_problem(""));
    }

    #[test]
    fn an_application_hash_that_is_not_the_chains_is_a_problem() {
        let mut wrong = facts();
        let after = answer(&mut wrong, 1).after.as_mut().unwrap();
        after.as_mut().unwrap().app_hash = "EE".to_owned();
        assert!(told(&judge(&wrong), "application hash").is_problem("snapswarm delete cid"));
        let mut unknown = facts();
        for at in 0..2 {
            answer(&mut unknown, at).after = Some(Err("pruned".to_owned()));
        }
        assert!(
            told(&judge(&unknown), "application hash").is_good(),
            "proven before"
        );
        unknown.snapshot.as_mut().unwrap().proven = false;
        assert!(told(&judge(&unknown), "application hash").is_hint("--chain-rpc"));
        unknown.snapshot.as_mut().unwrap().app_hash = None;
        assert!(told(&judge(&unknown), "application hash").is_problem("--app-hash"));
    }
    #[test]
    fn that_no_application_hash_proves_a_state_is_said() {
        let mut of_state = facts();
        of_state.snapshot.as_mut().unwrap().is_state = true;
        assert!(told(&judge(&of_state), "state").is_hint("snapswarm show cid"));
    }
}
