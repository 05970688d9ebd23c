//! The node's own settings of state sync.

use std::time::Duration;

use super::p2p::write;
use crate::comet::rules::TRUST_PERIOD;
use crate::comet::settings::{Settings, go_duration};
use crate::node::doctor::facts::{Facts, Trusted};
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding};
use crate::node::doctor::gather::rpc_servers;

const ENABLE: Check = Check {
    subject: "state sync",
    why: "a node takes a snapshot only in state sync",
};
const SERVERS: Check = Check {
    subject: "rpc_servers",
    why: "CometBFT does not start state sync with less than two (one URL twice passes)",
};
const HEIGHT: Check = Check {
    subject: "trust height",
    why: "from a trusted block above the snapshot the light client walks backwards, block by \
          block, and has 30 s for it",
};
const HASH: Check = Check {
    subject: "trust hash",
    why: "all that the light client believes begins with this block",
};
const PERIOD: Check = Check {
    subject: "trust period",
    why: "the light client refuses a trusted block that is older",
};
const DISCOVERY: Check = Check {
    subject: "discovery time",
    why: "CometBFT waits so long for offers; less than 5 s is refused, and with 0 it gives up \
          when nothing is offered at once",
};
const TEMPORARY: Check = Check {
    subject: "temp_dir",
    why: "CometBFT has not used it since 0.38: chunks lie in TMPDIR, or /tmp",
};

/// CometBFT's shortest, but for none.
const MIN_DISCOVERY: Duration = Duration::from_secs(5);

/// The node's settings, where they can be read.
pub(super) fn settings(facts: &Facts) -> Option<&Settings> {
    facts.node_home.as_ref()?.settings.as_ref().ok()
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    // A node with blocks does not state-sync.
    let Some(settings) = settings(facts).filter(|_| !facts.node_has_blocks()) else {
        return Vec::new();
    };
    if !settings.switch("statesync", "enable") {
        return vec![ENABLE.hint(
            "off in the node's config.toml",
            format!(
                "`snapswarm join` switches it on for its time; to `feed` the node, {}, with \
                 rpc_servers, trust_height and trust_hash",
                write(facts, "statesync", "enable = true")
            ),
        )];
    }
    let mut found = vec![ENABLE.good("on"), servers(facts, settings)];
    found.extend(trust(facts, settings));
    found.extend(period(facts, settings));
    found.push(discovery(facts, settings));
    let folder = settings.text("statesync", "temp_dir");
    if !folder.is_empty() {
        found.push(TEMPORARY.hint(
            format!("set to {folder}"),
            format!("start CometBFT with TMPDIR={folder}"),
        ));
    }
    found
}

fn servers(facts: &Facts, settings: &Settings) -> Finding {
    match rpc_servers(settings).len() {
        count @ 0..2 => SERVERS.problem(
            format!("{count} in the node's config.toml"),
            write(facts, "statesync", "rpc_servers = \"URL,URL\""),
        ),
        count => SERVERS.good(format!("{count}")),
    }
}

fn trust(facts: &Facts, settings: &Settings) -> Vec<Finding> {
    let height = settings.number("statesync", "trust_height").unwrap_or(0);
    let hash = settings.text("statesync", "trust_hash");
    let like = match &facts.snapshot {
        Some(snapshot) => snapshot.height.to_string(),
        None => "HEIGHT".to_owned(),
    };
    let from = facts.chain_answers().next();
    let url = from.map_or("http://RPC", |(endpoint, _)| endpoint.url.as_str());
    let remedy = format!(
        "{}, and as trust_hash what `curl '{url}/commit?height={like}'` has under \
         signed_header.commit.block_id.hash",
        write(facts, "statesync", &format!("trust_height = {like}"))
    );
    if height <= 0 || hash.is_empty() {
        return vec![HEIGHT.problem("trust_height or trust_hash is not set", remedy)];
    }
    let mut found = vec![match &facts.snapshot {
        Some(snapshot) if height as u64 > snapshot.height => HEIGHT.problem(
            format!("{height}, above the snapshot's {}", snapshot.height),
            remedy.clone(),
        ),
        Some(snapshot) => HEIGHT.good(format!("{height}, not above {}", snapshot.height)),
        None => HEIGHT.good(format!("{height}")),
    }];
    if let Some((url, trusted)) = trusted(facts) {
        found.push(match trusted.hash.eq_ignore_ascii_case(hash) {
            true => HASH.good(format!("as {url} has it")),
            false => HASH.problem(
                format!("{hash}, and {url} has {} at height {height}", trusted.hash),
                remedy,
            ),
        });
    }
    found
}

/// The trusted block, as an endpoint has it.
fn trusted(facts: &Facts) -> Option<(&str, &Trusted)> {
    facts.chain_answers().find_map(|(endpoint, answer)| {
        let trusted = answer.trusted.as_ref()?.as_ref().ok()?;
        Some((endpoint.url.as_str(), trusted))
    })
}

fn period(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let text = match settings.text("statesync", "trust_period") {
        "" => TRUST_PERIOD,
        text => text,
    };
    let usual = format!("trust_period = \"{TRUST_PERIOD}\"");
    let period = go_duration(text).filter(|period| !period.is_zero());
    let Some(period) = period else {
        return Some(PERIOD.problem(
            format!("\"{text}\" is no duration above 0"),
            write(facts, "statesync", &usual),
        ));
    };
    let Some((_, trusted)) = trusted(facts) else {
        let set = settings.number("statesync", "trust_height").unwrap_or(0);
        return (set > 0).then(|| {
            PERIOD.hint(
                format!("{text}; no endpoint tells when block {set} was made"),
                "snapswarm doctor --chain-rpc URL,URL, of nodes that have that block",
            )
        });
    };
    let now = facts.chain_answers().map(|(_, answer)| answer.seen).max()?;
    let age = now.duration_since(trusted.time?).unwrap_or_default();
    let told = format!(
        "{text}, and the trusted block is {} old",
        figures::time(age)
    );
    Some(match age >= period {
        true => PERIOD.problem(
            told,
            "trust a younger block (trust_height, trust_hash), at or below the snapshot's height",
        ),
        false => PERIOD.good(told),
    })
}

fn discovery(facts: &Facts, settings: &Settings) -> Finding {
    let text = match settings.text("statesync", "discovery_time") {
        "" => "15s",
        text => text,
    };
    let remedy = write(facts, "statesync", "discovery_time = \"5s\"");
    match go_duration(text) {
        None => DISCOVERY.problem(format!("\"{text}\" is no duration"), remedy),
        Some(time) if time.is_zero() => DISCOVERY.hint(text, remedy),
        Some(time) if time < MIN_DISCOVERY => DISCOVERY.problem(text, remedy),
        Some(_) => DISCOVERY.good(text),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{answer, facts, facts_with, now, told, with_blocks};
    use super::*;

    fn judged(from: &str, to: &str) -> Vec<Finding> {
        judge(&facts_with(&[(from, to)]))
    }

    #[test]
    fn state_sync_that_is_off_is_a_hint_and_the_rest_is_left() {
        let off = judged("enable = true", "enable = false");
        assert!(told(&off, "state sync").is_hint("snapswarm join"));
        assert_eq!(off.len(), 1);
        assert!(
            judge(&with_blocks(facts())).is_empty(),
            "it does not state-sync"
        );
    }

    #[test]
    fn less_than_two_servers_are_a_problem() {
        for servers in ["", "a:1", "a:1, "] {
            let found = judged("a:1,b:1", servers);
            assert!(
                told(&found, "rpc_servers").is_problem("rpc_servers = "),
                "{servers}"
            );
        }
        assert!(told(&judged("a:1,b:1", "a:1,a:1"), "rpc_servers").is_good());
    }

    #[test]
    fn trust_begins_at_or_below_the_snapshot() {
        let at = |height: &str| judged("trust_height = 90", &format!("trust_height = {height}"));
        assert!(told(&at("100"), "trust height").is_good());
        let found = at("101");
        assert!(told(&found, "trust height").is_problem("trust_height = 100"));
        assert!(told(&found, "trust height").is_problem("http://a/commit?height=100"));
        assert!(told(&at("0"), "trust height").is_problem("trust_height"));
        let unset = judged("trust_hash = \"AA\"", "trust_hash = \"\"");
        assert!(told(&unset, "trust height").is_problem("trust_hash"));
    }

    #[test]
    fn the_trusted_hash_is_the_chains() {
        assert!(told(&judged("\"AA\"", "\"aa\""), "trust hash").is_good());
        assert!(told(&judged("\"AA\"", "\"EE\""), "trust hash").is_problem("commit?height="));
    }

    #[test]
    fn a_trusted_block_older_than_the_trust_period_is_a_problem() {
        // The block is an hour old.
        for (period, well) in [
            ("1h0m3s", true),
            ("1h", false),
            ("59m", false),
            ("168h0m0s", true),
        ] {
            let found = judged("168h0m0s", period);
            assert_eq!(told(&found, "trust period").is_good(), well, "{period}");
        }
        assert!(told(&judged("168h0m0s", "1h"), "trust period").is_problem("younger"));
        for wrong in ["0s", "7d", "-1h"] {
            let found = judged("168h0m0s", wrong);
            assert!(
                told(&found, "trust period").is_problem("168h0m0s"),
                "{wrong}"
            );
        }
        let mut unknown = facts();
        for at in 0..2 {
            answer(&mut unknown, at).trusted = Some(Err("pruned".to_owned()));
        }
        assert!(told(&judge(&unknown), "trust period").is_hint("--chain-rpc"));
        let mut young = facts();
        let trusted = answer(&mut young, 0).trusted.as_mut().unwrap();
        trusted.as_mut().unwrap().time = Some(now() + Duration::from_secs(9));
        assert!(told(&judge(&young), "trust period").is_good());
    }

    #[test]
    fn discovery_is_none_or_at_least_five_seconds() {
        for (time, remedy) in [
            ("5s", false),
            ("1m", false),
            ("4999ms", true),
            ("soon", true),
        ] {
            let found = judged("15s", time);
            let told = told(&found, "discovery time");
            assert_eq!(told.is_problem("discovery_time = \"5s\""), remedy, "{time}");
            assert_eq!(told.is_good(), !remedy, "{time}");
        }
        assert!(told(&judged("15s", "0s"), "discovery time").is_hint("5s"));
    }

    #[test]
    fn a_temporary_folder_in_the_settings_is_told_to_be_of_no_use() {
        let found = judged("enable = true", "enable = true\ntemp_dir = \"/big\"");
        assert!(told(&found, "temp_dir").is_hint("TMPDIR=/big"));
    }
}
