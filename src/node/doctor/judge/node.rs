//! The node itself: whether it answers, whether it is empty, what a join left.

use crate::node::doctor::facts::{Facts, NodeFolder};
use crate::node::doctor::finding::{Check, Finding};

const HOME: Check = Check {
    subject: "node home",
    why: "its settings decide whether it can be restored, and how fast",
};
const RPC: Check = Check {
    subject: "node",
    why: "its RPC tells its height, its peers, and what its application has",
};
const HEIGHT: Check = Check {
    subject: "node height",
    why: "CometBFT skips state sync when it has a state",
};
const LEFT: Check = Check {
    subject: "join",
    why: "a join that has not ended has changed the node's settings, and may have left its \
          stores halfway",
};

const SNAPSHOTS: Check = Check {
    subject: "snapshot-interval",
    why: "only snapshots that a node makes can be taken from it",
};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.node_home {
        None => found.push(HOME.hint(
            "not named: the node's settings and disk were not looked at",
            "snapswarm doctor --node-home DIR",
        )),
        Some(node) => found.extend(home(facts, node)),
    }
    match &facts.node {
        None => found.push(RPC.hint(
            "its RPC is not known: height, peers and application were not looked at",
            "snapswarm doctor --node-rpc http://127.0.0.1:26657",
        )),
        Some(node) => match &node.answer {
            Err(why) if facts.node_was_named => found.push(RPC.problem(
                why.clone(),
                "start the node, or check --node-rpc against [rpc] laddr in its config.toml",
            )),
            Err(why) => found.push(RPC.hint(
                format!("{why}; height, peers and application were not looked at"),
                "start the node, or name its RPC: snapswarm doctor --node-rpc URL",
            )),
            Ok(_) => found.push(RPC.good(format!("answers at {}", node.url))),
        },
    }
    found.extend(height(facts));
    found.extend(snapshots(facts));
    found
}

fn home(facts: &Facts, node: &NodeFolder) -> Vec<Finding> {
    let path = node.path.display();
    let mut found = Vec::new();
    if let Err(why) = &node.settings {
        let remedy = format!("check --node-home; `cometbft init --home {path}` makes one");
        found.push(HOME.problem(why.clone(), remedy));
    }
    if let Err(why) = &node.chain_id {
        let remedy = format!("put the chain's genesis.json into {path}/config");
        found.push(HOME.problem(why.clone(), remedy));
    }
    if found.is_empty() {
        found.push(HOME.good(format!("{path}")));
    }
    found.extend(left_open(facts, node));
    found
}

fn left_open(facts: &Facts, node: &NodeFolder) -> Option<Finding> {
    let left = match &node.left_open {
        Ok(left) => left.as_ref()?,
        Err(why) => {
            let remedy = "put your own settings back, and remove that file";
            return Some(LEFT.problem(why.clone(), remedy));
        }
    };
    let marker = node.path.join("snapswarm-join.json");
    let status = facts
        .daemon_status()
        .and_then(|status| status.join.as_ref());
    let runs = status.is_some_and(|join| join.node_home == node.path && join.phase != "synced");
    if runs {
        return Some(LEFT.hint(
            "one is under way: the node's settings are not its own now",
            "snapswarm status",
        ));
    }
    let mut told = format!("one was cut off: {} is there", marker.display());
    if !left.settings.is_empty() {
        told += &format!("; changed meanwhile: {}", left.settings.join(", "));
    }
    if left.window {
        told += "; its stores, or those of its application, may have to be emptied before it \
                 starts";
    }
    Some(LEFT.problem(
        told,
        format!(
            "snapswarm join --node-home {} --chain-rpc URL,URL, and what it was told beside (it \
             goes on, and puts all back)",
            node.path.display()
        ),
    ))
}

fn height(facts: &Facts) -> Option<Finding> {
    let status = &facts.node_answer()?.status;
    Some(match status.height {
        0 => HEIGHT.good("0: it can be restored"),
        height => HEIGHT.hint(
            format!("{height}: it has blocks, so it restores nothing any more"),
            "nothing, where it is to go on as it is; to restore a snapshot take a new home: \
             `cometbft init --home NEW`, or the chain's own `init`, with the chain's genesis.json",
        ),
    })
}

/// Of a node of the Cosmos SDK that others may start from.
fn snapshots(facts: &Facts) -> Option<Finding> {
    let node = facts.node_home.as_ref()?;
    let interval = node.snapshot_interval.filter(|_| facts.node_has_blocks())?;
    Some(match interval {
        ..=0 => SNAPSHOTS.hint(
            "0: this node makes no snapshots",
            format!(
                "for others to start from its state, write `snapshot-interval = 1000` under \
                 [state-sync] in {}, and start the node again",
                node.path.join("config/app.toml").display()
            ),
        ),
        blocks => SNAPSHOTS.good(format!("one after each {blocks} blocks")),
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::sample::{Told, facts, status, told, with_blocks};
    use super::*;
    use crate::comet::settings::Settings;
    use crate::node::command::JoinStatus;
    use crate::node::doctor::facts::Daemon;
    use crate::node::join::LeftOpen;

    #[test]
    fn what_was_not_named_is_told_with_its_argument() {
        let mut facts = facts();
        facts.node_home = None;
        facts.node = None;
        let found = judge(&facts);
        assert_eq!(
            told(&found, "node home"),
            Told::Hint("snapswarm doctor --node-home DIR")
        );
        assert!(told(&found, "node").is_hint("--node-rpc"));
    }

    #[test]
    fn a_home_that_cannot_be_read_is_a_problem() {
        let mut facts = facts();
        facts.node_home.as_mut().unwrap().settings = Err("no such file".to_owned());
        assert!(told(&judge(&facts), "node home").is_problem("cometbft init --home /node"));
        let node = facts.node_home.as_mut().unwrap();
        node.settings = Ok(Settings::default());
        node.chain_id = Err("no such file".to_owned());
        assert!(told(&judge(&facts), "node home").is_problem("genesis.json into /node/config"));
    }

    #[test]
    fn a_node_that_does_not_answer_is_a_problem_where_it_was_named() {
        let mut facts = facts();
        facts.node.as_mut().unwrap().answer = Err("connection refused".to_owned());
        assert!(told(&judge(&facts), "node").is_problem("--node-rpc"));
        facts.node_was_named = false;
        assert!(told(&judge(&facts), "node").is_hint("--node-rpc"));
    }

    #[test]
    fn a_node_with_blocks_is_not_restored() {
        assert!(told(&judge(&facts()), "node height").is_good());
        assert!(
            told(&judge(&with_blocks(facts())), "node height").is_hint("cometbft init --home NEW")
        );
    }

    #[test]
    fn a_node_that_makes_no_snapshots_is_told_once_it_has_blocks() {
        let making = |mut facts: Facts, interval| {
            facts.node_home.as_mut().unwrap().snapshot_interval = interval;
            judge(&facts)
        };
        for (facts, interval, expected) in [
            (facts(), Some(0), false),
            (with_blocks(facts()), None, false),
            (with_blocks(facts()), Some(0), true),
        ] {
            let found = making(facts, interval);
            let told = told(&found, "snapshot-interval");
            assert_eq!(told.is_hint("/node/config/app.toml"), expected);
            assert_eq!(told == Told::Nothing, !expected);
        }
        let found = making(with_blocks(facts()), Some(20));
        assert!(told(&found, "snapshot-interval").is_good());
    }

    #[test]
    fn a_join_that_was_cut_off_is_a_problem_and_one_under_way_is_not() {
        let mut facts = facts();
        assert_eq!(told(&judge(&facts), "join"), Told::Nothing);
        facts.node_home.as_mut().unwrap().left_open = Ok(Some(LeftOpen {
            settings: vec!["p2p.pex".to_owned()],
            window: true,
        }));
        let found = judge(&facts);
        assert!(told(&found, "join").is_problem("snapswarm join --node-home /node"));
        assert!(
            found
                .iter()
                .any(|f| f.what.contains("p2p.pex") && f.what.contains("stores"))
        );
        let mut running = status();
        running.join = Some(JoinStatus {
            node_home: PathBuf::from("/node"),
            rung: "swarm".to_owned(),
            phase: "feed".to_owned(),
            height: None,
            steps: Vec::new(),
        });
        facts.home.daemon = Daemon::Runs(Box::new(running));
        assert!(told(&judge(&facts), "join").is_hint("snapswarm status"));
        facts.node_home.as_mut().unwrap().left_open = Err("it cannot be read".to_owned());
        assert!(told(&judge(&facts), "join").is_problem("remove that file"));
    }
}
