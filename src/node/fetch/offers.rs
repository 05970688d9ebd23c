//! Deltas that peers have, for a node that has what they build on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

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
    let deltas = a_place_for_each(&shelves, |entry| can_help(entry, &found.manifest));
    let mut offers = manifests(services, deltas).await;
    offers.retain(|manifest| manifest.base().is_some());
    let bases = offers.iter().filter_map(|delta| delta.base());
    let is_new = |base: &ManifestId| *base != found.manifest.id() && !known.contains(base);
    let bases: BTreeSet<ManifestId> = bases.filter(is_new).collect();
    let bases = a_place_for_each(&shelves, |entry| {
        bases.contains(&entry.manifest) && entry.manifest_bytes <= MAX_OFFER_BYTES
    });
    offers.extend(manifests(services, bases).await);
    offers
}

/// The manifests of entries, all asked for at once: who is silent keeps nobody waiting but
/// for his own.
async fn manifests(
    services: &Arc<Services>,
    entries: Vec<(&CatalogueEntry, PeerId)>,
) -> Vec<Arc<Manifest>> {
    let entries = entries.into_iter();
    let asking = entries.map(|(entry, peer)| {
        let asked = manifest(services, entry, peer);
        tokio::time::timeout(ASK_TIMEOUT, asked)
    });
    let manifests = futures::future::join_all(asking).await;
    manifests
        .into_iter()
        .filter_map(Result::ok)
        .flatten()
        .collect()
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

/// So many that fit, smallest first, of one peer after the other: who claims many does
/// not push out what others have.
fn a_place_for_each(
    shelves: &[Shelf],
    fits: impl Fn(&CatalogueEntry) -> bool,
) -> Vec<(&CatalogueEntry, PeerId)> {
    let mut of_peers: Vec<_> = shelves
        .iter()
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
            let is_new = |entry: &&CatalogueEntry| !chosen.contains_key(&entry.manifest);
            if let Some(entry) = entries.find(is_new) {
                is_over = false;
                chosen.insert(entry.manifest, (entry, *peer));
                if chosen.len() == MAX_OFFERS {
                    return chosen.into_values().collect();
                }
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
            ask_manifest(net, referee, peer, entry.manifest, 0).await?
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
        let chosen = a_place_for_each(&shelves, |_| true);
        assert_eq!(chosen.len(), MAX_OFFERS);
        let honest = chosen.iter().find(|(_, peer)| *peer == peers[1]);
        assert_eq!(honest.unwrap().0.total_bytes, 1000);
        // What several have is asked of one.
        let same = [
            (peers[0], vec![entry(b"x", 1)]),
            (peers[1], vec![entry(b"x", 1)]),
        ];
        assert_eq!(a_place_for_each(&same, |_| true).len(), 1);
    }
}
