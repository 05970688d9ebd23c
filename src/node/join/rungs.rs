//! The lower rungs, and a node that needs none.

use std::time::{Duration, Instant};

use super::circles::Circles;
use super::follow::{Goal, sync_failed};
use super::ladder::Setback;
use super::node::Happened;
use super::overlay;
use super::{Join, REPLAY_PATIENCE};
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::comet::settings::{Change, Settings};
use crate::comet::sign::Sign;
use crate::node::chain::Chain;
use crate::node::command::{Failure, FailureCode};

/// An application may be at work on one chunk for so many patiences: the last one of a
/// large state takes an hour.
const RESTORE_PATIENCES: u32 = 72;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Join {
    /// A node that has blocks needs no state: it is started as it is, and followed.
    /// Its height at the tip; nothing for an empty node.
    pub(super) async fn own_blocks(&mut self) -> Result<Option<u64>, Failure> {
        if !self.node.has_stores() || self.node.journal.window {
            return Ok(None);
        }
        let Some(height) = self.probe().await? else {
            return Ok(None);
        };
        self.reporter.note(format!(
            "the node has blocks up to {height} already, so no snapshot is needed; to begin from \
             one all the same, empty its data folder first, but for priv_validator_state.json"
        ));
        self.enter("block sync").await;
        let reporter = self.reporter.clone();
        let others = self.or_interrupted(self.others()).await;
        let others = others.map_err(|setback| setback.failure)?;
        let change = |own: &Settings| overlay::with_peers(own, &others);
        self.node.change_settings(change, &reporter)?;
        self.start().await?;
        let rpc = self.node.own_rpc()?;
        self.node.first_status(&rpc, REPLAY_PATIENCE).await?;
        let goal = Goal {
            above: height.saturating_sub(1),
            dials: false,
            patience: self.options.patience,
        };
        let followed = self.follow(&rpc, goal).await;
        followed.map(Some).map_err(|setback| setback.failure)
    }

    /// The height of a node that has stores: it is started alone, so that nothing
    /// begins by itself, asked, and stopped. Nothing when it has no block.
    async fn probe(&mut self) -> Result<Option<u64>, Failure> {
        self.reporter.phase("looking how far the node is");
        let trust = self.patiently(Chain::trust_below_tip).await;
        let trust = trust.map_err(|setback| setback.failure)?;
        let doors = self.node.doors();
        let peer_id = self.peer_id.to_string();
        let reporter = self.reporter.clone();
        let change = |own: &Settings| overlay::alone(own, doors, &trust, &peer_id);
        self.node.change_settings(change, &reporter)?;
        self.node.start(&reporter).await?;
        let rpc = Rpc::new(&format!("http://{}", doors.rpc))?;
        let status = self.node.first_status(&rpc, REPLAY_PATIENCE).await;
        self.node.stop().await;
        self.node.put_settings_back(&reporter)?;
        Ok(Some(status?.height).filter(|height| *height > 0))
    }

    /// CometBFT's own state sync from its own peers.
    pub(super) async fn by_peers(&mut self) -> Result<u64, Setback> {
        self.believe_nobody();
        self.enter("state sync from peers").await;
        let trust = self.patiently(Chain::trust_below_tip).await?;
        let others = self.or_interrupted(self.others()).await?;
        let change = |own: &Settings| overlay::from_peers(own, &trust, &others);
        let (rpc, status) = self.start_with(change).await?;
        if status.height == 0 {
            self.wait_for_restore(&rpc).await?;
        }
        let goal = Goal {
            above: status.height,
            dials: false,
            patience: self.options.patience,
        };
        self.follow(&rpc, goal).await
    }

    /// All blocks.
    pub(super) async fn by_blocks(&mut self) -> Result<u64, Setback> {
        self.believe_nobody();
        self.enter("block sync from the first block").await;
        let others = self.or_interrupted(self.others()).await?;
        let change = |own: &Settings| overlay::from_blocks(own, &others);
        let (rpc, status) = self.start_with(change).await?;
        if self.may_hold_part {
            return Err(self.unless_part(Setback::rung(Failure::new(
                FailureCode::Failed,
                "the node cannot begin at the first block",
            ))));
        }
        // Nothing was restored that could be cut off.
        self.node.journal.window = false;
        self.node.save().map_err(Setback::everything)?;
        let goal = Goal {
            above: status.height,
            dials: false,
            patience: self.options.patience,
        };
        self.follow(&rpc, goal).await
    }

    async fn start(&mut self) -> Result<(), Failure> {
        let reporter = self.reporter.clone();
        self.node.start(&reporter).await
    }

    /// Starts the node with these settings for a while; its RPC, and what it turns out
    /// to be.
    async fn start_with(
        &mut self,
        change: impl FnOnce(&Settings) -> Vec<Change>,
    ) -> Result<(Rpc, NodeStatus), Setback> {
        let reporter = self.reporter.clone();
        self.node
            .change_settings(change, &reporter)
            .map_err(Setback::everything)?;
        let rpc = self.node.own_rpc().map_err(Setback::everything)?;
        let (status, _) = self.start_mended(&rpc, REPLAY_PATIENCE).await?;
        Ok((rpc, status))
    }

    /// Until the application has some state, and as long as something moves.
    async fn wait_for_restore(&mut self, rpc: &Rpc) -> Result<(), Setback> {
        self.saw_empty = true;
        self.node.journal.window = true;
        self.node.save().map_err(Setback::everything)?;
        let mut moved_at = Instant::now();
        let mut circles = Circles::default();
        let mut patience = self.options.patience;
        self.reporter
            .phase("waiting for a snapshot of CometBFT's peers");
        // An application at work may not answer for long, and the node goes on talking.
        let asked = rpc.clone();
        let has_state = async {
            while !asked.app_state().await.is_ok_and(|app| app.height > 0) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::pin!(has_state);
        loop {
            tokio::select! {
                () = &mut has_state => return Ok(()),
                () = self.cancel.cancelled() => {
                    return Err(Setback::everything(self.interrupted()));
                }
                happened = self.node.happens() => match happened {
                    Happened::Ended(failure) => return Err(Setback::crash(failure)),
                    Happened::Said(Sign::Failed(why)) => {
                        let setback = self.unless_part(sync_failed(&why));
                        return Err(self.node.or_crash(setback).await);
                    }
                    Happened::Said(Sign::Restored) => return Ok(()),
                    Happened::Said(Sign::Rejected(why)) => {
                        patience = self.options.patience;
                        self.reporter.note(why);
                    }
                    Happened::Said(sign) => {
                        moved_at = Instant::now();
                        patience = self.options.patience.saturating_mul(RESTORE_PATIENCES);
                        if let Some(failure) = circles.see(&sign) {
                            return Err(Setback::rung(failure));
                        }
                    }
                },
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if moved_at.elapsed() >= patience {
                let seconds = patience.as_secs();
                return Err(Setback::rung(
                    Failure::new(
                        FailureCode::NotFound,
                        format!(
                            "no snapshot of CometBFT's peers was restored in {seconds} seconds"
                        ),
                    )
                    .hint("do the node's persistent_peers or seeds make snapshots?"),
                ));
            }
        }
    }
}
