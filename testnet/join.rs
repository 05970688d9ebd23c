//! The new node's way: one verb, and what it must have done.

use anyhow::{Context, ensure};
use snapswarm::node::command::{Fetched, Joined};

use crate::faults::{Deaths, Liar};
use crate::load;
use crate::phases::Started;
use crate::report::{self, Share};
use crate::run::{Look, Run, at_height};
use crate::swarm::{Home, JoinOrder};

/// What `join` leaves in the node's home while it is under way.
const JOURNAL: &str = "snapswarm-join.json";

impl Run<'_> {
    /// Has `join` bring the new node to the tip, while happens what the network's file
    /// says, and looks at what it says of the way. The shares of a download in one go.
    pub(super) async fn join(
        &mut self,
        started: &Started,
    ) -> anyhow::Result<(Joined, Option<Vec<Share>>)> {
        let Started {
            validators,
            joiner,
            providers,
            snapshot,
            ..
        } = started;
        let home = self.make_home("joiner", &toml::Table::new()).await?;
        let settings = joiner.config()?;
        // One address is enough: the others are found through the swarm.
        let mut bootstrap = vec![providers[0].multiaddr.clone()];
        let liar = match self.network.providers.liar {
            true => Some(self.start_liar(started).await?),
            false => None,
        };
        bootstrap.extend(liar.iter().map(|liar| liar.multiaddr.clone()));
        if self.prunes() {
            self.wait_until_too_old(started).await?;
        }
        joiner
            .start_adapter(self.network, &home, self.tools, self.processes)
            .await?;
        let order = JoinOrder {
            app: self.network.app,
            manifest: (!self.prunes()).then_some(snapshot.manifest.as_str()),
            swarm_only: true,
            node: joiner,
            bootstrap: &bootstrap,
            validators,
        };
        for text in &self.network.joiner.kill_at {
            self.kill_join_at(&home, &order, text).await?;
        }
        let joined = self.join_to_the_end(&home, &order, started).await?;
        self.processes.check()?;
        ensure!(
            joiner.config()? == settings && !joiner.home().join(JOURNAL).exists(),
            "the new node's own settings are not back"
        );
        ensure!(
            joined.steps.is_empty(),
            "the new node did not get there at the first try: {joined:?}"
        );
        let shares = match self.network.joiner.kill_at.is_empty() {
            true => Some(self.check_way(&joined, started, liar.as_ref())?),
            // Where it was killed last decides what was left to do.
            false => None,
        };
        self.check_liar(&home, liar.as_ref())?;
        self.report.phase("an empty node joined");
        self.report.say(format!(
            "the new node is at the tip (height {}) after {:.1} s",
            joined.height, joined.seconds
        ));
        Ok((joined, shares))
    }

    /// Whether the chain drops old blocks.
    fn prunes(&self) -> bool {
        self.network.validators.retain_blocks > 0
    }

    /// Waits until nobody has the block any more that follows the snapshot of before:
    /// it has to be left alone, and a younger one to be taken.
    async fn wait_until_too_old(&mut self, started: &Started) -> anyhow::Result<()> {
        let oldest = started.snapshot.height + 2;
        for validator in &started.validators {
            let what = format!("block {oldest} is the oldest of {}", validator.name);
            let patience = self.network.patience_s.snapshot;
            self.wait_for(&what, patience, async |_| {
                Ok(match validator.rpc.status().await {
                    Ok(status) if status.earliest_height >= oldest => Look::Found(()),
                    Ok(status) => Look::NotYet(format!("it is {}", status.earliest_height)),
                    Err(error) => Look::NotYet(format!("{error:#}")),
                })
            })
            .await?;
        }
        self.report.phase("the chain has dropped its first blocks");
        self.report.say(format!(
            "no node has the block after height {} any more",
            started.snapshot.height
        ));
        Ok(())
    }

    async fn join_to_the_end(
        &mut self,
        home: &Home,
        order: &JoinOrder<'_>,
        started: &Started,
    ) -> anyhow::Result<Joined> {
        let from = self.processes.log_len(&home.name);
        home.start_join(order, self.tools, self.processes)?;
        let churn = self.network.providers.churn.as_ref();
        let mut deaths = churn.map(|churn| Deaths::new(churn, &started.providers));
        let patience = &self.network.patience_s;
        let patience = patience.fetch + patience.restore + patience.catch_up;
        let line = self
            .wait_for("the new node is at the tip", patience, async |processes| {
                if let Some(deaths) = &mut deaths {
                    deaths.go_on(processes, &home.name, from)?;
                }
                Ok(match processes.first_line(&home.name) {
                    Some(line) => Look::Found(line),
                    None => Look::NotYet("join is under way".to_owned()),
                })
            })
            .await?;
        if let Some(deaths) = deaths {
            let count = deaths.enough()?;
            self.report.say(format!(
                "{count} providers were killed and came back meanwhile"
            ));
        }
        serde_json::from_str(&line)
            .with_context(|| format!("{}: join says otherwise than agreed: {line}", home.name))
    }

    /// That the state came from the swarm, as fast and from whom the network's file
    /// says.
    fn check_way(
        &self,
        joined: &Joined,
        started: &Started,
        liar: Option<&Liar>,
    ) -> anyhow::Result<Vec<Share>> {
        ensure!(
            joined.rung == "swarm",
            "the state did not come from the swarm: {joined:?}"
        );
        let fetched = joined.fetched.as_ref().context("nothing was fetched")?;
        ensure!(
            fetched.app_hash_confirmed,
            "the chain did not confirm it: {fetched:?}"
        );
        self.check_snapshot(joined, fetched, started)?;
        let providers = started.providers.iter();
        let mut names: Vec<(&str, &str)> = providers
            .map(|p| (p.home.name.as_str(), p.home.peer_id.as_str()))
            .collect();
        names.extend(liar.map(|liar| ("liar", liar.peer_id.as_str())));
        let shares = report::shares(fetched, &names);
        let least = f64::from(self.network.providers.min_share_percent);
        let honest = &shares[..started.providers.len()];
        if let Some(share) = honest.iter().find(|share| share.percent < least) {
            report::print_shares(&shares);
            anyhow::bail!("{} gave less than {least} % of the bytes", share.name);
        }
        if let Some(most) = self.network.joiner.max_fetch_s {
            ensure!(
                fetched.seconds <= most,
                "the download took {:.1} s, and {most} s are the most",
                fetched.seconds
            );
        }
        self.report.say(format!(
            "{:.1} MB in {:.2} s ({} bytes twice or for nothing)",
            fetched.bytes as f64 / 1e6,
            fetched.seconds,
            fetched.wasted_bytes
        ));
        Ok(shares)
    }

    fn check_snapshot(
        &self,
        joined: &Joined,
        fetched: &Fetched,
        started: &Started,
    ) -> anyhow::Result<()> {
        let first = &started.snapshot;
        if self.prunes() {
            ensure!(
                joined.snapshot_height > Some(first.height),
                "the snapshot of height {:?} cannot be followed by block sync any more",
                joined.snapshot_height
            );
            return Ok(());
        }
        ensure!(
            joined.manifest.as_ref() == Some(&first.manifest) && fetched.bytes == first.bytes,
            "restored {:?} in place of {}",
            joined.manifest,
            first.manifest
        );
        Ok(())
    }

    /// The application hash that the new node and all validators have at the height
    /// where it joined; an error if they differ in it or in what they answer for a key
    /// that was written.
    pub(super) async fn compare(
        &mut self,
        started: &Started,
        joined: &Joined,
    ) -> anyhow::Result<String> {
        let (joiner, height) = (&started.joiner, joined.height);
        let restored = joined.snapshot_height.unwrap_or(started.snapshot.height);
        // Header H+1 was part of the restore; the one after it is the first
        // that says what the new node's own application computed.
        ensure!(
            height > restored + 1,
            "height {height} says nothing about blocks after the snapshot"
        );
        let app_hash = joiner.rpc.header(height).await?.app_hash;
        let questions = load::questions(self.network);
        for validator in &started.validators {
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
            for question in &questions {
                ensure!(
                    validator.rpc.value(question).await? == joiner.rpc.value(question).await?,
                    "the new node and {} answer differently for {}{}",
                    validator.name,
                    question.path,
                    question.data.escape_ascii()
                );
            }
        }
        self.report.phase("application hash compared");
        Ok(app_hash)
    }
}
