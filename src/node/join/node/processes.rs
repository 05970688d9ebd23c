//! The processes of a node under a join: CometBFT, and an application that is started
//! with it.

use std::path::PathBuf;
use std::time::Duration;

use super::{LOOK_AGAIN, Node, NodePlan};
use crate::abci::RESTORE_FAILED;
use crate::comet::process::{Plan, Process};
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::comet::sign::{MAX_WHY_CHARS, Sign, plain};
use crate::node::command::{Failure, FailureCode};
use crate::node::join::ladder::Setback;
use crate::node::join::{ports::listens, xian};
use crate::node::progress::Reporter;

/// CometBFT closes its stores and its application's within this, or is killed; some
/// versions wait long for connections that are gone.
pub(in crate::node::join) const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// One in service has longer: what is in the middle of a commit must not be cut off.
const SERVICE_PATIENCE: Duration = Duration::from_secs(90);
/// An application that is started listens within this.
const APP_PATIENCE: Duration = Duration::from_secs(60);
/// A node that lost its application ends within this.
const CRASH_PATIENCE: Duration = Duration::from_secs(1);

/// What is started with `--app-cmd`.
const APP: &str = "the application (--app-cmd)";
const APP_LOG: &str = "app.log";
const NODE_LOG: &str = "node.log";

/// What a running node does by itself.
pub(in crate::node::join) enum Happened {
    Said(Sign),
    /// CometBFT has ended, or the application that was started with it.
    Ended(Failure),
}

impl Node {
    /// Starts the application, where that is ours to do, and CometBFT.
    pub(in crate::node::join) async fn start(
        &mut self,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        if let Some(command) = self.app_command()?
            && !self.app.as_mut().is_some_and(Process::is_running)
        {
            reporter.phase("starting the application");
            // It may outlive CometBFT's temporary folder.
            self.app = Some(self.spawn(&command, APP_LOG, None).await?);
            self.wait_for_app().await?;
        }
        reporter.phase("starting CometBFT");
        let command = self.plan.node_cmd.clone();
        let temporary = self.temporary.clone();
        self.comet = Some(self.spawn(&command, NODE_LOG, temporary).await?);
        Ok(())
    }

    /// What the application says.
    pub(in crate::node::join) fn app_log(&self) -> PathBuf {
        self.plan.logs.join(APP_LOG)
    }

    /// Why the adapter that was started as CometBFT's application gave up the restore of a
    /// height, as its log has it.
    pub(in crate::node::join) fn why_not_restored(&self, height: u64) -> Option<String> {
        self.plan.xian.as_ref()?;
        let tail = self.app.as_ref()?.tail();
        tail.lines().rev().find_map(|line| why_not(line, height))
    }

    /// What is started as CometBFT's application.
    fn app_command(&self) -> Result<Option<String>, Failure> {
        let (Some(command), Some(xian)) = (&self.plan.app_cmd, &self.plan.xian) else {
            return Ok(self.plan.app_cmd.clone());
        };
        let chain_id = self.plan.home.chain_id(&self.own)?;
        let node = (&*chain_id, self.own.text("", "proxy_app"));
        let believed = self.believed.as_deref();
        xian::adapter(&self.plan.own_home, xian, command, node, believed).map(Some)
    }

    async fn spawn(
        &self,
        command: &str,
        log: &str,
        temporary: Option<PathBuf>,
    ) -> Result<Process, Failure> {
        if let Some(folder) = &temporary {
            std::fs::create_dir_all(folder)
                .map_err(|error| Failure::io(folder.display(), &error))?;
        }
        let environment = temporary.map(|folder| ("TMPDIR".to_owned(), folder));
        let plan = Plan {
            command: command.to_owned(),
            environment: environment.into_iter().collect(),
            log: self.plan.logs.join(log),
        };
        Ok(Process::start(&plan).await?)
    }

    /// CometBFT tries a socket that is not there again only after three seconds.
    async fn wait_for_app(&mut self) -> Result<(), Failure> {
        let proxy = self.own.text("", "proxy_app").to_owned();
        let Some(app) = &mut self.app else {
            return Ok(());
        };
        let listens = async {
            while !listens(&proxy).await {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let app_ends = async { while app.next().await.is_some() {} };
        let ended_early = tokio::select! {
            () = listens => return Ok(()),
            () = app_ends => true,
            () = self.cancel.cancelled() => return Err(interrupted()),
            () = tokio::time::sleep(APP_PATIENCE) => false,
        };
        if ended_early {
            return Err(ended(APP, &self.plan, APP_LOG, app));
        }
        Err(Failure::new(
            FailureCode::Failed,
            format!("the application does not listen at {proxy}, the node's proxy_app"),
        )
        .hint("--app-cmd must start it there; is proxy_app in the node's config.toml right?"))
    }

    /// The first answer of its RPC.
    pub(in crate::node::join) async fn first_status(
        &mut self,
        rpc: &Rpc,
        patience: Duration,
    ) -> Result<NodeStatus, Failure> {
        let id = self.id.to_string();
        let answers = async {
            loop {
                match rpc.status().await {
                    Ok(status) if status.node_id == id => return status,
                    _ => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        };
        tokio::pin!(answers);
        let late = tokio::time::sleep(patience);
        tokio::pin!(late);
        let cancel = self.cancel.clone();
        loop {
            tokio::select! {
                status = &mut answers => return Ok(status),
                () = cancel.cancelled() => return Err(interrupted()),
                happened = self.happens() => if let Happened::Ended(failure) = happened {
                    return Err(failure);
                },
                () = &mut late => break,
            }
        }
        Err(self.absent(rpc).await)
    }

    /// Why a node that was started is not there.
    async fn absent(&self, rpc: &Rpc) -> Failure {
        let url = rpc.url();
        let (problem, hint) = match rpc.status().await {
            Ok(other) if other.node_id != self.id.to_string() => (
                format!("another node, {}, answers at its RPC {url}", other.node_id),
                "stop that one, or give this node a port of its own in rpc.laddr of its \
                 config.toml"
                    .to_owned(),
            ),
            _ => (
                format!("its RPC {url} does not answer"),
                format!("its log is {}", self.plan.logs.join(NODE_LOG).display()),
            ),
        };
        Failure::new(
            FailureCode::Failed,
            format!("the node was started, and {problem}"),
        )
        .hint(hint)
    }

    /// The next thing that the running node does by itself.
    pub(in crate::node::join) async fn happens(&mut self) -> Happened {
        let plan = &self.plan;
        let Some(comet) = &mut self.comet else {
            return Happened::Ended(Failure::new(FailureCode::Failed, "the node does not run"));
        };
        let app_ended = async {
            match &mut self.app {
                Some(app) => {
                    while app.next().await.is_some() {}
                    ended(APP, plan, APP_LOG, app)
                }
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            failure = app_ended => return Happened::Ended(failure),
            said = comet.next() => said,
        };
        match said {
            Some(sign) => Happened::Said(sign),
            None => Happened::Ended(ended("CometBFT", plan, NODE_LOG, comet)),
        }
    }

    /// The reason behind a setback: a node whose application dies tells of a failed
    /// restore first and ends then.
    pub(in crate::node::join) async fn or_crash(&mut self, setback: Setback) -> Setback {
        let ends = async {
            loop {
                if let Happened::Ended(failure) = self.happens().await {
                    return Setback::crash(failure);
                }
            }
        };
        tokio::time::timeout(CRASH_PATIENCE, ends)
            .await
            .unwrap_or(setback)
    }

    /// Stops CometBFT alone.
    pub(in crate::node::join) async fn stop_comet(&mut self) {
        if let Some(comet) = self.comet.take() {
            comet.stop(STOP_PATIENCE).await;
        }
    }

    /// Stops CometBFT, and then the application where that is ours.
    pub(in crate::node::join) async fn stop(&mut self) {
        self.stop_within(STOP_PATIENCE).await;
    }

    /// The same for a node in service, which may be at work on a block.
    pub(in crate::node::join) async fn stop_service(&mut self) {
        self.stop_within(SERVICE_PATIENCE).await;
    }

    async fn stop_within(&mut self, patience: Duration) {
        if let Some(comet) = self.comet.take() {
            comet.stop(patience).await;
        }
        if let Some(app) = self.app.take() {
            app.stop(patience).await;
        }
        self.empty_temporary();
    }
}

fn ended(what: &str, plan: &NodePlan, log: &str, process: &Process) -> Failure {
    let log = plan.logs.join(log);
    let tail = process.tail();
    // A panic is followed by pages about where it was.
    let lines = || tail.lines().rev().filter(|line| !line.trim().is_empty());
    let is_telling = |line: &&str| line.contains("panic:") || line.contains("ERROR:");
    let last = lines().find(is_telling).or_else(|| lines().next());
    let last = last.map_or_else(String::new, |line| format!(": {}", line.trim()));
    Failure::new(
        FailureCode::Failed,
        format!("{what} has ended by itself{last}"),
    )
    .hint(format!("its log is {}", log.display()))
}

fn interrupted() -> Failure {
    Failure::interrupted("the same command goes on")
}

/// What a line of an adapter's log gives as the reason.
fn why_not(line: &str, height: u64) -> Option<String> {
    let (_, fields) = line.split_once(RESTORE_FAILED)?;
    fields.split_once(&format!(" height={height} "))?;
    let (_, why) = fields.split_once(" why=\"")?;
    let why = why.trim_end().strip_suffix('"')?.replace("\\\"", "\"");
    Some(plain(&why).chars().take(MAX_WHY_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_of_a_restore_that_failed_is_read_from_the_adapters_log() {
        let line = format!(
            "2026-01-01T00:00:00.000000Z ERROR {RESTORE_FAILED} height=7 index=6 \
             why=\"it says \\\"no\\\": height 0\"\n"
        );
        let why = why_not(&line, 7).unwrap();
        assert_eq!(why, "it says \"no\": height 0");
        // That of another snapshot, and whatever else the adapter logs.
        assert_eq!(why_not(&line, 8), None);
        let other = "2026-01-01T00:00:00.000000Z ERROR the home cannot be looked through why=\"x\"";
        assert_eq!(why_not(other, 7), None);
    }
}
