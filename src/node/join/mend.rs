//! A node that an earlier restore left halfway.
//!
//! CometBFT may have the state of a snapshot and no block: it panics at each start
//! (`facts/cometbft-peer.md`). The application may have that state, and CometBFT
//! nothing. And the application may hold a part of a state and say that it has none:
//! one of the Cosmos SDK refuses every snapshot then, and would go wrong in block sync.
//! So a node whose restore was cut off is emptied, with its application, before
//! anything else is restored into it: but only once it is known to have no block, for
//! it may have gone on without us.

use std::time::Duration;

use super::Join;
use super::ladder::Setback;
use super::node::Node;
use crate::comet::rpc::{AppState, NodeStatus, Rpc};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;

/// A node that was cut off in a restore is emptied and started again so often.
const MAX_REPAIRS: u32 = 2;

/// What an earlier restore left.
enum Left {
    /// A state of CometBFT's, and no block.
    NoBlock,
    /// A state of the application's alone.
    State(u64),
    /// A part of a state, maybe.
    Part,
}

impl Join {
    /// Starts the node, emptied where an earlier restore left something. What it turns
    /// out to be, and what its application says where it is empty.
    pub(super) async fn start_mended(
        &mut self,
        rpc: &Rpc,
        patience: Duration,
    ) -> Result<(NodeStatus, Option<AppState>), Setback> {
        self.may_hold_part = false;
        if self.node.journal.window && self.saw_empty {
            self.empty("the last restore did not come to an end")
                .await?;
        }
        for _ in 0..=MAX_REPAIRS {
            let was_cut_off = self.node.journal.window;
            let reporter = self.reporter.clone();
            let status = match self.node.start(&reporter).await {
                Ok(()) => self.node.first_status(rpc, patience).await,
                Err(failure) => Err(failure),
            };
            let can_empty_app = self.node.can_empty_app().await;
            let left = match status {
                Ok(status) if status.height > 0 => return Ok((status, None)),
                Ok(status) => {
                    let app = rpc.app_state().await.ok();
                    match app.as_ref().map_or(0, |app| app.height) {
                        0 if was_cut_off && can_empty_app => Left::Part,
                        0 => {
                            self.may_hold_part = was_cut_off && self.node.is_sdk();
                            return Ok((status, app));
                        }
                        height => Left::State(height),
                    }
                }
                Err(failure) if was_cut_off && is_half_restored(&failure) => Left::NoBlock,
                Err(failure) => {
                    self.node.stop().await;
                    return Err(Setback::rung(failure));
                }
            };
            self.node.stop().await;
            let why = match left {
                Left::State(height) if can_empty_app => in_the_way(height),
                Left::State(height) => return Err(self.has_state(height)),
                Left::NoBlock => "an earlier restore was cut off before the first block".to_owned(),
                Left::Part => "an earlier restore was cut off".to_owned(),
            };
            self.empty(&why).await?;
        }
        Err(Setback::rung(Failure::new(
            FailureCode::Failed,
            "the node does not start with an empty state",
        )))
    }

    /// Empties the stopped node, and its application where that may be.
    async fn empty(&mut self, why: &str) -> Result<(), Setback> {
        let with_app = self.node.can_empty_app().await;
        let reporter = self.reporter.clone();
        let emptied = self.node.empty(with_app, why, &reporter);
        emptied.map_err(Setback::everything)
    }

    /// Why state sync has failed, where the application may hold a part of a state that
    /// nobody may take from it: no other snapshot and no lower rung helps.
    pub(super) fn unless_part(&self, failed: Setback) -> Setback {
        match self.may_hold_part {
            true => self.needs_app_data(format!(
                "{}; the application may hold a part of a state, from a restore that was cut off",
                failed.failure.message
            )),
            false => failed,
        }
    }

    fn has_state(&self, height: u64) -> Setback {
        match &self.options.xian {
            Some(xian) => Setback::everything(super::xian::in_the_way(&xian.storage, height)),
            None => self.needs_app_data(in_the_way(height)),
        }
    }

    /// The application has to be emptied, and the person has not said where it is.
    fn needs_app_data(&self, problem: String) -> Setback {
        let hint = match self.node.is_sdk() {
            true => format!(
                "give the same command again with --app-data {}, so that the application's data \
                 may be emptied; priv_validator_state.json and keys are kept",
                self.node.data().display()
            ),
            false => "name the folder of the application's data with --app-data DIR, so that it \
                      may be emptied (with --app-cmd, where the application is a process of its \
                      own), or empty it yourself and give the same command again"
                .to_owned(),
        };
        Setback::everything(Failure::new(FailureCode::Policy, problem).hint(hint))
    }
}

/// Said before anything is begun: later it takes another start.
pub(super) fn tell_of_missing_app_data(node: &Node, reporter: &Reporter) {
    if node.is_sdk() && !node.names_app_data() {
        reporter.note(format!(
            "without --app-data {} a restore that is cut off cannot begin anew by itself",
            node.data().display()
        ));
    }
}

/// The application holds a state that CometBFT knows nothing of.
fn in_the_way(height: u64) -> String {
    format!(
        "the application holds the state of height {height} and CometBFT nothing: neither a \
         snapshot nor block sync can begin like that"
    )
}

/// Whether CometBFT says that it was stopped between a restore and the first block
/// after it (`facts/cometbft-peer.md`); only then is there nothing in it to be lost.
fn is_half_restored(failure: &Failure) -> bool {
    ["inconsistent state", "height mismatch"]
        .iter()
        .any(|words| failure.message.contains(words))
}
