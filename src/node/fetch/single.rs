//! One snapshot that was found: from its manifest to an archive, or to the part of it that
//! is wanted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ask::is_begun;
use super::chase::Found;
use super::crew::Crew;
use super::gather::{End, Gather};
use super::part::Part;
use super::recruit::{Orders, Recruiter};
use super::shares::{Received, Spent, by_share};
use super::{ended, own};
use crate::comet::rpc::HeaderAfter;
use crate::node::command::{Failure, FailureCode, Fetched};
use crate::node::failure::blocking;
use crate::node::progress::{Meter, Reporter, byte_progress, chunks};
use crate::node::services::{Services, add};
use crate::node::shelf::base_of;
use crate::node::space::{self, Short};
use crate::snapshot::{Bitmap, ChunkIndex, Endorsements, Manifest, ManifestId, Scope, UniqueIndex};
use crate::state::Selection;
use crate::store::{BATCH_CHUNKS, ChunkVerdict, Download, StoreError};

/// Streams that wait to be taken into a download.
const RECRUIT_QUEUE: usize = 16;
/// Characters of a name in a line of progress: enough to tell two apart.
const SHORT_NAME: usize = 16;

/// What is wanted of a snapshot that was found.
pub(super) struct Wanted<'a> {
    /// Of a state, some contracts.
    pub(super) part: Option<Part>,
    /// How long nothing may come.
    pub(super) patience: Duration,
    /// The same before anything came.
    pub(super) first_patience: Duration,
    /// Folders that have to have room for it, too.
    pub(super) room_for: &'a [PathBuf],
    /// For the sake of another one only.
    pub(super) is_step: bool,
}

impl Wanted<'_> {
    fn bytes(&self, manifest: &Manifest) -> u64 {
        let part = self.part.as_ref();
        part.map_or_else(|| manifest.unique_bytes(), |part| part.bytes)
    }

    fn bytes_here(&self, manifest: &Manifest, have: &Bitmap) -> u64 {
        super::gather::here(manifest, self.part.as_ref(), have)
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

/// What became of it.
pub(super) enum Gathered {
    Complete(Fetched),
    FalseManifest,
    /// Nothing came of it now, for this reason; of another one may.
    Given(Failure),
}

/// Fetches a snapshot. What came of one that is given up is added to `spent`.
pub(super) async fn gather(
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
    let mut fetched = nothing_yet(&found, wanted);
    if let Some(short) = short_of_room(services, &manifest, wanted.room_for) {
        let failure = short.failure(manifest.height()).hint(
            "free some space and give the same command again: nothing was downloaded for it now",
        );
        return Ok(Gathered::Given(failure));
    }
    let Some(download) = begin(services, &manifest, wanted).await? else {
        fetched.resumed_bytes = fetched.bytes;
        fetched.was_here = true;
        mark_proven(services, id, found.proof.as_ref()).await?;
        keep_endorsements(services, found.endorsements).await?;
        return Ok(Gathered::Complete(fetched));
    };
    keep_endorsements(services, found.endorsements).await?;
    read_back(&download, reporter, cancel).await?;
    let part = wanted.part.as_ref();
    own::take(&services.store, &download, part, reporter, cancel).await?;
    fetched.resumed_bytes = wanted.bytes_here(&manifest, &download.have());
    let (end, crew, download) = run(
        services,
        (download, found.peers),
        wanted,
        &fetched,
        reporter,
        cancel,
    )
    .await;
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
            // What was asked for is here, and the rest is not to come.
            fetched.only = scopes_here(services, &download);
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

/// What is told of a snapshot of which nothing came yet.
fn nothing_yet(found: &Found, wanted: &Wanted<'_>) -> Fetched {
    let manifest = &found.manifest;
    Fetched {
        manifest: manifest.id().to_string(),
        height: manifest.height(),
        bytes: wanted.bytes(manifest),
        received_bytes: 0,
        resumed_bytes: 0,
        wasted_bytes: 0,
        seconds: 0.0,
        proven: found.proof.is_some() && manifest.state().is_none(),
        app_hash_confirmed: found.proof.is_some(),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        peers: Vec::new(),
        state: manifest.state().is_some(),
        was_here: false,
        only: Vec::new(),
        basis: None,
        base: base_of(manifest),
    }
}

/// Begins a download, or goes on with it. None where all of the snapshot is here.
async fn begin(
    services: &Services,
    manifest: &Arc<Manifest>,
    wanted: &Wanted<'_>,
) -> Result<Option<Arc<Download>>, Failure> {
    let store = services.store.clone();
    let (begun, asked, is_step) = (manifest.clone(), wanted.part.clone(), wanted.is_step);
    let begun = blocking(move || {
        Ok(match &asked {
            None if is_step => store.begin_step(begun),
            None => store.begin_download(begun),
            Some(part) => store.begin_selection(begun, &part.scopes),
        })
    });
    match begun.await? {
        Ok(download) => Ok(Some(Arc::new(download))),
        Err(StoreError::AlreadyComplete(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Has pieces come from whoever has them, until the download ends.
async fn run(
    services: &Arc<Services>,
    (download, peers): (Arc<Download>, Vec<PeerId>),
    wanted: &Wanted<'_>,
    fetched: &Fetched,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> (Result<End, StoreError>, Crew, Arc<Download>) {
    let manifest = download.manifest().clone();
    let id = manifest.id();
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
        peers,
        recruit_sender,
        reporter.clone(),
    );
    let recruiter = tokio::spawn(recruiter.run(order_receiver));
    let meter = Meter::new(reporter.clone(), fetched.bytes);
    let work = Gather::new(services.clone(), download, wanted, orders);
    let ended = work.run(recruits, meter, cancel).await;
    recruiter.abort();
    services.download_ends(&id);
    ended
}

/// The contracts that are here whole, of those that were asked for now or before.
fn scopes_here(services: &Services, download: &Download) -> Vec<String> {
    let (manifest, checked) = (download.manifest(), download.checked());
    let is_here = |scope: &Scope| {
        let selection = Selection::new(manifest, std::slice::from_ref(scope));
        let is_checked = |chunk: &ChunkIndex| checked.contains(manifest.unique_at(*chunk).get());
        selection.is_ok_and(|selection| selection.chunks.iter().all(is_checked))
    };
    let stored = services.store.get(&manifest.id());
    let asked = stored.iter().flat_map(|stored| &stored.only);
    let here = asked.filter(|scope| is_here(scope));
    here.map(ToString::to_string).collect()
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

/// Notes that a node of the chain confirmed the application hash.
pub(super) async fn mark_proven(
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
pub(super) async fn keep_endorsements(
    services: &Services,
    heard: Endorsements,
) -> Result<(), Failure> {
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

/// Removes what is here of a snapshot.
pub(super) async fn discard(services: &Services, id: ManifestId) -> Result<(), Failure> {
    let store = services.store.clone();
    blocking(move || Ok(store.delete(&id)?)).await
}

/// The disk that has no room for a snapshot that is to be restored as well. A download
/// that is begun has its own room already, if it is not of a part only.
pub(super) fn short_of_room(
    services: &Services,
    manifest: &Manifest,
    room_for: &[PathBuf],
) -> Option<Short> {
    let has_room = is_begun(services, &manifest.id());
    let own = (!has_room).then(|| services.store.home().to_owned());
    let folders = room_for.iter().chain(own.as_ref());
    match room_for.is_empty() {
        true => None,
        false => space::short_of_room(folders, manifest.total_bytes()),
    }
}
