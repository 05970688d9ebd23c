//! The new node's way: fetched, fed, restored, at the tip, compared.

use std::time::Duration;

use anyhow::{bail, ensure};
use snapswarm::node::command::SnapshotSummary;

use crate::comet::{Node, Trust};
use crate::load;
use crate::report::{self, Share};
use crate::run::{Look, Run, at_height};
use crate::swarm::{Home, Provider};

/// Blocks after a snapshot that its light client verification needs: H+1 has
/// its application hash, H+2 the commit of that.
const BLOCKS_AFTER_SNAPSHOT: u64 = 2;

impl Run<'_> {
    pub(super) async fn fetch(
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

    pub(super) async fn restore(
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
            Ok(at_height(first, needed).await)
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
            Ok(at_height(joiner, 0).await)
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
    pub(super) async fn catch_up(
        &mut self,
        joiner: &Node,
        validators: &[Node],
    ) -> anyhow::Result<u64> {
        let tip = validators[0].rpc.status().await?.height;
        let peers: Vec<String> = validators.iter().map(Node::peer_address).collect();
        joiner.rpc.dial_peers(&peers).await?;
        let patience = self.network.patience_s.catch_up;
        let what = format!("the new node at height {tip}");
        let height = self
            .wait_for(&what, patience, async |_| {
                Ok(match at_height(joiner, tip).await {
                    Look::Found(status) if status.catching_up => {
                        Look::NotYet("it is there, but still in block sync".to_owned())
                    }
                    Look::Found(status) => Look::Found(status.height),
                    Look::NotYet(why) => Look::NotYet(why),
                })
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
    pub(super) async fn compare(
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
            self.wait_for(&what, patience, async |_| {
                Ok(at_height(validator, height).await)
            })
            .await?;
            let header = validator.rpc.header(height).await?;
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
}
