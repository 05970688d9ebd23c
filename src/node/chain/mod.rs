//! The chain, as the RPC endpoints that the person named tell of it.
//!
//! Trust begins with one block: all endpoints that answer, and at least two, agree in
//! its hash, or the person gave it by hand. From there the state of a height is proven
//! by the signatures of the chain's validators ([`Chain::state_after`]); every endpoint
//! that has the block is a witness of it, and one that tells otherwise ends everything.
//! Where the validators' keys are of a kind that is not verified here, the agreement of
//! the endpoints is all there is, and that is said: CometBFT's own light client, which
//! knows more kinds, still stands before the application.
//!
//! What merely helps (how far the chain is, who its nodes are) may come from any of them.

mod extent;
mod proof;
mod trust;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::future::join_all;

pub(in crate::node) use self::extent::Extent;
pub(in crate::node) use self::proof::{Basis, State};
pub(in crate::node) use self::trust::Trust;

use self::extent::{Apart, behind};
use self::trust::by_hand_of;

use crate::comet::light::{Rules, Trusted};
use crate::comet::peer::NodeAddress;
use crate::comet::rpc::{NodeStatus, Rpc, RpcError};
use crate::comet::rules::MAX_CLOCK_DRIFT;
use crate::node::command::{ChainCommand, Failure, FailureCode};
use crate::node::progress::Reporter;

/// What to do where one endpoint alone tells something.
const SECOND_OR_TRUST: &str = "name another endpoint with --chain-rpc, or give a block that you \
                               trust with --trust-height and --trust-hash";
/// Endpoints that have to agree.
const ENOUGH: usize = 2;
/// Between two looks at a chain that is not far enough.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The header after the one with the application hash: CometBFT's light client wants
/// it, too.
const BLOCKS_AFTER: u64 = 2;
/// Peers taken over from one node.
const MAX_PEERS: usize = 32;

/// The chain behind some RPC endpoints.
pub(in crate::node) struct Chain {
    rpcs: Vec<Rpc>,
    /// What the person trusts, instead of what endpoints agree in.
    by_hand: Option<Trusted>,
    rules: Rules,
}

impl Chain {
    /// Endpoints, each once.
    pub(in crate::node) fn new(command: &ChainCommand) -> Result<Self, Failure> {
        let mut seen = BTreeSet::new();
        let mut rpcs = Vec::new();
        for url in &command.endpoints {
            let rpc = Rpc::new(url)?;
            if seen.insert(rpc.full_url()) {
                rpcs.push(rpc);
            }
        }
        let by_hand = command.trusted.as_ref();
        let by_hand = by_hand.map(|(height, hash)| by_hand_of(*height, hash));
        let chain = Self {
            rpcs,
            by_hand: by_hand.transpose()?,
            rules: Rules {
                chain_id: command.chain_id.clone(),
                trust_period: Duration::from_secs(command.trust_period_s),
            },
        };
        chain.are_enough()?;
        Ok(chain)
    }

    /// What another [`Chain`] is made of that asks the same endpoints.
    pub(in crate::node) fn command(&self) -> ChainCommand {
        let trusted = self.by_hand;
        ChainCommand {
            chain_id: self.rules.chain_id.clone(),
            endpoints: self.rpcs.iter().map(Rpc::full_url).collect(),
            trusted: trusted.map(|block| (block.height, hex::encode(block.hash.as_bytes()))),
            trust_period_s: self.rules.trust_period.as_secs(),
        }
    }

    /// Its id.
    pub(in crate::node) fn id(&self) -> &str {
        &self.rules.chain_id
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

    /// Looks at the endpoints before anything is begun: chain, clock, height. Those that
    /// do not answer are named; two that are one node count as one.
    pub(in crate::node) async fn check(&mut self, reporter: &Reporter) -> Result<(), Failure> {
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
        if nodes.is_empty()
            && let Some(error) = silent
        {
            return Err(error.into());
        }
        self.rpcs.retain(|rpc| !again.contains(&rpc.full_url()));
        self.are_enough()?;
        if let (Some(error), None) = (silent, self.by_hand)
            && nodes.len() < ENOUGH
        {
            let mut answering = nodes.into_values();
            let one = answering.next().unwrap_or_default();
            return Err(Failure::new(
                FailureCode::Failed,
                format!("only {one} answers, and one alone is not believed: {error}"),
            )
            .hint(SECOND_OR_TRUST));
        }
        self.leave_out_who_lags(reporter).await?;
        self.have_trusted().await?;
        // Who lies is found out before anything is downloaded.
        let tip = self.extent().await.map_or(0, |extent| extent.tip);
        match self.state_after(tip.saturating_sub(1)).await {
            Err(failure) if failure.code == FailureCode::Verification => return Err(failure),
            Ok(State {
                basis: Basis::Agreement { why },
                ..
            }) => reporter.note(format!(
                "{why}: that the endpoints agree is all that is known before CometBFT's own \
                 light client looks"
            )),
            Ok(_) | Err(_) => {}
        }
        Ok(())
    }

    /// Nothing can be proven from a block that no endpoint has any more.
    async fn have_trusted(&self) -> Result<(), Failure> {
        let Some(Trusted { height, .. }) = self.by_hand else {
            return Ok(());
        };
        let mut gone = None;
        for rpc in &self.rpcs {
            match rpc.header(height).await {
                Err(error @ RpcError::Pruned { .. }) => gone = Some(error),
                _ => return Ok(()),
            }
        }
        let Some(error) = gone else { return Ok(()) };
        Err(Failure::new(
            FailureCode::Usage,
            format!("block {height}, which you trust, is not to be had: {error}"),
        )
        .hint(
            "trust a younger block with --trust-height and --trust-hash, or name an endpoint \
               that keeps it with --chain-rpc",
        ))
    }

    /// An endpoint that stands still would be taken for the chain.
    async fn leave_out_who_lags(&mut self, reporter: &Reporter) -> Result<(), Failure> {
        let asked = self.statuses().await;
        let (rpcs, heights): (Vec<&Rpc>, Vec<u64>) = asked
            .into_iter()
            .filter_map(|(rpc, status)| Some((rpc, status.ok()?.height)))
            .unzip();
        let behind = behind(&heights, self.by_hand.is_some());
        let behind = behind.map_err(|Apart { highest, next }| {
            Failure::new(
                FailureCode::Failed,
                format!(
                    "one RPC endpoint is at block {highest}, and no other is above block {next}"
                ),
            )
            .hint(
                "either that one tells of blocks that there are not, or the others stand still: \
                 name endpoints that follow the chain, or give a block that you trust with \
                 --trust-height and --trust-hash",
            )
        })?;
        let mut out = BTreeSet::new();
        let told = rpcs.iter().zip(&heights).zip(behind);
        for ((rpc, height), _) in told.filter(|(_, is_behind)| *is_behind) {
            let url = rpc.url();
            reporter.note(format!("{url} stands at block {height}, and is not asked"));
            out.insert(rpc.full_url());
        }
        self.rpcs.retain(|rpc| !out.contains(&rpc.full_url()));
        self.are_enough()
    }

    fn check_one(&self, rpc: &Rpc, status: &NodeStatus) -> Result<(), Failure> {
        if status.chain_id != self.id() {
            let (url, found, wanted) = (rpc.url(), &status.chain_id, self.id());
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
    pub(in crate::node) async fn any(&self) -> Result<&Rpc, Failure> {
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
            format!("no RPC endpoint of {} answers", self.id()),
        )
    }

    /// How far it is, by all that answer; nothing when none does.
    pub(in crate::node) async fn extent(&self) -> Option<Extent> {
        let asked = self.statuses().await;
        let told: Vec<NodeStatus> = asked.into_iter().filter_map(|(_, s)| s.ok()).collect();
        Extent::of(&told)
    }

    /// The newest block, by as many endpoints as have to agree about one.
    pub(in crate::node) async fn tip(&self) -> Result<u64, Failure> {
        let asked = self.statuses().await;
        let (mut first, mut told) = (None, Vec::new());
        let mut trouble = None;
        for (rpc, status) in asked {
            match status {
                Ok(status) => {
                    first.get_or_insert(rpc);
                    told.push(status);
                }
                Err(error) => trouble = Some(error),
            }
        }
        match (first, Extent::of(&told)) {
            (Some(first), Some(_)) if told.len() < ENOUGH && self.by_hand.is_none() => {
                Err(alone(first, "answers", trouble))
            }
            (_, Some(extent)) => Ok(extent.tip),
            (_, None) => Err(trouble.map_or_else(|| self.silent(), Failure::from)),
        }
    }

    /// Waits until enough endpoints have the blocks that the light client needs for a
    /// snapshot of this height.
    pub(in crate::node) async fn wait_for(
        &self,
        height: u64,
        patience: Duration,
    ) -> Result<(), Failure> {
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

    /// The version of CometBFT that an endpoint runs.
    pub(in crate::node) async fn version(&self) -> Option<String> {
        Some(self.any().await.ok()?.status().await.ok()?.version)
    }

    /// Nodes of the chain: the endpoints themselves and their peers.
    pub(in crate::node) async fn nodes(&self) -> Vec<NodeAddress> {
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

/// One endpoint says something, and nobody else.
fn alone(rpc: &Rpc, what: &str, trouble: Option<RpcError>) -> Failure {
    let why = trouble.map_or_else(String::new, |error| format!(": {error}"));
    Failure::new(
        FailureCode::Failed,
        format!(
            "only {} {what}, and one alone is not believed{why}",
            rpc.url()
        ),
    )
    .hint(SECOND_OR_TRUST)
}
