//! Taking what is new of a source into the store, whatever the source: the same
//! choice and the same memory for all, because they fill one shelf.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use super::choice::{Choice, Key, Shelf};
use super::memory;
use crate::comet::peer::Stop;
use crate::comet::rpc::{Rpc, RpcError};
use crate::node::command::Failure;
use crate::node::failure::blocking;
use crate::node::services::{Services, count};
use crate::node::trust;
use crate::snapshot::{ManifestId, Offer, SnapshotFields, Source, SourceError};
use crate::store::{DamagedFile, Origin, StoreError};

/// What is remembered from round to round.
pub(in crate::node) struct Intake {
    choice: Choice,
}

/// What a source has.
pub(super) struct Order {
    pub(super) chain_id: String,
    pub(super) offers: Vec<Offer>,
    /// Ends the work.
    pub(super) stop: Stop,
}

/// Where application hashes come from.
pub(super) enum AppHashes<'a> {
    /// A node of the chain tells.
    Rpc(&'a Rpc),
    /// They were told with the offers, confirmed by the chain.
    Told(BTreeMap<u64, Bytes>),
}

/// What came of a round.
#[derive(Default)]
pub(super) struct Round {
    /// What was published.
    pub(super) taken: Vec<ManifestId>,
    /// Those about which nothing is to be done any more, these included.
    pub(super) settled: Vec<Key>,
    /// Height and format of those whose application hash the chain does not confirm
    /// yet, or that failed.
    pub(super) waiting: Vec<(u64, u32)>,
    /// The trouble that it had.
    pub(super) trouble: Option<String>,
}

enum Taken {
    Published(ManifestId),
    /// Block H+1 is not there yet; the next round sees it.
    NotYet,
    /// The source pruned it while it was read.
    Gone,
    Failed(Failure),
}

impl Intake {
    /// With what an earlier run of this home remembered.
    pub(in crate::node) fn load(home: &Path) -> Self {
        let choice = memory::load(home);
        Self { choice }
    }

    /// Takes what is new. A failure is a defect of our own.
    pub(super) async fn take_new<S: Source + 'static>(
        &mut self,
        services: &Arc<Services>,
        mut source: S,
        order: Order,
        hashes: &AppHashes<'_>,
    ) -> Result<(S, Round), Failure> {
        let chain_id = &order.chain_id;
        let here = here(services, chain_id);
        let damages = damages(&services.store.damaged());
        self.choice.look_at_damaged(&damages);
        let keep = services.config.store.max_snapshots as usize;
        let chosen = self
            .choice
            .choose(chain_id, &here, order.offers, keep, Instant::now());
        let mut round = Round {
            settled: chosen.settled,
            trouble: chosen.trouble,
            ..Round::default()
        };
        if !chosen.take.is_empty()
            && let Err(failure) = hashes.check(chain_id).await
        {
            round.trouble = Some(failure.message);
            return Ok((source, round));
        }
        for offer in chosen.take {
            let key = Key::from(&offer);
            let name = (offer.height, offer.format);
            let taken;
            (source, taken) = take(services, source, chain_id, offer, hashes, &order.stop).await?;
            if order.stop.is_stopped() {
                break;
            }
            match taken {
                Taken::Published(id) => {
                    self.choice.taken(key.clone(), id);
                    round.settled.push(key);
                    round.taken.push(id);
                }
                Taken::NotYet => round.waiting.push(name),
                Taken::Gone => {
                    let (height, format) = name;
                    tracing::info!(height, format, "a snapshot went away while it was taken");
                    // A source that goes on listing it has trouble of its own.
                    let why = format!(
                        "the snapshot of height {height}, format {format} is listed, and not there"
                    );
                    self.choice.failed(key, why, Instant::now());
                    round.waiting.push(name);
                }
                Taken::Failed(failure) => {
                    count(&services.counters.harvests_failed);
                    let why = format!(
                        "the snapshot of height {}, format {} was not taken: {}",
                        key.height, key.format, failure.message
                    );
                    self.choice.failed(key, why.clone(), Instant::now());
                    round.waiting.push(name);
                    round.trouble = Some(why);
                }
            }
        }
        self.remember(&services.home).await;
        Ok((source, round))
    }

    /// Writes down what is not to be taken again, when there is more of it.
    async fn remember(&mut self, home: &Path) {
        if !self.choice.has_news() {
            return;
        }
        let (home, bytes) = (home.to_owned(), memory::encode(&self.choice));
        let written = blocking(move || {
            let written = memory::save(&home, &bytes);
            written.map_err(|error| Failure::io(home.join(memory::FILE).display(), &error))
        });
        if let Err(failure) = written.await {
            tracing::warn!(error = %failure, "after a restart, what was removed may be harvested again");
        }
    }
}

impl AppHashes<'_> {
    /// An application hash of another chain would make a lie out of "proven". It
    /// is asked in each round that takes something, because another node may
    /// have come up behind the same URL.
    async fn check(&self, chain_id: &str) -> Result<(), Failure> {
        let Self::Rpc(rpc) = self else {
            return Ok(());
        };
        let found = rpc.chain_id().await?;
        if found == chain_id {
            Ok(())
        } else {
            Err(crate::node::fetch::wrong_chain(rpc, &found, chain_id))
        }
    }

    /// The one after a height; nothing while the chain has not confirmed it.
    async fn after(&self, height: u64) -> Result<Option<Confirmed>, Failure> {
        match self {
            Self::Told(hashes) => Ok(hashes.get(&height).map(|app_hash| Confirmed {
                app_hash: app_hash.clone(),
                app_version: None,
            })),
            Self::Rpc(rpc) => match rpc.header_after(height).await {
                Ok(header) => Ok(Some(Confirmed {
                    app_hash: header.app_hash,
                    app_version: Some(header.app_version),
                })),
                Err(RpcError::TooNew { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// What the chain confirmed of a height.
struct Confirmed {
    app_hash: Bytes,
    /// Of the application, where that was told, too.
    app_version: Option<u64>,
}

/// The complete snapshots of the chain on the shelf.
fn here(services: &Services, chain_id: &str) -> Shelf {
    let stored = services.store.list().into_iter();
    stored
        .filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id)
        // What somebody loaded without its application hash is no substitute.
        .filter(|stored| stored.manifest.app_hash().is_some())
        .map(|stored| {
            let key = Key::from(&*stored.manifest);
            (key, (stored.manifest.id(), stored.origin))
        })
        .collect()
}

/// Which damage is which: a file that is damaged again has the same name and was
/// written at another time.
fn damages(files: &[DamagedFile]) -> BTreeMap<String, ManifestId> {
    let damage = |file: &DamagedFile| {
        let written = std::fs::metadata(&file.path).and_then(|meta| meta.modified());
        let since = written.ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let name = file.path.file_name()?.to_string_lossy().into_owned();
        Some((format!("{name} of {}", since.as_micros()), file.manifest()?))
    };
    files.iter().filter_map(damage).collect()
}

/// Takes one snapshot and publishes it.
async fn take<S: Source + 'static>(
    services: &Arc<Services>,
    source: S,
    chain_id: &str,
    offer: Offer,
    hashes: &AppHashes<'_>,
    stop: &Stop,
) -> Result<(S, Taken), Failure> {
    let confirmed = match hashes.after(offer.height).await {
        Ok(Some(confirmed)) => confirmed,
        Ok(None) => return Ok((source, Taken::NotYet)),
        Err(failure) => return Ok((source, Taken::Failed(failure))),
    };
    let (own, stop) = (services.clone(), stop.clone());
    let chain_id = chain_id.to_owned();
    let (source, published) = blocking(move || {
        let mut source = source;
        let published = publish(&own, &mut source, chain_id, &offer, confirmed, &stop);
        Ok((source, published))
    })
    .await?;
    let taken = match published {
        Ok(id) => {
            count(&services.counters.harvests_done);
            services.shelf_changed().await;
            Taken::Published(id)
        }
        Err(Untaken::Gone) => Taken::Gone,
        Err(Untaken::Failed(failure)) => Taken::Failed(failure),
    };
    Ok((source, taken))
}

/// Why a snapshot was not published.
enum Untaken {
    Gone,
    Failed(Failure),
}

impl From<SourceError> for Untaken {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Gone { .. } => Self::Gone,
            SourceError::Failed(_) => Self::Failed(error.into()),
        }
    }
}

impl From<StoreError> for Untaken {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

fn publish(
    services: &Services,
    source: &mut dyn Source,
    chain_id: String,
    offer: &Offer,
    confirmed: Confirmed,
    stop: &Stop,
) -> Result<ManifestId, Untaken> {
    let mut spool = services.store.publish()?.leaving_space();
    let mut snapshot = source.open(offer)?;
    let mut is_first = true;
    while let Some(chunk) = snapshot.next_chunk()? {
        if std::mem::take(&mut is_first) {
            // All chunks but the last are of one size in every application known.
            let likely = chunk.len() as u64 * u64::from(offer.chunks.saturating_sub(1));
            spool.require_room(likely, likely)?;
        }
        spool.push(&chunk)?;
        if stop.is_stopped() {
            let interrupted = Failure::interrupted("it is taken when the daemon runs again");
            return Err(Untaken::Failed(interrupted));
        }
    }
    let fields = SnapshotFields {
        chain_id,
        height: offer.height,
        app_hash: Some(confirmed.app_hash),
        format: offer.format,
        hash: Some(offer.hash.clone()),
        metadata: offer.metadata.clone(),
    };
    let mut go_on = |_, _| {
        if stop.is_stopped() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let archive = spool.finish(fields, Origin::Harvested, true, &mut go_on)?;
    let id = archive.manifest().id();
    if let Some(app_version) = confirmed.app_version {
        services.store.set_proven(&id, app_version)?;
    }
    let (store, trust) = (&services.store, &services.trust);
    trust::say_computed(store, &services.identity, trust, archive.manifest());
    Ok(id)
}
