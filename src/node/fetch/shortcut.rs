//! The way to a state with the fewest bytes: where an earlier one is here, and peers
//! have deltas that lead on from it, those are fetched, and the snapshot that was asked
//! for is made here.
//!
//! It has to come out under its own name, so nobody who made a delta has to be believed.
//! Where it does not, or a delta does not come, the snapshot itself is fetched.
//!
//! The deltas are steps to the store ([`Origin::Step`]): those that a killed run left are
//! known by that to the next one, which goes on from them, and removes them in its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ask::ask_manifest;
use super::chase::Found;
use super::{Gathered, Wanted, discard, gather, keep_endorsements, mark_proven, short_of_room};
use crate::node::command::{Failure, FailureCode, Fetched, PeerBytes};
use crate::node::content::Content;
use crate::node::delta;
use crate::node::failure::blocking;
use crate::node::progress::Reporter;
use crate::node::services::Services;
use crate::snapshot::{ChunkId, Endorsements, Manifest, ManifestId, STATE_FORMAT};
use crate::state::{AtHand, StateDigest, StateNotes, plan};
use crate::store::{Origin, Store, Stored};
use crate::wire::CatalogueEntry;

/// Peers that are asked what else they have of the chain, and how long an answer may
/// take: the snapshot itself is at hand, and waits.
const MAX_ASKED: usize = 8;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long deltas are looked for at all.
const FIND_TIMEOUT: Duration = Duration::from_secs(15);
/// Manifests of deltas that are looked at, and the largest: 32 MiB together.
const MAX_OFFERS: usize = 8;
const MAX_OFFER_BYTES: u32 = 4 << 20;

/// Deltas on top of a state that is here.
struct Shortcut {
    start: ManifestId,
    steps: Vec<Arc<Manifest>>,
}

/// Makes the snapshot that was found of what is here and of deltas, where that takes
/// fewer bytes. Nothing where it does not, or did not work; what came from whom until then
/// is in `spent`.
pub(super) async fn take(
    services: &Arc<Services>,
    found: &Found,
    wanted: &Wanted<'_>,
    spent: &mut BTreeMap<String, u64>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<Option<Fetched>, Failure> {
    // Who needs room that is not there is told so by the way that always works.
    let is_short = short_of_room(services, &found.manifest, wanted.room_for).is_some();
    if found.manifest.state().is_none() || wanted.part.is_some() || is_short {
        return Ok(None);
    }
    let looked = async {
        let turn = services.shortcut.lock().await;
        let found = tokio::time::timeout(FIND_TIMEOUT, find(services, found)).await;
        (turn, found.ok().flatten())
    };
    let (_turn, shortcut) = tokio::select! {
        looked = looked => looked,
        () = cancel.cancelled() => return Err(Failure::interrupted("the same command starts again")),
    };
    let Some(shortcut) = shortcut else {
        clear_steps(services, &found.manifest).await;
        return Ok(None);
    };
    let mut received = BTreeMap::new();
    let went = go(
        services,
        found,
        &shortcut,
        wanted,
        &mut received,
        reporter,
        cancel,
    )
    .await;
    if let Err(failure) = &went
        && failure.code == FailureCode::Interrupted
    {
        return Err(failure.clone());
    }
    clear_steps(services, &found.manifest).await;
    match went {
        Ok(true) => {}
        went => {
            let why = went.err().map(|failure| failure.message);
            let why = why.unwrap_or_else(|| "it was made in another way".to_owned());
            reporter.note(format!(
                "fetching the snapshot itself, not by deltas: {why}"
            ));
            for (peer, bytes) in received {
                *spent.entry(peer).or_default() += bytes;
            }
            return Ok(None);
        }
    }
    let manifest = &found.manifest;
    mark_proven(services, manifest.id(), found.proof.as_ref()).await?;
    keep_endorsements(services, found.endorsements.clone()).await?;
    services.shelf_changed().await;
    let received_bytes: u64 = received.values().sum();
    let bytes = manifest.unique_bytes();
    Ok(Some(Fetched {
        manifest: manifest.id().to_string(),
        bytes,
        received_bytes,
        resumed_bytes: bytes.saturating_sub(received_bytes),
        wasted_bytes: received_bytes.saturating_sub(bytes),
        seconds: 0.0,
        proven: false,
        app_hash_confirmed: found.proof.is_some(),
        app_hash: manifest.app_hash().map(hex::encode_upper),
        peers: shares(received),
        state: manifest.state().is_some(),
        only: Vec::new(),
        basis: None,
        base: None,
    }))
}

/// Counts in what came for a shortcut that led nowhere.
pub(super) fn count_in(fetched: &mut Fetched, spent: &BTreeMap<String, u64>) {
    let bytes: u64 = spent.values().sum();
    fetched.received_bytes += bytes;
    fetched.wasted_bytes += bytes;
    let mut received = spent.clone();
    for peer in fetched.peers.drain(..) {
        *received.entry(peer.peer_id).or_default() += peer.bytes;
    }
    fetched.peers = shares(received);
}

/// What came from whom.
fn shares(received: BTreeMap<String, u64>) -> Vec<PeerBytes> {
    let shares = received.into_iter();
    shares
        .map(|(peer_id, bytes)| PeerBytes { peer_id, bytes })
        .collect()
}

/// Fetches the deltas and makes the snapshot; false where another one came out.
async fn go(
    services: &Arc<Services>,
    found: &Found,
    shortcut: &Shortcut,
    wanted: &Wanted<'_>,
    received: &mut BTreeMap<String, u64>,
    reporter: &Reporter,
    cancel: &CancellationToken,
) -> Result<bool, Failure> {
    let steps: Vec<ManifestId> = shortcut.steps.iter().map(|step| step.id()).collect();
    reporter.note(format!(
        "making it of {}, which is here, and of {}",
        shortcut.start,
        match steps.len() {
            0 => "nothing else".to_owned(),
            1 => "a delta".to_owned(),
            count => format!("{count} deltas"),
        }
    ));
    let all: Vec<ManifestId> = [shortcut.start].iter().chain(&steps).copied().collect();
    let _hold = services.store.hold(&all);
    for step in &shortcut.steps {
        let step = Found {
            endorsements: Endorsements::none(step.id()),
            manifest: step.clone(),
            proof: None,
            peers: found.peers.clone(),
        };
        let whole = Wanted {
            part: None,
            patience: wanted.patience,
            first_patience: wanted.first_patience,
            room_for: &[],
            is_step: true,
        };
        match gather(services, step, &whole, reporter, cancel).await? {
            Gathered::Complete(fetched) => {
                for peer in fetched.peers {
                    *received.entry(peer.peer_id).or_default() += peer.bytes;
                }
            }
            Gathered::FalseManifest => return Ok(false),
            Gathered::Given(failure) => return Err(failure),
        }
    }
    let (store, start) = (services.store.clone(), shortcut.start);
    let goal = found.manifest.clone();
    let (reporter, cancel) = (reporter.clone(), cancel.clone());
    blocking(move || {
        let content = Content::along(&store, &start, &steps)?;
        delta::make_full(&store, &content, &goal, &reporter, &cancel)
    })
    .await
}

/// Removes what is a step to this snapshot; what cannot go now is found by the next fetch.
async fn clear_steps(services: &Arc<Services>, manifest: &Arc<Manifest>) {
    if let Err(failure) = remove_steps(services, manifest).await {
        tracing::warn!(%failure, "a delta on the way to a snapshot is still here");
    }
}

/// Removes the steps on the ways to snapshots of a chain, whatever run they are of. Who
/// wants one keeps it by its name.
async fn remove_steps(services: &Services, goal: &Manifest) -> Result<(), Failure> {
    let is_left = |stored: &Stored| {
        let manifest = &stored.manifest;
        let is_other = manifest.id() != goal.id() && manifest.chain_id() == goal.chain_id();
        stored.origin == Origin::Step && !stored.pinned && is_other
    };
    let mut left = services.store.list();
    left.retain(is_left);
    for step in &left {
        discard(services, step.manifest.id()).await?;
    }
    if !left.is_empty() {
        services.shelf_changed().await;
    }
    Ok(())
}

/// The deltas that take fewer bytes than the snapshot itself.
async fn find(services: &Arc<Services>, found: &Found) -> Option<Shortcut> {
    let goal = StateNotes::of(&found.manifest).ok()?.state;
    let is_delta = found.manifest.state()?.base().is_some();
    let stored = services.store.get(&found.manifest.id());
    if is_delta || stored.is_some_and(|stored| stored.complete) {
        return None;
    }
    let (store, chain_id) = (services.store.clone(), found.manifest.chain_id().to_owned());
    let states = blocking(move || Ok(states_at_hand(&store, &chain_id)))
        .await
        .ok()?;
    if states.is_empty() {
        return None;
    }
    let offers = offers(services, found).await;
    let all = offers.iter().chain([&found.manifest]);
    let all: Vec<&Manifest> = all.map(|manifest| &**manifest).collect();
    let has_chunk = |id: &ChunkId| services.store.find_chunk(id).is_some();
    let at_hand = AtHand {
        states: &states,
        has_chunk: &has_chunk,
    };
    let way = plan(&goal, &at_hand, &all)?;
    let step = |id: &ManifestId| offers.iter().find(|offer| offer.id() == *id).cloned();
    Some(Shortcut {
        // Without one, the way is the snapshot itself.
        start: way.start?,
        steps: way.steps.iter().map(step).collect::<Option<_>>()?,
    })
}

/// The states of the chain that are here whole.
fn states_at_hand(store: &Store, chain_id: &str) -> Vec<(ManifestId, StateDigest)> {
    let here = store.list().into_iter();
    let here = here.filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id);
    let state = |id: ManifestId| {
        let content = Content::open(store, &id.to_string()).ok()?;
        Some((id, content.notes().state))
    };
    here.filter_map(|stored| state(stored.manifest.id()))
        .collect()
}

/// Manifests of deltas up to the height of what was found, as peers have them.
async fn offers(services: &Arc<Services>, found: &Found) -> Vec<Arc<Manifest>> {
    let connected = services.net.connected().into_iter().map(|info| info.peer);
    let mut peers: Vec<PeerId> = found.peers.iter().copied().chain(connected).collect();
    let mut seen = BTreeSet::new();
    peers.retain(|peer| seen.insert(*peer) && !services.referee.is_banned(peer));
    peers.truncate(MAX_ASKED);
    let mut asking = JoinSet::new();
    for peer in peers {
        let (net, chain_id) = (services.net.clone(), found.manifest.chain_id().to_owned());
        asking.spawn(async move {
            let answer = net.catalogue(peer, Some(&chain_id));
            let answer = tokio::time::timeout(ASK_TIMEOUT, answer).await;
            let entries = answer.ok().and_then(Result::ok);
            (peer, entries.map_or_else(Vec::new, |answer| answer.entries))
        });
    }
    let mut claims: BTreeMap<ManifestId, (CatalogueEntry, PeerId)> = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        let (peer, entries) =
            answer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let fit = entries
            .into_iter()
            .filter(|entry| can_help(entry, &found.manifest));
        for entry in fit.take(MAX_OFFERS) {
            claims.entry(entry.manifest).or_insert((entry, peer));
        }
    }
    let mut claims: Vec<_> = claims.into_iter().collect();
    claims.sort_by_key(|(id, (claim, _))| (claim.total_bytes, *id));
    claims.truncate(MAX_OFFERS);
    let mut offers = Vec::new();
    for (id, (claim, peer)) in claims {
        let (net, referee) = (services.net.clone(), services.referee.clone());
        let manifest = match services.store.manifest(&id) {
            Some(manifest) => Some(manifest),
            None => ask_manifest(net, referee, peer, id, 0).await,
        };
        let fits = |manifest: &Arc<Manifest>| {
            let content = manifest.state();
            let is_delta = content.is_some_and(|content| content.base().is_some());
            is_delta && is_as_claimed(manifest, &claim)
        };
        offers.extend(manifest.filter(fits));
    }
    offers
}

/// Whether a manifest is what a peer said of it: by that it was taken, and by its size it
/// is kept.
fn is_as_claimed(manifest: &Manifest, claim: &CatalogueEntry) -> bool {
    manifest.encoded().len() == claim.manifest_bytes as usize
        && manifest.total_bytes() == claim.total_bytes
        && manifest.height() == claim.height
        && manifest.chain_id() == claim.chain_id
}

/// Whether an entry can be a delta on the way to a snapshot, and is smaller.
fn can_help(entry: &CatalogueEntry, goal: &Manifest) -> bool {
    entry.complete
        && entry.chain_id == goal.chain_id()
        && entry.format == STATE_FORMAT
        && entry.height <= goal.height()
        && entry.manifest != goal.id()
        && entry.total_bytes < goal.total_bytes()
        && entry.manifest_bytes <= MAX_OFFER_BYTES
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::snapshot::{ManifestBuilder, SnapshotFields};

    #[test]
    fn a_manifest_is_kept_only_as_it_was_claimed() {
        let mut builder = ManifestBuilder::new();
        builder.push(b"chunk").unwrap();
        let fields = SnapshotFields {
            chain_id: "a".to_owned(),
            height: 7,
            app_hash: None,
            format: 1,
            hash: None,
            metadata: Bytes::new(),
        };
        let manifest = builder.finish(fields).unwrap();
        let claim = CatalogueEntry {
            chain_id: "a".to_owned(),
            height: 7,
            format: 1,
            app_hash: Bytes::new(),
            manifest: manifest.id(),
            manifest_bytes: manifest.encoded().len() as u32,
            total_bytes: 5,
            chunks: 1,
            complete: true,
            endorsements: Vec::new(),
        };
        assert!(is_as_claimed(&manifest, &claim));
        let false_claims: [fn(&mut CatalogueEntry); 4] = [
            |claim| claim.manifest_bytes -= 1,
            |claim| claim.total_bytes -= 1,
            |claim| claim.height -= 1,
            |claim| claim.chain_id.push('b'),
        ];
        for falsify in false_claims {
            let mut other = claim.clone();
            falsify(&mut other);
            assert!(!is_as_claimed(&manifest, &other), "{other:?}");
        }
    }
}
