//! After a restore: the node gets its normal peers, stores its first block, and
//! reaches the tip.
//!
//! A node is where the chain is when its newest block is the chain's newest or the
//! one before, and carries the application hash that the chain's RPC tells. What it
//! says of itself (`catching_up`) counts only where no RPC answers any more.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::ladder::{Kind, Setback};
use super::node::Happened;
use super::{Join, REPLAY_PATIENCE};
use crate::comet::peer::NodeAddress;
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::comet::sign::Sign;
use crate::node::chain::{Chain, Extent};
use crate::node::command::{Failure, FailureCode};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Between two questions to the chain's endpoints how far it is: they are others',
/// who may count them.
const ASK_FAR: Duration = Duration::from_secs(5);
/// And where the node may be at the tip.
const ASK_NEAR: Duration = Duration::from_millis(500);
/// The node dials again after so long while it has no peer: dialling is tried once.
const DIAL_AGAIN: Duration = Duration::from_secs(5);
/// A node whose newest block is so near to the tip is at the tip: the chain goes on
/// while it is asked.
const NEAR_TIP: u64 = 1;
/// Before a node that ended is started again, for each time that it ended.
const START_AGAIN: Duration = Duration::from_secs(1);
/// Between two lines about the height.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where a node is to come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Goal {
    /// Blocks above this height are new ones.
    pub(super) above: u64,
    /// Whether it has no peers but those that it is told to dial.
    pub(super) dials: bool,
    /// How long nothing may move.
    pub(super) patience: Duration,
}

/// How a node moves.
struct Walk {
    /// The node's newest block.
    height: u64,
    /// When it had a block that it never had before.
    moved_at: Instant,
    /// Whom it was told to dial.
    peers: Vec<NodeAddress>,
    dialled_at: Option<Instant>,
    told_lonely: bool,
    told_at: Instant,
    /// How far the chain was when it was asked last.
    tip: Option<u64>,
    asked_at: Option<Instant>,
}

impl Walk {
    /// Whether the chain is to be asked (again) how far it is.
    fn asks(&self) -> bool {
        let Some(asked_at) = self.asked_at else {
            return true;
        };
        let is_near = self
            .tip
            .is_none_or(|tip| self.height.saturating_add(NEAR_TIP) >= tip);
        asked_at.elapsed() >= if is_near { ASK_NEAR } else { ASK_FAR }
    }
}

impl Join {
    /// Follows the running node to the tip. The height at which it is there.
    ///
    /// From its first block on the node has what it needs. Nothing that goes wrong
    /// then is a reason to take a state from it: a node that ends is started again,
    /// and for the rest the person is asked.
    pub(super) async fn follow(&mut self, rpc: &Rpc, goal: Goal) -> Result<u64, Setback> {
        (self.has_blocks, self.furthest) = (false, goal.above);
        loop {
            let setback = match self.follow_once(rpc, goal).await {
                Err(setback) if self.has_blocks => setback,
                ended => return ended,
            };
            self.node.stop_comet().await;
            self.crashes += u32::from(setback.kind == Kind::Crash);
            if setback.kind.after(self.crashes) != Kind::Crash {
                return Err(Setback::everything(setback.failure));
            }
            self.reporter
                .note(format!("{}; started again", setback.failure.message));
            self.or_interrupted(tokio::time::sleep(START_AGAIN * self.crashes))
                .await?;
            let reporter = self.reporter.clone();
            let started = self.node.start(&reporter).await;
            started.map_err(Setback::everything)?;
            let status = self.node.first_status(rpc, REPLAY_PATIENCE).await;
            status.map_err(Setback::everything)?;
        }
    }

    async fn follow_once(&mut self, rpc: &Rpc, goal: Goal) -> Result<u64, Setback> {
        let now = Instant::now();
        let mut walk = Walk {
            height: goal.above,
            moved_at: now,
            peers: Vec::new(),
            dialled_at: None,
            told_lonely: false,
            told_at: now,
            tip: None,
            asked_at: None,
        };
        self.reporter.phase("catching up by block sync");
        loop {
            let in_window = self.node.journal.window;
            let cancel = self.cancel.clone();
            let looking = self.look(rpc, goal, &mut walk);
            let looked = match in_window {
                true => Some(looking.await),
                false => cancel.run_until_cancelled(looking).await,
            };
            match looked {
                Some(Ok(Some(height))) => return Ok(height),
                Some(Ok(None)) => {}
                Some(Err(setback)) => return Err(setback),
                None => return Err(Setback::everything(self.interrupted())),
            }
            if walk.moved_at.elapsed() >= goal.patience {
                return Err(stands_still(walk.height, goal));
            }
            self.pause(LOOK_EVERY).await?;
        }
    }

    /// Waits, and is woken by what the node does. Whoever stops the join while the
    /// restored node has no block waits for that block: see [`super::journal`].
    async fn pause(&mut self, time: Duration) -> Result<(), Setback> {
        let until = tokio::time::Instant::now() + time;
        let in_window = self.node.journal.window;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                () = self.cancel.cancelled(), if !in_window => {
                    return Err(Setback::everything(self.interrupted()));
                }
                () = self.cancel.cancelled(), if !self.told_of_window => {
                    self.told_of_window = true;
                    self.reporter.note(format!(
                        "the node is stopped after its first block, in {} seconds at most: before \
                         it, it could not be started again. Another Ctrl-C ends all at once, and \
                         the next join empties the node",
                        self.options.patience.as_secs()
                    ));
                }
                happened = self.node.happens() => match happened {
                    Happened::Ended(failure) => return Err(Setback::crash(failure)),
                    // Later on the same words may be a peer's.
                    Happened::Said(Sign::Failed(why)) if in_window => {
                        return Err(self.node.or_crash(sync_failed(&why)).await);
                    }
                    Happened::Said(_) => {}
                },
            }
        }
    }

    async fn look(
        &mut self,
        rpc: &Rpc,
        goal: Goal,
        walk: &mut Walk,
    ) -> Result<Option<u64>, Setback> {
        let Ok(status) = rpc.status().await else {
            return Ok(None);
        };
        if status.node_id != self.node_id.to_string() {
            return Ok(None);
        }
        walk.height = walk.height.max(status.height);
        if status.height > self.furthest {
            self.furthest = status.height;
            walk.moved_at = Instant::now();
            (self.has_blocks, self.crashes) = (true, 0);
            if self.node.journal.window {
                self.node.journal.window = false;
                self.node.save().map_err(Setback::everything)?;
                self.reporter.note(format!(
                    "the first block after the snapshot is stored: {}",
                    status.height
                ));
            }
        } else if goal.dials && self.is_lonely(rpc, walk).await {
            if walk.dialled_at.replace(Instant::now()).is_some() && !walk.told_lonely {
                walk.told_lonely = true;
                self.reporter.note(
                    "the node has no peer, and dials again: do its peers let it in? They take \
                     one node with its key (config/node_key.json), and one of an address unless \
                     allow_duplicate_ip is set",
                );
            }
            // Endpoints fail for moments, and peers come and go.
            for peer in self.normal_peers().await {
                if !walk.peers.iter().any(|known| known.id == peer.id) {
                    walk.peers.push(peer);
                }
            }
            if let Err(error) = rpc.dial_peers(&walk.peers).await {
                tracing::warn!(%error, "the node was not told its peers");
            }
        }
        if status.height <= goal.above {
            return Ok(None);
        }
        if !walk.asks() {
            return Ok(None);
        }
        let extent = self.chain.extent().await;
        walk.tip = extent.map(|extent| extent.tip);
        walk.asked_at = Some(Instant::now());
        if walk.told_at.elapsed() >= TELL_EVERY {
            walk.told_at = Instant::now();
            let of = walk
                .tip
                .map_or_else(String::new, |tip| format!(" of {tip}"));
            self.reporter
                .phase(format!("catching up: block {}{of}", status.height));
        }
        is_there(&self.chain, rpc, &status, extent).await
    }

    /// Whether the node has to be told its peers (again).
    async fn is_lonely(&self, rpc: &Rpc, walk: &Walk) -> bool {
        let Some(dialled_at) = walk.dialled_at else {
            return true;
        };
        dialled_at.elapsed() >= DIAL_AGAIN && rpc.peer_count().await.is_ok_and(|peers| peers == 0)
    }

    /// Who the node is to talk to: its operator's peers, and the chain's nodes.
    async fn normal_peers(&self) -> Vec<NodeAddress> {
        let mut peers = self.node.own_peers();
        for peer in self.others().await {
            if !peers.iter().any(|known| known.id == peer.id) {
                peers.push(peer);
            }
        }
        peers
    }

    /// Other nodes that the chain's RPC tells of.
    pub(super) async fn others(&self) -> Vec<NodeAddress> {
        let mut others = self.chain.nodes().await;
        let mut known = BTreeSet::from([self.node_id]);
        others.retain(|peer| known.insert(peer.id));
        others
    }
}

/// The height at which the node is where the chain is, if it is. A node with another
/// application hash than the chain's is on a fork.
async fn is_there(
    chain: &Chain,
    rpc: &Rpc,
    status: &NodeStatus,
    extent: Option<Extent>,
) -> Result<Option<u64>, Setback> {
    let height = status.height;
    let Some(Extent { tip, highest, .. }) = extent else {
        // No RPC of the chain answers: the node's own word is all there is.
        return Ok((!status.catching_up).then_some(height));
    };
    // An endpoint may stand still, and one may tell of blocks that there are not: where
    // they differ, the node's own word decides.
    let is_near = |tip: u64| height.saturating_add(NEAR_TIP) >= tip;
    if !is_near(tip) || (status.catching_up && !is_near(highest)) {
        return Ok(None);
    }
    // A node that was restored above an endpoint's newest block has not that block.
    let mut at = height.min(tip);
    let mut own = rpc.header(at).await;
    if own.is_err() {
        at = height;
        own = rpc.header(at).await;
    }
    let Ok(own) = own else {
        return Ok(None);
    };
    let own = hex::encode_upper(&own.app_hash);
    match chain.told_app_hash(at).await {
        // The block is on its way to the endpoints.
        None => Ok(None),
        Some(Ok(hash)) if hash == own => Ok(Some(height)),
        Some(Ok(hash)) => Err(Setback::everything(
            Failure::new(
                FailureCode::Verification,
                format!(
                    "at block {at} the node has the application hash {own}, and the chain {hash}"
                ),
            )
            .hint("the node follows a fork: check its genesis.json and its peers"),
        )),
        Some(Err(failure)) => Err(Setback::everything(failure)),
    }
}

fn stands_still(height: u64, goal: Goal) -> Setback {
    let seconds = goal.patience.as_secs();
    let (problem, hint) = if height <= goal.above {
        (
            format!("no block after height {height} came in {seconds} seconds"),
            "peers that prune may not have it any more; name peers in p2p.persistent_peers of the \
             node's config.toml, and look into the node's log",
        )
    } else {
        (
            format!("the node stands at block {height} for {seconds} seconds"),
            "does the chain make blocks? Look into the node's log",
        )
    };
    Setback::snapshot(Failure::new(FailureCode::Failed, problem).hint(hint))
}

/// CometBFT has given up; it would stay at height 0 without a word.
pub(super) fn sync_failed(why: &str) -> Setback {
    Setback::snapshot(
        Failure::new(
            FailureCode::Failed,
            format!("CometBFT's state sync has failed: {why}"),
        )
        .hint("the node's log says more"),
    )
}
