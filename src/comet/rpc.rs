//! What a CometBFT node says over RPC.
//!
//! The node behind the URL is the authority: whoever runs the program chose it.
//! Even so its answers are bounded ([`MAX_ANSWER_BYTES`]), because a URL may
//! lead to something else. Only the fields that are needed are read, so that
//! other versions and chains with other key types are understood as well.

mod address;
mod answers;
mod blocks;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::address::{is_loopback, without_secrets};
use self::answers::{
    AbciInfoAnswer, AbciQueryAnswer, Answer, NetInfoAnswer, PeerAnswer, StatusAnswer, moment,
};
use super::peer::NodeAddress;

/// One question, connecting included. A healthy node answers in milliseconds; a
/// node whose application is busy may hold `abci_info` back, and the caller asks
/// again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connecting alone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer read: the commit of 10,000 validators has 3 MB as JSON.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The part of a node's own error text that is passed on.
const MAX_ERROR_CHARS: usize = 300;
/// JSON-RPC 2.0.
const METHOD_NOT_FOUND: i64 = -32601;

/// A client of one node's RPC. Cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    client: reqwest::Client,
    url: reqwest::Url,
}

/// A block's header, as far as a light client needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// The block's hash; empty when the node does not tell it.
    pub block_hash: Bytes,
    /// The application hash of the state before this block.
    pub app_hash: Bytes,
    /// The version of the application's protocol.
    pub app_version: u64,
    /// When the block was made, by its validators' clocks.
    pub time: Option<SystemTime>,
}

/// What the header behind a height says of the state there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderAfter {
    /// The application hash.
    pub app_hash: Bytes,
    /// The version of the application's protocol.
    pub app_version: u64,
}

/// A validator, as a node tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::comet) struct Validator {
    /// The name of its key's kind, as CometBFT writes it in JSON.
    pub(in crate::comet) key_type: String,
    /// Its public key.
    pub(in crate::comet) key: Bytes,
    /// Its voting power.
    pub(in crate::comet) power: u64,
}

/// What `/status` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// Chain id.
    pub chain_id: String,
    /// Node id, 40 hex digits.
    pub node_id: String,
    /// The name that its operator gave it.
    pub moniker: String,
    /// Version of CometBFT.
    pub version: String,
    /// Height of the newest stored block; 0 when there is none yet, also
    /// between a restore and the first block after it.
    pub height: u64,
    /// Height of the oldest stored block; 0 when there is none.
    pub earliest_height: u64,
    /// Whether the node says that it is not yet at the tip. Not to be relied on
    /// alone: it is false after some failed restores.
    pub catching_up: bool,
    /// When the newest block was made, by its validators' clocks.
    pub tip_time: Option<SystemTime>,
    /// Where others reach its p2p listener, seen from where its RPC is.
    pub p2p: Option<NodeAddress>,
}

/// What `/abci_info` says of the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppState {
    /// Height of the application's state; 0 when it is empty.
    pub height: u64,
    /// Application hash after that height: the one that header height+1 carries.
    pub app_hash: Bytes,
    /// The version of its protocol, as it says before any header does; 0 when it
    /// does not.
    pub app_version: u64,
}

/// Who is connected to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connections {
    /// All peers.
    pub peers: u64,
    /// Those that came by themselves: they take inbound slots.
    pub inbound: u64,
    /// Those at a loopback address.
    pub on_this_machine: u64,
}

/// How far a fed node is, by [`Rpc::restored`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Restored {
    /// No trace of the snapshot's state yet.
    NotYet,
    /// The application holds exactly the snapshot's state; the node has no
    /// block yet. Now is the moment for [`Rpc::dial_peers`]. The node must not
    /// be stopped before it stores its first block.
    State,
    /// The node has stored blocks above the snapshot.
    Following {
        /// Height of the newest.
        height: u64,
        /// Whether it says that more are to come.
        catching_up: bool,
    },
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The text is no URL of an RPC.
    #[error("'{url}' is no RPC address: {problem}; one looks like http://127.0.0.1:26657")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody answers, or not in time.
    #[error("the RPC at {url} does not answer ({what}): {}", innermost(source))]
    Unreachable {
        /// The RPC.
        url: String,
        /// Connecting, or which question.
        what: &'static str,
        /// Why.
        source: reqwest::Error,
    },
    /// It, or what stands before it, is too busy or out of order for now.
    #[error("the RPC at {url} does not answer {method} now: HTTP {status}")]
    Busy {
        /// The RPC.
        url: String,
        /// The question.
        method: &'static str,
        /// The status.
        status: u16,
    },
    /// It answers, but not as CometBFT's RPC does.
    #[error("{url} does not answer {method} as a CometBFT RPC does: {problem}")]
    Answer {
        /// The RPC.
        url: String,
        /// The question.
        method: &'static str,
        /// What is wrong with the answer.
        problem: String,
    },
    /// It refuses, with its own words.
    #[error("the RPC at {url} refuses {method}: {message} ({code})")]
    Refused {
        /// The RPC.
        url: String,
        /// The question.
        method: &'static str,
        /// The JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
    },
    /// The method exists only with `rpc.unsafe`.
    #[error(
        "the RPC at {url} does not offer {method}: set `unsafe = true` under [rpc] in the \
         node's config.toml, with its laddr on loopback only"
    )]
    Unsafe {
        /// The RPC.
        url: String,
        /// The question.
        method: &'static str,
    },
    /// The chain is not that far.
    #[error(
        "the application hash of height {height} stands in block {needed}, and {url} has \
         blocks up to {tip} only: wait for it"
    )]
    TooNew {
        /// The RPC.
        url: String,
        /// The height asked about.
        height: u64,
        /// The block that tells it.
        needed: u64,
        /// The node's newest block.
        tip: u64,
    },
    /// The node has pruned that block.
    #[error(
        "the application hash of height {height} stands in block {needed}, and {url} keeps \
         blocks from {earliest} on only: ask a node with a longer history"
    )]
    Pruned {
        /// The RPC.
        url: String,
        /// The height asked about.
        height: u64,
        /// The block that tells it.
        needed: u64,
        /// The node's oldest block.
        earliest: u64,
    },
}

/// The last cause: the ones before it only say who met it.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl RpcError {
    /// What a person can do about it, where that is not said already.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { .. } => Some("is the node running, and its [rpc] laddr right?"),
            Self::Busy { .. } => Some("ask again later, or another node"),
            Self::Answer { .. } => Some("give the address of a CometBFT node's RPC"),
            Self::Refused { .. } => Some("look into the node's log, or ask another node"),
            Self::Url { .. } | Self::Unsafe { .. } | Self::TooNew { .. } | Self::Pruned { .. } => {
                None
            }
        }
    }

    /// Whether the same question may have an answer later without anyone
    /// changing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Busy { .. }
            | Self::TooNew { .. }
            | Self::Refused { .. } => true,
            Self::Url { .. } | Self::Answer { .. } | Self::Unsafe { .. } | Self::Pruned { .. } => {
                false
            }
        }
    }
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rpc({})", self.url())
    }
}

impl Rpc {
    /// A client for the RPC at `url`: `http://HOST:PORT` or `https://…`; also
    /// `tcp://HOST:PORT` and `HOST:PORT`, as CometBFT's own settings have them.
    /// Asks nothing yet.
    pub fn new(url: &str) -> Result<Self, RpcError> {
        let wrong = |problem: String| RpcError::Url {
            url: without_secrets(url),
            problem,
        };
        let full = match url.split_once("://") {
            Some(("tcp", rest)) => format!("http://{rest}"),
            Some(_) => url.to_owned(),
            None => format!("http://{url}"),
        };
        let parsed = reqwest::Url::parse(&full).map_err(|error| wrong(error.to_string()))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(wrong(format!("'{}' is not http or https", parsed.scheme())));
        }
        if parsed.host_str().is_none_or(str::is_empty) {
            return Err(wrong("it names no host".to_owned()));
        }
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("snapswarm/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT);
        if is_loopback(&parsed) {
            // A proxy of the environment is for the world outside.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            client,
            url: parsed,
        })
    }

    /// The URL as it may be shown: user, path and query of a rented endpoint are its
    /// key.
    pub fn url(&self) -> String {
        without_secrets(self.url.as_str())
    }

    /// The URL with all that it has, for a node's settings.
    pub fn full_url(&self) -> String {
        self.url.as_str().trim_end_matches('/').to_owned()
    }

    /// What the node says of itself.
    pub async fn status(&self) -> Result<NodeStatus, RpcError> {
        let answer: StatusAnswer = self.ask("status", json!({})).await?;
        let host = self.url.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let time = moment(&answer.sync_info.latest_block_time);
        let height = answer.sync_info.latest_block_height.0;
        Ok(NodeStatus {
            tip_time: time.filter(|_| height > 0),
            p2p: answer.node_info.address(host),
            chain_id: answer.node_info.network,
            node_id: answer.node_info.id.to_lowercase(),
            moniker: answer.node_info.moniker,
            version: answer.node_info.version,
            height,
            earliest_height: answer.sync_info.earliest_block_height.0,
            catching_up: answer.sync_info.catching_up,
        })
    }

    /// The node's chain id.
    pub async fn chain_id(&self) -> Result<String, RpcError> {
        Ok(self.status().await?.chain_id)
    }

    /// What the application says of its state.
    pub async fn app_state(&self) -> Result<AppState, RpcError> {
        let answer: AbciInfoAnswer = self.ask("abci_info", json!({})).await?;
        Ok(AppState {
            height: answer.response.last_block_height.0,
            app_hash: answer.response.last_block_app_hash.0.into(),
            app_version: answer.response.app_version.0,
        })
    }

    /// Whether the node took the snapshot of `height` with this application
    /// hash. One look; the caller asks again until it is content.
    ///
    /// Right after the log line "Snapshot restored" the node's `/status` still
    /// says height 0, until its first block is stored; `/abci_info` tells the
    /// new state at once.
    pub async fn restored(&self, height: u64, app_hash: &[u8]) -> Result<Restored, RpcError> {
        let status = self.status().await?;
        if status.height > height {
            return Ok(Restored::Following {
                height: status.height,
                catching_up: status.catching_up,
            });
        }
        let app = self.app_state().await?;
        Ok(if app.height == height && app.app_hash == app_hash {
            Restored::State
        } else {
            Restored::NotYet
        })
    }

    /// How many peers the node has.
    pub async fn peer_count(&self) -> Result<u64, RpcError> {
        let answer: NetInfoAnswer = self.ask("net_info", json!({})).await?;
        Ok(answer.n_peers.0)
    }

    /// The ids of its peers, as the node tells them.
    pub async fn peer_ids(&self) -> Result<Vec<String>, RpcError> {
        let answer: NetInfoAnswer = self.ask("net_info", json!({})).await?;
        let ids = answer.peers.into_iter().map(|peer| peer.node_info.id);
        Ok(ids.collect())
    }

    /// Who is connected to the node, and how.
    pub async fn connections(&self) -> Result<Connections, RpcError> {
        let answer: NetInfoAnswer = self.ask("net_info", json!({})).await?;
        let count = |fits: fn(&PeerAnswer) -> bool| {
            let fitting = answer.peers.iter().filter(|peer| fits(peer));
            fitting.count() as u64
        };
        Ok(Connections {
            peers: answer.n_peers.0,
            inbound: count(|peer| !peer.is_outbound),
            on_this_machine: count(|peer| {
                let ip: Option<IpAddr> = peer.remote_ip.parse().ok();
                ip.is_some_and(|ip| ip.is_loopback())
            }),
        })
    }

    /// Where the node's peers listen, as far as they tell.
    pub async fn peers(&self) -> Result<Vec<NodeAddress>, RpcError> {
        let answer: NetInfoAnswer = self.ask("net_info", json!({})).await?;
        let place = |peer: &PeerAnswer| peer.node_info.address(&peer.remote_ip);
        let mut places: Vec<NodeAddress> = answer.peers.iter().filter_map(place).collect();
        // CometBFT refuses a whole list of peers for one that is no address.
        places.retain(|place| place.host.parse::<IpAddr>().is_ok());
        Ok(places)
    }

    /// What the application, or what stands before it, answers to a query; nothing
    /// when it refuses.
    pub async fn query(&self, path: &str) -> Result<Option<Vec<u8>>, RpcError> {
        let answer: AbciQueryAnswer = self.ask("abci_query", json!({ "path": path })).await?;
        let response = answer.response;
        Ok((response.code == 0).then_some(response.value.0))
    }

    /// Has the node dial these peers and keep them as persistent ones. The
    /// node's RPC must be started with `unsafe = true`. It answers before it has
    /// reached them: see [`Rpc::peer_count`].
    pub async fn dial_peers(&self, peers: &[NodeAddress]) -> Result<(), RpcError> {
        let peers: Vec<String> = peers.iter().map(NodeAddress::to_string).collect();
        let params = json!({ "peers": peers, "persistent": true });
        match self.ask::<serde_json::Value>("dial_peers", params).await {
            Ok(_) => Ok(()),
            Err(RpcError::Refused {
                url, method, code, ..
            }) if code == METHOD_NOT_FOUND => Err(RpcError::Unsafe { url, method }),
            Err(error) => Err(error),
        }
    }

    fn wrong(&self, method: &'static str, problem: String) -> RpcError {
        RpcError::Answer {
            url: self.url(),
            method,
            problem,
        }
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: serde_json::Value,
    ) -> Result<T, RpcError> {
        let question = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let unreachable = |source: reqwest::Error| RpcError::Unreachable {
            url: self.url(),
            what: if source.is_connect() {
                "connecting"
            } else {
                method
            },
            source: source.without_url(),
        };
        let wrong = |problem: String| self.wrong(method, problem);
        let mut answer = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .body(question.to_string())
            .send()
            .await
            .map_err(unreachable)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + part.len() > MAX_ANSWER_BYTES {
                return Err(wrong(format!("more than {MAX_ANSWER_BYTES} bytes")));
            }
            body.extend_from_slice(&part);
        }
        // CometBFT says "internal error" with status 500 and a JSON-RPC body.
        match serde_json::from_slice::<Answer<T>>(&body) {
            Ok(Answer {
                error: Some(error), ..
            }) => Err(RpcError::Refused {
                url: self.url(),
                method,
                code: error.code,
                message: error.text(),
            }),
            Ok(Answer {
                result: Some(result),
                ..
            }) => Ok(result),
            Ok(_) => Err(wrong(format!("neither result nor error (HTTP {status})"))),
            Err(_) if is_busy(status) => Err(RpcError::Busy {
                url: self.url(),
                method,
                status: status.as_u16(),
            }),
            Err(_) if !status.is_success() => Err(wrong(format!("HTTP {status}"))),
            Err(error) => Err(wrong(error.to_string())),
        }
    }
}

/// Whether a status says that the same question may have an answer later.
fn is_busy(status: reqwest::StatusCode) -> bool {
    status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS
}
