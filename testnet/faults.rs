//! What is done to a network while a new node joins: providers that die and come back,
//! a liar among them, a join that is killed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

use crate::comet::free_addresses;
use crate::network::Churn;
use crate::phases::Started;
use crate::processes::Processes;
use crate::run::Run;
use crate::swarm::{Home, JoinOrder, Provider, multiaddr};

/// Between two looks into the log of a join that is to be killed at some line.
const QUICK_LOOK: Duration = Duration::from_millis(10);

/// What `join` says when its download is over.
const DOWNLOADED: &str = "waiting until the chain is two blocks beyond";

/// What the log of `join` has for a peer that is shut out.
const BANNED: &str = "peer banned";

/// The name of the false provider.
const LIAR: &str = "liar";

/// Providers that die in turn, while something is downloaded from them.
pub struct Deaths<'a> {
    churn: &'a Churn,
    providers: &'a [Provider],
    last: Instant,
    count: u32,
}

impl<'a> Deaths<'a> {
    /// The first of them dies after the churn's pause.
    pub fn new(churn: &'a Churn, providers: &'a [Provider]) -> Self {
        Self {
            churn,
            providers,
            last: Instant::now(),
            count: 0,
        }
    }

    /// Kills the next one when it is time, and starts it again; not any more when
    /// `joiner` has logged, beyond `from`, that it has everything.
    pub fn go_on(
        &mut self,
        processes: &mut Processes,
        joiner: &str,
        from: usize,
    ) -> anyhow::Result<()> {
        let interval = Duration::from_millis(self.churn.interval_ms);
        if self.last.elapsed() < interval || processes.has_logged(joiner, DOWNLOADED, from) {
            return Ok(());
        }
        let next = self.count as usize % self.providers.len();
        self.providers[next].die_and_come_back(processes)?;
        self.last = Instant::now();
        self.count += 1;
        Ok(())
    }

    /// How many died; an error if the download was over too soon to tell anything.
    pub fn enough(&self) -> anyhow::Result<u32> {
        let least = self.churn.min_kills;
        ensure!(
            self.count >= least,
            "{} providers were killed before the download was over, and {least} should have been",
            self.count
        );
        Ok(self.count)
    }
}

/// A provider that answers with wrong bytes.
pub struct Liar {
    /// Its name in the swarm.
    pub peer_id: String,
    /// Where others reach it.
    pub multiaddr: String,
}

/// The first line of [`crate::liar`].
#[derive(Deserialize)]
struct LiarStarted {
    peer_id: String,
}

impl Run<'_> {
    /// Starts one more provider, a false one, at the address of the last.
    pub(super) async fn start_liar(&mut self, started: &Started) -> anyhow::Result<Liar> {
        let joiner = &started.joiner;
        let [address] = free_addresses(joiner.p2p.ip())?;
        let listen = multiaddr(address);
        let first = &started.providers[0];
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["liar", "--network", &self.network.name])
            .args(["--listen", &listen, "--bootstrap", &first.multiaddr])
            .args(["--manifest", &started.snapshot.manifest])
            .arg("--home")
            .arg(first.home.folder());
        let patience = Duration::from_secs(self.network.patience_s.start);
        let line = self
            .processes
            .start_with_first_line(LIAR, command, patience)
            .await?;
        let LiarStarted { peer_id } = serde_json::from_str(&line)
            .with_context(|| format!("the liar says otherwise than agreed: {line}"))?;
        self.report
            .say(format!("a liar offers the same snapshot: {peer_id}"));
        Ok(Liar {
            multiaddr: format!("{listen}/p2p/{peer_id}"),
            peer_id,
        })
    }

    /// That the new node has shut the liar out, and nobody else.
    pub(super) fn check_liar(&self, home: &Home, liar: Option<&Liar>) -> anyhow::Result<()> {
        let log = self.processes.read_log(&home.name);
        let mut banned = log.lines().filter(|line| line.contains(BANNED));
        let Some(liar) = liar else {
            ensure!(
                banned.next().is_none(),
                "the new node has banned an honest provider{}",
                self.processes.tail(&home.name)
            );
            return Ok(());
        };
        let mut seen = false;
        for line in banned {
            ensure!(
                line.contains(&liar.peer_id),
                "somebody else than the liar is banned: {line}"
            );
            seen = true;
        }
        ensure!(seen, "the liar was not found out");
        self.report.say("the liar was banned, and nobody else");
        Ok(())
    }
    /// Joins until it says `text`; then it is killed. The next one goes on.
    pub(super) async fn kill_join_at(
        &mut self,
        home: &Home,
        order: &JoinOrder<'_>,
        text: &str,
    ) -> anyhow::Result<()> {
        let from = self.processes.log_len(&home.name);
        home.start_join(order, self.tools, self.processes)?;
        let patience = &self.network.patience_s;
        let patience = patience.fetch + patience.restore + patience.catch_up;
        let said = async {
            while !self.processes.has_logged(&home.name, text, from) {
                self.processes.check()?;
                ensure!(
                    self.processes.first_line(&home.name).is_none(),
                    "join was done before it said '{text}'"
                );
                tokio::time::sleep(QUICK_LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(patience), said)
            .await
            .with_context(|| format!("join never says '{text}'"))??;
        self.processes.kill(&home.name);
        self.report
            .say(format!("join was killed when it said '{text}'"));
        Ok(())
    }
}
