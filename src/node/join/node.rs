//! The node under a join: its home, and its settings while they are changed.

mod processes;

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub(super) use self::processes::{Happened, STOP_PATIENCE};
use super::journal::Journal;
use super::overlay::{self, Doors};
use super::ports::{free_port, listens};
use super::preflight;
use super::xian::{self, XianApp};
use crate::comet::node_home::{HomeLock, NodeHome, empty_folder};
use crate::comet::peer::{NodeAddress, NodeId};
use crate::comet::process::Process;
use crate::comet::rpc::Rpc;
use crate::comet::settings::{Change, Settings, SettingsError};
use crate::node::command::{Failure, FailureCode};
use crate::node::progress::Reporter;

/// Between two looks at something that is being started.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// What CometBFT keeps of chunks lies in its temporary folder; this one is made where
/// the usual one is too small.
const OWN_TEMPORARY: &str = "snapswarm-tmp";

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

    /// The node has caught up.
    pub(super) async fn discard_old_state(&self, reporter: &Reporter) {
        xian::discard_old(&self.plan, reporter).await;
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

fn wrong_settings(error: &SettingsError) -> Failure {
    Failure::new(
        FailureCode::Usage,
        format!("the node's config.toml: {error}"),
    )
    .hint("compare it with the one that `cometbft init` writes")
}
