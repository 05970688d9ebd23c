//! The answering side.

use std::sync::Arc;

use libp2p::PeerId;

use crate::net::Library;
use crate::snapshot::ManifestId;

/// Serves pieces to peers. Clones are the same server.
#[derive(Clone)]
pub struct Server {}

impl Server {
    /// Starts the task that orders the uploads. Must be called inside a tokio
    /// runtime; `seed` decides ties.
    pub fn start(library: Arc<dyn Library>, limits: UploadLimits, seed: u64) -> Self {
        let _ = (library, limits, seed);
        unimplemented!()
    }

    /// Serves every stream that peers open, until the listening side ends.
    pub async fn run(&self, incoming: libp2p_stream::IncomingStreams) {
        let _ = incoming;
        unimplemented!()
    }

    /// Serves one stream, in tasks of its own.
    pub fn serve<S>(&self, peer: PeerId, stream: S)
    where
        S: futures::AsyncRead + futures::AsyncWrite + Send + 'static,
    {
        let _ = (peer, stream);
        unimplemented!()
    }

    /// Tells every peer that opened this snapshot which pieces are here now.
    pub fn publish_have(&self, manifest: &ManifestId, pieces: &[u32]) {
        let _ = (manifest, pieces);
        unimplemented!()
    }

    /// Changes the limits of what runs already.
    pub fn set_limits(&self, limits: UploadLimits) {
        let _ = limits;
        unimplemented!()
    }

    /// Ends the streams of a peer that is not served any more.
    pub fn drop_peer(&self, peer: &PeerId) {
        let _ = peer;
        unimplemented!()
    }

    /// What is being served.
    pub fn stats(&self) -> ServerStats {
        unimplemented!()
    }

    /// Ends all streams and the ordering task.
    pub fn shutdown(&self) {
        unimplemented!()
    }
}

/// How much a node gives.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UploadLimits {
    /// Bytes on the wire in a second, over all peers; absent: as much as goes.
    /// Zero: nothing is served, requests are refused as not allowed.
    pub bytes_per_second: Option<u64>,
    /// Uploads at the same time; absent: as many as the measured uplink needs.
    pub slots: Option<u32>,
}

/// What a server did and does.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ServerStats {
    /// Bytes of pieces sent, those of aborted ones included.
    pub sent_bytes: u64,
    /// Pieces sent whole.
    pub sent_pieces: u64,
    /// Requests refused.
    pub refused: u64,
    /// Pieces under way.
    pub active: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Each open stream.
    pub peers: Vec<PeerStats>,
}

/// What goes to one peer, over one stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStats {
    /// Whom.
    pub peer: PeerId,
    /// Bytes of pieces sent on this stream.
    pub sent_bytes: u64,
    /// Requests open on it, waiting or under way.
    pub open_requests: usize,
    /// Whether a piece is under way on it.
    pub active: bool,
}
