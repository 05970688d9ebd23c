//! The chain, as the RPC endpoints that the person named tell of it.
//!
//! What is to be believed (a block's hash, an application hash) counts only when all
//! endpoints that answer, and at least two, say the same, or when the person gave the
//! hash by hand. What merely helps (how far the chain is, who its nodes are) may come
//! from any of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::future::join_all;

use super::overlay::Trust;
use crate::comet::peer::NodeAddress;
use crate::comet::rpc::{Header, HeaderAfter, NodeStatus, Rpc, RpcError};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;

/// Endpoints that have to agree.
const ENOUGH: usize = 2;
/// A light client refuses headers from further in the future.
const MAX_CLOCK_DRIFT: Duration = Duration::from_secs(10);
/// Between two looks at a chain that is not far enough.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The header after the one with the application hash: CometBFT's light client wants
/// it, too.
const BLOCKS_AFTER: u64 = 2;
/// Peers taken over from one node.
const MAX_PEERS: usize = 32;
/// Where trust begins when CometBFT's peers choose the snapshot: not above any that
/// they may have, or the light client walks backwards.
const TRUST_BELOW_TIP: u64 = 2000;

/// The chain behind some RPC endpoints.
pub(super) struct Chain {
    pub(super) id: String,
    rpcs: Vec<Rpc>,
    /// What the person trusts, instead of what endpoints agree in.
    by_hand: Option<(u64, String)>,
}

/// How far the chain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    /// The newest block that two endpoints have, or the only one that answers.
    pub(super) tip: u64,
    /// The oldest block that one still has.
    pub(super) oldest: u64,
}

impl Chain {
    /// Endpoints, each once.
    pub(super) fn new(
        id: String,
        urls: &[String],
        by_hand: Option<(u64, String)>,
    ) -> Result<Self, Failure> {
        let mut seen = BTreeSet::new();
        let mut rpcs = Vec::new();
        for url in urls {
            let rpc = Rpc::new(url)?;
            if seen.insert(rpc.full_url()) {
                rpcs.push(rpc);
            }
        }
        let chain = Self { id, rpcs, by_hand };
        chain.are_enough()?;
        Ok(chain)
    }

    fn are_enough(&self) -> Result<(), Failure> {
        if self.rpcs.len() >= ENOUGH || self.by_hand.is_some() {
            return Ok(());
        }
        Err(Failure::new(
            FailureCode::Usage,
            "one RPC endpoint alone is not believed",
        )
        .hint(
            "name a second one, of somebody else (--chain-rpc URL,URL), or give a block that you \
             trust with --trust-height and --trust-hash",
        ))
    }

    /// Looks at the endpoints before anything is begun: chain, clock. Those that do
    /// not answer are named; two that are one node count as one.
    pub(super) async fn check(&mut self, reporter: &Reporter) -> Result<(), Failure> {
        let asked = self.statuses().await;
        let mut nodes: BTreeMap<String, String> = BTreeMap::new();
        let mut again = BTreeSet::new();
        let mut silent = None;
        for (rpc, status) in asked {
            match status {
                Ok(status) => {
                    self.check_one(rpc, &status)?;
                    match nodes.get(&status.node_id) {
                        Some(other) => {
                            let url = rpc.url();
                            reporter.note(format!("{other} and {url} are one node"));
                            again.insert(rpc.full_url());
                        }
                        None => drop(nodes.insert(status.node_id, rpc.url())),
                    }
                }
                Err(error) => {
                    reporter.note(error.to_string());
                    silent = Some(error);
                }
            }
        }
        if let Some(error) = silent.filter(|_| nodes.is_empty()) {
            return Err(error.into());
        }
        self.rpcs.retain(|rpc| !again.contains(&rpc.full_url()));
        self.are_enough()?;
        // Who lies is found out before anything is downloaded.
        let tip = self.extent().await.map_or(0, |extent| extent.tip);
        match self.app_hash_after(tip.saturating_sub(1)).await {
            Err(failure) if failure.code == FailureCode::Verification => Err(failure),
            _ => Ok(()),
        }
    }

    fn check_one(&self, rpc: &Rpc, status: &NodeStatus) -> Result<(), Failure> {
        if status.chain_id != self.id {
            let (url, found, wanted) = (rpc.url(), &status.chain_id, &self.id);
            return Err(Failure::new(
                FailureCode::Usage,
                format!("{url} is of the chain {found}, and the node's genesis of {wanted}"),
            )
            .hint("check --chain-rpc and the node's genesis.json"));
        }
        let ahead = |tip: SystemTime| tip.duration_since(SystemTime::now()).unwrap_or_default();
        let ahead = status.tip_time.map_or(Duration::ZERO, ahead);
        if ahead > MAX_CLOCK_DRIFT {
            return Err(Failure::new(
                FailureCode::Failed,
                format!(
                    "this machine's clock is behind: the newest block is {} seconds in its future",
                    ahead.as_secs()
                ),
            )
            .hint("set the clock (`timedatectl set-ntp true`): CometBFT believes no such blocks"));
        }
        Ok(())
    }

    async fn statuses(&self) -> Vec<(&Rpc, Result<NodeStatus, RpcError>)> {
        join_all(self.rpcs.iter().map(async |rpc| (rpc, rpc.status().await))).await
    }

    /// An endpoint that answers.
    pub(super) async fn any(&self) -> Result<&Rpc, Failure> {
        let mut trouble = None;
        for (rpc, status) in self.statuses().await {
            match status {
                Ok(_) => return Ok(rpc),
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.map_or_else(|| self.silent(), Failure::from))
    }

    fn silent(&self) -> Failure {
        Failure::new(
            FailureCode::Failed,
            format!("no RPC endpoint of {} answers", self.id),
        )
    }

    /// How far it is, by all that answer; nothing when none does.
    pub(super) async fn extent(&self) -> Option<Extent> {
        let asked = self.statuses().await;
        let told: Vec<NodeStatus> = asked.into_iter().filter_map(|(_, s)| s.ok()).collect();
        let mut heights: Vec<u64> = told.iter().map(|status| status.height).collect();
        heights.sort_unstable_by_key(|height| std::cmp::Reverse(*height));
        Some(Extent {
            // One alone could tell of blocks that nobody else has.
            tip: *heights.get(1).or(heights.first())?,
            oldest: told.iter().map(|status| status.earliest_height).min()?,
        })
    }

    /// Waits until enough endpoints have the blocks that the light client needs for a
    /// snapshot of this height.
    pub(super) async fn wait_for(&self, height: u64, patience: Duration) -> Result<(), Failure> {
        let needed = height.saturating_add(BLOCKS_AFTER);
        let reached = async {
            while !self.have_reached(needed).await {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(patience, reached).await.map_err(|_| {
            Failure::new(
                FailureCode::Failed,
                format!("the chain did not reach block {needed} in time"),
            )
            .hint("a snapshot can be verified when two blocks follow it: does the chain go on?")
        })
    }

    /// Whether as many of the endpoints that answer have a block as have to agree about
    /// it.
    async fn have_reached(&self, height: u64) -> bool {
        let asked = self.statuses().await;
        let told: Vec<NodeStatus> = asked.into_iter().filter_map(|(_, s)| s.ok()).collect();
        let there = told.iter().filter(|status| status.height >= height).count();
        there > 0 && there >= ENOUGH.min(told.len())
    }

    /// What a light client can begin with to verify a snapshot of this height.
    pub(super) async fn trust_for(&self, height: u64) -> Result<Trust, Failure> {
        let servers = self.servers().await?;
        if let Some((trusted, hash)) = &self.by_hand {
            if *trusted > height {
                return Err(Failure::new(
                    FailureCode::Usage,
                    format!("--trust-height {trusted} is above the snapshot's height {height}"),
                )
                .hint("trust a block at or below the snapshot"));
            }
            return Ok(Trust {
                height: *trusted,
                hash: hash.clone(),
                servers,
            });
        }
        Ok(Trust {
            height,
            hash: self.agreed(height, "block", block_hash).await?,
            servers,
        })
    }

    /// For snapshots whose height is not known yet.
    pub(super) async fn trust_below_tip(&self) -> Result<Trust, Failure> {
        if let Some((height, hash)) = self.by_hand.clone() {
            let servers = self.servers().await?;
            return Ok(Trust {
                height,
                hash,
                servers,
            });
        }
        let extent = self.extent().await.ok_or_else(|| self.silent())?;
        let height = extent.tip.saturating_sub(TRUST_BELOW_TIP);
        self.trust_for(height.max(extent.oldest).max(1)).await
    }

    /// The application hash after a height, in which the endpoints agree.
    pub(super) async fn app_hash_after(&self, height: u64) -> Result<String, Failure> {
        let next = height.saturating_add(1);
        self.agreed(next, "application", |header| {
            hex::encode_upper(&header.app_hash)
        })
        .await
    }

    /// The application hash in a block, by every endpoint that has it; nothing when
    /// none has. One is enough here: the node has verified the block already, and the
    /// question is whether it is the chain's.
    pub(super) async fn told_app_hash(&self, height: u64) -> Option<Result<String, Failure>> {
        let asked = join_all(self.rpcs.iter().map(async |rpc| rpc.header(height).await)).await;
        let told = asked.into_iter().filter_map(Result::ok);
        let mut hashes = told.map(|header| hex::encode_upper(&header.app_hash));
        let first = hashes.next()?;
        match hashes.find(|other| *other != first) {
            None => Some(Ok(first)),
            Some(other) => Some(Err(Failure::new(
                FailureCode::Verification,
                format!("the RPC endpoints disagree about block {height}: {first}, {other}"),
            )
            .hint(
                "one of them is wrong, or follows a fork: find out which, and leave it out",
            ))),
        }
    }

    /// The lowest snapshot that the person's own trust reaches.
    pub(super) fn trusted_from(&self) -> u64 {
        self.by_hand.as_ref().map_or(0, |(height, _)| *height)
    }

    async fn servers(&self) -> Result<Vec<String>, Failure> {
        let asked = self.statuses().await;
        let answering = asked.into_iter().filter(|(_, status)| status.is_ok());
        let servers: Vec<String> = answering.map(|(rpc, _)| rpc.full_url()).collect();
        match servers.is_empty() {
            true => Err(self.silent()),
            false => Ok(servers),
        }
    }

    /// What all endpoints that have the block say of it.
    async fn agreed(
        &self,
        height: u64,
        what: &str,
        pick: fn(&Header) -> String,
    ) -> Result<String, Failure> {
        let asked = join_all(
            self.rpcs
                .iter()
                .map(async |rpc| (rpc, rpc.header(height).await)),
        );
        let mut told: Vec<(String, String)> = Vec::new();
        let mut trouble = None;
        for (rpc, header) in asked.await {
            match header {
                Ok(header) if !pick(&header).is_empty() => told.push((rpc.url(), pick(&header))),
                Ok(_) => {}
                Err(error) => trouble = Some(error),
            }
        }
        let Some((first_url, first)) = told.first() else {
            return Err(trouble.map_or_else(|| self.silent(), Failure::from));
        };
        if let Some((url, other)) = told.iter().find(|(_, hash)| hash != first) {
            return Err(Failure::new(
                FailureCode::Verification,
                format!(
                    "the RPC endpoints disagree about block {height}: {first_url} has the {what} \
                     hash {first}, {url} has {other}"
                ),
            )
            .hint(
                "one of them is wrong, or follows a fork: find out which, and leave it out; or \
                 give a block that you trust with --trust-height and --trust-hash",
            ));
        }
        if told.len() < ENOUGH && self.by_hand.is_none() {
            let why = trouble.map_or_else(String::new, |error| format!(": {error}"));
            return Err(Failure::new(
                FailureCode::Failed,
                format!(
                    "only {first_url} tells block {height}, and one alone is not believed{why}"
                ),
            )
            .hint(
                "name another endpoint with --chain-rpc, or give a block that you trust with \
                 --trust-height and --trust-hash",
            ));
        }
        Ok(first.clone())
    }

    /// The version of CometBFT that an endpoint runs, likewise.
    pub(super) async fn version(&self) -> Option<String> {
        Some(self.any().await.ok()?.status().await.ok()?.version)
    }

    /// What the block after a height says of its state, as any endpoint tells it; for
    /// what is merely shown.
    pub(super) async fn header_after(&self, height: u64) -> Option<HeaderAfter> {
        self.any().await.ok()?.header_after(height).await.ok()
    }

    /// Nodes of the chain: the endpoints themselves and their peers.
    pub(super) async fn nodes(&self) -> Vec<NodeAddress> {
        let asked = join_all(
            self.rpcs
                .iter()
                .map(async |rpc| (rpc.status().await, rpc.peers().await)),
        );
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (status, peers) in asked.await {
            own.extend(status.ok().and_then(|status| status.p2p));
            others.extend(peers.unwrap_or_default().into_iter().take(MAX_PEERS));
        }
        own.extend(others);
        own
    }
}

fn block_hash(header: &Header) -> String {
    hex::encode_upper(&header.block_hash)
}
