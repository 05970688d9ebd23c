//! The home of a CometBFT node: `config/`, `data/`.
//!
//! Read: settings, the node's id, its chain. Written: `config.toml`, whole or not at
//! all. Removed, when a restore has to begin anew: the stores that CometBFT makes by
//! itself (`STORES`). Keys and `priv_validator_state.json` are never touched: a
//! validator that forgets what it signed can sign twice.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::Deserialize;

use super::half_made::is_half_made;
use super::peer::NodeId;
use super::settings::{Settings, SettingsError};

/// What CometBFT makes in its data folder and can make again.
const STORES: [&str; 6] = [
    "blockstore.db",
    "state.db",
    "evidence.db",
    "tx_index.db",
    "light-client.db",
    "cs.wal",
];

/// Files and folders that are not removed wherever they lie: keys, what a validator
/// signed, and settings.
const KEPT: [&str; 5] = [
    "priv_validator_state.json",
    "priv_validator_key.json",
    "node_key.json",
    "config",
    "snapswarm-join.json",
];

/// What a node of the Cosmos SDK has beside CometBFT's own settings.
const SDK_SETTINGS: [&str; 2] = ["config/app.toml", "config/client.toml"];

/// A folder with one of these is not an application's data; at its top, those that are
/// kept when it is emptied do no harm.
const KEYS: [&str; 5] = [
    "priv_validator_state.json",
    "priv_validator_key.json",
    "node_key.json",
    "identity.key",
    "comet.key",
];
/// So deep keys are looked for,
const MAX_DEPTH: u32 = 4;
/// and among so many files, which takes seconds. A folder with more may hide a key: it is
/// not emptied.
const MAX_SEEN: u32 = 1_000_000;

/// A node's settings are written by hand.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A node's home.
#[derive(Clone, Debug)]
pub struct NodeHome {
    folder: PathBuf,
}

/// Nobody else changes a node's home by way of snapswarm while this is held.
#[derive(Debug)]
pub struct HomeLock {
    _folder: Flock<File>,
}

/// Why a node's home cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeHomeError {
    /// A file is missing or cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `config.toml` is not what it should be.
    #[error("{} cannot be used", path.display())]
    Settings {
        /// Which.
        path: PathBuf,
        /// Why.
        source: SettingsError,
    },
    /// A JSON file is not what it should be.
    #[error("{} is not what CometBFT writes: {problem}", path.display())]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A folder that was named for removal must not be emptied.
    #[error("{} is not emptied: {problem}", path.display())]
    NotToEmpty {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: &'static str,
    },
}

#[derive(Deserialize)]
struct NodeKey {
    priv_key: PrivateKey,
}

#[derive(Deserialize)]
struct PrivateKey {
    value: String,
}

/// All else of a genesis is passed over as it is read: it may have gigabytes.
#[derive(Deserialize)]
struct Genesis {
    chain_id: String,
}

impl NodeHome {
    /// The home in this folder. Nothing is read yet.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// Takes the home for oneself; nothing when another has it.
    pub fn lock(&self) -> Result<Option<HomeLock>, NodeHomeError> {
        let file = |source| NodeHomeError::File {
            path: self.folder.clone(),
            source,
        };
        let folder = File::open(&self.folder).map_err(file)?;
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(folder) => Ok(Some(HomeLock { _folder: folder })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(file(errno.into())),
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the settings are.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("config/config.toml")
    }

    /// The settings.
    pub fn settings(&self) -> Result<Settings, NodeHomeError> {
        read_settings(self.config_file())
    }

    /// Blocks between two snapshots, of a node of the Cosmos SDK; 0 makes none.
    pub fn sdk_snapshot_interval(&self) -> Option<i64> {
        let settings = read_settings(self.folder.join(SDK_SETTINGS[0])).ok()?;
        settings.number("state-sync", "snapshot-interval")
    }

    /// Writes the settings, whole or not at all, with the rights and the owner that the
    /// file has. A file that has them already is left alone.
    pub fn write_settings(&self, settings: &Settings) -> Result<(), NodeHomeError> {
        let path = self.config_file();
        let file = |source| NodeHomeError::File {
            path: path.clone(),
            source,
        };
        // A link stays one: what it leads to is written.
        let real = fs::canonicalize(&path).map_err(file)?;
        let folder = real.parent().unwrap_or(Path::new("."));
        let text = settings.to_string();
        if fs::read_to_string(&real).is_ok_and(|found| found == text) {
            return Ok(());
        }
        let write = || {
            let mut fresh = tempfile::Builder::new()
                .prefix(".config.toml.")
                .tempfile_in(folder)?;
            fresh.write_all(text.as_bytes())?;
            let found = fs::metadata(&real)?;
            fresh.as_file().set_permissions(found.permissions())?;
            let ours = fresh.as_file().metadata()?;
            if (ours.uid(), ours.gid()) != (found.uid(), found.gid()) {
                // The node's own user has to read it when we are root.
                fchown(fresh.as_file(), Some(found.uid()), Some(found.gid()))?;
            }
            fresh.as_file().sync_all()?;
            fresh.persist(&real)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(file)
    }

    /// The node's id, from its key file.
    pub fn node_id(&self, settings: &Settings) -> Result<NodeId, NodeHomeError> {
        let named = settings.text("", "node_key_file");
        let path = self.folder.join(match named {
            "" => "config/node_key.json",
            named => named,
        });
        let key: NodeKey = read_json(&path)?;
        let wrong = |problem: &str| NodeHomeError::Json {
            path: path.clone(),
            problem: problem.to_owned(),
        };
        let bytes = BASE64_STANDARD
            .decode(key.priv_key.value)
            .map_err(|_| wrong("the key is no base64"))?;
        // Seed and public key, 32 bytes each.
        let seed: [u8; 32] = bytes
            .first_chunk()
            .filter(|_| bytes.len() == 64)
            .copied()
            .ok_or_else(|| wrong("the key is no ed25519 key"))?;
        let key = ed25519_consensus::SigningKey::from(seed);
        Ok(NodeId::of(&key.verification_key()))
    }

    /// The chain of its genesis. Reads the file through.
    pub fn chain_id(&self, settings: &Settings) -> Result<String, NodeHomeError> {
        let named = settings.text("", "genesis_file");
        let path = self.folder.join(match named {
            "" => "config/genesis.json",
            named => named,
        });
        let genesis: Genesis = read_json(&path)?;
        Ok(genesis.chain_id)
    }

    /// The data folder.
    pub fn data(&self, settings: &Settings) -> PathBuf {
        self.folder.join(match settings.text("", "db_dir") {
            "" => "data",
            named => named,
        })
    }

    /// Whether it is that of a node of the Cosmos SDK. Its application keeps its data
    /// among CometBFT's stores.
    pub fn is_sdk(&self) -> bool {
        let mut names = SDK_SETTINGS.iter();
        names.all(|name| self.folder.join(name).is_file())
    }

    /// Keys and what a validator signed, where the settings have them under other than
    /// the usual names.
    fn named_files(&self, settings: &Settings) -> Vec<PathBuf> {
        const USUAL: [(&str, &str); 3] = [
            (
                "priv_validator_state_file",
                "data/priv_validator_state.json",
            ),
            ("priv_validator_key_file", "config/priv_validator_key.json"),
            ("node_key_file", "config/node_key.json"),
        ];
        let named = USUAL.map(|(key, usual)| (settings.text("", key), usual));
        let others = named
            .iter()
            .filter(|(named, usual)| !named.is_empty() && named != usual);
        others.map(|(named, _)| self.folder.join(named)).collect()
    }

    /// Whether CometBFT has made any of its stores here.
    pub fn has_stores(&self, settings: &Settings) -> bool {
        let data = self.data(settings);
        STORES.iter().any(|name| data.join(name).exists())
    }

    /// Removes those of CometBFT's stores that were never made to their end. The node must
    /// not run. Their names.
    pub fn remove_half_made(&self, settings: &Settings) -> Result<Vec<String>, NodeHomeError> {
        let data = self.data(settings);
        let mut removed = Vec::new();
        for name in STORES.iter().filter(|name| name.ends_with(".db")) {
            let path = data.join(name);
            let half = is_half_made(&path);
            let half = half.map_err(|source| NodeHomeError::File {
                path: path.clone(),
                source,
            });
            if half? {
                remove(&path)?;
                removed.push((*name).to_owned());
            }
        }
        Ok(removed)
    }

    /// Removes CometBFT's stores. The node must not run.
    pub fn remove_stores(&self, settings: &Settings) -> Result<(), NodeHomeError> {
        let data = self.data(settings);
        STORES.iter().try_for_each(|name| remove(&data.join(name)))
    }
}

/// Whether a folder may be emptied: an application's data, and not something that
/// holds keys or settings, under whatever names the node's settings give them.
pub fn may_be_emptied(
    folder: &Path,
    node: &NodeHome,
    settings: &Settings,
) -> Result<(), NodeHomeError> {
    let refuse = |problem| {
        Err(NodeHomeError::NotToEmpty {
            path: folder.to_owned(),
            problem,
        })
    };
    if !folder.exists() {
        return Ok(());
    }
    let real = |path: &Path| {
        fs::canonicalize(path).map_err(|source| NodeHomeError::File {
            path: path.to_owned(),
            source,
        })
    };
    let folder = real(folder)?;
    if !folder.is_dir() {
        return refuse("it is no folder");
    }
    if real(node.folder())?.starts_with(&folder) {
        return refuse("it is, or holds, the node's home");
    }
    if real(node.folder())?.join("config").starts_with(&folder)
        || folder.starts_with(real(node.folder())?.join("config"))
    {
        return refuse("it is the node's folder of keys and settings");
    }
    if std::env::home_dir().is_some_and(|home| home.starts_with(&folder)) {
        return refuse("it holds your own folder");
    }
    for named in node.named_files(settings) {
        // A file that is not there yet is made in a folder that is.
        let place = real(&named).or_else(|_| real(named.parent().unwrap_or(&named)));
        if place.is_ok_and(|place| place.starts_with(&folder)) {
            return refuse("the node's settings have keys, or what its validator signed, in it");
        }
    }
    match why_not_to_empty(&folder, MAX_DEPTH, &mut 0) {
        Some(problem) => refuse(problem),
        None => Ok(()),
    }
}

/// A key in a folder or below it, as far as one looks, that would be lost with it; or
/// that nobody can say whether there is one.
fn why_not_to_empty(folder: &Path, depth: u32, seen: &mut u32) -> Option<&'static str> {
    let unread = Some("it cannot be looked through for keys");
    let Ok(entries) = fs::read_dir(folder) else {
        return unread;
    };
    for entry in entries {
        let Ok(entry) = entry else { return unread };
        *seen += 1;
        if *seen > MAX_SEEN {
            return Some("it has too many files to be looked through for keys");
        }
        let named = |names: &[&str]| names.iter().any(|name| entry.file_name() == *name);
        let is_kept = depth == MAX_DEPTH && named(&KEPT);
        if named(&KEYS) && !is_kept {
            return Some("there are keys in it");
        }
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder
            && !is_kept
            && depth > 0
            && let Some(problem) = why_not_to_empty(&entry.path(), depth - 1, seen)
        {
            return Some(problem);
        }
    }
    None
}

/// Empties a folder of an application's data. Keys, what a validator signed, and
/// settings stay, should any lie there.
pub fn empty_folder(folder: &Path) -> Result<(), NodeHomeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(NodeHomeError::File {
                path: folder.to_owned(),
                source,
            });
        }
    };
    for entry in entries {
        let entry = entry.map_err(|source| NodeHomeError::File {
            path: folder.to_owned(),
            source,
        })?;
        if !KEPT.iter().any(|kept| entry.file_name() == *kept) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file, a link (not what it leads to) or a folder, where there is one.
fn remove(path: &Path) -> Result<(), NodeHomeError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|source| NodeHomeError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

fn read_settings(path: PathBuf) -> Result<Settings, NodeHomeError> {
    let file = |source| NodeHomeError::File {
        path: path.clone(),
        source,
    };
    if fs::metadata(&path).map_err(file)?.len() > MAX_CONFIG_BYTES {
        return Err(file(io::Error::other("it is too large to be settings")));
    }
    let text = fs::read_to_string(&path).map_err(file)?;
    Settings::parse(&text).map_err(|source| NodeHomeError::Settings {
        path: path.clone(),
        source,
    })
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, NodeHomeError> {
    let file = File::open(path).map_err(|source| NodeHomeError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| NodeHomeError::Json {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, NodeHome) {
        let folder = tempfile::tempdir().unwrap();
        let node = folder.path().join("node");
        fs::create_dir_all(node.join("config")).unwrap();
        fs::create_dir_all(node.join("data/app/deep")).unwrap();
        fs::write(node.join("config/config.toml"), "x = 1\n").unwrap();
        fs::write(node.join("config/node_key.json"), NODE_KEY).unwrap();
        fs::write(
            node.join("config/genesis.json"),
            r#"{"a":[1,{"chain_id":"no"}],"chain_id":"c-1","app_state":{}}"#,
        )
        .unwrap();
        for name in ["priv_validator_state.json", "blockstore.db", "other.db"] {
            fs::write(node.join("data").join(name), "x").unwrap();
        }
        fs::create_dir(node.join("data/cs.wal")).unwrap();
        (folder, NodeHome::new(&node))
    }

    /// The key of RFC 8032's first test.
    const NODE_KEY: &str = r#"{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2DXWpgBgrEKt9VL/tPJZAc6DuFy89qmIyWvAhpo9wdRGg=="}}"#;

    #[test]
    fn id_and_chain_are_read() {
        let (_folder, node) = home();
        let settings = node.settings().unwrap();
        assert_eq!(node.chain_id(&settings).unwrap(), "c-1");
        assert_eq!(
            node.node_id(&settings).unwrap().to_string(),
            "21fe31dfa154a261626bf854046fd2271b7bed4b"
        );
    }

    #[test]
    fn a_node_of_the_sdk_is_known_by_its_settings() {
        let (_folder, node) = home();
        for name in SDK_SETTINGS {
            assert!(!node.is_sdk());
            let text = "[state-sync]\nsnapshot-interval = 7\n";
            fs::write(node.folder().join(name), text).unwrap();
        }
        assert!(node.is_sdk());
        assert_eq!(node.sdk_snapshot_interval(), Some(7));
    }

    #[test]
    fn only_what_cometbft_can_make_again_is_removed() {
        let (_folder, node) = home();
        let settings = node.settings().unwrap();
        assert!(node.has_stores(&settings));
        node.remove_stores(&settings).unwrap();
        assert!(!node.has_stores(&settings));
        let data = node.data(&settings);
        assert!(data.join("priv_validator_state.json").exists());
        assert!(data.join("other.db").exists() && data.join("app").exists());
    }

    #[test]
    fn a_folder_with_keys_or_the_node_itself_is_not_emptied() {
        let (folder, node) = home();
        for path in [folder.path(), node.folder(), &node.folder().join("config")] {
            let refused = may_be_emptied(path, &node, &Settings::default());
            assert!(matches!(refused, Err(NodeHomeError::NotToEmpty { .. })));
        }
        let data = node.folder().join("data");
        may_be_emptied(&data, &node, &Settings::default()).unwrap();
        empty_folder(&data).unwrap();
        let left: Vec<_> = fs::read_dir(&data).unwrap().collect();
        assert_eq!(left.len(), 1, "what the validator signed");
    }

    #[test]
    fn a_folder_with_keys_below_its_top_is_not_emptied() {
        let (_folder, node) = home();
        let data = node.folder().join("data");
        may_be_emptied(&data, &node, &Settings::default()).unwrap();
        fs::write(data.join("app/deep/priv_validator_key.json"), "x").unwrap();
        let refused = may_be_emptied(&data, &node, &Settings::default());
        assert!(matches!(refused, Err(NodeHomeError::NotToEmpty { .. })));
    }

    #[test]
    fn one_at_a_time_has_a_home() {
        let (_folder, node) = home();
        let held = node.lock().unwrap();
        assert!(held.is_some() && node.lock().unwrap().is_none());
        drop(held);
        assert!(node.lock().unwrap().is_some());
    }

    #[test]
    fn emptying_removes_links_and_not_what_they_lead_to() {
        let (folder, node) = home();
        let outside = folder.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "x").unwrap();
        let data = node.folder().join("data/app");
        std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
        empty_folder(&data).unwrap();
        assert!(outside.join("mine").exists() && !data.join("link").exists());
    }

    #[test]
    fn settings_keep_their_rights_and_are_replaced_whole() {
        use std::os::unix::fs::PermissionsExt;
        let (_folder, node) = home();
        let path = node.config_file();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        node.write_settings(&Settings::parse("y = 2\n").unwrap())
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "y = 2\n");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o640
        );
    }

    #[test]
    fn a_folder_with_what_a_validator_signed_under_another_name_is_not_emptied() {
        let (_folder, node) = home();
        let data = node.folder().join("data");
        for (name, is_refused) in [
            ("data/signed.json", true),
            ("data/priv_validator_state.json", false),
            ("state/signed.json", false),
        ] {
            let text = format!("priv_validator_state_file = \"{name}\"\n");
            let settings = Settings::parse(&text).unwrap();
            let refused = may_be_emptied(&data, &node, &settings);
            assert_eq!(refused.is_err(), is_refused, "{name}");
        }
    }
}
