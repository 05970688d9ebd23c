//! What was seen, as plain data. A fact that could not be had carries the sentence
//! that says why.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::comet::rpc::{AppState, Connections, NodeStatus};
use crate::comet::settings::Settings;
use crate::node::command::Status;
use crate::node::join::LeftOpen;
use crate::node::space::Space;

/// Everything.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) home: Home,
    /// The snapshot that is judged by.
    pub(super) snapshot: Option<Snapshot>,
    /// The one that was asked for, if any.
    pub(super) wanted: Option<String>,
    /// Where CometBFT keeps the chunks of a restore, as far as this process can tell.
    pub(super) temporary: Folder,
    /// The node's home, where it was named.
    pub(super) node_home: Option<NodeFolder>,
    /// The node's RPC, where it is known.
    pub(super) node: Option<Endpoint>,
    /// Whether a person named it; else the node's settings did.
    pub(super) node_was_named: bool,
    /// Other nodes of the chain.
    pub(super) chain: Vec<Endpoint>,
    /// Whether a person named them; else the node's settings did.
    pub(super) chain_was_named: bool,
    /// A height that the chain's endpoints should all have.
    pub(super) recent: Option<u64>,
}

/// A folder and its disk.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) space: Option<Space>,
}

/// The home of snapswarm.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) folder: Folder,
    pub(super) exists: bool,
    pub(super) settings: Result<HomeSettings, String>,
    pub(super) shelf: Result<Shelf, String>,
    pub(super) daemon: Daemon,
    /// The id of the key with which it meets CometBFT nodes, if there is one yet.
    pub(super) comet_id: Option<String>,
}

/// Of the home's settings.
#[derive(Clone, Debug)]
pub(super) struct HomeSettings {
    pub(super) quota_bytes: Option<u64>,
    pub(super) max_download_bytes: u64,
    /// Whether it knows anybody to begin with.
    pub(super) knows_peers: bool,
}

/// Of the home's snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf {
    pub(super) snapshots: usize,
    pub(super) used_bytes: u64,
    pub(super) damaged: usize,
}

/// The home's daemon.
#[derive(Debug)]
pub(super) enum Daemon {
    Absent,
    /// There is one, and it does not answer.
    Silent(String),
    Runs(Box<Status>),
}

/// A snapshot of the home.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) manifest: String,
    pub(super) chain_id: String,
    pub(super) height: u64,
    /// Of all chunks.
    pub(super) bytes: u64,
    /// Of these, what is still to come.
    pub(super) missing_bytes: u64,
    pub(super) proven: bool,
    /// Whether it holds records of a state, which an application hash does not prove.
    pub(super) is_state: bool,
    pub(super) chunks: u32,
    pub(super) largest_chunk_bytes: u32,
    /// Hex in upper case.
    pub(super) app_hash: Option<String>,
}

/// The home of a CometBFT node.
#[derive(Debug)]
pub(super) struct NodeFolder {
    pub(super) path: PathBuf,
    pub(super) settings: Result<Settings, String>,
    pub(super) chain_id: Result<String, String>,
    pub(super) data: Folder,
    /// The marker of a join that has not ended.
    pub(super) left_open: Result<Option<LeftOpen>, String>,
    /// Blocks between two snapshots, where it is a node of the Cosmos SDK.
    pub(super) snapshot_interval: Option<i64>,
}

/// A node's RPC.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) url: String,
    pub(super) answer: Result<Answer, String>,
}

/// What a node's RPC says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: NodeStatus,
    /// This machine's clock when the status came.
    pub(super) seen: SystemTime,
    /// Hash of the block of [`Facts::recent`], hex.
    pub(super) recent: Option<String>,
    /// Header H+1 of the snapshot.
    pub(super) after: Option<Result<After, String>>,
    /// The block that the node's settings trust.
    pub(super) trusted: Option<Result<Trusted, String>>,
    /// The application; of the node alone.
    pub(super) app: Option<Result<AppState, String>>,
    /// Who is connected; of the node alone.
    pub(super) connections: Option<Result<Connections, String>>,
}

/// What header H+1 says of the state at H.
#[derive(Clone, Debug)]
pub(super) struct After {
    /// Hex in upper case.
    pub(super) app_hash: String,
    pub(super) app_version: u64,
}

/// A block that is trusted.
#[derive(Clone, Debug)]
pub(super) struct Trusted {
    /// Hex in upper case.
    pub(super) hash: String,
    pub(super) time: Option<SystemTime>,
}

impl Facts {
    /// Answers of the chain's endpoints.
    pub(super) fn chain_answers(&self) -> impl Iterator<Item = (&Endpoint, &Answer)> {
        answers(self.chain.iter())
    }

    /// Answers of all nodes, the own one first.
    pub(super) fn answers(&self) -> impl Iterator<Item = (&Endpoint, &Answer)> {
        answers(self.node.iter().chain(&self.chain))
    }

    /// The node's own answer.
    pub(super) fn node_answer(&self) -> Option<&Answer> {
        self.node.as_ref()?.answer.as_ref().ok()
    }

    /// Whether the node is known to have blocks: it does not state-sync any more.
    pub(super) fn node_has_blocks(&self) -> bool {
        self.node_answer()
            .is_some_and(|answer| answer.status.height > 0)
    }

    /// Whether a node is being looked at that may be restored.
    pub(super) fn is_about_a_node(&self) -> bool {
        self.node_home.is_some() || self.node.is_some()
    }

    /// What the daemon says, where it runs.
    pub(super) fn daemon_status(&self) -> Option<&Status> {
        match &self.home.daemon {
            Daemon::Runs(status) => Some(status),
            Daemon::Absent | Daemon::Silent(_) => None,
        }
    }
}

fn answers<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint>,
) -> impl Iterator<Item = (&'a Endpoint, &'a Answer)> {
    endpoints.filter_map(|endpoint| Some((endpoint, endpoint.answer.as_ref().ok()?)))
}
