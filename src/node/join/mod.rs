//! `join`: from an empty node to one that follows its chain, in one run.
//!
//! ```text
//! preflight ─▶ search, download ─▶ light client ─▶ node ─▶ feed ─▶ block sync ─▶ own settings
//!                  ▲                                         │
//!                  └──── another snapshot ◀── setback ◀──────┴──▶ the ladder: peers, blocks
//! ```
//!
//! | file | what it is for |
//! |---|---|
//! | `node` | the node: home, settings for a while, processes |
//! | `preflight`, `ports` | what of the node is looked at before anything is begun |
//! | `overlay` | which settings these are |
//! | `journal` | what a killed join has to undo or to go on with |
//! | `ladder` | what follows a setback |
//! | `swarm`, `rungs` | the ways to the state |
//! | `mend` | what an earlier restore left halfway |
//! | `circles` | a restore that comes to no end |
//! | `follow` | normal peers, first block, tip |
//! | `xian` | an application that an adapter starts when its state is there |
//! | `asker` | questions to the home's daemon, or without one |
//! | `end` | own settings back; leaving, or staying as supervisor |
//! | `seed` | the daemon that a join leaves behind |
//!
//! The home's daemon does what concerns the swarm: the one that runs already, or one
//! in this process. Both are asked over the control socket. What is believed of the
//! chain, and why, stands in `node/chain`.
//!
//! Laws:
//!
//! * Nothing is downloaded, and nothing reaches the application, before the chain's
//!   validators were found to have signed its application hash, no endpoint tells
//!   otherwise, and every byte was checked; while it is restored, the node has no peer
//!   but ours.
//! * Whatever is changed of the node's settings is written down before, and put back
//!   at the end, also of a run that fails; what was left by one that was killed is put
//!   back by the next.
//! * A node is never left idle at height 0 without a word: each setback is told and
//!   leads to the next rung, or to the end with a reason.
//! * Keys and what a validator signed are never touched. An application's data is
//!   removed only in the folder that the person named for it.

mod asker;
mod circles;
mod end;
mod follow;
mod journal;
mod ladder;
mod mend;
mod node;
mod overlay;
mod ports;
mod preflight;
mod rungs;
mod seed;
mod swarm;
mod xian;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(super) use self::journal::{LeftOpen, left_open};
pub use self::ladder::Rung;
pub(super) use self::overlay::reached;
pub use self::xian::XianApp;

use self::asker::{Asker, OwnDaemon, has_daemon, own_daemon};
use self::ladder::{Kind, Next, Setback};
use self::node::{Node, NodePlan};
use self::swarm::Chosen;
use super::chain::Chain;
use super::command::{
    ChainCommand, Command, Failure, FailureCode, Fetched, JoinPhase, JoinStatus, JoinStep, Joined,
    Outcome, Progress,
};
use super::progress::Reporter;
use crate::comet::node_home::NodeHome;
use crate::comet::peer::NodeId;
use crate::config::Config;

/// Where logs of the node and its application go, in the home.
pub(super) const LOGS: &str = "logs";
/// Between two questions to a chain, or a daemon, that did not answer one.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A started node opens its RPC within this.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// And one that has blocks, which it may replay into its application before.
const REPLAY_PATIENCE: Duration = Duration::from_secs(600);
/// A daemon that is told how far the join is, for its status, is not waited for longer.
const TELL_PATIENCE: Duration = Duration::from_secs(1);
/// How long a daemon of ours may take to end.
const DAEMON_PATIENCE: Duration = Duration::from_secs(30);

/// What `join` was told.
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// RPC endpoints of the chain.
    pub chain_rpc: Vec<String>,
    /// The new node's home.
    pub node_home: PathBuf,
    /// Starts the application, where that is a process of its own.
    pub app_cmd: Option<String>,
    /// Starts CometBFT; `cometbft --home DIR start` unless given.
    pub node_cmd: Option<String>,
    /// The folder of the application's data, which may be emptied.
    pub app_data: Option<PathBuf>,
    /// The application, where it is Xian's and to be restored by its adapter.
    pub xian: Option<XianApp>,
    /// Peers to begin with, beside the configured ones.
    pub bootstrap: Vec<Multiaddr>,
    /// This snapshot and no other.
    pub manifest: Option<String>,
    /// The person gave it as a file.
    pub from_file: bool,
    /// Only what the home has already: nothing is asked of the swarm.
    pub only_here: bool,
    /// A block that the person trusts: height and hash in hex.
    pub trust: Option<(u64, String)>,
    /// Rungs below the swarm that may be used.
    pub fallback: Vec<Rung>,
    /// How long to look for a provider, seconds.
    pub timeout_s: u64,
    /// How long nothing may move in any phase.
    pub patience: Duration,
    /// Stop the node when it is synced, instead of staying with it.
    pub exit_when_synced: bool,
    /// Leave a daemon behind then, where there is none.
    pub seeds_on: bool,
}

/// A join under way.
pub struct Join {
    options: JoinOptions,
    chain: Chain,
    node: Node,
    node_id: NodeId,
    /// Of the local peer.
    peer_id: NodeId,
    reporter: Reporter,
    asker: Asker,
    config: Config,
    cancel: CancellationToken,
    started: Instant,
    chosen: Option<Chosen>,
    fetched: Option<Fetched>,
    steps: Vec<JoinStep>,
    /// Why the node did not take the last snapshot that it refused.
    refusal: Option<Failure>,
    /// How often the node or its application ended by itself, since something moved.
    crashes: u32,
    /// The highest block that the node was seen to have since it is followed.
    furthest: u64,
    /// Whether the node has stored a block since it is followed.
    has_blocks: bool,
    /// Whether this run saw the node without any block.
    saw_empty: bool,
    /// Whether the application may hold a part of a state, and cannot be emptied.
    may_hold_part: bool,
    /// The rung that held, once one has.
    held: Option<&'static str>,
    /// Whether whoever stops the join was told why the node is not stopped yet.
    told_of_window: bool,
    /// Why the first snapshot was not believed that was passed over for that.
    unbelieved: Option<Failure>,
    /// Why a state was believed that the application hash does not prove.
    basis: Option<String>,
    phases: Vec<JoinPhase>,
    phase: Option<(&'static str, Instant)>,
    daemon: Option<OwnDaemon>,
}

impl Join {
    /// Looks at everything that can be looked at before something is changed, and
    /// sees that the home has a daemon. What an earlier join left changed is put back.
    pub async fn begin(
        home: &Path,
        config: Config,
        mut options: JoinOptions,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        let reporter = Reporter::new(progress.clone());
        reporter.phase("looking at the node and the chain");
        if options.xian.is_some() {
            // Nothing proves what other peers of CometBFT offer.
            options.fallback.retain(|rung| *rung != Rung::Peers);
        }
        let node_home = NodeHome::new(&options.node_home);
        let folder = options.node_home.display();
        let folder = folder.to_string().replace('\'', r"'\''");
        let usual = format!("cometbft --home '{folder}' start");
        let plan = NodePlan {
            home: node_home.clone(),
            node_cmd: options.node_cmd.clone().unwrap_or(usual),
            app_cmd: options.app_cmd.clone(),
            app_data: options.app_data.clone(),
            is_plain: options.node_cmd.is_none(),
            xian: options.xian.clone(),
            own_home: home.to_owned(),
            logs: home.join(LOGS),
        };
        let node = Node::open(plan, &reporter, cancel.clone())?;
        let chain_id = node_home.chain_id(node.own())?;
        let node_id = node_home.node_id(node.own())?;
        node.own_rpc()?;
        ports::look(&node, &reporter).await?;
        node.remove_half_made(&reporter)?;
        let mut chain = Chain::new(&ChainCommand {
            chain_id,
            endpoints: options.chain_rpc.clone(),
            trusted: options.trust.clone(),
            trust_period_s: overlay::trust_period(node.own()).as_secs(),
        })?;
        let checked = cancel.run_until_cancelled(chain.check(&reporter)).await;
        checked.unwrap_or_else(|| Err(Failure::interrupted("nothing was begun yet")))?;
        mend::tell_of_missing_app_data(&node, &reporter);
        std::fs::create_dir_all(home).map_err(|error| Failure::io(home.display(), &error))?;
        let peer_id = super::feed::comet_identity(home).await?.id();
        let (mut daemon, mut alone) = (None, None);
        match (has_daemon(home).await?, options.only_here) {
            (true, _) => {}
            (false, true) => alone = Some(config.clone()),
            (false, false) => daemon = Some(own_daemon(home, config.clone(), &options).await?),
        }
        Ok(Self {
            config,
            chain,
            node,
            node_id,
            peer_id,
            reporter,
            asker: Asker {
                home: home.to_owned(),
                progress,
                alone,
                is_own: daemon.is_some(),
            },
            cancel,
            started,
            chosen: None,
            fetched: None,
            steps: Vec::new(),
            refusal: None,
            crashes: 0,
            furthest: 0,
            has_blocks: false,
            saw_empty: false,
            may_hold_part: false,
            held: None,
            told_of_window: false,
            unbelieved: None,
            basis: None,
            phases: Vec::new(),
            phase: Some(("preflight", started)),
            daemon,
            options,
        })
    }

    /// Gets the node to the tip, by whatever rung holds. When it fails, everything is
    /// as it was, and the failure says what to do.
    pub async fn until_synced(&mut self) -> Result<Joined, Failure> {
        let joined = match self.climb().await {
            Ok((rung, height)) => self.arrive(rung, height).await,
            Err(failure) => Err(failure),
        };
        if joined.is_err() {
            self.leave().await;
        }
        joined
    }

    /// The rung that held, and the node's height.
    async fn climb(&mut self) -> Result<(Option<Rung>, u64), Failure> {
        if let Some(height) = self.own_blocks().await? {
            let lower = self.node.journal.rung;
            return Ok(((lower != Rung::Swarm).then_some(lower), height));
        }
        let mut rung = self.first_rung();
        loop {
            let walked = match rung {
                Rung::Swarm => self.by_swarm().await,
                Rung::Peers => self.by_peers().await,
                Rung::Blocks => self.by_blocks().await,
            };
            let setback = match walked {
                Ok(height) => return Ok((Some(rung), height)),
                Err(setback) => setback,
            };
            self.node.stop().await;
            if self.cancel.is_cancelled() {
                return Err(self.interrupted());
            }
            rung = self.step_down(rung, setback)?;
        }
    }

    /// Where a join that was cut off goes on, as far as that is wanted now.
    fn first_rung(&self) -> Rung {
        let begun = self.node.journal.rung;
        if !self.options.fallback.contains(&begun) {
            return Rung::Swarm;
        }
        self.reporter.note(format!(
            "an earlier run has given up what stands above: going on with {}; `--fallback none` \
             begins with the swarm again",
            begun.way()
        ));
        begun
    }

    /// Notes a setback and tells what follows.
    fn step_down(&mut self, rung: Rung, setback: Setback) -> Result<Rung, Failure> {
        let Setback { kind, failure } = setback;
        self.crashes += u32::from(kind == Kind::Crash);
        let kind = kind.after(self.crashes);
        if let Some(chosen) = self.chosen.take()
            && kind == Kind::Snapshot
        {
            self.node.journal.refused.insert(chosen.manifest);
            self.refusal = Some(failure.clone());
            self.node.journal.manifest = None;
        }
        let refused = self.node.journal.refused.len();
        let next = ladder::next(rung, kind, refused, &self.options.fallback);
        tracing::info!(rung = rung.name(), why = %failure, "a rung of the ladder did not hold");
        self.steps.push(JoinStep {
            rung: rung.name().to_owned(),
            why: failure.message.clone(),
        });
        let below = match next {
            Next::End => return Err(failure),
            // It has no other way by its nature.
            Next::Policy if self.options.only_here => return Err(failure),
            Next::Policy => return Err(by_policy(failure)),
            Next::Again => {
                self.reporter
                    .note(format!("{}; trying again", failure.message));
                rung
            }
            Next::Another => {
                self.crashes = 0;
                self.reporter
                    .note(format!("{}; trying another snapshot", failure.message));
                rung
            }
            Next::Rung(below) => {
                self.crashes = 0;
                self.reporter
                    .note(format!("{}; next: {}", failure.message, below.way()));
                below
            }
        };
        self.node.journal.rung = below;
        self.node.save()?;
        Ok(below)
    }

    /// A new phase: its time is taken, and the daemon's status shows it.
    async fn enter(&mut self, name: &'static str) {
        self.close_phase();
        self.phase = Some((name, Instant::now()));
        self.tell_status(Some(name)).await;
    }

    fn close_phase(&mut self) {
        if let Some((name, since)) = self.phase.take() {
            self.phases.push(JoinPhase {
                name: name.to_owned(),
                seconds: since.elapsed().as_secs_f64(),
            });
        }
    }

    /// Has the daemon's status show how far the join is. No part of the way: a daemon
    /// that does not answer at once is not waited for.
    async fn tell_status(&self, phase: Option<&str>) {
        let status = JoinStatus {
            node_home: self.options.node_home.clone(),
            rung: self
                .held
                .unwrap_or(self.node.journal.rung.name())
                .to_owned(),
            phase: phase.unwrap_or("synced").to_owned(),
            height: self.chosen.as_ref().map(|chosen| chosen.height),
            steps: self.steps.clone(),
        };
        let cancel = CancellationToken::new();
        let _gone = cancel.clone().drop_guard();
        let told = self.asker.ask_once(Command::Joining(status), cancel);
        let _ = tokio::time::timeout(TELL_PATIENCE, told).await;
    }

    async fn ask(&self, command: Command) -> Result<Outcome, Failure> {
        self.asker.ask(command, self.cancel.clone()).await
    }

    /// The work's result, unless the person stops it before.
    async fn or_interrupted<T>(&self, work: impl Future<Output = T>) -> Result<T, Setback> {
        let done = self.cancel.run_until_cancelled(work).await;
        done.ok_or_else(|| Setback::everything(self.interrupted()))
    }

    /// What the chain tells, asked again for a while when it cannot be told: endpoints
    /// fail and refuse for moments. Endpoints that contradict each other end
    /// everything: no rung can do without trust in the chain, and somebody lies.
    async fn patiently<T>(
        &self,
        ask: impl AsyncFn(&Chain) -> Result<T, Failure>,
    ) -> Result<T, Setback> {
        let begun = Instant::now();
        let mut was_told = false;
        loop {
            let failure = match self.or_interrupted(ask(&self.chain)).await? {
                Ok(told) => return Ok(told),
                Err(failure) if failure.code == FailureCode::Verification => {
                    return Err(Setback::everything(failure));
                }
                Err(failure) => failure,
            };
            // A block that is too old to be trusted speaks against its snapshot alone.
            if failure.code == FailureCode::NotFound {
                return Err(Setback::snapshot(failure));
            }
            if failure.code != FailureCode::Failed || begun.elapsed() >= self.options.patience {
                return Err(Setback::rung(failure));
            }
            if !std::mem::replace(&mut was_told, true) {
                let seconds = self.options.patience.as_secs();
                self.reporter.note(format!(
                    "{}; asked again for {seconds} seconds",
                    failure.message
                ));
            }
            self.or_interrupted(tokio::time::sleep(ASK_AGAIN)).await?;
        }
    }

    fn interrupted(&self) -> Failure {
        Failure::interrupted("the same command goes on: what was downloaded stays")
    }
}

/// The person wants no lower rung.
fn by_policy(failure: Failure) -> Failure {
    let hint = failure
        .hint
        .map_or_else(String::new, |hint| format!("{hint}; "));
    Failure::new(
        FailureCode::Policy,
        format!("{}, and --fallback allows no other way", failure.message),
    )
    .hint(format!(
        "{hint}--fallback peers,blocks lets the node get its state otherwise"
    ))
}
