//! The settings of a node while it gets its state. Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use toml_edit::Value;

use crate::comet::peer::NodeAddress;
use crate::comet::rules::{FAST_RATE, TRUST_PERIOD};
use crate::comet::settings::{Change, Settings, go_duration};
use crate::node::chain::Trust;

/// CometBFT's shortest: it sleeps so long before it looks at offers.
const DISCOVERY_TIME: &str = "5s";
/// [`TRUST_PERIOD`].
const USUAL_TRUST_PERIOD: Duration = Duration::from_secs(168 * 3600);

/// Where a node listens while it is restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Doors {
    pub(super) rpc: SocketAddr,
    pub(super) p2p: SocketAddr,
}

type Wanted = Vec<(&'static str, &'static str, Value)>;

/// For a node that shall have the local peer (`peer_id`) as its only one: nobody else
/// can dial in, and it dials nobody. What it is to believe comes over RPC.
pub(super) fn alone(
    settings: &Settings,
    doors: Doors,
    trust: &Trust,
    peer_id: &str,
) -> Vec<Change> {
    let mut wanted = state_sync(settings, trust);
    wanted.extend([
        ("rpc", "laddr", format!("tcp://{}", doors.rpc).into()),
        ("rpc", "unsafe", true.into()),
        ("p2p", "laddr", format!("tcp://{}", doors.p2p).into()),
        ("p2p", "pex", false.into()),
        ("p2p", "seeds", "".into()),
        ("p2p", "persistent_peers", "".into()),
        ("p2p", "max_num_inbound_peers", 0.into()),
        ("p2p", "unconditional_peer_ids", peer_id.into()),
        ("p2p", "recv_rate", FAST_RATE.into()),
    ]);
    settings.changes(&wanted)
}

/// For CometBFT's own state sync from its own peers, or from these where the person
/// named none.
pub(super) fn from_peers(
    settings: &Settings,
    trust: &Trust,
    others: &[NodeAddress],
) -> Vec<Change> {
    let mut wanted = state_sync(settings, trust);
    wanted.extend(peers(settings, others));
    settings.changes(&wanted)
}

/// For block sync from the first block, likewise.
pub(super) fn from_blocks(settings: &Settings, others: &[NodeAddress]) -> Vec<Change> {
    let mut wanted: Wanted = vec![("statesync", "enable", false.into())];
    wanted.extend(peers(settings, others));
    settings.changes(&wanted)
}

/// For a node that needs no state and has its own settings, but for these peers where
/// the person named none.
pub(super) fn with_peers(settings: &Settings, others: &[NodeAddress]) -> Vec<Change> {
    settings.changes(&peers(settings, others))
}

/// Whether the person named nobody whom the node could dial.
pub(super) fn names_nobody(settings: &Settings) -> bool {
    let is_empty = |key| settings.text("p2p", key).trim().is_empty();
    is_empty("persistent_peers") && is_empty("seeds")
}

/// The value of `persistent_peers` with these.
pub(super) fn list(peers: &[NodeAddress]) -> String {
    let named: Vec<String> = peers.iter().map(NodeAddress::to_string).collect();
    named.join(",")
}

fn peers(settings: &Settings, others: &[NodeAddress]) -> Wanted {
    match names_nobody(settings) && !others.is_empty() {
        true => vec![("p2p", "persistent_peers", list(others).into())],
        false => Vec::new(),
    }
}

/// A change for a person to read. The addresses of RPC endpoints may have keys in them.
pub(super) fn shown(change: &Change) -> String {
    match change.key.as_str() {
        "rpc_servers" => change.name(),
        _ => format!("{} = {}", change.name(), change.ours),
    }
}

fn state_sync(settings: &Settings, trust: &Trust) -> Wanted {
    // CometBFT wants two servers, and takes one twice.
    let mut servers = trust.servers.clone();
    if servers.len() == 1 {
        servers.extend_from_within(..);
    }
    let mut wanted: Wanted = vec![
        ("statesync", "enable", true.into()),
        ("statesync", "rpc_servers", servers.join(",").into()),
        ("statesync", "trust_height", signed(trust.height).into()),
        ("statesync", "trust_hash", trust.hash.as_str().into()),
        ("statesync", "discovery_time", DISCOVERY_TIME.into()),
    ];
    if let Some(level) = telling(settings.text("", "log_level")) {
        wanted.push(("", "log_level", level.into()));
    }
    if matches!(settings.text("statesync", "trust_period"), "" | "0" | "0s") {
        wanted.push(("statesync", "trust_period", TRUST_PERIOD.into()));
    }
    wanted
}

/// A level of the log at which the node tells of its state sync, where this one does
/// not: a node that has given up tells it nowhere but in its log.
fn telling(level: &str) -> Option<String> {
    match level {
        "" | "info" | "debug" | "trace" => None,
        list if list.contains("statesync:") => None,
        list if list.contains(':') => Some(format!("statesync:info,{list}")),
        "none" | "disabled" => Some("statesync:info,*:none".to_owned()),
        // What the lists of every version know.
        _ => Some("statesync:info,*:error".to_owned()),
    }
}

/// How old a block may be that this node trusts: as its person has it, also for our own
/// light client.
pub(super) fn trust_period(settings: &Settings) -> Duration {
    let own = go_duration(settings.text("statesync", "trust_period"));
    own.filter(|period| !period.is_zero())
        .unwrap_or(USUAL_TRUST_PERIOD)
}

/// Heights are below 2^63 in CometBFT.
fn signed(height: u64) -> i64 {
    i64::try_from(height).unwrap_or(i64::MAX)
}

/// Where a listener of the settings is reached on loopback; `free` gives a port for
/// one that has none.
pub(super) fn on_loopback(laddr: &str, free: impl FnOnce() -> u16) -> SocketAddr {
    let place = laddr.rsplit_once("://").map_or(laddr, |(_, place)| place);
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = match place.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => address,
        Ok(address) => SocketAddr::new(loopback, address.port()),
        // A name, or a socket file.
        Err(_) => {
            let port = place
                .rsplit_once(':')
                .and_then(|(_, port)| port.parse().ok());
            SocketAddr::new(loopback, port.unwrap_or(0))
        }
    };
    match address.port() {
        0 => SocketAddr::new(address.ip(), free()),
        _ => address,
    }
}

/// `HOST:PORT` where a listener of the settings is reached from this machine, if it is
/// one of TCP.
pub(in crate::node) fn reached(laddr: &str) -> Option<String> {
    let place = laddr.strip_prefix("tcp://").unwrap_or(laddr);
    let (host, port) = place.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host {
        "" | "0.0.0.0" => "127.0.0.1",
        "[::]" => "[::1]",
        host => host,
    };
    Some(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust() -> Trust {
        Trust {
            height: 7,
            hash: "AB".to_owned(),
            servers: vec!["http://a:1".to_owned()],
        }
    }

    #[test]
    fn a_node_alone_has_no_door_for_anybody_but_the_local_peer() {
        let file = "[p2p]\nladdr = \"tcp://0.0.0.0:26656\"\npex = true\nseeds = \"x\"\n\
                    persistent_peers = \"y\"\nrecv_rate = 1\n[statesync]\ntrust_period = \"9h\"\n";
        let mut settings = Settings::parse(file).unwrap();
        let doors = Doors {
            rpc: "127.0.0.1:1".parse().unwrap(),
            p2p: "127.0.0.1:2".parse().unwrap(),
        };
        let changes = alone(&settings, doors, &trust(), "cafe");
        settings.apply(&changes).unwrap();
        assert_eq!(settings.text("p2p", "laddr"), "tcp://127.0.0.1:2");
        assert!(!settings.switch("p2p", "pex"));
        assert_eq!(settings.text("p2p", "seeds"), "");
        assert_eq!(settings.text("p2p", "persistent_peers"), "");
        assert_eq!(settings.number("p2p", "max_num_inbound_peers"), Some(0));
        assert_eq!(settings.text("p2p", "unconditional_peer_ids"), "cafe");
        assert!(settings.switch("rpc", "unsafe"));
        let servers = settings.text("statesync", "rpc_servers");
        assert_eq!(servers, "http://a:1,http://a:1");
        assert_eq!(
            settings.text("statesync", "trust_period"),
            "9h",
            "the person's own"
        );
        settings.undo(&changes).unwrap();
        assert_eq!(settings.to_string(), file);
    }

    #[test]
    fn a_node_whose_log_says_little_tells_of_its_state_sync() {
        for (level, wanted) in [
            ("error", "statesync:info,*:error"),
            ("info", "info"),
            ("none", "statesync:info,*:none"),
            ("warn", "statesync:info,*:error"),
            (
                "consensus:debug,*:error",
                "statesync:info,consensus:debug,*:error",
            ),
            ("statesync:debug,*:error", "statesync:debug,*:error"),
        ] {
            let file = format!("log_level = \"{level}\"\n[p2p]\nseeds = \"x\"\n");
            let mut settings = Settings::parse(&file).unwrap();
            let changes = from_peers(&settings, &trust(), &[]);
            settings.apply(&changes).unwrap();
            assert_eq!(settings.text("", "log_level"), wanted);
            settings.undo(&changes).unwrap();
            assert_eq!(settings.to_string(), file);
        }
    }

    #[test]
    fn a_node_that_names_nobody_gets_the_chains_nodes() {
        let id = "ab".repeat(20);
        let others = [format!("{id}@10.0.0.1:26656").parse().unwrap()];
        for (file, wanted) in [
            ("[p2p]\nseeds = \"\"\n", format!("{id}@10.0.0.1:26656")),
            ("[p2p]\nseeds = \"x\"\n", String::new()),
            ("[p2p]\npersistent_peers = \"y\"\n", "y".to_owned()),
        ] {
            let own = Settings::parse(file).unwrap();
            for changes in [
                from_blocks(&own, &others),
                from_peers(&own, &trust(), &others),
                with_peers(&own, &others),
            ] {
                let mut settings = own.clone();
                settings.apply(&changes).unwrap();
                assert_eq!(settings.text("p2p", "persistent_peers"), wanted);
            }
        }
    }

    #[test]
    fn a_block_is_trusted_as_long_as_the_person_says_or_as_is_usual() {
        let week = 168 * 3600;
        for (text, seconds) in [("9h", 9 * 3600), ("0s", week), ("", week), ("soon", week)] {
            let file = format!("[statesync]\ntrust_period = \"{text}\"\n");
            let settings = Settings::parse(&file).unwrap();
            assert_eq!(trust_period(&settings).as_secs(), seconds, "{text}");
        }
        assert_eq!(go_duration(TRUST_PERIOD), Some(USUAL_TRUST_PERIOD));
    }

    #[test]
    fn changes_are_shown_with_their_values_but_for_addresses_with_keys() {
        let own = Settings::parse("[p2p]\npex = true\n").unwrap();
        let trust = Trust {
            servers: vec!["https://rpc.example/KEY".to_owned()],
            ..trust()
        };
        let shown: Vec<String> = from_peers(&own, &trust, &[]).iter().map(shown).collect();
        assert!(
            shown.contains(&"statesync.enable = true".to_owned()),
            "{shown:?}"
        );
        assert!(!shown.concat().contains("KEY"), "{shown:?}");
    }

    #[test]
    fn a_listener_is_reached_where_it_is_bound() {
        let reached = |laddr| super::reached(laddr).unwrap_or_default();
        assert_eq!(reached("tcp://0.0.0.0:26657"), "127.0.0.1:26657");
        assert_eq!(reached("tcp://[::]:1"), "[::1]:1");
        assert_eq!(reached("tcp://10.0.0.1:1"), "10.0.0.1:1");
        for none in ["", "unix:///x.sock", "tcp://0.0.0.0:0"] {
            assert_eq!(reached(none), "");
        }
    }

    #[test]
    fn listeners_are_found_on_loopback_with_their_ports() {
        for (laddr, found) in [
            ("tcp://0.0.0.0:26657", "127.0.0.1:26657"),
            ("tcp://[::]:5", "127.0.0.1:5"),
            ("tcp://127.3.2.1:7", "127.3.2.1:7"),
            ("tcp://localhost:8", "127.0.0.1:8"),
            ("tcp://0.0.0.0:0", "127.0.0.1:99"),
            ("unix:///run/rpc.sock", "127.0.0.1:99"),
            ("", "127.0.0.1:99"),
        ] {
            assert_eq!(on_loopback(laddr, || 99), found.parse().unwrap());
        }
    }
}
