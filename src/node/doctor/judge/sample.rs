//! Facts of a setup without a fault, and a short way to say what was found. For tests.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::comet::rpc::{AppState, Connections, NodeStatus};
use crate::comet::settings::Settings;
use crate::node::command::{HarvestStatus, LimitsNow, NetworkStatus, Status, UploadStatus};
use crate::node::doctor::facts::{
    After, Answer, Daemon, Endpoint, Facts, Folder, Home, HomeSettings, NodeFolder, Shelf,
    Snapshot, Trusted,
};
use crate::node::doctor::finding::{Finding, Level};
use crate::node::space::Space;

pub(super) const CHAIN: &str = "chain-1";
pub(super) const GIGA: u64 = 1_000_000_000;

/// Settings of a node that is to state-sync.
pub(super) const SETTINGS: &str = "\
[p2p]\nrecv_rate = 512000000\nsend_rate = 512000000\nmax_num_inbound_peers = 40\n\
allow_duplicate_ip = false\nunconditional_peer_ids = \"\"\n\
[statesync]\nenable = true\nrpc_servers = \"a:1,b:1\"\ntrust_height = 90\n\
trust_hash = \"AA\"\ntrust_period = \"168h0m0s\"\ndiscovery_time = \"15s\"\n";

/// The moment at which all of this is.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// An empty node of a chain at height 110, a snapshot of height 100 and 1 GB, two
/// endpoints, a daemon that others reach.
pub(super) fn facts() -> Facts {
    Facts {
        home: Home {
            folder: folder("/home/swarm", 1),
            exists: true,
            settings: Ok(HomeSettings {
                quota_bytes: None,
                max_download_bytes: 100 * GIGA,
                knows_peers: true,
            }),
            shelf: Ok(Shelf {
                snapshots: 1,
                used_bytes: GIGA,
                damaged: 0,
            }),
            daemon: Daemon::Runs(Box::new(status())),
            comet_id: Some("cc".to_owned()),
        },
        snapshot: Some(Snapshot {
            manifest: "cid".to_owned(),
            chain_id: CHAIN.to_owned(),
            height: 100,
            bytes: GIGA,
            missing_bytes: 0,
            proven: true,
            is_state: false,
            chunks: 100,
            largest_chunk_bytes: 10_000_000,
            app_hash: Some("BB".to_owned()),
        }),
        wanted: None,
        temporary: folder("/tmp", 2),
        node_home: Some(NodeFolder {
            path: PathBuf::from("/node"),
            settings: Ok(Settings::parse(SETTINGS).unwrap()),
            chain_id: Ok(CHAIN.to_owned()),
            data: folder("/node/data", 3),
            left_open: Ok(None),
            snapshot_interval: None,
        }),
        node: Some(Endpoint {
            url: "http://node".to_owned(),
            answer: Ok(node_answer()),
        }),
        node_was_named: true,
        chain: vec![endpoint("http://a"), endpoint("http://b")],
        chain_was_named: true,
        recent: Some(110),
    }
}

/// The same with other settings of the node: each `from` in them becomes `to`.
pub(super) fn facts_with(changes: &[(&str, &str)]) -> Facts {
    let mut text = SETTINGS.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let mut facts = facts();
    facts.node_home.as_mut().unwrap().settings = Ok(Settings::parse(&text).unwrap());
    facts
}

pub(super) fn folder(path: &str, device: u64) -> Folder {
    let space = Space {
        free_bytes: 100 * GIGA,
        device,
        in_memory: false,
    };
    Folder {
        path: PathBuf::from(path),
        space: Some(space),
    }
}

pub(super) fn status() -> Status {
    Status {
        running: true,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        peer_id: "12D3".to_owned(),
        listen: vec!["/ip4/192.168.1.2/tcp/26670/p2p/12D3".to_owned()],
        peers: 3,
        disk_bytes: GIGA,
        quota_bytes: None,
        snapshots: Vec::new(),
        downloads: Vec::new(),
        upload: UploadStatus {
            bytes: 0,
            active: 0,
            limits: LimitsNow {
                upload_bytes_per_s: 0,
                upload_slots: 0,
            },
        },
        harvest: None,
        join: None,
        sdk_snapshots: None,
        xian: None,
        network: Some(NetworkStatus {
            dht_server: true,
            dht_peers: 3,
            external_confirmed: vec!["/ip4/203.0.113.5/tcp/26670".to_owned()],
            external_observed: Vec::new(),
            external_configured: false,
            inbound_from_outside: true,
        }),
    }
}

pub(super) fn harvest(connected: bool) -> HarvestStatus {
    HarvestStatus {
        node: "id@127.0.0.1:1".to_owned(),
        connected,
        newest_height: Some(100),
        last_error: None,
    }
}

fn node_status(height: u64) -> NodeStatus {
    NodeStatus {
        chain_id: CHAIN.to_owned(),
        node_id: "00".to_owned(),
        moniker: "m".to_owned(),
        version: "0.38.25".to_owned(),
        height,
        earliest_height: height.min(1),
        catching_up: false,
        tip_time: (height > 0).then(now),
        p2p: None,
    }
}

pub(super) fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        answer: Ok(Answer {
            status: node_status(110),
            seen: now() + Duration::from_secs(2),
            recent: Some("DD".to_owned()),
            after: Some(Ok(After {
                app_hash: "BB".to_owned(),
                app_version: 1,
            })),
            trusted: Some(Ok(Trusted {
                hash: "AA".to_owned(),
                time: Some(now() - Duration::from_secs(3600)),
            })),
            app: None,
            connections: None,
        }),
    }
}

fn node_answer() -> Answer {
    Answer {
        status: node_status(0),
        seen: now(),
        recent: None,
        after: None,
        trusted: None,
        app: Some(Ok(AppState {
            height: 0,
            app_hash: bytes::Bytes::new(),
            app_version: 1,
        })),
        connections: Some(Ok(Connections::default())),
    }
}

/// The answer of an endpoint, to be changed.
pub(super) fn answer(facts: &mut Facts, at: usize) -> &mut Answer {
    facts.chain[at].answer.as_mut().unwrap()
}

/// The node's own answer, to be changed.
pub(super) fn own(facts: &mut Facts) -> &mut Answer {
    facts.node.as_mut().unwrap().answer.as_mut().unwrap()
}

/// The node has blocks.
pub(super) fn with_blocks(mut facts: Facts) -> Facts {
    own(&mut facts).status = node_status(105);
    facts
}

/// The most urgent that was found on a subject, with what to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told<'a> {
    Nothing,
    Good,
    Hint(&'a str),
    Problem(&'a str),
}

impl Told<'_> {
    pub(super) fn is_good(self) -> bool {
        self == Told::Good
    }

    /// A hint that says so.
    pub(super) fn is_hint(self, says: &str) -> bool {
        matches!(self, Told::Hint(remedy) if remedy.contains(says))
    }

    /// A problem that says so.
    pub(super) fn is_problem(self, says: &str) -> bool {
        matches!(self, Told::Problem(remedy) if remedy.contains(says))
    }
}

pub(super) fn told<'a>(found: &'a [Finding], subject: &str) -> Told<'a> {
    let fitting = found.iter().filter(|finding| finding.subject == subject);
    match fitting.min_by_key(|finding| finding.level) {
        None => Told::Nothing,
        Some(finding) => match finding.level {
            Level::Good => Told::Good,
            Level::Hint => Told::Hint(&finding.remedy),
            Level::Problem => Told::Problem(&finding.remedy),
        },
    }
}

#[test]
fn a_setup_without_a_fault_has_nothing_but_good_findings() {
    let found = super::judge(&facts());
    let others: Vec<&Finding> = found.iter().filter(|f| f.level != Level::Good).collect();
    assert!(others.is_empty(), "{others:#?}");
    assert!(
        found
            .iter()
            .all(|f| !f.what.is_empty() && !f.why.is_empty())
    );
}
