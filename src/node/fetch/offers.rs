//! Deltas that peers have, for a node that has what they build on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use libp2p::PeerId;
use tokio::task::JoinSet;

use super::ask::ask_manifest;
use super::chase::Found;
use crate::node::services::Services;
use crate::snapshot::{Manifest, ManifestId, STATE_FORMAT};
use crate::wire::CatalogueEntry;

/// Peers that are asked what else they have of the chain, and how long an answer may
/// take: the snapshot itself is at hand, and waits.
const MAX_ASKED: usize = 8;
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one peer is asked for manifests, one after the other.
const TURN: Duration = Duration::from_secs(10);
/// What one peer does not give is asked of another that has it.
const ROUNDS: usize = 2;
/// Manifests of deltas that are looked at, as many of what they build on, and the largest:
/// 64 MiB together.
const MAX_OFFERS: usize = 8;
const MAX_OFFER_BYTES: u32 = 4 << 20;

/// What one peer has of the chain.
type Shelf = (PeerId, Vec<CatalogueEntry>);

/// Manifests of deltas up to the height of what was found, and of snapshots that those
/// build on and that are not among the `known`: they tell which state a delta begins with.
pub(super) async fn offers(
    services: &Arc<Services>,
    found: &Found,
    known: &BTreeSet<ManifestId>,
) -> Vec<Arc<Manifest>> {
    let shelves = shelves(services, found).await;
    let mut offers = manifests(services, &shelves, |entry| can_help(entry, &found.manifest)).await;
    offers.retain(|manifest| manifest.base().is_some());
    let bases = offers.iter().filter_map(|delta| delta.base());
    let is_new = |base: &ManifestId| *base != found.manifest.id() && !known.contains(base);
    let bases: BTreeSet<ManifestId> = bases.filter(is_new).collect();
    let bases = manifests(services, &shelves, |entry| {
        bases.contains(&entry.manifest) && entry.manifest_bytes <= MAX_OFFER_BYTES
    });
    offers.extend(bases.await);
    offers
}

/// The manifests of entries that fit. All peers are asked at once, each for one after the
/// other: for more at a time of one it has no place.
async fn manifests(
    services: &Arc<Services>,
    shelves: &[Shelf],
    fits: impl Fn(&CatalogueEntry) -> bool,
) -> Vec<Arc<Manifest>> {
    let mut given: BTreeMap<ManifestId, Arc<Manifest>> = BTreeMap::new();
    let mut silent: BTreeSet<PeerId> = BTreeSet::new();
    for _ in 0..ROUNDS {
        let shelves = shelves.iter().filter(|(peer, _)| !silent.contains(peer));
        let is_missing = |entry: &CatalogueEntry| !given.contains_key(&entry.manifest);
        let most = MAX_OFFERS - given.len();
        let chosen = a_place_for_each(shelves, most, |entry| is_missing(entry) && fits(entry));
        let mut turns: BTreeMap<PeerId, Vec<&CatalogueEntry>> = BTreeMap::new();
        for (entry, peer) in chosen {
            turns.entry(peer).or_default().push(entry);
        }
        let turns = turns.into_iter().map(async |(peer, entries)| {
            let asked = entries.len();
            (peer, asked, turn(services, peer, entries).await)
        });
        for (peer, asked, told) in join_all(turns).await {
            if told.len() < asked {
                silent.insert(peer);
            }
            given.extend(told.into_iter().map(|manifest| (manifest.id(), manifest)));
        }
    }
    given.into_values().collect()
}

/// What a peer gives of these, up to the first that it does not.
async fn turn(
    services: &Arc<Services>,
    peer: PeerId,
    entries: Vec<&CatalogueEntry>,
) -> Vec<Arc<Manifest>> {
    let mut given = Vec::new();
    let asking = async {
        for entry in entries {
            let asked = tokio::time::timeout(ASK_TIMEOUT, manifest(services, entry, peer));
            let Ok(Some(manifest)) = asked.await else {
                break;
            };
            given.push(manifest);
        }
    };
    // What came until then is kept.
    let _ = tokio::time::timeout(TURN, asking).await;
    given
}

/// What the peers have that are nearest.
async fn shelves(services: &Arc<Services>, found: &Found) -> Vec<Shelf> {
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
    asking.join_all().await
}

/// At most so many that fit, smallest first, of one peer after the other: who claims many
/// does not push out what others have.
fn a_place_for_each<'a>(
    shelves: impl Iterator<Item = &'a Shelf>,
    most: usize,
    fits: impl Fn(&CatalogueEntry) -> bool,
) -> Vec<(&'a CatalogueEntry, PeerId)> {
    let mut of_peers: Vec<_> = shelves
        .map(|(peer, entries)| {
            let mut fitting: Vec<&CatalogueEntry> =
                entries.iter().filter(|entry| fits(entry)).collect();
            fitting.sort_by_key(|entry| (entry.total_bytes, entry.manifest));
            (*peer, fitting.into_iter())
        })
        .collect();
    let mut chosen: BTreeMap<ManifestId, (&CatalogueEntry, PeerId)> = BTreeMap::new();
    loop {
        let mut is_over = true;
        for (peer, entries) in &mut of_peers {
            if chosen.len() == most {
                return chosen.into_values().collect();
            }
            let is_new = |entry: &&CatalogueEntry| !chosen.contains_key(&entry.manifest);
            if let Some(entry) = entries.find(is_new) {
                is_over = false;
                chosen.insert(entry.manifest, (entry, *peer));
            }
        }
        if is_over {
            return chosen.into_values().collect();
        }
    }
}

/// The manifest of an entry, if it is what the peer said of it.
async fn manifest(
    services: &Arc<Services>,
    entry: &CatalogueEntry,
    peer: PeerId,
) -> Option<Arc<Manifest>> {
    let manifest = match services.store.manifest(&entry.manifest) {
        Some(manifest) => manifest,
        None => {
            let (net, referee) = (services.net.clone(), services.referee.clone());
            let wanted = (entry.manifest, entry.manifest_bytes);
            ask_manifest(net, referee, peer, wanted, 0).await?
        }
    };
    is_as_claimed(&manifest, entry).then_some(manifest)
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
        && entry.delta
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
    use crate::snapshot::hash::sha256;
    use crate::snapshot::{ManifestBuilder, SnapshotFields};

    fn entry(name: &[u8], total_bytes: u64) -> CatalogueEntry {
        CatalogueEntry {
            chain_id: "a".to_owned(),
            height: 7,
            format: 1,
            app_hash: Bytes::new(),
            manifest: ManifestId(sha256(name)),
            manifest_bytes: 100,
            total_bytes,
            chunks: 1,
            complete: true,
            delta: false,
            endorsements: Vec::new(),
        }
    }

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
            manifest: manifest.id(),
            manifest_bytes: manifest.encoded().len() as u32,
            ..entry(b"", 5)
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

    #[test]
    fn who_claims_many_small_deltas_leaves_a_place_to_others() {
        let peers = [PeerId::random(), PeerId::random()];
        let many = (0..20_u8).map(|name| entry(&[name], 1)).collect();
        let shelves = [(peers[0], many), (peers[1], vec![entry(b"honest", 1000)])];
        let chosen = a_place_for_each(shelves.iter(), MAX_OFFERS, |_| true);
        assert_eq!(chosen.len(), MAX_OFFERS);
        assert!(a_place_for_each(shelves.iter(), 0, |_| true).is_empty());
        let honest = chosen.iter().find(|(_, peer)| *peer == peers[1]);
        assert_eq!(honest.unwrap().0.total_bytes, 1000);
        // What several have is asked of one.
        let same = [
            (peers[0], vec![entry(b"x", 1)]),
            (peers[1], vec![entry(b"x", 1)]),
        ];
        assert_eq!(a_place_for_each(same.iter(), MAX_OFFERS, |_| true).len(), 1);
    }
}
