//! The hall: the only place where rooms meet.
//!
//! Three paths go through it: *publish* (`load`, `harvest`, `xian`), *fetch*
//! (`fetch`) and *feed* (`feed`). What they share stands in `services`.
//! A verb is carried out in one of two places, by the same code: inside the
//! daemon of its home, reached over the control socket ([`remote`]), or, when
//! none runs, in the process of the command line ([`run_local`]). The home's lock
//! makes sure that it is one of them; verbs that only look need no lock.
//!
//! Laws:
//!
//! * Rooms never meet elsewhere; what one room says to another is translated
//!   here.
//! * Nothing blocks an async thread: the disk, libhdf5, hashing and the peer
//!   protocol of CometBFT run on the blocking pool.
//! * What a person reads says what is proven and what was only checked for
//!   damage.

pub mod adapter;
mod chain;
pub mod command;
mod content;
mod daemon;
mod delta;
mod diff;
pub mod doctor;
mod dump;
mod failure;
mod feed;
mod fetch;
mod genesis;
mod harvest;
mod identity;
pub mod join;
mod library;
mod load;
mod patches;
mod progress;
mod referee;
pub mod remote;
mod services;
mod shelf;
mod space;
mod status;
mod trust;
pub mod xian;

pub use daemon::Daemon;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::command::{
    Command, Failure, FailureCode, FetchCommand, Fetched, Initialised, Noted, Outcome, Progress,
    Status, VerifyCommand,
};
use self::failure::blocking;
use self::progress::Reporter;
use self::services::{Presence, Services, count, look_at_store, open_store};
use self::trust::Trust;
use crate::config::Config;
use crate::net::Identity;
use crate::store::Store;

/// Makes a home, or finds it made: with settings that can be read, of the network
/// that was asked for.
pub fn init(home: &Path, network: Option<&str>) -> Result<Initialised, Failure> {
    std::fs::create_dir_all(home).map_err(|error| Failure::io(home.display(), &error))?;
    let config = Config::create(home, network.unwrap_or(crate::config::PUBLIC_NETWORK))?;
    let found = Config::load(home)?.network.name;
    if let Some(wanted) = network.filter(|wanted| *wanted != found) {
        return Err(Failure::new(
            FailureCode::Usage,
            format!(
                "the home {} is of the network {found}, not {wanted}",
                home.display()
            ),
        )
        .hint(format!(
            "make another home with --home, or change network.name in {}",
            config.display()
        )));
    }
    let identity = identity::load(home)?;
    Ok(Initialised {
        peer_id: identity.peer_id().to_string(),
        config,
    })
}

/// Carries a command out in this process.
pub async fn run_local(
    home: &Path,
    config: Config,
    command: Command,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<Outcome, Failure> {
    std::fs::create_dir_all(home).map_err(|error| Failure::io(home.display(), &error))?;
    if matches!(command, Command::Fetch(_)) {
        let services = Services::start(home, config, Presence::passing()).await?;
        let hall = Hall::Joined(services.clone());
        let outcome = hall.carry_out(command, progress, cancel).await;
        services.net.shutdown().await;
        return outcome;
    }
    let quota_bytes = config.store.disk_quota.map(|quota| quota.0);
    let alone = |store| Hall::Alone {
        store,
        quota_bytes,
        trust: Trust::of(&config.trust),
    };
    if !command.only_looks() {
        let hall = alone(open_store(home, &config).await?);
        return hall.carry_out(command, progress, cancel).await;
    }
    // Damage that a look finds is moved aside by whoever holds the home.
    let may_move_aside = matches!(command, Command::Verify(VerifyCommand::Manifest(_)));
    let hall = alone(look_at_store(home, &config).await?);
    let looked = hall
        .carry_out(command.clone(), progress.clone(), cancel.clone())
        .await;
    match looked {
        Err(damage) if may_move_aside && damage.code == FailureCode::Verification => {
            match open_store(home, &config).await {
                Ok(store) => alone(store).carry_out(command, progress, cancel).await,
                // It cannot be written, or is another's now: the file stays.
                Err(_) => Err(damage),
            }
        }
        looked => looked,
    }
}

/// Where a command is carried out.
enum Hall {
    /// With the home alone.
    Alone {
        store: Store,
        quota_bytes: Option<u64>,
        trust: Trust,
    },
    /// With the swarm at hand.
    Joined(Arc<Services>),
}

impl Hall {
    fn store(&self) -> &Store {
        match self {
            Self::Alone { store, .. } => store,
            Self::Joined(services) => &services.store,
        }
    }

    fn services(&self) -> Result<&Arc<Services>, Failure> {
        match self {
            Self::Joined(services) => Ok(services),
            Self::Alone { store, .. } => Err(Failure::new(
                FailureCode::Failed,
                format!("no daemon runs on {}", store.home().display()),
            )
            .hint("`snapswarm start` starts one")),
        }
    }

    async fn carry_out(
        &self,
        command: Command,
        progress: mpsc::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        let reporter = Reporter::new(progress);
        match command {
            Command::Fetch(command) => {
                fetch_counted(self.services()?, &command, &reporter, &cancel)
                    .await
                    .map(Outcome::Fetched)
            }
            Command::Feed(command) => {
                let fed = feed::feed_node(self.store(), &command, &reporter, &cancel).await?;
                if let Self::Joined(services) = self {
                    count(&services.counters.feeds_done);
                }
                Ok(Outcome::Fed(fed))
            }
            Command::Status => Ok(Outcome::Status(Box::new(self.status().await?))),
            Command::Limits(command) => {
                let (bytes, slots) = (command.upload_bytes_per_s, command.upload_slots);
                let limits = self.services()?.set_limits(bytes, slots).await;
                Ok(Outcome::Limits(limits))
            }
            Command::Harvest(command) => {
                harvest::take_from_app(self.services()?, &command, &cancel)
                    .await
                    .map(Outcome::Harvested)
            }
            Command::PublishCopy(command) => {
                xian::publish_copy(self.services()?, command, &reporter, &cancel)
                    .await
                    .map(Outcome::StatePublished)
            }
            Command::Copying(status) => {
                self.services()?.tell_xian(status);
                Ok(Outcome::Noted(Noted { noted: true }))
            }
            Command::Joining(status) => {
                self.services()?.tell_join(status);
                Ok(Outcome::Noted(Noted { noted: true }))
            }
            Command::Load(command) => self
                .change(move |store| load::load(store, &command, &reporter, &cancel))
                .await
                .map(Outcome::Loaded),
            Command::Delta(command) => self
                .change(move |store| delta::delta(store, &command, &reporter, &cancel))
                .await
                .map(Outcome::Delta),
            Command::Delete(command) => self
                .change(move |store| shelf::delete(store, &command.manifest))
                .await
                .map(Outcome::Changed),
            Command::Pin(command) => self
                .change(move |store| shelf::pin(store, &command.manifest))
                .await
                .map(Outcome::Changed),
            Command::Unpin(command) => self
                .change(move |store| shelf::unpin(store, &command.manifest))
                .await
                .map(Outcome::Changed),
            Command::List => self
                .look(|store| Ok(shelf::list(store)))
                .await
                .map(Outcome::List),
            Command::Show(command) => {
                let trust = self.trust().await?;
                self.look(move |store| shelf::show(store, &trust, &command.manifest))
                    .await
                    .map(|detail| Outcome::Shown(Box::new(detail)))
            }
            Command::Endorse(command) => {
                // Where there is no key yet, one is made.
                let identity = self.identity().await?;
                let trust = self.trust().await?;
                self.look(move |store| trust::vouch(store, &identity, &trust, &command.manifest))
                    .await
                    .map(Outcome::Endorsed)
            }
            Command::Verify(command) => {
                // What is found damaged leaves the shelf.
                self.change(move |store| shelf::verify(store, &command, &reporter, &cancel))
                    .await
                    .map(Outcome::Verified)
            }
            Command::Dump(command) => self
                .look(move |store| dump::dump(store, &command, &reporter, &cancel))
                .await
                .map(Outcome::Dumped),
            Command::Diff(command) => self
                .look(move |store| diff::diff(store, &command, &reporter, &cancel))
                .await
                .map(Outcome::Diffed),
            Command::Genesis(command) => self
                .look(move |store| genesis::genesis(store, &command, &reporter, &cancel))
                .await
                .map(Outcome::Genesis),
        }
    }

    /// Whom to believe, with the key of this node where there is one.
    async fn trust(&self) -> Result<Trust, Failure> {
        match self {
            Self::Joined(services) => Ok(services.trust.clone()),
            Self::Alone { store, trust, .. } => {
                let (home, trust) = (store.home().to_owned(), trust.clone());
                blocking(move || {
                    Ok(match identity::known_key(&home) {
                        Some(key) => trust.with_own(key),
                        None => trust,
                    })
                })
                .await
            }
        }
    }

    /// The key of this node.
    async fn identity(&self) -> Result<Identity, Failure> {
        match self {
            Self::Joined(services) => Ok(services.identity.clone()),
            Self::Alone { store, .. } => identity::of_home(store.home()).await,
        }
    }

    async fn status(&self) -> Result<Status, Failure> {
        match self {
            Self::Joined(services) => Ok(status::of_daemon(services)),
            Self::Alone {
                store, quota_bytes, ..
            } => {
                let (store, quota_bytes) = (store.clone(), *quota_bytes);
                blocking(move || status::of_home(&store, quota_bytes)).await
            }
        }
    }

    /// Work on the disk that leaves the shelf as it is.
    async fn look<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    {
        let store = self.store().clone();
        blocking(move || work(&store)).await
    }

    /// Work on the disk after which the shelf may be another.
    async fn change<T, F>(&self, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    {
        let done = self.look(work).await;
        if let Self::Joined(services) = self {
            services.shelf_changed().await;
        }
        done
    }
}

async fn fetch_counted(
    services: &Arc<Services>,
    command: &FetchCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    let counters = &services.counters;
    let fetched = fetch::fetch(services, command, reporter, cancel).await;
    match &fetched {
        Ok(_) => count(&counters.fetches_done),
        Err(failure) if failure.code == FailureCode::Interrupted => {}
        Err(_) => count(&counters.fetches_failed),
    }
    fetched
}

/// This program's file: the one that stands in its place where it was replaced meanwhile.
fn own_program() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe();
    let program =
        program.map_err(|error| Failure::io("this program's own file is not found", &error))?;
    // So Linux says that it was replaced.
    let named = program
        .to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"));
    Ok(named.map_or_else(|| program.clone(), PathBuf::from))
}
