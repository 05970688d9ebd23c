//! What came from whom: for the snapshot that was fetched, and for what was given up on
//! the way to it.

use std::collections::BTreeMap;

use crate::node::command::{Fetched, PeerBytes};
use crate::snapshot::ManifestId;

/// Bytes by peer id.
pub(super) type Received = BTreeMap<String, u64>;

/// Adds to what came.
pub(super) fn add_up(to: &mut Received, more: impl IntoIterator<Item = (String, u64)>) {
    for (peer, bytes) in more {
        *to.entry(peer).or_default() += bytes;
    }
}

/// Who gave most stands first.
pub(super) fn by_share(received: &Received) -> Vec<PeerBytes> {
    let given = received.iter().filter(|(_, bytes)| **bytes > 0);
    let mut peers: Vec<PeerBytes> = given
        .map(|(peer, bytes)| PeerBytes {
            peer_id: peer.clone(),
            bytes: *bytes,
        })
        .collect();
    peers.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.peer_id.cmp(&b.peer_id)));
    peers
}

/// What came for snapshots that were given up.
#[derive(Default)]
pub(super) struct Spent {
    received: Received,
    /// How much of it is here: whoever tries that one again goes on from there.
    kept: BTreeMap<ManifestId, u64>,
}

impl Spent {
    pub(super) fn add(&mut self, received: Received) {
        add_up(&mut self.received, received);
    }

    /// So much of what came for this one stays here.
    pub(super) fn keep(&mut self, id: ManifestId, bytes: u64) {
        *self.kept.entry(id).or_default() += bytes;
    }

    /// Counts it in: what an earlier try of the same snapshot left was received as well,
    /// and the rest is wasted.
    pub(super) fn count_in(&self, id: &ManifestId, fetched: &mut Fetched) {
        if self.received.is_empty() {
            return;
        }
        let kept = self.kept.get(id).copied().unwrap_or_default();
        fetched.resumed_bytes = fetched.resumed_bytes.saturating_sub(kept);
        fetched.received_bytes += self.received.values().sum::<u64>();
        fetched.wasted_bytes =
            (fetched.received_bytes + fetched.resumed_bytes).saturating_sub(fetched.bytes);
        let mut received = self.received.clone();
        let own = fetched.peers.drain(..);
        add_up(&mut received, own.map(|peer| (peer.peer_id, peer.bytes)));
        fetched.peers = by_share(&received);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::hash::sha256;

    fn received(of: &[(&str, u64)]) -> Received {
        let of = of.iter();
        of.map(|(peer, bytes)| ((*peer).to_owned(), *bytes))
            .collect()
    }

    /// Of 1,000 bytes so many came now, and so many were here.
    fn fetched(now: &Received, resumed_bytes: u64) -> Fetched {
        let received_bytes = now.values().sum();
        Fetched {
            height: 7,
            manifest: String::new(),
            bytes: 1000,
            received_bytes,
            resumed_bytes,
            wasted_bytes: received_bytes + resumed_bytes - 1000,
            seconds: 0.0,
            proven: false,
            app_hash_confirmed: false,
            app_hash: None,
            peers: by_share(now),
            state: false,
            was_here: false,
            only: Vec::new(),
            basis: None,
            base: None,
        }
    }

    fn told(fetched: &Fetched) -> (u64, u64, u64) {
        let Fetched {
            received_bytes,
            resumed_bytes,
            wasted_bytes,
            ..
        } = fetched;
        (*received_bytes, *resumed_bytes, *wasted_bytes)
    }

    #[test]
    fn what_came_for_another_snapshot_is_wasted_and_told_by_peer() {
        let [this, other] = ["this", "other"].map(|name| ManifestId(sha256(name.as_bytes())));
        let mut spent = Spent::default();
        spent.add(received(&[("a", 300), ("b", 50)]));
        spent.keep(other, 350);
        let mut fetched = fetched(&received(&[("a", 100), ("b", 400)]), 500);
        spent.count_in(&this, &mut fetched);
        assert_eq!(told(&fetched), (850, 500, 350));
        let shares = fetched.peers.iter();
        let shares: Vec<_> = shares.map(|peer| (&peer.peer_id[..], peer.bytes)).collect();
        assert_eq!(shares, [("b", 450), ("a", 400)]);
    }

    #[test]
    fn what_an_earlier_try_of_the_same_left_is_received_and_not_wasted() {
        let this = ManifestId(sha256(b"this"));
        let mut spent = Spent::default();
        // 20 of 620 were wrong, and 100 were here before the command.
        spent.add(received(&[("a", 620)]));
        spent.keep(this, 600);
        let mut fetched = fetched(&received(&[("b", 310)]), 700);
        spent.count_in(&this, &mut fetched);
        assert_eq!(told(&fetched), (930, 100, 30));
    }
}
