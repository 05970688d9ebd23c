//! The daemon and its place in the swarm.

use crate::node::command::{NetworkStatus, Status};
use crate::node::doctor::facts::{Daemon, Facts};
use crate::node::doctor::finding::{Check, Finding};

const DAEMON: Check = Check {
    subject: "daemon",
    why: "it shares what is here, takes new snapshots, and keeps the connections to peers",
};
const PEERS: Check = Check {
    subject: "peers",
    why: "snapshots come from them and go to them",
};
const REACH: Check = Check {
    subject: "own port",
    why: "others can fetch from here only if they get through to it; to fetch from others it is \
          not needed",
};
const HARVEST: Check = Check {
    subject: "harvest",
    why: "without it no new snapshot of the node comes here",
};

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.home.daemon {
        Daemon::Absent => {
            return vec![DAEMON.hint(
                "none runs: peers and the own port were not looked at",
                "`snapswarm start`, then `snapswarm doctor` again",
            )];
        }
        Daemon::Silent(why) => {
            return vec![DAEMON.problem(
                format!("one is there and cannot be asked: {why}"),
                "run this as the user of the daemon; if it hangs, stop it and `snapswarm start`",
            )];
        }
        Daemon::Runs(status) => status,
    };
    let own = env!("CARGO_PKG_VERSION");
    let mut found = vec![match status.version == own {
        true => DAEMON.good(format!("runs, version {own}")),
        false => DAEMON.hint(
            format!("runs in version {}, and this is {own}", status.version),
            "stop it and `snapswarm start`: both sides should have the same version",
        ),
    }];
    let Some(network) = &status.network else {
        return found;
    };
    found.push(peers(facts, status, network));
    found.push(reach(status, network));
    found.extend(harvest(status));
    found
}

fn peers(facts: &Facts, status: &Status, network: &NetworkStatus) -> Finding {
    if status.peers > 0 {
        let part = match network.dht_server {
            true => "and answers for the DHT",
            false => "and only asks the DHT",
        };
        return PEERS.good(format!(
            "connected to {}, knows {} of the DHT {part}",
            status.peers, network.dht_peers
        ));
    }
    let settings = facts.home.settings.as_ref();
    match settings.is_ok_and(|settings| settings.knows_peers) {
        true => PEERS.problem(
            "connected to none, and some are known",
            "see the daemon's log for why none is reached; `snapswarm start --bootstrap \
             MULTIADDR` names another (the first line of its `start` has it)",
        ),
        false => PEERS.hint(
            "connected to none, and none is known",
            "stop the daemon, then `snapswarm start --bootstrap MULTIADDR` with an address from \
             the first line of another's `start`; the first node of a network waits for others",
        ),
    }
}

/// Nobody outside is asked to dial back: what peers did and said by themselves counts.
fn reach(status: &Status, network: &NetworkStatus) -> Finding {
    if let Some(address) = network.external_confirmed.first() {
        return REACH.good(format!("peers reach it at {address}"));
    }
    if network.inbound_from_outside {
        return REACH.good("a peer came in from outside");
    }
    let port = port(&status.listen).unwrap_or_else(|| "PORT".to_owned());
    let open = format!(
        "open port {port} (TCP and UDP) in the firewall and forward it here; try it from another \
         machine: `nc -vz YOUR_ADDRESS {port}`"
    );
    let name = format!("then `snapswarm start --external-address /ip4/YOUR_ADDRESS/tcp/{port}`");
    if network.external_configured {
        return REACH.hint(
            "nobody has come in from outside yet at the address that you configured: not \
             confirmed, and not refuted",
            open,
        );
    }
    let on_loopback =
        |address: &String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    if !status.listen.is_empty() && status.listen.iter().all(on_loopback) {
        return REACH.hint(
            "it listens on this machine's loopback only",
            format!("`snapswarm start --listen /ip4/0.0.0.0/tcp/{port}`"),
        );
    }
    let seen = match network.external_observed.first() {
        Some(address) => format!(" (a peer sees this machine at {address})"),
        None => String::new(),
    };
    REACH.hint(
        format!("nobody has confirmed yet that it can be reached from outside{seen}"),
        format!("{open}, {name}"),
    )
}

/// The port of the first TCP listener.
fn port(listen: &[String]) -> Option<String> {
    listen.iter().find_map(|address| {
        let (_, behind) = address.split_once("/tcp/")?;
        let port = behind.split('/').next()?;
        (!port.is_empty()).then(|| port.to_owned())
    })
}

fn harvest(status: &Status) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(harvest) = &status.harvest {
        let node = &harvest.node;
        found.push(match (&harvest.last_error, harvest.connected) {
            (Some(error), _) => HARVEST.problem(
                format!("from {node}: {error}"),
                "`snapswarm status` shows whether it goes on; see the daemon's log",
            ),
            (None, false) => HARVEST.problem(
                format!("not connected to {node}"),
                "does the node run, are its id and [p2p] laddr right, has it inbound slots?",
            ),
            (None, true) => HARVEST.good(format!("connected to {node}")),
        });
    }
    if let Some(folder) = &status.sdk_snapshots {
        found.push(match &folder.last_error {
            Some(error) => HARVEST.problem(
                format!("from {}: {error}", folder.folder),
                "`snapswarm status` shows whether it goes on; see the daemon's log",
            ),
            None => HARVEST.good(format!("reads {}", folder.folder)),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::sample::{facts, harvest as harvesting, status, told};
    use super::*;

    fn judged(change: impl FnOnce(&mut Status)) -> Vec<Finding> {
        let mut status = status();
        change(&mut status);
        let mut facts = facts();
        facts.home.daemon = Daemon::Runs(Box::new(status));
        judge(&facts)
    }

    fn network(status: &mut Status) -> &mut NetworkStatus {
        status.network.as_mut().unwrap()
    }

    #[test]
    fn a_daemon_that_is_not_there_or_not_asked_or_older_is_told() {
        let mut facts = facts();
        facts.home.daemon = Daemon::Absent;
        assert!(told(&judge(&facts), "daemon").is_hint("snapswarm start"));
        facts.home.daemon = Daemon::Silent("no right".to_owned());
        assert!(told(&judge(&facts), "daemon").is_problem("as the user"));
        let older = judged(|status| status.version = "0.0.1".to_owned());
        assert!(told(&older, "daemon").is_hint("same version"));
    }

    #[test]
    fn no_peers_are_a_problem_where_some_are_known() {
        let mut facts = facts();
        let mut alone = status();
        alone.peers = 0;
        facts.home.daemon = Daemon::Runs(Box::new(alone));
        assert!(told(&judge(&facts), "peers").is_problem("--bootstrap"));
        facts.home.settings.as_mut().unwrap().knows_peers = false;
        assert!(told(&judge(&facts), "peers").is_hint("--bootstrap"));
    }

    #[test]
    fn a_port_is_reachable_when_somebody_came_in_and_unknown_before() {
        let nobody = |status: &mut Status| {
            network(status).external_confirmed.clear();
            network(status).inbound_from_outside = false;
        };
        assert!(told(&judged(|_| {}), "own port").is_good());
        let inbound = judged(|status| network(status).external_confirmed.clear());
        assert!(told(&inbound, "own port").is_good());
        let unknown = judged(nobody);
        assert!(
            told(&unknown, "own port").is_hint("--external-address /ip4/YOUR_ADDRESS/tcp/26670")
        );
        let configured = judged(|status| {
            nobody(status);
            network(status).external_configured = true;
        });
        assert!(told(&configured, "own port").is_hint("nc -vz YOUR_ADDRESS 26670"));
        let on_loopback = judged(|status| {
            nobody(status);
            status.listen = vec!["/ip4/127.0.0.1/tcp/7/p2p/12D3".to_owned()];
        });
        assert!(told(&on_loopback, "own port").is_hint("--listen /ip4/0.0.0.0/tcp/7"));
    }

    #[test]
    fn a_harvest_that_does_not_work_is_a_problem() {
        let connected = judged(|status| status.harvest = Some(harvesting(true)));
        assert!(told(&connected, "harvest").is_good());
        let apart = judged(|status| status.harvest = Some(harvesting(false)));
        assert!(told(&apart, "harvest").is_problem("inbound slots"));
        let failing = judged(|status| {
            let mut one = harvesting(true);
            one.last_error = Some("it was refused".to_owned());
            status.harvest = Some(one);
        });
        assert!(told(&failing, "harvest").is_problem("log"));
    }
}
