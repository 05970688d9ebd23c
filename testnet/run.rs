//! `testnet run`: one network from nothing to a fifth node at the tip, and
//! the proof that it got there in the right way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use snapswarm::node::command::SnapshotSummary;

use crate::comet::{self, LoopbackBlock, Node, Trust};
use crate::load;
use crate::network::Network;
use crate::processes::Processes;
use crate::report::{self, Report, Share};
use crate::swarm::{Home, Provider};
use crate::tools::Tools;

/// Between two looks at something that tells nobody when it changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Between two lines about a phase that takes long.
const SAY_EVERY_LOOKS: u32 = 20;

/// Blocks after a snapshot that its light client verification needs: H+1 has
/// its application hash, H+2 the commit of that.
const BLOCKS_AFTER_SNAPSHOT: u64 = 2;

/// A run under way.
pub struct Run<'a> {
    network: &'a Network,
    tools: &'a Tools,
    folder: PathBuf,
    processes: &'a mut Processes,
    report: Report,
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
        let shares = self
            .fetch(&home, &snapshot, &providers, &validators)
            .await?;
        self.restore(&home, &snapshot, &joiner, &validators).await?;
        let height = self.catch_up(&joiner, &validators).await?;
        let app_hash = self
            .compare(&joiner, &validators, &snapshot, height)
            .await?;
        self.stop(&providers).await?;

        report::print_shares(&shares);
        self.report.print_phases();
        println!(
            "\nThe new node follows the chain: at height {height} it has the application hash\n\
             {app_hash}, as all {} validators have.",
            validators.len()
        );
        Ok(())
    }

    /// Waits until `look` finds something, while all processes are watched.
    async fn wait_for<T>(
        &mut self,
        what: &str,
        patience_s: u64,
        mut look: impl AsyncFnMut(&Processes) -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(patience_s);
        let mut looks = 0;
        loop {
            self.processes.check()?;
            let found = tokio::time::timeout_at(deadline, look(self.processes)).await;
            let last = match found {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Ok(None)) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            if tokio::time::Instant::now() + LOOK_INTERVAL > deadline {
                let late = format!("{what}: not within {patience_s} s");
                return match last {
                    Some(error) => Err(error.context(late)),
                    None => bail!(late),
                };
            }
            looks += 1;
            if looks % SAY_EVERY_LOOKS == 0 {
                self.report.say(format!("… waiting: {what}"));
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
            node.configure(self.network, &nodes, None)?;
            node.start(self.tools, self.processes)?;
        }
        let patience = self.network.patience_s.start;
        for node in &nodes {
            let what = format!("the first block at {}", node.name);
            self.wait_for(&what, patience, async |_| {
                Ok((node.rpc.status().await?.height > 0).then_some(()))
            })
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
                Ok(newest_common(&lists, chunks))
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

    async fn fetch(
        &mut self,
        home: &Home,
        snapshot: &SnapshotSummary,
        providers: &[Provider],
        validators: &[Node],
    ) -> anyhow::Result<Vec<Share>> {
        let patience = Duration::from_secs(self.network.patience_s.fetch);
        let rpc = validators[0].rpc.url();
        // One address is enough: the others are found through the swarm.
        let bootstrap = &providers[0].multiaddr;
        let fetched = home
            .fetch(snapshot, bootstrap, rpc, patience, self.processes)
            .await?;
        self.processes.check()?;
        ensure!(
            fetched.manifest == snapshot.manifest,
            "fetched {} in place of {}",
            fetched.manifest,
            snapshot.manifest
        );
        ensure!(
            fetched.bytes == snapshot.bytes,
            "fetched {} bytes in place of {}",
            fetched.bytes,
            snapshot.bytes
        );
        ensure!(
            fetched.proven,
            "what was fetched is not compared with the chain"
        );
        let names: Vec<(&str, &str)> = providers
            .iter()
            .map(|p| (p.home.name.as_str(), p.home.peer_id.as_str()))
            .collect();
        let shares = report::shares(&fetched, &names);
        let least = f64::from(self.network.providers.min_share_percent);
        if let Some(share) = shares[..providers.len()].iter().find(|s| s.percent < least) {
            report::print_shares(&shares);
            bail!("{} gave less than {least} % of the bytes", share.name);
        }
        self.report.phase("fetched from all providers at once");
        self.report.say(format!(
            "the new node has fetched {:.1} MB in {:.2} s ({} bytes twice or for nothing)",
            fetched.bytes as f64 / 1e6,
            fetched.seconds,
            fetched.wasted_bytes
        ));
        Ok(shares)
    }

    async fn restore(
        &mut self,
        home: &Home,
        snapshot: &SnapshotSummary,
        joiner: &Node,
        validators: &[Node],
    ) -> anyhow::Result<()> {
        let needed = snapshot.height + BLOCKS_AFTER_SNAPSHOT;
        let first = &validators[0];
        let patience = self.network.patience_s.start;
        self.wait_for(&format!("height {needed}"), patience, async |_| {
            Ok((first.rpc.status().await?.height >= needed).then_some(()))
        })
        .await?;
        let trust = Trust {
            height: snapshot.height,
            block_hash: first.rpc.header(snapshot.height).await?.block_hash,
            // CometBFT wants two.
            servers: validators
                .iter()
                .cycle()
                .take(2)
                .map(|node| node.rpc.url().to_owned())
                .collect(),
        };
        joiner.configure(self.network, &[], Some(&trust))?;
        joiner.start(self.tools, self.processes)?;
        self.wait_for("the new node's RPC", patience, async |_| {
            Ok(joiner.rpc.status().await.ok())
        })
        .await?;
        self.report.phase("an empty node is started");

        let patience = Duration::from_secs(self.network.patience_s.restore);
        let fed = home
            .feed(&snapshot.manifest, joiner, patience, self.processes)
            .await?;
        self.processes.check()?;
        ensure!(
            fed.restored && fed.height == snapshot.height,
            "the new node has not taken the snapshot: {fed:?}"
        );
        let app_hash = first.rpc.header(snapshot.height + 1).await?.app_hash;
        ensure!(
            fed.app_hash.eq_ignore_ascii_case(&app_hash),
            "fed the application hash {}, the chain has {app_hash}",
            fed.app_hash
        );
        self.report.phase("the snapshot is fed and restored");
        self.report.say(format!(
            "the new node's application stands at height {}",
            fed.height
        ));
        Ok(())
    }

    /// Gives the new node its normal peers and waits until it is where the
    /// validators were when it got them. The height it has then.
    async fn catch_up(&mut self, joiner: &Node, validators: &[Node]) -> anyhow::Result<u64> {
        let tip = validators[0].rpc.status().await?.height;
        let peers: Vec<String> = validators.iter().map(Node::peer_address).collect();
        joiner.rpc.dial_peers(&peers).await?;
        let patience = self.network.patience_s.catch_up;
        let what = format!("the new node at height {tip}");
        let height = self
            .wait_for(&what, patience, async |_| {
                let status = joiner.rpc.status().await?;
                Ok((!status.catching_up && status.height >= tip).then_some(status.height))
            })
            .await?;
        self.report.phase("caught up by block sync");
        self.report.say(format!(
            "the new node is at the tip (height {height}) with {} peers",
            joiner.rpc.peers().await?
        ));
        Ok(height)
    }

    /// The application hash that the new node and all validators have at
    /// `height`; an error if they differ in it or in what they answer for a
    /// key that was written.
    async fn compare(
        &mut self,
        joiner: &Node,
        validators: &[Node],
        snapshot: &SnapshotSummary,
        height: u64,
    ) -> anyhow::Result<String> {
        // Header H+1 was part of the restore; the one after it is the first
        // that says what the new node's own application computed.
        ensure!(
            height > snapshot.height + 1,
            "height {height} says nothing about blocks after the snapshot"
        );
        let app_hash = joiner.rpc.header(height).await?.app_hash;
        let keys = load::keys_to_compare(&self.network.load);
        for validator in validators {
            let patience = self.network.patience_s.catch_up;
            let what = format!("height {height} at {}", validator.name);
            let header = self
                .wait_for(&what, patience, async |_| {
                    Ok(Some(validator.rpc.header(height).await?))
                })
                .await?;
            ensure!(
                header.app_hash == app_hash,
                "at height {height} the new node has the application hash {app_hash}, {} has {}",
                validator.name,
                header.app_hash
            );
            for key in &keys {
                ensure!(
                    validator.rpc.value(key).await? == joiner.rpc.value(key).await?,
                    "the new node and {} answer differently for {key}",
                    validator.name
                );
            }
        }
        self.report.phase("application hash compared");
        Ok(app_hash)
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
