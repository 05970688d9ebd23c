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
mod trials;

pub(super) use authority::wrong_chain;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::ask::is_begun;
use self::authority::{Authority, Silence};
use self::chase::Found;
use self::find::Search;
use self::gather::{End, Gather};
use self::part::Part;
use self::recruit::{Orders, Recruiter};
use self::rest::Rest;
use self::shares::{Received, Spent, by_share};
use super::command::{Basis, Failure, FailureCode, FetchCommand, FetchTarget, Fetched};
use super::failure::blocking;
use super::feed::must_be_full;
use super::progress::{Meter, Reporter, byte_progress, chunks};
use super::services::{Services, add};
use super::shelf::base_of;
use super::space::{self, Short};
use super::trust;
use crate::comet::rpc::{HeaderAfter, Rpc};
use crate::snapshot::{Bitmap, Endorsements, Manifest, ManifestId, UniqueIndex};
use crate::store::{BATCH_CHUNKS, ChunkVerdict, Download, StoreError};

/// Streams that wait to be taken into a download.
const RECRUIT_QUEUE: usize = 16;
/// Characters of a name in a line of progress: enough to tell two apart.
const SHORT_NAME: usize = 16;
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

/// What is wanted of a snapshot that was found.
struct Wanted<'a> {
    /// Of a state, some contracts.
    part: Option<Part>,
    /// How long nothing may come.
    patience: Duration,
    /// The same before anything came.
    first_patience: Duration,
    /// Folders that have to have room for it, too.
    room_for: &'a [PathBuf],
    /// For the sake of another one only.
    is_step: bool,
}

impl Wanted<'_> {
    fn bytes(&self, manifest: &Manifest) -> u64 {
        let part = self.part.as_ref();
        part.map_or_else(|| manifest.unique_bytes(), |part| part.bytes)
    }

    fn bytes_here(&self, manifest: &Manifest, have: &Bitmap) -> u64 {
        gather::here(manifest, self.part.as_ref(), have)
    }

    /// How many chunks of how many.
    fn chunks(&self, manifest: &Manifest) -> String {
        let all = chunks(manifest.chunk_count());
        match &self.part {
            None => all,
            Some(part) => format!("{} of {all}", part.chunks),
        }
    }
}

enum Gathered {
    Complete(Fetched),
    FalseManifest,
    /// Nothing came of it now, for this reason; of another one may.
    Given(Failure),
}

/// Fetches a snapshot. What came of one that is given up is added to `spent`.
async fn gather(
    services: &Arc<Services>,
    found: Found,
    wanted: &Wanted<'_>,
    spent: &mut Spent,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Gathered, Failure> {
    let manifest = found.manifest.clone();
    let id = manifest.id();
    let _turn = tokio::select! {
        turn = services.download_turn(reporter) => turn,
        () = cancel.cancelled() => return Err(Failure::interrupted("the same command starts again")),
    };
    let mut fetched = Fetched {
        manifest: id.to_string(),
        bytes: wanted.bytes(&manifest),
        received_bytes: 0,
        resumed_bytes: 0,
        wasted_bytes: 0,
        seconds: 0.0,
        proven: found.proof.is_some() && manifest.state().is_none(),
        app_hash_confirmed: found.proof.is_some(),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        peers: Vec::new(),
        state: manifest.state().is_some(),
        only: Vec::new(),
        basis: None,
        base: base_of(&manifest),
    };
    if let Some(short) = short_of_room(services, &manifest, wanted.room_for) {
        let failure = short.failure(manifest.height()).hint(
            "free some space and give the same command again: nothing was downloaded for it now",
        );
        return Ok(Gathered::Given(failure));
    }
    let store = services.store.clone();
    let (begun, asked, is_step) = (manifest.clone(), wanted.part.clone(), wanted.is_step);
    let begun = blocking(move || {
        Ok(match &asked {
            None if is_step => store.begin_step(begun),
            None => store.begin_download(begun),
            Some(part) => store.begin_selection(begun, &part.scopes),
        })
    });
    let download = match begun.await? {
        Ok(download) => Arc::new(download),
        Err(StoreError::AlreadyComplete(_)) => {
            fetched.resumed_bytes = fetched.bytes;
            mark_proven(services, id, found.proof.as_ref()).await?;
            keep_endorsements(services, found.endorsements).await?;
            return Ok(Gathered::Complete(fetched));
        }
        Err(error) => return Err(error.into()),
    };
    keep_endorsements(services, found.endorsements).await?;
    read_back(&download, reporter, cancel).await?;
    let part = wanted.part.as_ref();
    own::take(&services.store, &download, part, reporter, cancel).await?;
    fetched.resumed_bytes = wanted.bytes_here(&manifest, &download.have());
    let text = format!(
        "fetching {}: {}, {} bytes{}",
        short(&id),
        wanted.chunks(&manifest),
        fetched.bytes,
        if fetched.resumed_bytes > 0 {
            format!(", {} of them are here already", fetched.resumed_bytes)
        } else {
            String::new()
        }
    );
    reporter.phase_then(text, "sealing the archive");
    services
        .download_begins(&manifest, fetched.resumed_bytes)
        .await;

    let (recruit_sender, recruits) = mpsc::channel(RECRUIT_QUEUE);
    let (orders, order_receiver) = Orders::new();
    let recruiter = Recruiter::new(
        services.clone(),
        id,
        found.peers,
        recruit_sender,
        reporter.clone(),
    );
    let recruiter = tokio::spawn(recruiter.run(order_receiver));
    let meter = Meter::new(reporter.clone(), fetched.bytes);
    let work = Gather::new(services.clone(), download, wanted, orders);
    let (end, crew, download) = work.run(recruits, meter, cancel).await;
    recruiter.abort();
    services.download_ends(&id);

    let received = crew.received().into_iter();
    let received: Received = received
        .map(|(peer, bytes)| (peer.to_string(), bytes))
        .collect();
    fetched.received_bytes = received.values().sum();
    fetched.wasted_bytes =
        (fetched.received_bytes + fetched.resumed_bytes).saturating_sub(fetched.bytes);
    add(&services.counters.downloaded_bytes, fetched.received_bytes);
    add(&services.counters.wasted_bytes, fetched.wasted_bytes);
    fetched.peers = by_share(&received);
    let end = match end {
        // A harvest or a load brought the same snapshot meanwhile.
        Err(StoreError::AlreadyComplete(_)) => {
            mark_proven(services, id, found.proof.as_ref()).await?;
            return Ok(Gathered::Complete(fetched));
        }
        end => end?,
    };
    if matches!(end, End::Condemned | End::Deserted) {
        spent.add(received);
    }
    match end {
        End::Finished if !download.checked().is_full() => {
            // What was asked for is here, now and before, and the rest is not to come.
            let stored = services.store.get(&id);
            let only = stored.iter().flat_map(|stored| &stored.only);
            fetched.only = only.map(ToString::to_string).collect();
            mark_proven(services, id, found.proof.as_ref()).await?;
            services.shelf_changed().await;
            Ok(Gathered::Complete(fetched))
        }
        End::Finished => {
            reporter.phase("sealing the archive");
            blocking(move || {
                let download = Arc::into_inner(download).ok_or_else(|| {
                    Failure::new(FailureCode::Failed, "the download is still in use")
                })?;
                Ok(download.seal()?)
            })
            .await?;
            mark_proven(services, id, found.proof.as_ref()).await?;
            services.shelf_changed().await;
            Ok(Gathered::Complete(fetched))
        }
        End::Condemned => Ok(Gathered::FalseManifest),
        End::Cancelled => Err(Failure::interrupted(format!(
            "{} of {} bytes are here; the same command goes on from there",
            wanted.bytes_here(&manifest, &download.have()),
            fetched.bytes
        ))),
        End::Deserted => {
            let here = wanted.bytes_here(&manifest, &download.have());
            let have = (here, fetched.bytes);
            let banned = services.referee.in_force(|peer| crew.took_part(peer));
            drop(download);
            if here == 0 {
                // Its room is for the next one.
                discard(services, id).await?;
            }
            spent.keep(id, here.saturating_sub(fetched.resumed_bytes));
            let patience = match fetched.received_bytes == 0 {
                true => wanted.first_patience,
                false => wanted.patience,
            };
            let failure = ended::deserted(id, patience, have, &banned);
            Ok(Gathered::Given(failure))
        }
    }
}

/// A name as far as a line on a screen has room for it.
fn short(id: &ManifestId) -> String {
    let name = id.to_string();
    match name.get(..SHORT_NAME) {
        Some(begin) => format!("{begin}…"),
        None => name,
    }
}

/// Chunks that an earlier run checked are read once more: nothing is known of
/// what the disk did meanwhile. What it damaged is missing again.
async fn read_back(
    download: &Arc<Download>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let checked = download.checked();
    if checked.is_empty() {
        return Ok(());
    }
    reporter.phase(format!(
        "reading back {} of an earlier run",
        chunks(checked.count())
    ));
    let download = download.clone();
    let mut progress = byte_progress(reporter, cancel);
    blocking(move || {
        let manifest = download.manifest().clone();
        let size = |chunk: &UniqueIndex| u64::from(manifest.unique_chunk(*chunk).size);
        let chunks: Vec<UniqueIndex> = checked
            .iter()
            .filter_map(|number| manifest.unique_index(number))
            .collect();
        let (mut done, total) = (0, chunks.iter().map(size).sum());
        for batch in chunks.chunks(BATCH_CHUNKS) {
            for (chunk, verdict) in batch.iter().zip(download.recheck_chunks(batch)?) {
                if let ChunkVerdict::Damaged(pieces) = verdict {
                    tracing::error!(
                        snapshot = %manifest.id(), chunk = chunk.get(), pieces = pieces.len(),
                        "the disk damaged a chunk; it is fetched again"
                    );
                    download.drop_chunk(*chunk)?;
                }
            }
            done += batch.iter().map(size).sum::<u64>();
            if progress(done, total).is_break() {
                return Err(Failure::interrupted("the same command goes on"));
            }
        }
        Ok(())
    })
    .await
}

async fn mark_proven(
    services: &Services,
    id: ManifestId,
    proof: Option<&HeaderAfter>,
) -> Result<(), Failure> {
    let Some(app_version) = proof.map(|proof| proof.app_version) else {
        return Ok(());
    };
    let store = services.store.clone();
    blocking(move || Ok(store.set_proven(&id, app_version)?)).await
}

/// Keeps who speaks for a snapshot that is here, complete or not.
async fn keep_endorsements(services: &Services, heard: Endorsements) -> Result<(), Failure> {
    if heard.is_empty() {
        return Ok(());
    }
    let (store, trust) = (services.store.clone(), services.trust.clone());
    blocking(move || {
        trust.keep(&store, &heard)?;
        Ok(())
    })
    .await
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

async fn discard(services: &Services, id: ManifestId) -> Result<(), Failure> {
    let store = services.store.clone();
    blocking(move || Ok(store.delete(&id)?)).await
}

/// The disk that has no room for a snapshot that is to be restored as well. A download
/// that is begun has its own room already, if it is not of a part only.
fn short_of_room(services: &Services, manifest: &Manifest, room_for: &[PathBuf]) -> Option<Short> {
    let stored = services.store.get(&manifest.id());
    let is_part = stored.is_some_and(|stored| !stored.only.is_empty());
    let has_room = is_begun(services, &manifest.id()) && !is_part;
    let own = (!has_room).then(|| services.store.home().to_owned());
    let folders = room_for.iter().chain(own.as_ref());
    match room_for.is_empty() {
        true => None,
        false => space::short_of_room(folders, manifest.total_bytes()),
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
