//! The second path: a snapshot is found, gathered from many peers at once,
//! checked, sealed, and served from then on.

mod ask;
mod authority;
mod ballot;
mod candidates;
mod chase;
mod crew;
mod disk;
mod ended;
mod find;
mod gather;
mod listen;
mod named;
mod offers;
mod own;
mod part;
mod recruit;
mod rest;
mod roster;
mod seek;
mod shares;
mod shortcut;
mod single;
mod trials;

pub(super) use authority::wrong_chain;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::authority::{Authority, Silence};
use self::chase::Found;
use self::find::Search;
use self::part::Part;
use self::rest::Rest;
use self::shares::Spent;
use self::single::{Gathered, Wanted, discard, gather};
use super::command::{Basis, Failure, FailureCode, FetchCommand, FetchTarget, Fetched};
use super::failure::blocking;
use super::feed::must_be_full;
use super::progress::{Reporter, byte_progress};
use super::services::Services;
use super::trust;
use crate::comet::rpc::{HeaderAfter, Rpc};
use crate::snapshot::{Manifest, ManifestId};
use crate::store::StoreError;

/// The longest patience that makes sense, a year; keeps arithmetic with times in
/// range.
const MAX_TIMEOUT_S: u64 = 365 * 24 * 3600;

/// Carries out `fetch`.
pub(super) async fn fetch(
    services: &Arc<Services>,
    command: &FetchCommand,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Fetched, Failure> {
    let started = Instant::now();
    let authority = Authority::of(command)?;
    if let Some(dir) = &command.out {
        check_out(dir)?;
    }
    let named = named::dial_named(services, &command.bootstrap)?;
    let patience = Duration::from_secs(command.timeout_s.clamp(1, MAX_TIMEOUT_S));
    let except: Result<BTreeSet<ManifestId>, _> =
        command.except.iter().map(|id| id.parse()).collect();
    let mut rest = Rest::new(&command.target, except?);
    let mut spent = Spent::default();
    loop {
        let search = Search {
            services,
            reporter,
            authority: authority.as_ref(),
            not_below: command.not_below,
            state_only: command.state_only,
            room_for: &command.room_for,
            named: &named,
            deadline: Instant::now() + rest.search_patience(patience),
            foreigners_before: services.net.stats().foreign_network_peers,
        };
        let left_out = rest.left_out();
        let found = tokio::select! {
            found = resolve(&search, &command.target, &left_out) => found,
            () = cancel.cancelled() => {
                return Err(Failure::interrupted("nothing was fetched yet; the same command starts again"));
            }
        };
        let mut found = match found {
            Ok(found) => found,
            Err(failure) => {
                rest.nothing_else(failure)?;
                continue;
            }
        };
        let id = found.manifest.id();
        if command.is_to_be_restored() {
            must_be_full(&found.manifest)?;
        }
        // A provider that the person named is worth trying again when it is lost.
        found.peers.extend(&named.peers);
        let holders = found.peers.clone();
        let part = Part::named(&found.manifest, &command.only)?;
        let wanted = Wanted {
            part,
            patience,
            first_patience: rest.first_patience(patience),
            room_for: &command.room_for,
            is_step: false,
        };
        let shorter = shortcut::take(services, &found, &wanted, &mut spent, reporter, cancel);
        let gathered = match shorter.await? {
            Some(made) => Gathered::Complete(made),
            None => gather(services, found, &wanted, &mut spent, reporter, cancel).await?,
        };
        match gathered {
            Gathered::Complete(mut fetched) => {
                spent.count_in(&id, &mut fetched);
                if let Some(dir) = &command.out {
                    export(services, id, dir.clone(), reporter, cancel).await?;
                }
                let is_named = matches!(command.target, FetchTarget::Manifest(_));
                if is_named && services.trust.quorum().is_some() {
                    trust::ask_around(services, holders).await;
                }
                fetched.basis = basis(services, &id, is_named, reporter);
                fetched.seconds = started.elapsed().as_secs_f64();
                return Ok(fetched);
            }
            Gathered::FalseManifest => {
                discard(services, id).await?;
                services.shelf_changed().await;
                rest.is_false(id)?;
                reporter.note(format!(
                    "{id} is a false manifest: its pieces do not make its chunks; looking for another"
                ));
            }
            Gathered::Given(failure) => {
                let why = failure.message.clone();
                rest.gave_up(id, failure)?;
                reporter.note(format!("{why}; looking for another snapshot"));
            }
        }
    }
}

async fn resolve(
    search: &Search<'_>,
    target: &FetchTarget,
    refused: &BTreeSet<ManifestId>,
) -> Result<Found, Failure> {
    match target {
        FetchTarget::Manifest(id) => search.by_id(id.parse()?).await,
        FetchTarget::Chain { chain_id, height } => {
            search.by_chain(chain_id, *height, refused).await
        }
    }
}

/// What a node tells of a manifest's height, where it confirms the application hash
/// that the manifest carries; nothing for one that carries none. A contradiction is a
/// failure.
pub(super) async fn prove(rpc: Rpc, manifest: &Manifest) -> Result<Option<HeaderAfter>, Failure> {
    let proved = Authority::Node(rpc).prove(manifest).await;
    proved.map_err(Silence::into_failure)
}

/// Why the state of a snapshot that is here is believed; nothing where its
/// application hash can prove it, and where it is not believed, which is told.
fn basis(
    services: &Services,
    id: &ManifestId,
    is_named: bool,
    reporter: &Reporter,
) -> Option<Basis> {
    let manifest = services.store.manifest(id)?;
    manifest.state()?;
    let trust = &services.config.trust;
    match trust::believe(trust, &services.store, &manifest, is_named) {
        Ok(basis) => Some(basis),
        Err(failure) => {
            let why = failure.message;
            reporter.note(format!("bytes checked, state not believed: {why}"));
            None
        }
    }
}

/// What would fail at the end fails at the beginning.
fn check_out(dir: &Path) -> Result<(), Failure> {
    let problem = match std::fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => return Ok(()),
            Some(_) => "is not empty",
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::given_path(dir, &error)),
    };
    Err(
        Failure::new(FailureCode::Usage, format!("{} {problem}", dir.display()))
            .hint("--out takes a new or an empty folder"),
    )
}

async fn export(
    services: &Services,
    id: ManifestId,
    dir: std::path::PathBuf,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    reporter.phase(format!("writing the chunks into {}", dir.display()));
    let store = services.store.clone();
    let mut progress = byte_progress(reporter, cancel);
    blocking(move || match store.export_files(&id, &dir, &mut progress) {
        Err(StoreError::Stopped) => Err(Failure::interrupted(
            "the snapshot is here; the same command writes the files again",
        )),
        exported => Ok(exported?),
    })
    .await
}

/// Waits until then; without a time, for ever.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
