//! The hall: the only place where rooms meet.
//!
//! Three paths go through it: *publish* ([`load`], [`harvest`]), *fetch*
//! ([`fetch`]) and *feed* ([`feed`]). What they share stands in [`services`].
//! A verb is carried out in one of two places, by the same code: inside the
//! daemon of its home, reached over the control socket ([`remote`]), or, when
//! none runs, in the process of the command line ([`run_local`]). The home's lock
//! makes sure that it is one of them.
//!
//! Laws:
//!
//! * Rooms never meet elsewhere; what one room says to another is translated
//!   here.
//! * Nothing blocks an async thread: the disk, libhdf5, hashing and the peer
//!   protocol of CometBFT run on the blocking pool.
//! * What a person reads says what is proven and what was only checked for
//!   damage.

pub mod command;
mod daemon;
mod failure;
mod feed;
mod fetch;
mod harvest;
mod library;
mod load;
mod progress;
mod referee;
pub mod remote;
mod services;
mod shelf;
mod status;

pub use daemon::Daemon;

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::command::{
    Command, Failure, FailureCode, FetchCommand, Fetched, Initialised, Outcome, Progress,
};
use self::failure::blocking;
use self::progress::Reporter;
use self::services::{Presence, Services, count, identity, open_store};
use crate::config::Config;
use crate::store::Store;

/// Makes a home, or finds it made.
pub fn init(home: &Path, network: Option<&str>) -> Result<Initialised, Failure> {
    std::fs::create_dir_all(home).map_err(|error| Failure::io(home.display(), &error))?;
    let config = Config::create(home, network.unwrap_or(crate::config::PUBLIC_NETWORK))?;
    let identity = services::load_identity(home)?;
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
    match command {
        Command::Fetch(_) => {
            let services = Services::start(home, config, Presence::passing()).await?;
            let outcome = carry_out(&services, command, progress, cancel).await;
            services.net.shutdown().await;
            outcome
        }
        Command::Status => {
            let peer_id = identity(home).await?.peer_id().to_string();
            let quota = config.store.disk_quota.map(|quota| quota.0);
            let store = open_store(home, &config).await?;
            Ok(Outcome::Status(Box::new(status::of_home(
                &store, peer_id, quota,
            ))))
        }
        Command::Limits(_) => Err(Failure::new(
            FailureCode::Failed,
            format!("no daemon runs on {}", home.display()),
        )
        .hint("limits of the next start stand in config.toml, section [upload]")),
        command => {
            let store = open_store(home, &config).await?;
            on_shelf(&store, command, &Reporter::new(progress), cancel).await
        }
    }
}

/// Carries a command out with a network at hand.
async fn carry_out(
    services: &Arc<Services>,
    command: Command,
    progress: mpsc::Sender<Progress>,
    cancel: CancellationToken,
) -> Result<Outcome, Failure> {
    let reporter = Reporter::new(progress);
    match command {
        Command::Fetch(command) => fetch_counted(services, &command, &reporter, &cancel)
            .await
            .map(Outcome::Fetched),
        Command::Status => Ok(Outcome::Status(Box::new(status::of_daemon(services)))),
        Command::Limits(command) => Ok(Outcome::Limits(
            services
                .set_limits(command.upload_bytes_per_s, command.upload_slots)
                .await,
        )),
        command => {
            let changes = matches!(
                command,
                Command::Load(_) | Command::Delete(_) | Command::Unpin(_)
            );
            let feeds = matches!(command, Command::Feed(_));
            let outcome = on_shelf(&services.store, command, &reporter, cancel).await;
            if outcome.is_ok() && changes {
                services.shelf_changed().await;
            }
            if outcome.is_ok() && feeds {
                count(&services.counters.feeds_done);
            }
            outcome
        }
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
        Ok(fetched) => {
            use std::sync::atomic::Ordering::Relaxed;
            count(&counters.fetches_done);
            counters
                .downloaded_bytes
                .fetch_add(fetched.received_bytes, Relaxed);
            counters
                .wasted_bytes
                .fetch_add(fetched.wasted_bytes, Relaxed);
        }
        Err(_) => count(&counters.fetches_failed),
    }
    fetched
}

/// Carries out a verb that needs the store only.
async fn on_shelf(
    store: &Store,
    command: Command,
    reporter: &Reporter,
    cancel: CancellationToken,
) -> Result<Outcome, Failure> {
    if let Command::Feed(command) = &command {
        return feed::feed_node(store, command, reporter, &cancel)
            .await
            .map(Outcome::Fed);
    }
    let (store, reporter) = (store.clone(), reporter.clone());
    blocking(move || match command {
        Command::Load(command) => {
            load::load(&store, &command, &reporter, &cancel).map(Outcome::Loaded)
        }
        Command::List => Ok(Outcome::List(shelf::list(&store))),
        Command::Show(command) => {
            shelf::show(&store, &command.manifest).map(|detail| Outcome::Shown(Box::new(detail)))
        }
        Command::Verify(command) => {
            shelf::verify(&store, &command, &reporter, &cancel).map(Outcome::Verified)
        }
        Command::Dump(command) => {
            shelf::dump(&store, &command, &reporter, &cancel).map(Outcome::Dumped)
        }
        Command::Delete(command) => shelf::delete(&store, &command.manifest).map(Outcome::Changed),
        Command::Pin(command) => shelf::pin(&store, &command.manifest).map(Outcome::Changed),
        Command::Unpin(command) => shelf::unpin(&store, &command.manifest).map(Outcome::Changed),
        Command::Fetch(_) | Command::Feed(_) | Command::Status | Command::Limits(_) => Err(
            Failure::new(FailureCode::Failed, "this verb needs more than the store"),
        ),
    })
    .await
}
