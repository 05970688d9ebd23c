//! Giving one snapshot to a joining node.

use std::{io, net::SocketAddr};

use bytes::Bytes;

use super::{Identity, NodeAddress, PeerError, Stop};
use crate::snapshot::Offer;

/// The chunks of the snapshot that is fed. Read one at a time, by one thread.
pub trait ChunkSource: Send + Sync {
    /// The bytes of the chunk at this ABCI index.
    fn chunk(&self, index: u32) -> io::Result<Bytes>;
}

/// Whom to feed, and how to meet it.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The joining node. Its id is always proven; its host and port are used
    /// only when we dial.
    pub node: NodeAddress,
    /// Where we wait for the node, which has us in `persistent_peers` (port 0:
    /// any, told by [`FeedEvent::Listening`]). Without it we dial the node,
    /// which should have us in `unconditional_peer_ids`.
    pub listen: Option<SocketAddr>,
    /// Refuse a node of another chain.
    pub chain_id: Option<String>,
}

/// What happens while feeding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedEvent {
    /// We wait for the node here.
    Listening {
        /// The bound address.
        addr: SocketAddr,
    },
    /// The node is connected, by proof the right one.
    Connected {
        /// Its version of CometBFT.
        version: String,
        /// Its chain.
        chain_id: String,
    },
    /// The snapshot was offered: unasked after connecting, and each time the
    /// node asks for snapshots.
    Offered,
    /// A chunk was sent, in full. One chunk may be sent more than once.
    ChunkSent {
        /// ABCI index.
        index: u32,
        /// Its size.
        bytes: u64,
    },
    /// There is no connection (any more); another try follows.
    Disconnected {
        /// Why, as a sentence.
        why: String,
    },
}

/// What was done while feeding.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FedStats {
    /// Connections that came to stand.
    pub connections: u32,
    /// Chunks sent in full, repeats counted.
    pub chunks_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
}

/// Offers one snapshot to one node and serves its chunks until `stop`, through
/// lost connections. Blocking. It ends early only for a reason that trying
/// again does not mend. Whether the node took the snapshot is not told here:
/// ask [`Rpc::restored`](crate::comet::rpc::Rpc::restored).
pub fn feed(
    _settings: &FeedSettings,
    _identity: &Identity,
    _offer: &Offer,
    _chunks: &dyn ChunkSource,
    _events: &mut dyn FnMut(FeedEvent),
    _stop: &Stop,
) -> Result<FedStats, PeerError> {
    todo!()
}
