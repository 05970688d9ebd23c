//! `testnet liar`: a peer of a network's swarm that announces a snapshot which others
//! really have, and answers each request for a piece with zeros of the right length.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use snapswarm::net::{
    Announcement, Identity, Library, Multiaddr, Net, NetSettings, NetworkName, PeerId,
};
use snapswarm::snapshot::{Bitmap, ChunkId, Manifest, ManifestId, PIECE_BYTES};
use snapswarm::store::{Store, StoreSettings};
use snapswarm::wire::{CatalogueEntry, Holding};

/// What it is to lie about.
#[derive(clap::Args)]
pub struct Arguments {
    /// The home of snapswarm that has the snapshot; it is only looked at.
    #[arg(long)]
    home: PathBuf,
    /// The snapshot.
    #[arg(long)]
    manifest: String,
    /// The swarm's name.
    #[arg(long)]
    network: NetworkName,
    /// Where it listens.
    #[arg(long)]
    listen: Multiaddr,
    /// A peer of the swarm.
    #[arg(long)]
    bootstrap: Multiaddr,
}

/// Runs until it is stopped.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let id: ManifestId = arguments.manifest.parse()?;
    let store = Store::open_for_reading(&arguments.home, StoreSettings::default())?;
    let manifest = store
        .manifest(&id)
        .with_context(|| format!("{id} is not in {}", arguments.home.display()))?;
    let settings = NetSettings {
        external: vec![arguments.listen.clone()],
        listen: vec![arguments.listen],
        bootstrap: vec![arguments.bootstrap],
        network: arguments.network,
        ..NetSettings::default()
    };
    let library = Arc::new(Lies::about(Arc::clone(&manifest)));
    let net = Net::start(settings, &Identity::generate(), library).await?;
    let announcement = Announcement {
        chains: vec![manifest.chain_id().to_owned()],
        manifests: vec![id],
        ..Announcement::default()
    };
    net.announce(announcement).await?;
    let mut stdout = io::stdout();
    let line = serde_json::json!({ "peer_id": net.peer_id().to_string() });
    writeln!(stdout, "{line}")?;
    stdout.flush()?;
    crate::told_to_stop().await;
    net.shutdown().await;
    Ok(())
}

/// A snapshot that is whole by its own account.
struct Lies {
    manifest: Arc<Manifest>,
    /// How large each chunk really is.
    sizes: BTreeMap<ChunkId, u32>,
}

impl Lies {
    fn about(manifest: Arc<Manifest>) -> Self {
        let chunks = manifest.unique_indexes();
        let chunks = chunks.map(|index| manifest.unique_chunk(index));
        let sizes = chunks.map(|chunk| (chunk.id, chunk.size)).collect();
        Self { manifest, sizes }
    }
}

impl Library for Lies {
    fn catalogue(&self, _chain_id: Option<&str>) -> Vec<CatalogueEntry> {
        let manifest = &self.manifest;
        vec![CatalogueEntry {
            chain_id: manifest.chain_id().to_owned(),
            height: manifest.height(),
            format: manifest.format(),
            app_hash: manifest.app_hash().cloned().unwrap_or_default(),
            manifest: manifest.id(),
            manifest_bytes: manifest.encoded().len() as u32,
            total_bytes: manifest.total_bytes(),
            chunks: manifest.chunk_count(),
            complete: true,
        }]
    }

    fn manifest(&self, id: &ManifestId) -> Option<Bytes> {
        (*id == self.manifest.id()).then(|| self.manifest.encoded().clone())
    }

    fn holding(&self, id: &ManifestId) -> Option<(Holding, u32)> {
        (*id == self.manifest.id()).then(|| (Holding::Complete, self.manifest.piece_count()))
    }

    fn holds(&self, chunks: &[ChunkId]) -> Bitmap {
        let mut bits = Bitmap::new(chunks.len() as u32);
        for (number, chunk) in chunks.iter().enumerate() {
            if self.sizes.contains_key(chunk) {
                bits.insert(number as u32);
            }
        }
        bits
    }

    fn chunk_size(&self, chunk: &ChunkId) -> Option<u32> {
        self.sizes.get(chunk).copied()
    }

    fn read_piece(&self, chunk: &ChunkId, piece: u32) -> io::Result<Option<Bytes>> {
        Ok(self.sizes.get(chunk).and_then(|size| {
            let left = size.checked_sub(piece.checked_mul(PIECE_BYTES)?)?;
            (left > 0).then(|| Bytes::from(vec![0; left.min(PIECE_BYTES) as usize]))
        }))
    }

    fn in_use(&self, _id: &ManifestId, _peer: &PeerId) {}
}
