//! `testnet run`: one network from nothing to a fifth node at the tip, and
//! the proof that it got there in the right way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use snapswarm::node::command::SnapshotSummary;

use crate::comet::{self, LoopbackBlock, Node};
use crate::load;
use crate::network::Network;
use crate::processes::Processes;
use crate::report::{self, Report};
use crate::rpc::NodeStatus;
use crate::swarm::{Home, Provider};
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
    folder: PathBuf,
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
        let (validators, joiner) = self.start_validators().await?;
        let providers = self.start_providers(&validators).await?;
        self.write_state(&validators).await?;
        let snapshot = self.common_snapshot(&providers).await?;
        let home = self.make_home("joiner", &toml::Table::new()).await?;
        let (joined, shares) = self
            .join(&home, &snapshot, &joiner, &providers, &validators)
            .await?;
        let height = joined.height;
        let app_hash = self
            .compare(&joiner, &validators, &snapshot, height)
            .await?;
        self.stop(&providers).await?;

        report::print_shares(&shares);
        report::print_join(&joined);
        self.report.print_phases();
        println!(
            "\nThe new node follows the chain: at height {height} it has the application hash\n\
             {app_hash}, as all {} validators have.",
            validators.len()
        );
        Ok(())
    }

    /// Looks until something is found, while all processes are watched. An
    /// error of `look` ends the wait at once.
    pub(super) async fn wait_for<T>(
        &mut self,
        what: &str,
        patience_s: u64,
        mut look: impl AsyncFnMut(&Processes) -> anyhow::Result<Look<T>>,
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

    async fn start_validators(&mut self) -> anyhow::Result<(Vec<Node>, Node)> {
        let folder = self.folder.join("nodes");
        let block = LoopbackBlock::random();
        let mut nodes =
            comet::make_homes(self.network, &folder, block, self.tools, self.processes).await?;
        let joiner = nodes.pop().context("the last home is the new node's")?;
        for node in &nodes {
            node.configure(self.network, &nodes)?;
            node.start(self.tools, self.processes)?;
        }
        let patience = self.network.patience_s.start;
        for node in &nodes {
            let what = format!("the first block at {}", node.name);
            self.wait_for(&what, patience, async |_| Ok(at_height(node, 1).await))
                .await?;
        }
        self.report.phase("validators make blocks");
        self.report.say(format!(
            "{} validators of chain {} make blocks; RPC of the first: {}",
            nodes.len(),
            self.network.chain_id,
            nodes[0].rpc.url()
        ));
        Ok((nodes, joiner))
    }

    async fn make_home(&self, name: &str, settings: &toml::Table) -> anyhow::Result<Home> {
        let folder = self.folder.join("swarm").join(name);
        Home::make(
            name,
            folder,
            self.network,
            settings,
            self.tools,
            self.processes,
        )
        .await
    }

    async fn start_providers(&mut self, validators: &[Node]) -> anyhow::Result<Vec<Provider>> {
        let patience = Duration::from_secs(self.network.patience_s.start);
        let mut providers: Vec<Provider> = Vec::new();
        for (index, validator) in validators.iter().enumerate() {
            let name = format!("provider-{}", index + 1);
            let home = self
                .make_home(&name, &self.network.providers.settings)
                .await?;
            let first: Vec<String> = providers
                .iter()
                .take(1)
                .map(|p| p.multiaddr.clone())
                .collect();
            let provider =
                Provider::start(home, validator, &first, patience, self.processes).await?;
            self.report.say(format!(
                "{name} harvests from {}, serves at {}",
                validator.name, provider.multiaddr
            ));
            providers.push(provider);
        }
        self.report.phase("a provider beside each");
        Ok(providers)
    }

    async fn write_state(&mut self, validators: &[Node]) -> anyhow::Result<()> {
        let load = &self.network.load;
        let patience = Duration::from_secs(self.network.patience_s.snapshot);
        tokio::time::timeout(patience, load::write(load, validators))
            .await
            .context("the transactions are not taken in time")??;
        self.report.phase("transactions written");
        self.report.say(format!(
            "{} transactions of {} bytes are written",
            load.transactions(),
            load.transaction_bytes
        ));
        Ok(())
    }

    /// The newest snapshot that is large enough and complete at all providers.
    async fn common_snapshot(&mut self, providers: &[Provider]) -> anyhow::Result<SnapshotSummary> {
        let chunks = self.network.load.chunks;
        let what = format!("the same snapshot of {chunks} chunks or more at every provider");
        let patience = self.network.patience_s.snapshot;
        let snapshot = self
            .wait_for(&what, patience, async |processes| {
                let lists = providers
                    .iter()
                    .map(|provider| provider.home.list(processes));
                let lists = futures::future::try_join_all(lists).await?;
                Ok(match newest_common(&lists, chunks) {
                    Some(snapshot) => Look::Found(snapshot),
                    None => Look::NotYet(format!("they have {}", newest_of_each(&lists))),
                })
            })
            .await?;
        for provider in providers {
            let list = provider.home.list(self.processes).await?;
            let same = list.iter().find(|own| own.height == snapshot.height);
            let same = same.with_context(|| {
                format!(
                    "{} has dropped height {}",
                    provider.home.name, snapshot.height
                )
            })?;
            ensure!(
                same.manifest == snapshot.manifest,
                "{} calls the snapshot at height {} {}, {} calls it {}",
                provider.home.name,
                snapshot.height,
                same.manifest,
                providers[0].home.name,
                snapshot.manifest
            );
            ensure!(
                same.proven,
                "{} has not compared the snapshot with the chain",
                provider.home.name
            );
        }
        self.report
            .phase("the same large snapshot at every provider");
        self.report.say(format!(
            "all {} providers hold {} (height {}, {} chunks, {:.1} MB)",
            providers.len(),
            snapshot.manifest,
            snapshot.height,
            snapshot.chunks,
            snapshot.bytes as f64 / 1e6
        ));
        Ok(snapshot)
    }

    /// Stops everything; a daemon that does not stop cleanly is an error.
    async fn stop(&mut self, providers: &[Provider]) -> anyhow::Result<()> {
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
        self.report.phase("everything stopped");
        Ok(())
    }
}

/// The newest snapshot of at least `chunks` chunks that is complete in every
/// list, as the first list has it.
fn newest_common(lists: &[Vec<SnapshotSummary>], chunks: u32) -> Option<SnapshotSummary> {
    let (first, others) = lists.split_first()?;
    let large = |s: &&SnapshotSummary| s.complete && s.chunks >= chunks;
    first
        .iter()
        .filter(large)
        .filter(|snapshot| {
            others.iter().all(|list| {
                list.iter()
                    .filter(large)
                    .any(|other| other.height == snapshot.height)
            })
        })
        .max_by_key(|snapshot| snapshot.height)
        .cloned()
}

/// What each list begins with, in words.
fn newest_of_each(lists: &[Vec<SnapshotSummary>]) -> String {
    let newest = |list: &Vec<SnapshotSummary>| {
        let newest = list.iter().max_by_key(|snapshot| snapshot.height);
        newest.map_or_else(
            || "none".to_owned(),
            |s| {
                let part = if s.complete { "" } else { " in part" };
                format!("height {} with {} chunks{part}", s.height, s.chunks)
            },
        )
    };
    lists.iter().map(newest).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(height: u64, chunks: u32, complete: bool) -> SnapshotSummary {
        SnapshotSummary {
            manifest: format!("m{height}"),
            chain_id: "c".to_owned(),
            height,
            format: 1,
            chunks,
            bytes: 1,
            have_bytes: 1,
            complete,
            pinned: false,
            proven: true,
            origin: "harvested".to_owned(),
        }
    }

    #[test]
    fn the_common_snapshot_is_the_newest_that_is_large_and_complete_everywhere() {
        let lists = [
            vec![
                snapshot(40, 9, true),
                snapshot(30, 9, true),
                snapshot(20, 9, true),
            ],
            vec![
                snapshot(40, 9, false),
                snapshot(30, 9, true),
                snapshot(20, 9, true),
            ],
        ];
        assert_eq!(newest_common(&lists, 9).unwrap().height, 30);
        assert!(newest_common(&lists, 10).is_none());
        assert!(newest_common(&[], 1).is_none());
    }
}
