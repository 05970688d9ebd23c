//! What stands before a new node comes: validators, providers, a state, and a
//! snapshot of it at every provider.

use std::time::Duration;

use anyhow::{Context, ensure};
use snapswarm::node::command::SnapshotSummary;

use crate::comet::{self, LoopbackBlock, Node, lay_over};
use crate::load;
use crate::network::App;
use crate::run::{Look, Run, at_height};
use crate::sdk;
use crate::swarm::{Home, Provider};

/// Where nodes lie, in the network's folder.
pub(super) const NODES: &str = "nodes";
/// Where homes of snapswarm lie.
pub(super) const HOMES: &str = "swarm";

/// A network that a new node can join.
pub(super) struct Started {
    /// Where it listens.
    pub(super) block: LoopbackBlock,
    /// The nodes that make blocks.
    pub(super) validators: Vec<Node>,
    /// An empty one.
    pub(super) joiner: Node,
    /// The daemons beside the validators.
    pub(super) providers: Vec<Provider>,
    /// What all of them have.
    pub(super) snapshot: SnapshotSummary,
}

impl Run<'_> {
    /// All of it, from nothing.
    pub(super) async fn start_network(&mut self) -> anyhow::Result<Started> {
        let block = LoopbackBlock::random();
        let (validators, joiner) = self.make_nodes(block).await?;
        let homes = self.make_provider_homes().await?;
        self.start_validators(&validators, &homes).await?;
        let providers = self.start_providers(&validators, homes).await?;
        self.write_state(&validators).await?;
        let snapshot = self.common_snapshot(&providers).await?;
        Ok(Started {
            block,
            validators,
            joiner,
            providers,
            snapshot,
        })
    }

    async fn make_nodes(&mut self, block: LoopbackBlock) -> anyhow::Result<(Vec<Node>, Node)> {
        let folder = self.folder.join(NODES);
        let (network, tools, processes) = (self.network, self.tools, &*self.processes);
        let mut nodes = match network.app {
            App::Sdk => sdk::make_homes(network, &folder, block, tools, processes).await?,
            _ => comet::make_homes(network, &folder, block, tools, processes).await?,
        };
        let joiner = nodes.pop().context("the last home is the new node's")?;
        for node in &nodes {
            node.configure(self.network, &nodes)?;
        }
        joiner.configure(self.network, &nodes)?;
        Ok((nodes, joiner))
    }

    async fn make_provider_homes(&self) -> anyhow::Result<Vec<Home>> {
        let count = self.network.validators.count;
        let mut homes = Vec::new();
        for number in 1..=count {
            let mut settings = self.network.providers.settings.clone();
            if number == count {
                lay_over(&mut settings, self.network.providers.last_settings.clone());
            }
            homes.push(
                self.make_home(&format!("provider-{number}"), &settings)
                    .await?,
            );
        }
        Ok(homes)
    }

    /// A home of snapswarm in the network's own swarm.
    pub(super) async fn make_home(
        &self,
        name: &str,
        settings: &toml::Table,
    ) -> anyhow::Result<Home> {
        let folder = self.folder.join(HOMES).join(name);
        let (network, tools) = (self.network, self.tools);
        Home::make(name, folder, network, settings, tools, self.processes).await
    }

    async fn start_validators(&mut self, nodes: &[Node], homes: &[Home]) -> anyhow::Result<()> {
        for (node, home) in nodes.iter().zip(homes) {
            node.start(self.network, home, self.tools, self.processes)
                .await?;
        }
        let patience = self.network.patience_s.start;
        for node in nodes {
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
        Ok(())
    }

    async fn start_providers(
        &mut self,
        validators: &[Node],
        homes: Vec<Home>,
    ) -> anyhow::Result<Vec<Provider>> {
        let mut providers: Vec<Provider> = Vec::new();
        let asking = homes
            .len()
            .saturating_sub(self.network.providers.from_folders.into());
        for (home, validator) in homes.into_iter().zip(validators) {
            let from_folder = providers.len() >= asking;
            let first = providers.first().map(|first| first.multiaddr.clone());
            let first: Vec<String> = first.into_iter().collect();
            let (network, processes) = (self.network, &mut *self.processes);
            let provider =
                Provider::start(home, validator, from_folder, &first, network, processes).await?;
            self.report.say(format!(
                "{} {} {}, serves at {}",
                provider.home.name,
                match from_folder {
                    true => "reads the folder of",
                    false => "harvests from",
                },
                validator.name,
                provider.multiaddr
            ));
            providers.push(provider);
        }
        self.report.phase("a provider beside each");
        Ok(providers)
    }

    async fn write_state(&mut self, validators: &[Node]) -> anyhow::Result<()> {
        let (load, app) = (&self.network.load, self.network.app);
        if app == App::Sdk {
            // It stands in the genesis.
            return Ok(());
        }
        let patience = Duration::from_secs(self.network.patience_s.snapshot);
        tokio::time::timeout(patience, load::write(load, app, validators))
            .await
            .context("the transactions are not taken in time")??;
        self.report.phase("transactions written");
        self.report.say(format!(
            "{} transactions of {} bytes are written",
            load.transactions(app),
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
                let processes = &*processes;
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
                same.app_hash_confirmed,
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
            base: None,
            pinned: false,
            proven: true,
            app_hash_confirmed: true,
            origin: "harvested".to_owned(),
            only: Vec::new(),
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
