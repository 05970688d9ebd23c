//! Peers that break promises: real nodes of the network in this process, whose
//! library says what a test wants.

#![allow(dead_code)] // each test file uses its own part

#[path = "false_library.rs"]
mod false_library;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use false_library::FalseLibrary;

use bytes::Bytes;
use snapswarm::net::{Identity, Library, Multiaddr, Net, NetSettings, PeerId};
use snapswarm::snapshot::{Bitmap, ChunkId, Manifest, ManifestBuilder, ManifestId, SnapshotFields};
use snapswarm::wire::{CatalogueEntry, Holding};

/// Counts what strangers come for.
struct Counted {
    library: FalseLibrary,
    heard: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
}

impl Library for Counted {
    fn catalogue(&self, chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.library.catalogue(chain_id)
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        self.library.manifest(id)
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        self.library.holding(id)
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        self.library.holds(chunks)
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.library.chunk_size(chunk)
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        self.read.fetch_add(1, Ordering::Relaxed);
        self.library.read_piece(chunk, piece)
    }

    fn in_use(&self, id: &ManifestId, peer: &PeerId) {
        self.library.in_use(id, peer);
    }
}

/// A node with a false library.
pub struct Liar {
    net: Net,
    heard: Arc<AtomicU64>,
    read: Arc<AtomicU64>,
    runtime: tokio::runtime::Runtime,
}

impl Liar {
    pub fn start(library: FalseLibrary, bootstrap: &[String]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let settings = NetSettings {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
            bootstrap: bootstrap
                .iter()
                .map(|address| address.parse::<Multiaddr>().expect("an address"))
                .collect(),
            network: snapswarm::config::PUBLIC_NETWORK.parse().expect("a name"),
            ..NetSettings::default()
        };
        let (heard, read) = <(Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let library = Arc::new(Counted {
            library,
            heard: Arc::clone(&heard),
            read: Arc::clone(&read),
        });
        let net = runtime
            .block_on(Net::start(settings, &Identity::generate(), library))
            .expect("a node");
        Self {
            net,
            heard,
            read,
            runtime,
        }
    }

    /// How often it was asked what it has.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// How many pieces were asked of it.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    pub fn address(&self) -> String {
        self.net.listeners()[0].to_string()
    }

    pub fn peer_id(&self) -> String {
        self.net.peer_id().to_string()
    }

    /// Makes itself known for its chain in the DHT.
    pub fn announce(&self, manifest: &Manifest) {
        let announcement = snapswarm::net::Announcement {
            chains: vec![manifest.chain_id().to_owned()],
            manifests: vec![manifest.id()],
            ..Default::default()
        };
        self.runtime
            .block_on(self.net.announce(announcement))
            .expect("announced");
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.runtime.block_on(self.net.shutdown());
    }
}

/// Reads the chunks of a folder that `chunk_folder` made.
pub fn read_chunks(folder: &std::path::Path, count: u32) -> Vec<Bytes> {
    (0..count)
        .map(|index| {
            std::fs::read(folder.join(index.to_string()))
                .expect("a chunk")
                .into()
        })
        .collect()
}

/// The manifest that `Home::load` makes of these chunks.
pub fn manifest_of(chunks: &[Bytes], chain_id: &str, height: u64) -> Manifest {
    let mut builder = ManifestBuilder::new();
    for chunk in chunks {
        builder.push(chunk).expect("a chunk");
    }
    builder
        .finish(SnapshotFields {
            chain_id: chain_id.to_owned(),
            height,
            app_hash: Some(Bytes::from_static(&[0xAB])),
            format: 1,
            hash: None,
            metadata: Bytes::new(),
        })
        .expect("a manifest")
}

/// What an honest holder of `manifest` would give.
pub fn honest(manifest: &Manifest, chunks: &[Bytes]) -> BTreeMap<ChunkId, Bytes> {
    manifest
        .chunk_indexes()
        .map(|index| {
            let id = manifest.unique_chunk(manifest.unique_at(index)).id;
            (id, chunks[index.get() as usize].clone())
        })
        .collect()
}
