//! Nodes for tests: a library that lies in memory, and waiting for events.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use sha2::Digest as _;
use snapswarm::net::{
    Announcement, Identity, Key, Library, Multiaddr, Net, NetEvent, NetSettings, PeerId,
};
use snapswarm::snapshot::{Bitmap, ChunkId, Digest, ManifestId};
use snapswarm::wire::{CatalogueEntry, Holding};

/// Far beyond what anything here takes, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

pub const CHAIN: &str = "chain-1";

/// What a test node has.
#[derive(Default)]
pub struct Shelf {
    pub entries: Vec<CatalogueEntry>,
    pub manifests: HashMap<ManifestId, Bytes>,
    /// Chunks of one piece each.
    pub chunks: HashMap<ChunkId, Bytes>,
    /// When set, catalogue calls wait for a permit each.
    pub gate: Option<Arc<(std::sync::Mutex<usize>, std::sync::Condvar)>>,
}

impl Shelf {
    /// A shelf with one snapshot, whose manifest is `len` bytes.
    pub fn with_manifest(len: usize, seed: u8) -> (Self, ManifestId) {
        let bytes = Bytes::from(vec![seed; len]);
        let id = ManifestId(digest(&bytes));
        let mut shelf = Self::default();
        shelf.entries.push(entry(id, len as u32));
        shelf.manifests.insert(id, bytes);
        (shelf, id)
    }
}

impl Library for Shelf {
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        if let Some(gate) = &self.gate {
            let (permits, ready) = &**gate;
            let mut permits = permits.lock().unwrap();
            while *permits == 0 {
                permits = ready.wait(permits).unwrap();
            }
            *permits -= 1;
        }
        let wanted = |entry: &&CatalogueEntry| chain_id.is_none_or(|id| id == entry.chain_id);
        self.entries.iter().filter(wanted).cloned().collect()
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        self.manifests.get(id).cloned()
    }

    fn holding(&self, _: &ManifestId) -> Option<(Holding, u32)> {
        None
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        Bitmap::new(chunks.len() as u32)
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.chunks.get(chunk).map(|bytes| bytes.len() as u32)
    }

    fn read_piece(&self, chunk: &ChunkId, _: u32) -> io::Result<Option<Bytes>> {
        Ok(self.chunks.get(chunk).cloned())
    }

    fn in_use(&self, _: &ManifestId, _: &PeerId) {}
}

pub fn digest(bytes: &[u8]) -> Digest {
    Digest(sha2::Sha256::digest(bytes).into())
}

pub fn entry(manifest: ManifestId, manifest_bytes: u32) -> CatalogueEntry {
    CatalogueEntry {
        chain_id: CHAIN.to_owned(),
        height: 1000,
        format: 1,
        app_hash: Bytes::from_static(&[7; 32]),
        manifest,
        manifest_bytes,
        total_bytes: 100,
        chunks: 1,
        complete: true,
        delta: false,
        endorsements: Vec::new(),
    }
}

/// Where a test node listens.
#[derive(Clone, Copy, Debug)]
pub enum Over {
    Tcp,
    Quic,
    Memory,
}

/// Settings of a node that listens over this transport.
pub fn over(transport: Over) -> NetSettings {
    static MEMORY_PORT: AtomicU64 = AtomicU64::new(1_000);
    let listen = match transport {
        Over::Tcp => "/ip4/127.0.0.1/tcp/0".to_owned(),
        Over::Quic => "/ip4/127.0.0.1/udp/0/quic-v1".to_owned(),
        Over::Memory => format!("/memory/{}", MEMORY_PORT.fetch_add(1, Ordering::Relaxed)),
    };
    NetSettings {
        listen: vec![listen.parse().unwrap()],
        memory_transport: matches!(transport, Over::Memory),
        ..NetSettings::default()
    }
}

/// The same, beginning at `first`.
pub fn beside(first: &Net, transport: Over) -> NetSettings {
    NetSettings {
        bootstrap: first.listeners(),
        ..over(transport)
    }
}

pub async fn start(settings: NetSettings) -> Net {
    start_with(settings, Shelf::default()).await
}

pub async fn start_with(settings: NetSettings, shelf: Shelf) -> Net {
    Net::start(settings, &Identity::generate(), Arc::new(shelf))
        .await
        .unwrap()
}

/// Fails the test when `work` takes too long.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// Waits until `condition` holds; asks again at each event of the node, and as
/// often as its figures are renewed.
pub async fn eventually(what: &str, net: &Net, mut condition: impl FnMut() -> bool) {
    let mut events = net.events();
    soon(what, async {
        while !condition() {
            let _ = tokio::time::timeout(Duration::from_millis(100), events.recv()).await;
        }
    })
    .await;
}

pub async fn connected(net: &Net, peer: PeerId) {
    eventually("a connection", net, || is_connected(net, peer)).await;
}

pub async fn disconnected(net: &Net, peer: PeerId) {
    eventually("a disconnection", net, || !is_connected(net, peer)).await;
}

pub fn is_connected(net: &Net, peer: PeerId) -> bool {
    net.connected().iter().any(|info| info.peer == peer)
}

/// Waits until a peer has told who it is.
pub async fn identified(net: &Net, peer: PeerId) {
    eventually("identification", net, || {
        let peers = net.connected();
        peers
            .iter()
            .any(|info| info.peer == peer && info.agent.is_some())
    })
    .await;
}

/// Waits for an event.
pub async fn event(
    events: &mut tokio::sync::broadcast::Receiver<NetEvent>,
    wanted: impl Fn(&NetEvent) -> bool,
) -> NetEvent {
    soon("an event", async {
        loop {
            let event = events.recv().await.expect("events go on");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Announces, and waits until everything within the budget was published.
pub async fn publish(net: &Net, wanted: Announcement) {
    let keys = wanted.chains.len() + wanted.manifests.len() + wanted.chunks.len();
    net.announce(wanted).await.unwrap();
    eventually("publication", net, || {
        let stats = net.stats();
        stats.announce.published == keys && stats.announce.publications >= keys as u64
    })
    .await;
}

/// The announcement of one chain.
pub fn chain() -> Announcement {
    Announcement {
        chains: vec![CHAIN.to_owned()],
        ..Announcement::default()
    }
}

/// Looks until `count` providers are found, beginning anew when a look-up ends.
pub async fn find(net: &Net, key: Key, count: usize) -> Vec<PeerId> {
    let mut found: Vec<PeerId> = Vec::new();
    soon("finding providers", async {
        while found.len() < count {
            let mut providers = net.find(key.clone()).await.unwrap();
            while found.len() < count {
                match providers.next().await {
                    Some(peer) if !found.contains(&peer) => found.push(peer),
                    Some(_) => {}
                    None => break,
                }
            }
        }
    })
    .await;
    found
}

/// All that one look-up finds.
pub async fn find_all(net: &Net, key: Key) -> Vec<PeerId> {
    let providers = net.find(key).await.unwrap();
    soon("the end of a look-up", providers.collect()).await
}

pub fn address(net: &Net) -> Multiaddr {
    net.listeners().first().expect("it listens").clone()
}
