//! The node's own settings of its p2p connections.

use super::snapshot::DEFAULT_RATE;
use super::state_sync::settings;
use crate::comet::rpc::Connections;
use crate::comet::rules::FAST_RATE;
use crate::comet::settings::Settings;
use crate::node::doctor::facts::Facts;
use crate::node::doctor::figures;
use crate::node::doctor::finding::{Check, Finding};

const RECV_RATE: Check = Check {
    subject: "recv_rate",
    why: "a node that is restored takes no more over one connection",
};
const SEND_RATE: Check = Check {
    subject: "send_rate",
    why: "a node whose snapshots are harvested over p2p gives no more over one connection",
};
const SLOTS: Check = Check {
    subject: "inbound slots",
    why: "a harvest, and a feed, take one as any peer does",
};
const DUPLICATES: Check = Check {
    subject: "allow_duplicate_ip",
    why: "without it a second peer from one IP address is dropped without a word",
};

/// CometBFT's default.
const INBOUND_PEERS: i64 = 40;

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(settings) = settings(facts) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if !facts.node_has_blocks() {
        found.extend(speed(
            facts,
            RECV_RATE,
            "`snapswarm join` raises it for its time; otherwise ",
        ));
    }
    found.extend(speed(facts, SEND_RATE, ""));
    let connections = facts
        .node_answer()
        .and_then(|answer| answer.connections.as_ref());
    let connections = connections.and_then(|connections| connections.as_ref().ok());
    found.push(slots(facts, settings, connections));
    found.push(duplicates(facts, settings, connections));
    found
}

/// A rate of the node's settings, or CometBFT's default.
pub(super) fn rate(facts: &Facts, key: &str) -> Option<u64> {
    let rate = settings(facts)?.number("p2p", key);
    Some(
        rate.and_then(|rate| u64::try_from(rate).ok())
            .unwrap_or(DEFAULT_RATE),
    )
}

/// What raises it.
pub(super) fn raise(facts: &Facts, key: &str) -> String {
    write(facts, "p2p", &format!("{key} = {FAST_RATE}"))
}

/// A setting to write.
pub(super) fn write(facts: &Facts, table: &str, line: &str) -> String {
    let file = match &facts.node_home {
        Some(node) => node.path.join("config/config.toml").display().to_string(),
        None => "the node's config.toml".to_owned(),
    };
    format!("write `{line}` under [{table}] in {file}")
}

fn speed(facts: &Facts, check: Check, before: &str) -> Option<Finding> {
    let rate = rate(facts, check.subject)?;
    let mut told = format!("{:.2} MB/s", rate as f64 / 1e6);
    if let Some(snapshot) = &facts.snapshot {
        told += &format!(
            ": {} take {} or more",
            figures::bytes(snapshot.bytes),
            figures::time_at(snapshot.bytes, rate)
        );
    }
    Some(match rate > DEFAULT_RATE {
        true => check.good(told),
        false => check.hint(told, format!("{before}{}", raise(facts, check.subject))),
    })
}

fn slots(facts: &Facts, settings: &Settings, connections: Option<&Connections>) -> Finding {
    let most = settings.number("p2p", "max_num_inbound_peers");
    let most = most.unwrap_or(INBOUND_PEERS);
    let own = facts.home.comet_id.as_deref();
    let unconditional = settings.text("p2p", "unconditional_peer_ids");
    let mut unconditional = unconditional.split(',').map(str::trim);
    if own.is_some_and(|own| unconditional.any(|id| id.eq_ignore_ascii_case(own))) {
        return SLOTS.good("this home's peer needs none (unconditional_peer_ids)");
    }
    let remedy = write(
        facts,
        "p2p",
        &match own {
            Some(own) => format!("unconditional_peer_ids = \"{own}\""),
            None => format!("max_num_inbound_peers = {}", most.max(0).saturating_add(10)),
        },
    );
    let harvest = facts
        .daemon_status()
        .and_then(|status| status.harvest.as_ref());
    if harvest.is_some_and(|harvest| harvest.connected) {
        return SLOTS.good("this home's peer has one");
    }
    let Some(connections) = connections else {
        return match most {
            ..=0 => SLOTS.problem("the node lets nobody in", remedy),
            _ => SLOTS.hint(
                format!("{most}; how many are taken was not looked at"),
                "snapswarm doctor --node-rpc URL",
            ),
        };
    };
    let told = format!("{} of {most} are taken", connections.inbound);
    match i64::try_from(connections.inbound).is_ok_and(|taken| taken < most) {
        true => SLOTS.good(told),
        false => SLOTS.problem(told, remedy),
    }
}

fn duplicates(facts: &Facts, settings: &Settings, connections: Option<&Connections>) -> Finding {
    if settings.switch("p2p", "allow_duplicate_ip") {
        return DUPLICATES.good("true");
    }
    let harvest = facts
        .daemon_status()
        .and_then(|status| status.harvest.as_ref());
    let is_ours = harvest.is_some_and(|harvest| harvest.connected);
    match connections {
        Some(connections) if connections.on_this_machine > u64::from(is_ours) => DUPLICATES.hint(
            "false, and a peer of the node is on this machine: another may be dropped",
            write(facts, "p2p", "allow_duplicate_ip = true"),
        ),
        Some(_) => DUPLICATES.good("false, and no other peer of the node is on this machine"),
        None => DUPLICATES.good("false, as by default: one peer from each IP address"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Told, facts, facts_with, harvest, own, status, told, with_blocks};
    use super::*;
    use crate::node::doctor::facts::Daemon;

    #[test]
    fn default_rates_are_told_with_what_they_mean_for_the_snapshot() {
        for (key, line) in [
            ("recv_rate", "recv_rate = 512000000"),
            ("send_rate", "send_rate = 512000000"),
        ] {
            let slow = format!("{key} = 5120000");
            for slow in [slow.as_str(), ""] {
                let found = judge(&facts_with(&[(line, slow)]));
                assert!(told(&found, key).is_hint(line), "{key}");
                let what = &found.iter().find(|f| f.subject == key).unwrap().what;
                assert_eq!(what, "5.12 MB/s: 1.0 GB take 3 min or more");
            }
        }
        let found = judge(&with_blocks(facts()));
        assert_eq!(
            told(&found, "recv_rate"),
            Told::Nothing,
            "nothing is restored"
        );
        assert!(told(&found, "send_rate").is_good());
    }

    fn with_inbound(inbound: u64, near: u64) -> Facts {
        let mut facts = facts();
        own(&mut facts).connections = Some(Ok(Connections {
            peers: inbound,
            inbound,
            on_this_machine: near,
        }));
        facts
    }

    fn harvesting(mut facts: Facts) -> Facts {
        let mut status = status();
        status.harvest = Some(harvest(true));
        facts.home.daemon = Daemon::Runs(Box::new(status));
        facts
    }

    #[test]
    fn a_node_without_a_free_slot_is_a_problem() {
        assert!(told(&judge(&with_inbound(39, 0)), "inbound slots").is_good());
        let mut full = with_inbound(40, 0);
        let found = judge(&full);
        assert!(told(&found, "inbound slots").is_problem("unconditional_peer_ids = \"cc\""));
        full.home.comet_id = None;
        assert!(told(&judge(&full), "inbound slots").is_problem("max_num_inbound_peers = 50"));
        let connected = harvesting(full);
        assert!(
            told(&judge(&connected), "inbound slots").is_good(),
            "it has one"
        );
        let let_in = facts_with(&[
            (
                "unconditional_peer_ids = \"\"",
                "unconditional_peer_ids = \"dd, CC\"",
            ),
            ("max_num_inbound_peers = 40", "max_num_inbound_peers = 0"),
        ]);
        assert!(told(&judge(&let_in), "inbound slots").is_good());
    }

    #[test]
    fn slots_of_a_node_that_does_not_answer_were_not_looked_at() {
        let mut silent = facts();
        silent.node = None;
        assert!(told(&judge(&silent), "inbound slots").is_hint("--node-rpc"));
        let mut closed = facts_with(&[("max_num_inbound_peers = 40", "max_num_inbound_peers = 0")]);
        closed.node = None;
        assert!(told(&judge(&closed), "inbound slots").is_problem("unconditional_peer_ids"));
    }

    #[test]
    fn another_peer_on_this_machine_may_keep_ours_out() {
        let near = with_inbound(1, 1);
        assert!(told(&judge(&near), "allow_duplicate_ip").is_hint("allow_duplicate_ip = true"));
        assert!(told(&judge(&harvesting(near)), "allow_duplicate_ip").is_good());
        assert!(told(&judge(&with_inbound(1, 0)), "allow_duplicate_ip").is_good());
        let allowed = facts_with(&[("allow_duplicate_ip = false", "allow_duplicate_ip = true")]);
        assert!(told(&judge(&allowed), "allow_duplicate_ip").is_good());
    }
}
