//! Seeing what there is: the home, its daemon, the node's folder, the disks. What
//! comes over RPC is asked for in `questions`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::DoctorOptions;
use super::facts::{Daemon, Facts, Folder, Home, HomeSettings, NodeFolder, Shelf, Snapshot};
use super::questions::{self, Met, Wanted};
use crate::comet::node_home::NodeHome;
use crate::comet::peer::Identity;
use crate::comet::settings::Settings;
use crate::config::{Config, ConfigError};
use crate::node::command::{Command, Failure, Outcome};
use crate::node::failure::blocking;
use crate::node::feed::NODE_KEY_FILE;
use crate::node::services::{PEERS_FILE, store_settings};
use crate::node::space::space;
use crate::node::{join, remote};
use crate::snapshot::ManifestId;
use crate::store::{Store, Stored};

/// A daemon that is well answers in milliseconds.
const DAEMON_PATIENCE: Duration = Duration::from_secs(10);

/// What is on this machine's disks.
struct Local {
    home: Home,
    shelf: Vec<Stored>,
    node_home: Option<NodeFolder>,
    temporary: Folder,
}

/// Looks at everything. What cannot be seen is told in its place.
pub(super) async fn gather(home: &Path, options: &DoctorOptions) -> Facts {
    let daemon = daemon(home).await;
    let (folder, node_home) = (home.to_owned(), options.node_home.clone());
    let looked = blocking(move || Ok(look(&folder, node_home.as_deref()))).await;
    let mut local = looked.unwrap_or_else(|failure| unseen(home, &failure));
    local.home.daemon = daemon;

    let own_settings = local
        .node_home
        .as_ref()
        .and_then(|node| node.settings.as_ref().ok());
    let (node_url, chain_urls) = places(options, own_settings);
    let (node, chain) = futures::join!(questions::meet(node_url), questions::meet_all(&chain_urls));
    let chain_id = chain_id(&local, node.as_ref(), &chain);
    let snapshot = chosen(
        &local.shelf,
        options.manifest.as_deref(),
        chain_id.as_deref(),
    );
    let recent = recent(node.as_ref(), &chain);
    let wanted = Wanted {
        recent,
        snapshot: snapshot.as_ref().map(|snapshot| snapshot.height),
        trusted: own_settings.and_then(trust_height),
    };
    let (node, chain) = futures::join!(
        async {
            match node {
                Some(node) => Some(questions::look_closer(node, &wanted, true).await),
                None => None,
            }
        },
        futures::future::join_all(
            chain
                .into_iter()
                .map(|met| questions::look_closer(met, &wanted, false))
        )
    );
    Facts {
        home: local.home,
        snapshot,
        wanted: options.manifest.clone(),
        temporary: local.temporary,
        node_home: local.node_home,
        node,
        node_was_named: options.node_rpc.is_some(),
        chain,
        chain_was_named: !options.chain_rpc.is_empty(),
        recent,
    }
}

/// RPCs to ask: what was named, else what the node's own settings name.
fn places(options: &DoctorOptions, own: Option<&Settings>) -> (Option<String>, Vec<String>) {
    let of_settings = || join::reached(own?.text("rpc", "laddr"));
    let node = options.node_rpc.clone().or_else(of_settings);
    let mut chain = options.chain_rpc.clone();
    if chain.is_empty() && own.is_some_and(|own| own.switch("statesync", "enable")) {
        chain = own.map(rpc_servers).unwrap_or_default();
    }
    (node, chain)
}

/// The servers of a node's light client.
pub(super) fn rpc_servers(settings: &Settings) -> Vec<String> {
    let servers = settings.text("statesync", "rpc_servers").split(',');
    let servers = servers.map(str::trim).filter(|server| !server.is_empty());
    servers.map(str::to_owned).collect()
}

fn trust_height(settings: &Settings) -> Option<u64> {
    let height = settings.number("statesync", "trust_height")?;
    u64::try_from(height).ok().filter(|height| *height > 0)
}

async fn daemon(home: &Path) -> Daemon {
    let (progress, _) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let asked = remote::ask(home, &Command::Status, progress, cancel);
    match tokio::time::timeout(DAEMON_PATIENCE, asked).await {
        Err(_) => Daemon::Silent(format!(
            "it did not answer in {} s",
            DAEMON_PATIENCE.as_secs()
        )),
        Ok(None) => Daemon::Absent,
        Ok(Some(Ok(Outcome::Status(status)))) => Daemon::Runs(status),
        Ok(Some(Ok(_))) => Daemon::Silent(Failure::other_answer().message),
        Ok(Some(Err(failure))) => Daemon::Silent(failure.message),
    }
}

/// Blocking.
fn look(home: &Path, node_home: Option<&Path>) -> Local {
    let config = Config::load(home);
    let shelf = match &config {
        Ok(config) => shelf(home, config),
        Err(_) => shelf(home, &Config::default()),
    };
    let (shelf, stored) = match shelf {
        Ok((shelf, stored)) => (Ok(shelf), stored),
        Err(failure) => (Err(failure.message), Vec::new()),
    };
    Local {
        home: Home {
            folder: folder(home.to_owned()),
            exists: home.is_dir(),
            settings: config
                .map(|config| home_settings(home, &config))
                .map_err(told),
            shelf,
            daemon: Daemon::Absent,
            comet_id: comet_id(home),
        },
        shelf: stored,
        node_home: node_home.map(node_folder),
        temporary: folder(std::env::temp_dir()),
    }
}

/// Where looking itself went wrong.
fn unseen(home: &Path, failure: &Failure) -> Local {
    let nothing = |path: PathBuf| Folder { path, space: None };
    Local {
        home: Home {
            folder: nothing(home.to_owned()),
            exists: true,
            settings: Err(failure.message.clone()),
            shelf: Err(failure.message.clone()),
            daemon: Daemon::Absent,
            comet_id: None,
        },
        shelf: Vec::new(),
        node_home: None,
        temporary: nothing(std::env::temp_dir()),
    }
}

fn told(error: ConfigError) -> String {
    Failure::from(error).message
}

fn home_settings(home: &Path, config: &Config) -> HomeSettings {
    HomeSettings {
        quota_bytes: config.store.disk_quota.map(|quota| quota.0),
        max_download_bytes: config.store.max_download_bytes.0,
        knows_peers: !config.network.bootstrap.is_empty() || home.join(PEERS_FILE).exists(),
    }
}

/// The home's snapshots, read beside whoever holds the home.
fn shelf(home: &Path, config: &Config) -> Result<(Shelf, Vec<Stored>), Failure> {
    let store = Store::open_for_reading(home, store_settings(config))?;
    let stored = store.list();
    let shelf = Shelf {
        snapshots: stored.iter().filter(|stored| stored.complete).count(),
        used_bytes: store.disk_bytes(),
        damaged: store.damaged().len(),
    };
    Ok((shelf, stored))
}

/// A key that is not there yet is not made.
fn comet_id(home: &Path) -> Option<String> {
    let path = home.join(NODE_KEY_FILE);
    let identity = path
        .exists()
        .then(|| Identity::load_or_create(&path).ok())?;
    Some(identity?.id().to_string())
}

fn node_folder(path: &Path) -> NodeFolder {
    let node = NodeHome::new(path);
    let whole = |error| Failure::from(error).message;
    let settings = node.settings();
    // Without settings the folders are where CometBFT has them by default.
    let usual = Settings::default();
    let known = settings.as_ref().unwrap_or(&usual);
    NodeFolder {
        path: path.to_owned(),
        chain_id: node.chain_id(known).map_err(whole),
        data: folder(node.data(known)),
        left_open: join::left_open(path).map_err(|failure| failure.message),
        snapshot_interval: node.sdk_snapshot_interval(),
        settings: settings.map_err(whole),
    }
}

fn folder(path: PathBuf) -> Folder {
    Folder {
        space: space(&path),
        path,
    }
}

/// The chain that this is about: the node's, else that of the endpoints.
fn chain_id(local: &Local, node: Option<&Met>, chain: &[Met]) -> Option<String> {
    let genesis = local.node_home.as_ref().map(|node| node.chain_id.as_ref());
    let genesis = genesis.and_then(Result::ok).cloned();
    genesis.or_else(|| {
        let told = node.into_iter().chain(chain).find_map(Met::status);
        told.map(|status| status.chain_id.clone())
    })
}

/// The snapshot of that name, else the newest complete one of the chain that a node can
/// begin with: no delta.
fn chosen(shelf: &[Stored], cid: Option<&str>, chain_id: Option<&str>) -> Option<Snapshot> {
    let stored = match cid {
        Some(cid) => {
            let id: ManifestId = cid.parse().ok()?;
            shelf.iter().find(|stored| stored.manifest.id() == id)
        }
        None => {
            let fits = |stored: &&Stored| {
                let chain = stored.manifest.chain_id();
                let is_full = stored.complete && stored.manifest.base().is_none();
                is_full && chain_id.is_none_or(|wanted| wanted == chain)
            };
            let fitting = shelf.iter().filter(fits);
            fitting.max_by_key(|stored| stored.manifest.height())
        }
    };
    stored.map(snapshot)
}

fn snapshot(stored: &Stored) -> Snapshot {
    let manifest = &stored.manifest;
    let sizes = manifest
        .unique_indexes()
        .map(|chunk| manifest.unique_chunk(chunk).size);
    Snapshot {
        manifest: manifest.id().to_string(),
        chain_id: manifest.chain_id().to_owned(),
        height: manifest.height(),
        bytes: manifest.total_bytes(),
        missing_bytes: match stored.complete {
            true => 0,
            false => manifest.unique_bytes().saturating_sub(stored.have_bytes),
        },
        proven: stored.proven,
        is_state: manifest.state().is_some(),
        chunks: manifest.chunk_count(),
        largest_chunk_bytes: sizes.max().unwrap_or(0),
        app_hash: manifest.app_hash().map(hex::encode_upper),
    }
}

/// The newest height that all of the chain's endpoints have reached; the node's own
/// where it is the only one.
fn recent(node: Option<&Met>, chain: &[Met]) -> Option<u64> {
    let tips = chain.iter().filter_map(Met::status);
    let tip = tips
        .map(|status| status.height)
        .filter(|height| *height > 0);
    let own = || Some(node?.status()?.height);
    tip.min().or_else(own).filter(|height| *height > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::delta::tests::with_a_delta;

    #[test]
    fn a_delta_is_not_taken_for_the_newest_snapshot() {
        let home = tempfile::tempdir().unwrap();
        let (store, delta) = with_a_delta(home.path());
        let mut shelf = store.list();
        for _ in 0..2 {
            let chosen = chosen(&shelf, None, Some("xian-1")).unwrap();
            assert_eq!(chosen.height, 8);
            assert_ne!(chosen.manifest, delta.id().to_string());
            shelf.reverse();
        }
    }
}
