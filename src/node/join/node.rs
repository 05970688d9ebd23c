//! The node under a join: its home, its settings while they are changed, its
//! processes.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::ladder::Setback;
use super::overlay::{self, Doors};
use super::ports::{free_port, listens};
use super::preflight;
use super::xian::{self, XianApp};
use crate::comet::node_home::{HomeLock, NodeHome, empty_folder};
use crate::comet::peer::{NodeAddress, NodeId};
use crate::comet::process::{Plan, Process};
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::comet::settings::{Change, Settings, SettingsError};
use crate::comet::sign::Sign;
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;

/// CometBFT closes its stores and its application's within this, or is killed; some
/// versions wait long for connections that are gone.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// One in service has longer: what is in the middle of a commit must not be cut off.
const SERVICE_PATIENCE: Duration = Duration::from_secs(90);
/// An application that is started listens within this.
const APP_PATIENCE: Duration = Duration::from_secs(60);
/// A node that lost its application ends within this.
const CRASH_PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at something that is being started.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What CometBFT keeps of chunks lies in its temporary folder; this one is made where
/// the usual one is too small.
const OWN_TEMPORARY: &str = "snapswarm-tmp";

/// What is started with `--app-cmd`.
const APP: &str = "the application (--app-cmd)";
const APP_LOG: &str = "app.log";
const NODE_LOG: &str = "node.log";

/// What the person said of the node.
#[derive(Clone, Debug)]
pub(super) struct NodePlan {
    pub(super) home: NodeHome,
    pub(super) node_cmd: String,
    pub(super) app_cmd: Option<String>,
    pub(super) app_data: Option<PathBuf>,
    /// Whether the node is CometBFT alone, whose application is elsewhere.
    pub(super) is_plain: bool,
    pub(super) xian: Option<XianApp>,
    /// Of snapswarm.
    pub(super) own_home: PathBuf,
    /// Where logs go.
    pub(super) logs: PathBuf,
}

/// The node.
pub(super) struct Node {
    plan: NodePlan,
    id: NodeId,
    _lock: HomeLock,
    /// As the person has them.
    own: Settings,
    pub(super) journal: Journal,
    app: Option<Process>,
    comet: Option<Process>,
    /// Where CometBFT keeps chunks, unless it is the usual place.
    temporary: Option<PathBuf>,
    /// The snapshot whose state the application may get, where it is Xian's.
    pub(super) believed: Option<String>,
    cancel: CancellationToken,
}

/// What a running node does by itself.
pub(super) enum Happened {
    Said(Sign),
    /// CometBFT has ended, or the application that was started with it.
    Ended(Failure),
}

impl Node {
    /// Reads its home, and puts back what an earlier join left changed.
    pub(super) fn open(
        plan: NodePlan,
        reporter: &Reporter,
        cancel: CancellationToken,
    ) -> Result<Self, Failure> {
        let mut own = plan.home.settings()?;
        let id = plan.home.node_id(&own)?;
        let lock = plan.home.lock()?.ok_or_else(|| {
            Failure::new(
                FailureCode::Failed,
                format!(
                    "another join works on {} already",
                    plan.home.folder().display()
                ),
            )
            .hint("wait for it, or stop it")
        })?;
        let mut journal = Journal::load(plan.home.folder())?;
        preflight::home(&plan.home, &own)?;
        if !journal.settings.is_empty() {
            let left = put_back(&plan.home, &mut own, &mut journal)?;
            reporter.note("the node's own settings are back: an earlier join was cut off");
            tell_left(&left, reporter);
        }
        preflight::commands(&plan, &own)?;
        xian::preflight(&plan, &own)?;
        // A join that was killed left its chunks there.
        let _ = std::fs::remove_dir_all(plan.home.data(&own).join(OWN_TEMPORARY));
        std::fs::create_dir_all(&plan.logs)
            .map_err(|error| Failure::io(plan.logs.display(), &error))?;
        Ok(Self {
            cancel,
            id,
            _lock: lock,
            plan,
            own,
            journal,
            app: None,
            comet: None,
            temporary: None,
            believed: None,
        })
    }

    /// The person's settings.
    pub(super) fn own(&self) -> &Settings {
        &self.own
    }

    /// A node that was killed while it made its stores starts again without them.
    pub(super) fn remove_half_made(&self, reporter: &Reporter) -> Result<(), Failure> {
        let removed = self.plan.home.remove_half_made(&self.own)?;
        if !removed.is_empty() {
            reporter.note(format!(
                "removed from {}, empty and never made to their end: {}",
                self.data().display(),
                removed.join(", ")
            ));
        }
        Ok(())
    }

    /// What the person said of it.
    pub(super) fn plan(&self) -> &NodePlan {
        &self.plan
    }

    /// The node's data folder.
    pub(super) fn data(&self) -> PathBuf {
        self.plan.home.data(&self.own)
    }

    pub(super) fn save(&self) -> Result<(), Failure> {
        self.journal.save(self.plan.home.folder())
    }

    /// Where it listens while it is restored, on loopback.
    pub(super) fn doors(&self) -> Doors {
        Doors {
            rpc: overlay::on_loopback(self.own.text("rpc", "laddr"), free_port),
            p2p: overlay::on_loopback(self.own.text("p2p", "laddr"), free_port),
        }
    }

    /// Its RPC under its own settings.
    pub(super) fn own_rpc(&self) -> Result<Rpc, Failure> {
        let laddr = self.own.text("rpc", "laddr");
        let Some(place) = overlay::reached(laddr) else {
            return Err(Failure::new(
                FailureCode::Usage,
                format!("the node's rpc.laddr is \"{laddr}\", and nothing can be asked there"),
            )
            .hint("set laddr = \"tcp://127.0.0.1:26657\" under [rpc] in its config.toml"));
        };
        if !self.own.text("rpc", "tls_cert_file").is_empty() {
            return Err(Failure::new(
                FailureCode::Usage,
                "the node's RPC has a certificate of its own (rpc.tls_cert_file), and is asked \
                 without one",
            )
            .hint(
                "leave tls_cert_file and tls_key_file empty under [rpc] in the node's config.toml \
                 until `join` is done, with laddr on 127.0.0.1",
            ));
        }
        Ok(Rpc::new(&format!("http://{place}"))?)
    }

    /// Who it dials under its own settings.
    pub(super) fn own_peers(&self) -> Vec<NodeAddress> {
        let named = ["persistent_peers", "seeds"].map(|key| self.own.text("p2p", key));
        let named = named.iter().flat_map(|list| list.split(','));
        named.filter_map(|peer| peer.trim().parse().ok()).collect()
    }

    /// Whether its application is one of the Cosmos SDK, in CometBFT's process.
    pub(super) fn is_sdk(&self) -> bool {
        self.plan.app_cmd.is_none() && self.plan.home.is_sdk()
    }

    /// Whether the person named the folder of the application's data.
    pub(super) fn names_app_data(&self) -> bool {
        self.plan.app_data.is_some()
    }

    /// Whether its stores have anything.
    pub(super) fn has_stores(&self) -> bool {
        self.plan.home.has_stores(&self.own)
    }

    /// Changes the settings for a while; they are written down first.
    pub(super) fn change_settings(
        &mut self,
        change: impl FnOnce(&Settings) -> Vec<Change>,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        self.put_settings_back(reporter)?;
        // Somebody may have edited the file during a long download.
        self.own = self.plan.home.settings()?;
        let changes = change(&self.own);
        for change in &changes {
            tracing::info!(key = change.name(), "set for a while");
        }
        if !changes.is_empty() {
            let shown: Vec<String> = changes.iter().map(overlay::shown).collect();
            reporter.note(format!(
                "changed in {} for a while: {}",
                self.plan.home.config_file().display(),
                shown.join(", ")
            ));
        }
        self.journal.settings = changes;
        self.save()?;
        let mut changed = self.own.clone();
        changed
            .apply(&self.journal.settings)
            .map_err(|error| wrong_settings(&error))?;
        Ok(self.plan.home.write_settings(&changed)?)
    }

    /// Puts the person's settings back.
    pub(super) fn put_settings_back(&mut self, reporter: &Reporter) -> Result<(), Failure> {
        if self.journal.settings.is_empty() {
            return Ok(());
        }
        self.own = self.plan.home.settings()?;
        let left = put_back(&self.plan.home, &mut self.own, &mut self.journal)?;
        tell_left(&left, reporter);
        Ok(())
    }

    /// CometBFT keeps the chunks of a restore in its temporary folder; from now on in
    /// one of its data folder.
    pub(super) fn use_own_temporary(&mut self) {
        self.temporary = Some(self.data().join(OWN_TEMPORARY));
    }

    /// And from now on where it does by itself.
    pub(super) fn use_usual_temporary(&mut self) {
        self.empty_temporary();
        self.temporary = None;
    }

    /// Nothing of it outlives the process that used it.
    fn empty_temporary(&self) {
        if let Some(folder) = &self.temporary {
            let _ = std::fs::remove_dir_all(folder);
        }
    }

    /// The folders of the node's disks that a restore fills.
    pub(super) fn filled_folders(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.data()];
        folders.extend(self.plan.app_data.clone());
        folders.extend(self.plan.xian.as_ref().map(|xian| xian.storage.clone()));
        folders
    }

    /// Starts the application, where that is ours to do, and CometBFT.
    pub(super) async fn start(&mut self, reporter: &Reporter) -> Result<(), Failure> {
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
    pub(super) fn app_log(&self) -> PathBuf {
        self.plan.logs.join(APP_LOG)
    }

    /// What the adapter that was started as CometBFT's application took for an error last.
    pub(super) fn adapter_error(&self) -> Option<String> {
        self.plan.xian.as_ref()?;
        let tail = self.app.as_ref()?.tail();
        let said = |line: &str| Some(line.split_once(" ERROR ")?.1.trim().to_owned());
        tail.lines().rev().find_map(said)
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

    /// The node has caught up.
    pub(super) async fn discard_old_state(&self, reporter: &Reporter) {
        xian::discard_old(&self.plan, reporter).await;
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
    pub(super) async fn first_status(
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
    pub(super) async fn happens(&mut self) -> Happened {
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
    pub(super) async fn or_crash(&mut self, setback: Setback) -> Setback {
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
    pub(super) async fn stop_comet(&mut self) {
        if let Some(comet) = self.comet.take() {
            comet.stop(STOP_PATIENCE).await;
        }
    }

    /// Stops CometBFT, and then the application where that is ours.
    pub(super) async fn stop(&mut self) {
        self.stop_within(STOP_PATIENCE).await;
    }

    /// The same for a node in service, which may be at work on a block.
    pub(super) async fn stop_service(&mut self) {
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

    /// Empties the stopped node and its application, so that a state can be restored
    /// into them. An application's folder is touched only where the person named it.
    pub(super) fn empty(
        &mut self,
        with_app: bool,
        why: &str,
        reporter: &Reporter,
    ) -> Result<(), Failure> {
        let data = self.data();
        if let Some(xian) = self.plan.xian.as_ref().filter(|_| with_app)
            && crate::xian::undo(&xian.storage)?
        {
            let storage = xian.storage.display();
            reporter.note(format!("what {storage} held before its restore is back"));
        }
        let app_data = self.plan.app_data.as_ref().filter(|_| with_app);
        reporter.note(match app_data {
            Some(folder) => format!(
                "{why}: CometBFT's stores in {} and all in {} are removed, but for keys and \
                 priv_validator_state.json",
                data.display(),
                folder.display()
            ),
            None => format!("{why}: CometBFT's stores in {} are removed", data.display()),
        });
        self.plan.home.remove_stores(&self.own)?;
        if let Some(folder) = app_data {
            empty_folder(folder)?;
        }
        // An application that forgets nothing by itself still has what it had.
        self.journal.window = app_data.is_none() && self.is_sdk();
        self.save()
    }

    /// Whether the state of the stopped node's application can be taken away: the
    /// person named its folder, and it is started with the node and not by others.
    pub(super) async fn can_empty_app(&self) -> bool {
        let is_ours = self.plan.app_cmd.is_some() || !listens(self.own.text("", "proxy_app")).await;
        let is_restored = (self.plan.xian.as_ref())
            .is_some_and(|xian| crate::xian::is_as_restored(&xian.storage).unwrap_or(false));
        (self.plan.app_data.is_some() || is_restored) && is_ours
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

fn put_back(
    home: &NodeHome,
    settings: &mut Settings,
    journal: &mut Journal,
) -> Result<Vec<String>, Failure> {
    let left = settings
        .undo(&journal.settings)
        .map_err(|error| wrong_settings(&error))?;
    home.write_settings(settings)?;
    journal.settings.clear();
    journal.save(home.folder())?;
    Ok(left)
}

fn tell_left(left: &[String], reporter: &Reporter) {
    if !left.is_empty() {
        reporter.note(format!(
            "edited meanwhile in the node's config.toml, and left as it is: {}",
            left.join(", ")
        ));
    }
}

fn interrupted() -> Failure {
    Failure::interrupted("the same command goes on")
}

fn wrong_settings(error: &SettingsError) -> Failure {
    Failure::new(
        FailureCode::Usage,
        format!("the node's config.toml: {error}"),
    )
    .hint("compare it with the one that `cometbft init` writes")
}
