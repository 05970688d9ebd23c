//! `testnet liar`: a peer of a network's swarm that announces a snapshot which others
//! really have, and answers each request for a piece with zeros of the right length.

#[path = "../tests/support/false_library.rs"]
mod false_library;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use false_library::FalseLibrary;
use snapswarm::net::{Announcement, Identity, Multiaddr, Net, NetSettings, NetworkName};
use snapswarm::snapshot::ManifestId;
use snapswarm::store::{Store, StoreSettings};

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
    let library = Arc::new(FalseLibrary::of_zeros(Arc::clone(&manifest)));
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
