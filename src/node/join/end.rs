//! The end of a join: the person's settings are back, and the node is left or stayed
//! with.

use std::time::Duration;

use super::node::{Happened, Node};
use super::{DAEMON_PATIENCE, Join, OwnDaemon, REPLAY_PATIENCE, Rung, overlay};
use crate::node::command::{Failure, Joined};

/// The first pause before a process that ended is started again; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest one.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Peers that are shown as an example.
const SHOWN_PEERS: usize = 4;
/// A process that ran so long was well.
const WELL_AFTER: Duration = Duration::from_secs(300);

impl Join {
    /// The node is at the tip: its own settings come back.
    pub(super) async fn arrive(
        &mut self,
        rung: Option<Rung>,
        node_height: u64,
    ) -> Result<Joined, Failure> {
        let seconds = self.started.elapsed().as_secs_f64();
        self.enter("own settings").await;
        self.reporter
            .phase("the node is at the tip; its own settings come back");
        let reporter = self.reporter.clone();
        if self.options.exit_when_synced {
            self.node.stop().await;
        } else if rung == Some(Rung::Swarm) {
            self.node.stop_comet().await;
            self.node.use_usual_temporary();
        }
        self.node.put_settings_back(&reporter)?;
        self.node.discard_old_state(&reporter).await;
        self.node.journal = Default::default();
        self.node.save()?;
        // Whoever stops the join now is not made to wait for it.
        let _ = self.or_interrupted(self.tell_of_missing_peers()).await;
        if !self.options.exit_when_synced && rung == Some(Rung::Swarm) {
            self.node.start(&reporter).await?;
            let rpc = self.node.own_rpc()?;
            self.node.first_status(&rpc, REPLAY_PATIENCE).await?;
        }
        self.close_phase();
        self.held = Some(rung.map_or("none", Rung::name));
        self.tell_status(None).await;
        let seeding = match self.options.exit_when_synced {
            true => self.seed_on().await,
            false => None,
        };
        let chosen = self.chosen.as_ref().filter(|_| rung == Some(Rung::Swarm));
        Ok(Joined {
            rung: rung.map_or("none", Rung::name).to_owned(),
            manifest: chosen.map(|chosen| chosen.manifest.clone()),
            believed: self.basis.take().filter(|_| chosen.is_some()),
            snapshot_height: chosen.map(|chosen| chosen.height),
            height: node_height,
            app_hash: self.app_hash_at(node_height).await,
            seconds,
            phases: std::mem::take(&mut self.phases),
            steps: self.steps.clone(),
            fetched: self.fetched.take(),
            seeding,
        })
    }

    /// A node that dials nobody finds its chain again only by luck.
    async fn tell_of_missing_peers(&self) {
        if !overlay::names_nobody(self.node.own()) {
            return;
        }
        let mut others = self.others().await;
        others.truncate(SHOWN_PEERS);
        let example = match others.is_empty() {
            true => String::new(),
            false => format!(
                ", for example persistent_peers = \"{}\"",
                overlay::list(&others)
            ),
        };
        self.reporter.note(format!(
            "the node's config.toml names neither persistent_peers nor seeds, so that it may find \
             nobody when it is started again: name some under [p2p]{example}"
        ));
    }

    async fn app_hash_at(&self, height: u64) -> Option<String> {
        self.chain.told_app_hash(height).await?.ok()
    }

    /// After a setback that ends the join: nothing is left running or changed, and a
    /// node in the middle of a restore is an empty one again.
    pub(super) async fn leave(&mut self) {
        self.node.stop().await;
        let reporter = self.reporter.clone();
        let put_back = self.node.put_settings_back(&reporter);
        // What this run did not see empty may have blocks: it stays, and the journal
        // says what is known of it.
        let is_half = self.node.journal.window && self.saw_empty && !self.has_blocks;
        let with_app = is_half && self.node.can_empty_app().await;
        let emptied = match is_half {
            true => {
                let why = "the restore did not come to an end";
                self.node.empty(with_app, why, &reporter)
            }
            false => Ok(()),
        };
        let forgotten = put_back.and(emptied).and_then(|()| {
            let journal = std::mem::take(&mut self.node.journal);
            self.node.journal.window = journal.window;
            if self.cancel.is_cancelled() {
                // The same command goes on where this one was stopped.
                self.node.journal.refused = journal.refused;
                self.node.journal.rung = journal.rung;
                self.node.journal.manifest = journal.manifest;
            }
            self.node.save()
        });
        if let Err(failure) = forgotten {
            tracing::error!(%failure, "the node's own settings are not back");
            reporter.note(format!(
                "the node's own settings are not back: {}; the same command tries again",
                failure.message
            ));
        }
        self.tell_status(Some("failed")).await;
        self.stop_daemon().await;
    }

    /// Stays with the node until stopped: what ends is started again.
    pub async fn supervise(&mut self) -> Result<(), Failure> {
        let mut pause = PAUSE_MIN;
        let cancel = self.cancel.clone();
        while !cancel.is_cancelled() {
            let since = std::time::Instant::now();
            let failure = tokio::select! {
                () = cancel.cancelled() => break,
                failure = ended(&mut self.node) => failure,
                why = daemon_ended(&mut self.daemon) => {
                    self.reporter.note(format!(
                        "{why}; the node goes on, and `snapswarm start` shares what is here"
                    ));
                    continue;
                }
            };
            if since.elapsed() >= WELL_AFTER {
                pause = PAUSE_MIN;
            }
            tracing::error!(%failure, seconds = pause.as_secs(), "started again after a pause");
            self.reporter
                .note(format!("{}; started again", failure.message));
            self.node.stop_comet().await;
            cancel.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
            if cancel.is_cancelled() {
                break;
            }
            let reporter = self.reporter.clone();
            if let Err(failure) = self.node.start(&reporter).await {
                tracing::error!(%failure, "the node cannot be started");
            }
        }
        self.close().await;
        Ok(())
    }

    /// Ends what this process runs: the node, its application, the daemon.
    pub async fn close(&mut self) {
        self.node.stop_service().await;
        self.stop_daemon().await;
    }

    pub(super) async fn stop_daemon(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.stop.cancel();
            let _ = tokio::time::timeout(DAEMON_PATIENCE, daemon.task).await;
        }
    }
}

/// The end of the node, or of its application.
async fn ended(node: &mut Node) -> Failure {
    loop {
        if let Happened::Ended(failure) = node.happens().await {
            return failure;
        }
    }
}

/// The end of the daemon in this process, and why.
async fn daemon_ended(daemon: &mut Option<OwnDaemon>) -> String {
    let ended = match daemon {
        Some(daemon) => (&mut daemon.task).await,
        None => std::future::pending().await,
    };
    *daemon = None;
    match ended {
        Ok(Ok(())) => "the swarm's daemon has ended".to_owned(),
        Ok(Err(failure)) => format!("the swarm's daemon has ended: {}", failure.message),
        Err(error) => Failure::defect(&error).message,
    }
}
