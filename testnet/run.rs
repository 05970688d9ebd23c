//! `testnet run`: one network from nothing to a new node at the tip, and
//! the proof that it got there in the right way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use tokio::net::TcpStream;

use crate::comet::Node;
use crate::network::Network;
use crate::phases::Started;
use crate::processes::Processes;
use crate::report::{self, Report};
use crate::rpc::NodeStatus;
use crate::tools::Tools;

/// Between two looks at something that tells nobody when it changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Between two lines about a phase that takes long.
const SAY_EVERY_LOOKS: u32 = 20;

/// A run under way.
pub struct Run<'a> {
    pub(super) network: &'a Network,
    pub(super) tools: &'a Tools,
    pub(super) processes: &'a mut Processes,
    pub(super) report: Report,
    pub(super) folder: PathBuf,
}

/// What a look at something found.
pub(super) enum Look<T> {
    /// What it is waited for.
    Found(T),
    /// Why it has to be looked again, for a person who waits.
    NotYet(String),
}

/// Whether `node` answers and has stored block `height`.
pub(super) async fn at_height(node: &Node, height: u64) -> Look<NodeStatus> {
    match node.rpc.status().await {
        Ok(status) if status.height >= height => Look::Found(status),
        Ok(status) => Look::NotYet(format!("{} is at height {}", node.name, status.height)),
        Err(error) => Look::NotYet(format!("{error:#}")),
    }
}

impl<'a> Run<'a> {
    /// A run whose files lie in `folder`.
    pub fn new(
        network: &'a Network,
        tools: &'a Tools,
        folder: &Path,
        processes: &'a mut Processes,
    ) -> Self {
        Self {
            network,
            tools,
            folder: folder.to_owned(),
            processes,
            report: Report::new(),
        }
    }

    /// Everything; an error if anything is not as it must be.
    pub async fn carry_out(mut self) -> anyhow::Result<()> {
        let started = self.start_network().await?;
        let (joined, shares) = self.join(&started).await?;
        let height = joined.height;
        let app_hash = self.compare(&started, &joined).await?;
        self.stop(&started).await?;

        if let Some(shares) = shares {
            report::print_shares(&shares);
        }
        report::print_join(&joined);
        self.report.print_phases();
        println!(
            "\nThe new node follows the chain: at height {height} it has the application hash\n\
             {app_hash}, as all {} validators have.",
            started.validators.len()
        );
        Ok(())
    }

    /// Looks until something is found, while all processes are watched. An
    /// error of `look` ends the wait at once.
    pub(super) async fn wait_for<T>(
        &mut self,
        what: &str,
        patience_s: u64,
        mut look: impl AsyncFnMut(&mut Processes) -> anyhow::Result<Look<T>>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(patience_s);
        let mut looks = 0;
        loop {
            self.processes.check()?;
            let why = match look(self.processes).await? {
                Look::Found(found) => return Ok(found),
                Look::NotYet(why) => why,
            };
            ensure!(
                tokio::time::Instant::now() < deadline,
                "{what}: not within {patience_s} s: {why}"
            );
            looks += 1;
            if looks % SAY_EVERY_LOOKS == 0 {
                self.report.say(format!("… waiting: {what}: {why}"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Stops everything; a daemon that does not stop cleanly is an error, and a node
    /// that is still there.
    async fn stop(&mut self, started: &Started) -> anyhow::Result<()> {
        let providers = &started.providers;
        let patience = Duration::from_secs(self.network.patience_s.stop);
        let stopped = self.processes.stop(patience).await;
        for process in stopped {
            let daemon = providers.iter().any(|p| p.home.name == process.name);
            ensure!(
                !daemon || process.cleanly(),
                "{} {}{}",
                process.name,
                process.words(),
                self.processes.tail(&process.name)
            );
        }
        for node in started.validators.iter().chain([&started.joiner]) {
            for place in [node.rpc.address(), node.p2p] {
                ensure!(
                    TcpStream::connect(place).await.is_err(),
                    "{} was stopped, and something listens at {place} still",
                    node.name
                );
            }
        }
        self.report.phase("everything stopped");
        Ok(())
    }
}
