//! The peers of one download: their piece streams, and which request on which
//! stream stands for which piece.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use libp2p::PeerId;

use crate::net::pieces::{Asker, Client, PieceEvent};
use crate::snapshot::{ManifestId, PieceIndex, UniqueIndex, hash};
use crate::sync::PeerKey;
use crate::wire::{Holding, MAX_HAVE_PIECES, RequestId};

/// One peer that takes part.
pub(super) struct Member {
    pub(super) peer: PeerId,
    pub(super) asker: Asker,
    requests: BTreeMap<RequestId, PieceIndex>,
    by_piece: BTreeMap<PieceIndex, RequestId>,
    /// Chunks of each open probe, in the order of asking.
    probes: BTreeMap<RequestId, Vec<UniqueIndex>>,
    /// Bytes of each piece under way that were told to the scheduler.
    progress: BTreeMap<RequestId, u32>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Crew {
    members: BTreeMap<PeerKey, Member>,
    events: SelectAll<BoxStream<'static, (PeerKey, PieceEvent)>>,
    /// Payload received from each peer in this run, those that left included.
    received: BTreeMap<PeerId, u64>,
    /// Who stood behind a key, those that left included: at most one entry for
    /// each peer that ever joined, bounded by the recruiter's knowledge.
    names: BTreeMap<PeerKey, PeerId>,
}

/// The scheduler's name for a peer: the same on every node, so that all joiners
/// rank the same seeders alike.
pub(super) fn key_of(peer: &PeerId) -> PeerKey {
    let digest = hash::sha256(&peer.to_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    PeerKey(u64::from_be_bytes(first))
}

impl Crew {
    /// Takes a peer in; nothing when it takes part already (or, at odds of
    /// 2^-64, its key is another's).
    pub(super) fn join(&mut self, peer: PeerId, client: Client) -> Option<PeerKey> {
        let key = key_of(&peer);
        if self.members.contains_key(&key) {
            return None;
        }
        self.names.insert(key, peer);
        let (asker, events) = client.split();
        let tagged = futures::stream::unfold(events, move |mut events| async move {
            let event = events.recv().await?;
            Some(((key, event), events))
        });
        self.events.push(tagged.boxed());
        self.members.insert(
            key,
            Member {
                peer,
                asker,
                requests: BTreeMap::new(),
                by_piece: BTreeMap::new(),
                probes: BTreeMap::new(),
                progress: BTreeMap::new(),
            },
        );
        Some(key)
    }

    /// Ends a peer's part.
    pub(super) fn leave(&mut self, key: PeerKey) {
        if let Some(member) = self.members.remove(&key) {
            *self.received.entry(member.peer).or_default() += member.asker.stats().received_bytes;
            member.asker.close();
        }
    }

    /// The next event of a member; pending for ever without members.
    pub(super) async fn next(&mut self) -> (PeerKey, PieceEvent) {
        loop {
            match self.events.next().await {
                Some((key, event)) if self.members.contains_key(&key) => return (key, event),
                Some(_) => {}
                None => std::future::pending::<()>().await,
            }
        }
    }

    pub(super) fn get(&self, key: PeerKey) -> Option<&Member> {
        self.members.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Member> {
        self.members.get_mut(&key)
    }

    /// The peer of a key, whether it still takes part or not.
    pub(super) fn peer_of(&self, key: PeerKey) -> Option<PeerId> {
        self.names.get(&key).copied()
    }

    /// Whether the peer takes or took part.
    pub(super) fn took_part(&self, peer: &PeerId) -> bool {
        self.names.contains_key(&key_of(peer))
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.members.contains_key(&key_of(peer))
    }

    pub(super) fn keys(&self) -> Vec<(PeerKey, PeerId)> {
        self.members
            .iter()
            .map(|(key, member)| (*key, member.peer))
            .collect()
    }

    /// Tells everyone, complete peers too: they order their uploads by it.
    pub(super) fn tell_have(&self, manifest: ManifestId, pieces: &[u32]) {
        for member in self.members.values() {
            for part in pieces.chunks(MAX_HAVE_PIECES) {
                // A stream that is full or gone tells so by its own event.
                let _ = member.asker.have(manifest, part);
            }
        }
    }

    /// Payload received from each peer in this run.
    pub(super) fn received(&self) -> BTreeMap<PeerId, u64> {
        let mut received = self.received.clone();
        for member in self.members.values() {
            *received.entry(member.peer).or_default() += member.asker.stats().received_bytes;
        }
        received
    }
}

impl Member {
    /// Says hello: what we want to know and what we have.
    pub(super) fn open(&self, manifest: ManifestId, own: Holding) {
        let _ = self.asker.open(manifest);
        let _ = self.asker.holdings(manifest, own);
    }

    pub(super) fn asked(&mut self, id: RequestId, piece: PieceIndex) {
        self.requests.insert(id, piece);
        self.by_piece.insert(piece, id);
    }

    /// The piece of a request that is still wanted.
    pub(super) fn piece(&self, id: RequestId) -> Option<PieceIndex> {
        self.requests.get(&id).copied()
    }

    /// The request is over; gives its piece and the bytes of it that were told.
    pub(super) fn settle(&mut self, id: RequestId) -> Option<(PieceIndex, u32)> {
        let piece = self.requests.remove(&id)?;
        self.by_piece.remove(&piece);
        Some((piece, self.progress.remove(&id).unwrap_or(0)))
    }

    /// Takes back the request for a piece.
    pub(super) fn cancel(&mut self, piece: PieceIndex) {
        if let Some(id) = self.by_piece.get(&piece).copied() {
            self.settle(id);
            self.asker.cancel(id);
        }
    }

    /// How many bytes more than at the last call; `bytes` counts from the
    /// beginning of the piece.
    pub(super) fn advance(&mut self, id: RequestId, bytes: u32) -> u32 {
        let told = self.progress.entry(id).or_default();
        let more = bytes.saturating_sub(*told);
        *told = bytes;
        more
    }

    pub(super) fn probed(&mut self, id: RequestId, chunks: Vec<UniqueIndex>) {
        self.probes.insert(id, chunks);
    }

    pub(super) fn probe_answered(&mut self, id: RequestId) -> Option<Vec<UniqueIndex>> {
        self.probes.remove(&id)
    }
}
