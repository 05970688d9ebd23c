//! Which snapshot to fetch, of those that peers say they have.
//!
//! Every entry of a catalogue is a claim. What a stranger claims alone never
//! pushes aside what several peers, or a peer that the user named, have:
//! candidates are ranked by backing first and by height second.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use libp2p::PeerId;

use crate::snapshot::ManifestId;
use crate::wire::CatalogueEntry;

/// What one peer says it has.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who says so.
    pub peer: PeerId,
    /// Whether the user named this peer (on the command line or in the
    /// settings).
    pub named: bool,
    /// The claim.
    pub entry: CatalogueEntry,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The chain.
    pub chain_id: String,
    /// Exactly this height, or the newest.
    pub height: Option<u64>,
    /// Larger snapshots are left out, bytes.
    pub max_bytes: Option<u64>,
    /// The chain's newest height, where an RPC tells it.
    pub tip: Option<u64>,
}

/// A snapshot that can be tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its name.
    pub manifest: ManifestId,
    /// Claimed height.
    pub height: u64,
    /// Claimed application hash; empty when unproven.
    pub app_hash: Bytes,
    /// Claimed bytes.
    pub total_bytes: u64,
    /// Who claims to have all of it.
    pub peers: BTreeSet<PeerId>,
}

/// How well a candidate is backed; the derived order is the preference.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Backing {
    OneStranger,
    Several,
    NamedPeer,
}

/// The result of ranking.
#[derive(Debug, Default)]
pub struct Ranked {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// A sentence for each kind of claim that was left out.
    pub left_out: BTreeSet<String>,
}

/// Ranks what peers claim to have in full.
pub fn rank(claims: &[Claim], wanted: &Wanted) -> Ranked {
    let mut ranked = Ranked::default();
    let mut groups: BTreeMap<ManifestId, (Candidate, bool)> = BTreeMap::new();
    for claim in claims {
        if let Some(reason) = unfit(&claim.entry, wanted) {
            ranked.left_out.extend(reason);
            continue;
        }
        let entry = &claim.entry;
        let (candidate, named) = groups.entry(entry.manifest).or_insert_with(|| {
            let candidate = Candidate {
                manifest: entry.manifest,
                height: entry.height,
                app_hash: entry.app_hash.clone(),
                total_bytes: entry.total_bytes,
                peers: BTreeSet::new(),
            };
            (candidate, false)
        });
        if candidate.height != entry.height || candidate.app_hash != entry.app_hash {
            ranked.left_out.insert(format!(
                "peers disagree about the height or application hash of {}",
                entry.manifest
            ));
            continue;
        }
        candidate.peers.insert(claim.peer);
        *named |= claim.named;
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|(candidate, named)| {
        let backing = match (named, candidate.peers.len()) {
            (true, _) => Backing::NamedPeer,
            (false, 2..) => Backing::Several,
            (false, _) => Backing::OneStranger,
        };
        std::cmp::Reverse((
            backing,
            candidate.height,
            candidate.peers.len(),
            candidate.manifest,
        ))
    });
    ranked.candidates = groups.into_iter().map(|(candidate, _)| candidate).collect();
    ranked
}

/// Why an entry is out of the question: with a sentence where a person would
/// want to know, without one where it is simply something else.
fn unfit(entry: &CatalogueEntry, wanted: &Wanted) -> Option<Option<String>> {
    if entry.chain_id != wanted.chain_id || !entry.complete {
        return Some(None);
    }
    if wanted.height.is_some_and(|height| height != entry.height) {
        return Some(None);
    }
    if let Some(tip) = wanted.tip
        && entry.height >= tip
    {
        return Some(Some(format!(
            "{} claims height {}, but the chain is at {tip}",
            entry.manifest, entry.height
        )));
    }
    if let Some(max) = wanted.max_bytes
        && entry.total_bytes > max
    {
        return Some(Some(format!(
            "{} has {} bytes, more than max_download_bytes = {max} allows",
            entry.manifest, entry.total_bytes
        )));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    fn claim(peer: u8, named: bool, height: u64, manifest: &str) -> Claim {
        let key = libp2p::identity::Keypair::ed25519_from_bytes([peer; 32]).unwrap();
        Claim {
            peer: key.public().to_peer_id(),
            named,
            entry: CatalogueEntry {
                chain_id: "chain".to_owned(),
                height,
                format: 1,
                app_hash: Bytes::from_static(b"hash"),
                manifest: ManifestId(sha256(manifest.as_bytes())),
                manifest_bytes: 100,
                total_bytes: 1000,
                chunks: 1,
                complete: true,
            },
        }
    }

    fn wanted() -> Wanted {
        Wanted {
            chain_id: "chain".to_owned(),
            height: None,
            max_bytes: None,
            tip: None,
        }
    }

    fn best(claims: &[Claim], wanted: &Wanted) -> Option<u64> {
        rank(claims, wanted).candidates.first().map(|c| c.height)
    }

    #[test]
    fn a_lone_stranger_with_an_absurd_height_does_not_win_over_several_peers() {
        let claims = [
            claim(1, false, 1 << 62, "garbage"),
            claim(2, false, 100, "real"),
            claim(3, false, 100, "real"),
        ];
        assert_eq!(best(&claims, &wanted()), Some(100));
    }

    #[test]
    fn a_named_peer_is_believed_before_any_number_of_strangers() {
        let claims = [
            claim(1, false, 200, "theirs"),
            claim(2, false, 200, "theirs"),
            claim(3, true, 100, "ours"),
        ];
        assert_eq!(best(&claims, &wanted()), Some(100));
    }

    #[test]
    fn equally_backed_snapshots_go_by_height_and_then_by_holders() {
        let claims = [
            claim(1, true, 100, "old"),
            claim(1, true, 200, "garbage"),
            claim(2, true, 200, "new"),
            claim(3, true, 200, "new"),
        ];
        let ranked = rank(&claims, &wanted());
        assert_eq!(ranked.candidates[0].manifest, ManifestId(sha256(b"new")));
        assert_eq!(ranked.candidates[0].peers.len(), 2);
        assert_eq!(ranked.candidates[2].height, 100);
    }

    #[test]
    fn heights_at_or_above_the_tip_and_oversized_snapshots_are_left_out_with_a_word() {
        let claims = [claim(1, true, 1 << 62, "far"), claim(1, true, 90, "near")];
        let tip = Wanted {
            tip: Some(100),
            ..wanted()
        };
        let ranked = rank(&claims, &tip);
        assert_eq!(ranked.candidates.len(), 1);
        assert_eq!(ranked.candidates[0].height, 90);
        assert_eq!(ranked.left_out.len(), 1);

        let small = Wanted {
            max_bytes: Some(999),
            ..wanted()
        };
        assert_eq!(best(&claims, &small), None);
    }

    #[test]
    fn incomplete_and_foreign_entries_are_no_candidates() {
        let mut incomplete = claim(1, true, 5, "x");
        incomplete.entry.complete = false;
        let mut foreign = claim(1, true, 5, "y");
        foreign.entry.chain_id = "other".to_owned();
        assert_eq!(best(&[incomplete, foreign], &wanted()), None);
    }
}
