//! The first rung: a snapshot of the swarm, fed by the local peer.

use std::time::Duration;

use super::circles::Circles;
use super::follow::{Goal, sync_failed};
use super::ladder::{Kind, Setback};
use super::node::Happened;
use super::overlay;
use super::{Join, START_PATIENCE};
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::comet::settings::Settings;
use crate::comet::sign::Sign;
use crate::node::chain::{Basis, Extent, State};
use crate::node::command::{
    Command, Failure, FailureCode, FeedCommand, FetchCommand, FetchTarget, ManifestCommand,
    Outcome, ProvenState, STATE_FORMAT, SnapshotSummary,
};
use crate::node::feed::is_delta;
use crate::node::space::short_of_room;

/// With a snapshot at hand, a newer one is looked for only so long.
const NEWER_TIMEOUT_S: u64 = 10;
/// Where nodes keep few blocks, a snapshot is taken only while so many of those that
/// follow it are sure to be there for a while: at a block each second they outlast
/// CometBFT's discovery and its light client.
const SPARE_BLOCKS: u64 = 15;
/// Between two looks at the node's peers.
const LOOK_FOR_STRANGERS: Duration = Duration::from_secs(1);

/// What is fed.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) manifest: String,
    pub(super) height: u64,
    pub(super) bytes: u64,
}

impl From<&SnapshotSummary> for Chosen {
    fn from(found: &SnapshotSummary) -> Self {
        Self {
            manifest: found.manifest.clone(),
            height: found.height,
            bytes: found.bytes,
        }
    }
}

/// What a started node turns out to be.
enum Condition {
    Empty,
    /// It has blocks up to here.
    Following(u64),
}

impl Join {
    /// From the search to the tip. The height at which it is there.
    pub(super) async fn by_swarm(&mut self) -> Result<u64, Setback> {
        self.may_restore_state().map_err(Setback::everything)?;
        let chosen = match self.choose().await {
            Ok(chosen) => chosen,
            // That nobody has another one is not why it cannot go on.
            Err(setback) if setback.failure.code == FailureCode::NotFound => {
                let unbelieved = self.unbelieved.take().map(Setback::everything);
                return Err(unbelieved.unwrap_or(setback));
            }
            Err(setback) => return Err(setback),
        };
        self.chosen = Some(chosen.clone());
        self.judge_content(&chosen).await?;
        self.enter("light client").await;
        self.reporter.phase(format!(
            "waiting until the chain is two blocks beyond height {}",
            chosen.height
        ));
        let patience = self.options.patience;
        let waited = self.chain.wait_for(chosen.height, patience);
        self.or_interrupted(waited).await?.map_err(Setback::rung)?;
        let height = chosen.height;
        let trust = self
            .patiently(async |chain| chain.trust_for(height).await)
            .await?;
        let state = self.check_app_hash(&chosen).await?;
        self.check_disk(&chosen)?;

        self.enter("node").await;
        let doors = self.node.doors();
        let (peer_id, reporter) = (self.peer_id.to_string(), self.reporter.clone());
        let change = |own: &Settings| overlay::alone(own, doors, &trust, &peer_id);
        self.node
            .change_settings(change, &reporter)
            .map_err(Setback::everything)?;
        let rpc = Rpc::new(&format!("http://{}", doors.rpc)).map_err(Setback::everything)?;
        let above = match self.start_empty(&rpc, &chosen, &state).await? {
            Condition::Following(height) => {
                self.node.journal.window = false;
                self.node.save().map_err(Setback::everything)?;
                self.reporter
                    .note(format!("the node has blocks up to {height} already"));
                height.saturating_sub(1)
            }
            Condition::Empty => {
                self.enter("feed").await;
                self.saw_empty = true;
                self.node.journal.window = true;
                self.node.save().map_err(Setback::everything)?;
                self.feed(&rpc, &doors.p2p.to_string(), &chosen, &state)
                    .await?;
                chosen.height
            }
        };
        self.enter("block sync").await;
        let goal = Goal {
            above,
            dials: true,
            patience: self.options.patience,
        };
        self.follow(&rpc, goal).await
    }

    /// A complete, proven snapshot: the one of before, the one that was asked for, or
    /// the newest.
    async fn choose(&mut self) -> Result<Chosen, Setback> {
        self.enter("search and download").await;
        let extent = self.chain.extent().await;
        let least = extent
            .map_or(0, oldest_usable)
            .max(self.chain.trusted_from());
        let own = self.own_snapshots().await.map_err(Setback::rung)?;
        let usable = |one: &&SnapshotSummary| {
            one.complete
                && one.base.is_none()
                && (one.format == STATE_FORMAT || self.options.xian.is_none())
                && one.height >= least
                && !self.is_refused(&one.manifest)
        };
        if let Some(wanted) = &self.options.manifest {
            if self.is_refused(wanted) {
                let refusal = self.refusal.clone().unwrap_or_else(|| {
                    let message = format!("the node did not take {wanted}");
                    Failure::new(FailureCode::Failed, message)
                });
                return Err(Setback::rung(Failure {
                    message: format!("{}; no other was asked for", refusal.message),
                    ..refusal
                }));
            }
            let here = own.iter().find(|one| one.manifest == *wanted);
            if let Some(base) = here.and_then(|one| one.base.as_ref()) {
                return Err(Setback::everything(is_delta(wanted, base)));
            }
            if let Some(here) = here.filter(|one| one.complete) {
                let next = here.height.saturating_add(1);
                return match extent.filter(|extent| next < extent.oldest) {
                    Some(extent) => Err(Setback::rung(block_is_gone(next, extent.oldest))),
                    None => Ok(here.into()),
                };
            }
            return self
                .fetch(FetchTarget::Manifest(wanted.clone()), least, None)
                .await;
        }
        // A restore that was cut off goes on with the same one.
        let begun = self.node.journal.manifest.as_ref();
        let begun = begun.and_then(|id| own.iter().find(|one| one.manifest == *id));
        if let Some(begun) = begun.filter(usable) {
            return Ok(begun.into());
        }
        let tip = extent.map_or(u64::MAX, |extent| extent.tip);
        let newest = own.iter().filter(usable).filter(|one| one.height < tip);
        let newest = newest.max_by_key(|one| one.height);
        let target = FetchTarget::Chain {
            chain_id: self.chain.id().to_owned(),
            height: None,
        };
        let Some(newest) = newest else {
            return self.fetch(target, least, None).await;
        };
        let newer = self
            .fetch(
                target,
                newest.height.saturating_add(1),
                Some(NEWER_TIMEOUT_S),
            )
            .await;
        match newer {
            Err(setback) if setback.kind != Kind::Everything => Ok(newest.into()),
            other => other,
        }
    }

    /// The application gets nothing of a snapshot of another state than the chain has
    /// proven. That state.
    async fn check_app_hash(&self, chosen: &Chosen) -> Result<State, Setback> {
        let command = Command::Show(ManifestCommand {
            manifest: chosen.manifest.clone(),
        });
        let shown = match self.ask(command).await.map_err(Setback::rung)? {
            Outcome::Shown(shown) => shown,
            _ => return Err(Setback::rung(Failure::other_answer())),
        };
        let height = chosen.height;
        let state = self
            .patiently(async |chain| chain.state_after(height).await)
            .await?;
        let agreed = hex::encode(&state.after.app_hash);
        let problem = match shown.app_hash {
            Some(hash) if hash.eq_ignore_ascii_case(&agreed) => {
                self.reporter.note(match &state.basis {
                    Basis::Signatures { from } => format!(
                        "the application hash of height {height} is proven by signatures of the \
                         chain's validators, beginning with block {from}"
                    ),
                    Basis::Agreement { .. } => {
                        format!("the endpoints agree in the application hash of height {height}")
                    }
                });
                return Ok(state);
            }
            Some(_) => format!("is not of the state that the chain has at height {height}"),
            None => "carries no application hash, so nothing can confirm it".to_owned(),
        };
        Err(Setback::snapshot(
            Failure::new(
                FailureCode::Verification,
                format!("{} {problem}", chosen.manifest),
            )
            .hint("`snapswarm delete` removes it; take another snapshot"),
        ))
    }

    fn is_refused(&self, manifest: &str) -> bool {
        self.node.journal.refused.contains(manifest)
    }

    /// Complete snapshots of the chain in the home.
    async fn own_snapshots(&self) -> Result<Vec<SnapshotSummary>, Failure> {
        match self.ask(Command::List).await? {
            Outcome::List(list) => {
                let mut own = list.snapshots;
                own.retain(|one| one.chain_id == self.chain.id());
                Ok(own)
            }
            _ => Err(Failure::other_answer()),
        }
    }

    async fn fetch(
        &mut self,
        target: FetchTarget,
        least: u64,
        timeout_s: Option<u64>,
    ) -> Result<Chosen, Setback> {
        if self.options.only_here {
            return Err(Setback::rung(
                Failure::new(
                    FailureCode::NotFound,
                    match &self.options.manifest {
                        Some(named) => format!(
                            "the home has no complete snapshot {named} of {}",
                            self.chain.id()
                        ),
                        None => format!(
                            "no complete snapshot of {} is in the home that this node could restore",
                            self.chain.id()
                        ),
                    },
                )
                .hint("`snapswarm list` shows what is there; `snapswarm join` asks the swarm"),
            ));
        }
        let rpc = self.chain.any().await.map_err(Setback::rung)?.full_url();
        let command = Command::Fetch(FetchCommand {
            target,
            bootstrap: self
                .options
                .bootstrap
                .iter()
                .map(ToString::to_string)
                .collect(),
            node_rpc: Some(rpc),
            chain: Some(self.chain.command()),
            out: None,
            timeout_s: timeout_s.unwrap_or(self.options.timeout_s),
            not_below: (least > 0).then_some(least),
            except: self.node.journal.refused.iter().cloned().collect(),
            only: Vec::new(),
            state_only: self.options.xian.is_some(),
            room_for: self.node.filled_folders(),
        });
        let setback = |failure: Failure| match failure.code {
            FailureCode::Usage => Setback::everything(failure),
            _ => Setback::rung(failure),
        };
        let fetched = match self.ask(command).await.map_err(setback)? {
            Outcome::Fetched(fetched) => fetched,
            _ => return Err(Setback::rung(Failure::other_answer())),
        };
        let own = self.own_snapshots().await.map_err(Setback::rung)?;
        let found = own.iter().find(|one| one.manifest == fetched.manifest);
        let chosen: Chosen = found
            .ok_or_else(|| Setback::rung(Failure::other_answer()))?
            .into();
        self.fetched = Some(fetched);
        Ok(chosen)
    }

    /// The application writes its state where the node's data is, and CometBFT keeps
    /// the chunks in its temporary folder meanwhile: in one beside its data, or in the
    /// usual one where that disk has no room for both.
    fn check_disk(&mut self, chosen: &Chosen) -> Result<(), Setback> {
        let filled = self.node.filled_folders();
        let (temporary, data) = (std::env::temp_dir(), self.node.data());
        let [own, usual] = [&data, &temporary]
            .map(|chunks| short_of_room(filled.iter().chain([chunks]), chosen.bytes));
        let Some(short) = own else {
            // What is left there by a process that is killed is removed by the next join.
            self.node.use_own_temporary();
            return Ok(());
        };
        match usual {
            None => {
                self.node.use_usual_temporary();
                Ok(())
            }
            Some(_) => Err(Setback::everything(short.failure(chosen.height).hint(
                "free some space; what was downloaded stays, and the same command goes on",
            ))),
        }
    }

    /// Starts the node so that it can be restored.
    async fn start_empty(
        &mut self,
        rpc: &Rpc,
        chosen: &Chosen,
        state: &State,
    ) -> Result<Condition, Setback> {
        self.node.journal.manifest = Some(chosen.manifest.clone());
        self.node.save().map_err(Setback::everything)?;
        let (status, app) = self.start_mended(rpc, START_PATIENCE).await?;
        if status.height > 0 {
            return Ok(Condition::Following(status.height));
        }
        let own = app.map_or(0, |app| app.app_version);
        self.compare_versions(&status, own, chosen, state).await;
        Ok(Condition::Empty)
    }

    /// Tells of versions that may not go together. An application (`own` is its version,
    /// or 0) may know its own only after the restore, so that nothing is decided here.
    async fn compare_versions(&self, node: &NodeStatus, own: u64, chosen: &Chosen, state: &State) {
        let Ok(version) = self.or_interrupted(self.chain.version()).await else {
            return;
        };
        let series = |version: &str| version.split('.').take(2).map(str::to_owned).collect();
        if let Some(version) = version {
            let (own, theirs): (Vec<String>, Vec<String>) =
                (series(&node.version), series(&version));
            if own != theirs {
                self.reporter.note(format!(
                    "the node runs CometBFT {}, and the chain's {version}: blocks of one may be \
                     refused by the other",
                    node.version
                ));
            }
        }
        let theirs = state.after.app_version;
        if own != 0 && own != theirs {
            self.reporter.note(format!(
                "the application says that it is of version {own}, and the blocks after height {} \
                 are of version {theirs}: if it still says so after the restore, CometBFT refuses \
                 it; install the application's release for that height",
                chosen.height
            ));
        }
    }

    /// Feeds the running node until its application has the state.
    async fn feed(
        &mut self,
        rpc: &Rpc,
        p2p: &str,
        chosen: &Chosen,
        state: &State,
    ) -> Result<(), Setback> {
        let command = Command::Feed(FeedCommand {
            manifest: chosen.manifest.clone(),
            node_p2p: format!("{}@{p2p}", self.node_id),
            node_rpc: rpc.full_url(),
            chain_rpc: None,
            proof: Some(ProvenState {
                app_hash: hex::encode(&state.after.app_hash),
                app_version: state.after.app_version,
            }),
            timeout_s: self.options.patience.as_secs(),
        });
        let enough = self.cancel.child_token();
        let (watched, own_id) = (rpc.clone(), self.peer_id.to_string());
        let stranger = stranger(&watched, &own_id);
        tokio::pin!(stranger);
        let ended = {
            let asker = self.asker.clone();
            let feeding = asker.ask(command, enough.clone());
            tokio::pin!(feeding);
            let mut circles = Circles::default();
            loop {
                tokio::select! {
                    fed = &mut feeding => break fed.map(drop).map_err(Setback::snapshot),
                    stranger = &mut stranger => {
                        enough.cancel();
                        let _ = feeding.await;
                        break Err(not_alone(&stranger));
                    }
                    happened = self.node.happens() => if let Some(setback) = self.refusal(happened, &mut circles) {
                        let setback = self.node.or_crash(setback).await;
                        let setback = self.as_the_adapter_says(setback, chosen);
                        // The local peer is let go before anything else is done.
                        enough.cancel();
                        let _ = feeding.await;
                        break Err(setback);
                    },
                }
            }
        };
        if self.cancel.is_cancelled() && ended.is_err() {
            return Err(Setback::everything(self.interrupted()));
        }
        ended.map_err(|setback| self.unless_silent(setback))
    }

    /// Why the snapshot that is fed is not restored, when the node says so.
    fn refusal(&self, happened: Happened, circles: &mut Circles) -> Option<Setback> {
        match happened {
            Happened::Ended(failure) => Some(Setback::crash(failure)),
            Happened::Said(Sign::Failed(why)) => Some(self.unless_part(sync_failed(&why))),
            Happened::Said(Sign::Rejected(why)) => Some(Setback::snapshot(
                Failure::new(
                    FailureCode::Failed,
                    format!("the node does not take the snapshot: {why}"),
                )
                .hint("its application or its light client refused it: the node's log says more"),
            )),
            Happened::Said(sign) => circles.see(&sign).map(Setback::snapshot),
        }
    }
}

/// The first peer of the node but ours that is seen.
async fn stranger(rpc: &Rpc, own_id: &str) -> String {
    loop {
        let peers = rpc.peer_ids().await.unwrap_or_default();
        if let Some(other) = peers.into_iter().find(|id| id != own_id) {
            return other;
        }
        tokio::time::sleep(LOOK_FOR_STRANGERS).await;
    }
}

/// The application may have got bytes from somebody else.
fn not_alone(stranger: &str) -> Setback {
    Setback::everything(
        Failure::new(
            FailureCode::Usage,
            format!(
                "the node has another peer, {stranger}, while it is restored; anybody can push \
                 wrong chunks into it"
            ),
        )
        .hint(
            "flags of --node-cmd and variables of the environment (…_P2P_…) outrank config.toml, \
             where `join` leaves it one peer: leave those about p2p out, and name peers in \
             config.toml",
        ),
    )
}

fn block_is_gone(next: u64, oldest: u64) -> Failure {
    Failure::new(
        FailureCode::NotFound,
        format!("the endpoints keep blocks from {oldest} on, and the node would need block {next}"),
    )
    .hint("take a newer snapshot, or name an endpoint with a longer history")
}

/// The oldest snapshot that can still be followed by block sync.
fn oldest_usable(extent: Extent) -> u64 {
    match extent.oldest {
        // All blocks are kept.
        0 | 1 => 0,
        oldest => oldest.saturating_add(SPARE_BLOCKS).min(extent.tip),
    }
}
