//! The new node's way: one verb, and what it must have done.

use std::time::Duration;

use anyhow::{bail, ensure};
use snapswarm::node::command::{Joined, SnapshotSummary};

use crate::comet::Node;
use crate::load;
use crate::report::{self, Share};
use crate::run::{Run, at_height};
use crate::swarm::{Home, JoinOrder, Provider};

impl Run<'_> {
    /// Has `join` bring the new node to the tip, and looks at what it says of the way.
    pub(super) async fn join(
        &mut self,
        home: &Home,
        snapshot: &SnapshotSummary,
        joiner: &Node,
        providers: &[Provider],
        validators: &[Node],
    ) -> anyhow::Result<(Joined, Vec<Share>)> {
        joiner.configure(self.network, validators)?;
        let patience = &self.network.patience_s;
        let patience = Duration::from_secs(patience.fetch + patience.restore + patience.catch_up);
        // One address is enough: the others are found through the swarm.
        let bootstrap = &providers[0].multiaddr;
        let order = JoinOrder {
            snapshot,
            node: joiner,
            bootstrap,
            validators,
        };
        let joined = home
            .join(&order, self.tools, patience, self.processes)
            .await?;
        self.processes.check()?;
        ensure!(
            joined.rung == "swarm" && joined.steps.is_empty(),
            "the state did not come from the swarm at the first try: {joined:?}"
        );
        ensure!(
            joined.manifest.as_ref() == Some(&snapshot.manifest),
            "restored {:?} in place of {}",
            joined.manifest,
            snapshot.manifest
        );
        let Some(fetched) = &joined.fetched else {
            bail!("nothing was fetched");
        };
        ensure!(
            fetched.bytes == snapshot.bytes && fetched.proven,
            "fetched otherwise than agreed: {fetched:?}"
        );
        let names: Vec<(&str, &str)> = providers
            .iter()
            .map(|p| (p.home.name.as_str(), p.home.peer_id.as_str()))
            .collect();
        let shares = report::shares(fetched, &names);
        let least = f64::from(self.network.providers.min_share_percent);
        if let Some(share) = shares[..providers.len()].iter().find(|s| s.percent < least) {
            report::print_shares(&shares);
            bail!("{} gave less than {least} % of the bytes", share.name);
        }
        self.report.phase("an empty node joined");
        self.report.say(format!(
            "the new node is at the tip (height {}) after {:.1} s: {:.1} MB in {:.2} s ({} bytes \
             twice or for nothing), restored at height {}",
            joined.height,
            joined.seconds,
            fetched.bytes as f64 / 1e6,
            fetched.seconds,
            fetched.wasted_bytes,
            snapshot.height
        ));
        Ok((joined, shares))
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
