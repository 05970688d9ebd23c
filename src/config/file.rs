//! The file: reading it, and the commented one that `init` writes.

use std::{
    fs, io,
    io::Write,
    path::{Path, PathBuf},
};

use super::Config;

/// File name in a home.
pub const CONFIG_NAME: &str = "config.toml";

/// A configuration is written by hand; what is longer is something else.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Of a problem so much is told: a value in it may be as long as the file.
const MAX_PROBLEM_CHARS: usize = 400;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not TOML, or a value of the wrong kind, or a key that is not known.
    #[error("{0}")]
    Syntax(String),
    /// A value that cannot be.
    #[error("{key}: {problem}")]
    Value {
        /// Path of the key, `section.key`.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A problem inside a file.
    #[error("{} is not a configuration", path.display())]
    In {
        /// Which.
        path: PathBuf,
        /// The problem.
        source: Box<ConfigError>,
    },
}

impl Config {
    /// Reads text and checks it.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let table: toml::Table =
            toml::from_str(text).map_err(|error| ConfigError::Syntax(syntax(text, &error)))?;
        let config: Self = serde_path_to_error::deserialize(table).map_err(|error| {
            let key = plain(&error.path().to_string());
            ConfigError::Value {
                key,
                problem: plain(error.into_inner().message()),
            }
        })?;
        config.check()?;
        Ok(config)
    }

    /// Reads `config.toml` of a home; a missing file is the default.
    pub fn load(home: &Path) -> Result<Self, ConfigError> {
        let path = home.join(CONFIG_NAME);
        let file = |source| ConfigError::File {
            path: path.clone(),
            source,
        };
        let size = match fs::metadata(&path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(file(error)),
        };
        if size > MAX_CONFIG_BYTES {
            return Err(file(io::Error::other(format!(
                "it has {size} bytes; at most {MAX_CONFIG_BYTES} are read"
            ))));
        }
        let text = fs::read_to_string(&path).map_err(file)?;
        Self::parse(&text).map_err(|problem| ConfigError::In {
            path: path.clone(),
            source: Box::new(problem),
        })
    }

    /// Writes a commented `config.toml` with the defaults into a home that has
    /// none, and returns its path; the file of a home that has one is left as it
    /// is. The home must exist.
    pub fn create(home: &Path, network: &str) -> Result<PathBuf, ConfigError> {
        let path = home.join(CONFIG_NAME);
        let file = |source| ConfigError::File {
            path: path.clone(),
            source,
        };
        // Written whole under another name first: a crash leaves no half file
        // that the next start refuses.
        let mut fresh = tempfile::Builder::new()
            .prefix(".config.")
            .tempfile_in(home)
            .map_err(file)?;
        fresh
            .write_all(Self::commented(network).as_bytes())
            .and_then(|()| fresh.as_file().sync_all())
            .map_err(file)?;
        match fresh.persist_noclobber(&path) {
            Ok(_) => {}
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(file(error.error)),
        }
        Ok(path)
    }

    /// The text that [`Self::create`] writes: every key with its default, those
    /// that have none as comments.
    pub fn commented(network: &str) -> String {
        TEMPLATE.replace("@NETWORK@", network)
    }
}

/// Where and why text is not TOML, without the text itself.
fn syntax(text: &str, error: &toml::de::Error) -> String {
    let problem = plain(error.message());
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            let column = before
                .rsplit('\n')
                .next()
                .map_or(0, |last| last.chars().count())
                + 1;
            format!("line {line}, column {column}: {problem}")
        }
        None => problem,
    }
}

/// One line that fits a screen, whatever a file put into it.
fn plain(message: &str) -> String {
    let one_line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = one_line.chars().filter(|c| !c.is_control());
    let mut plain: String = shown.take(MAX_PROBLEM_CHARS).collect();
    if plain.chars().count() == MAX_PROBLEM_CHARS {
        plain.push('…');
    }
    plain
}

const TEMPLATE: &str = r#"# Settings of snapswarm. Every key may be left out: what stands here is its
# default, or, behind a '#', an example. Keys that are not known are refused.
# Sizes are bytes, or text such as "10 GiB" or "500 MB".

[network]
# Nodes of different networks do not meet.
name = "@NETWORK@"

# Addresses to listen on. Without this key: port 26670 over TCP and QUIC, or any
# free port when that one is taken. To serve others it must be reachable.
# listen = ["/ip4/0.0.0.0/tcp/26670", "/ip4/0.0.0.0/udp/26670/quic-v1"]

# Addresses under which others reach this node, where a router hides it.
external_addresses = []

# Peers to begin with, each with its peer id.
# bootstrap = ["/ip4/192.0.2.7/tcp/26670/p2p/12D3KooW..."]
bootstrap = []

# A file (in the home, or anywhere) with the pre-shared key of a private network.
# psk_file = "swarm.key"

# Part in the DHT: "auto" serves when others confirm an address of ours;
# "server" always (loopback and local networks need it); "client" never.
mode = "auto"

# Peer ids that alone may connect, for a network of your own; empty: everybody may.
allow_peers = []

[store]
# Newest harvested snapshots kept for each chain; pinned ones are kept beside
# them. What you load or fetch yourself stays until you delete it.
max_snapshots = 5

# Disk space for all snapshots together, those that are here in part included.
# Without this key: what the disk has.
# disk_quota = "500 GiB"

# The largest snapshot that `fetch --chain-id` takes.
max_download_bytes = "200 GiB"

# A snapshot that somebody is downloading from us is kept so long after their
# last request, within the quota.
lease_minutes = 10

[upload]
# Defaults of the two keys below: "open" has no limits, "validator" lets the
# votes of a validator on this machine go first (12 MB/s, 4 slots).
profile = "open"

# Bytes a second over all peers; 0 is no limit.
# bytes_per_s = "25 MB"

# Peers served at once; 0 measures the uplink and decides.
# slots = 8

[announce]
# What the DHT learns from us: "manifests+chunks" or "manifests".
what = "manifests+chunks"

[harvest]
# A CometBFT node whose new snapshots are taken: its RPC, which tells the
# application hash, with its p2p address, or with the folder in which a Cosmos SDK
# node keeps its snapshots, or with both.
# node = "0123456789abcdef0123456789abcdef01234567@127.0.0.1:26656"
# sdk_snapshots = "/home/me/.appd/data/snapshots"
# rpc = "http://127.0.0.1:26657"

[adapter]
# What becomes of a snapshot that peers of CometBFT offer a joining node and that
# this home does not hold: "swarm-only" rejects it; "prefer-swarm" does so while the
# swarm brings one or has just brought one, for half an hour at most; "any" takes it,
# unchecked. CometBFT does not offer a rejected one again until it is started anew.
offers = "prefer-swarm"

# A snapshot that is offered while the swarm brings that very one waits so long for
# the rest of it, at most 60; not with "any".
hold_minutes = 3

[xian]
# The storage of the Xian node behind the adapter (`snapswarm adapter --xian`), and the
# chain's state_patches.json: with it the adapter copies the storage at heights that
# snapshot_interval divides, and the daemon makes snapshots of the copies. They have the
# same CID on all nodes that name state_patches, and another on those that do not.
# storage = "/home/me/.cometbft/xian"
# state_patches = "/home/me/xian-core/state_patches.json"

# Blocks between two snapshots, at least 10.
snapshot_interval = 1000

# Whether each snapshot comes with a delta from the one before, for nodes that have that
# one: what changed, where that is less than half. It goes when its snapshot does.
deltas = true

# At such a height the node waits after its Commit while the last changes are copied:
# for so many milliseconds at most, 10 to 1000. What takes longer is left out, and said.
commit_hold_ms = 250

# Where the copy lies, in a folder "xian-copy" that is emptied at the start; it takes as
# much room as the storage. On the storage's own file system, where that is XFS or btrfs,
# files are cloned instead of read. Without this key: the home.
# copy_in = "/home/me"

[api]
# The read-only page with /v1/status and /metrics: loopback only; port 0 takes a
# free one, which `status` and the first line of `start` tell.
http = "127.0.0.1:0"

[trust]
# Snapshots (CIDs) that you trust: `fetch --chain-id` takes no other, but for those
# that are here and are of another chain.
pinned_manifests = []

# Whose word counts for a state that no application hash proves: peer ids, as
# `snapswarm init` and `snapswarm status` print them, or ed25519 public keys in hex.
# Each node says by itself what its own chain node computed. Of other snapshots
# `fetch --chain-id` prefers what they computed where no RPC can be asked.
# endorsers = ["12D3KooW...", "12D3KooW..."]
endorsers = []

# So many of them must have computed a snapshot before it is restored, and before
# `fetch --chain-id` takes it. Without this key: more than half.
# threshold = 2
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_file_says_the_defaults() {
        let config = Config::parse(&Config::commented("testnet-7")).unwrap();
        let mut expected = Config::default();
        expected.network.name = "testnet-7".to_owned();
        assert_eq!(config, expected);
    }

    #[test]
    fn the_examples_in_the_comments_are_read_too() {
        // What stands there for peer ids is none.
        let endorsers = "# endorsers = [\"12D3KooW...\", \"12D3KooW...\"]";
        let commented = Config::commented("public");
        assert!(commented.contains(endorsers));
        let [one, other] = [1, 2].map(|byte| {
            let key = libp2p::identity::Keypair::ed25519_from_bytes([byte; 32]).unwrap();
            key.public().to_peer_id()
        });
        let commented = commented
            .replace(
                endorsers,
                &format!("# endorsers = [\"{one}\", \"{other}\"]"),
            )
            .replace("\nendorsers = []\n", "\n");
        let live: String = commented
            .lines()
            .filter(|line| !line.starts_with("bootstrap") && !line.contains("12D3KooW..."))
            .map(|line| {
                let example = line.strip_prefix("# ").filter(|rest| {
                    rest.split_once(" = ")
                        .is_some_and(|(key, _)| !key.contains(' '))
                });
                format!("{}\n", example.unwrap_or(line))
            })
            .collect();
        let config = Config::parse(&live).unwrap();
        assert_eq!(config.network.listen.len(), 2);
        assert_eq!(config.upload.bytes_per_s(), 25_000_000);
        assert!(config.harvest.node.is_some() && config.network.psk_file.is_some());
    }

    #[test]
    fn every_key_stands_in_the_commented_file() {
        let mut full = Config::default();
        full.network.psk_file = Some("x".into());
        full.store.disk_quota = Some(super::super::ByteSize(1));
        full.upload.bytes_per_s = Some(super::super::ByteSize(1));
        full.upload.slots = Some(1);
        full.harvest.node = Some("x".to_owned());
        full.harvest.sdk_snapshots = Some("x".into());
        full.harvest.rpc = Some("x".to_owned());
        full.xian.storage = Some("x".into());
        full.xian.state_patches = Some("x".into());
        full.xian.copy_in = Some("x".into());
        full.trust.threshold = Some(1);
        let template = Config::commented("public");
        for (section, keys) in toml::Table::try_from(&full).unwrap() {
            assert!(template.contains(&format!("\n[{section}]\n")), "{section}");
            for key in keys.as_table().unwrap().keys() {
                assert!(template.contains(&format!("{key} = ")), "{section}.{key}");
            }
        }
    }

    #[test]
    fn a_configuration_that_is_written_is_read_again_as_the_same() {
        let mut config = Config::parse(&Config::commented("x")).unwrap();
        config.store.disk_quota = "10 GiB".parse().ok();
        config.network.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let text = toml::to_string(&config).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), config);
    }

    #[test]
    fn a_home_gets_a_file_once_and_keeps_what_was_changed_in_it() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(home.path()).unwrap(), Config::default());
        let path = Config::create(home.path(), "mine").unwrap();
        assert_eq!(Config::load(home.path()).unwrap().network.name, "mine");
        fs::write(&path, "[network]\nname = \"changed\"\n").unwrap();
        Config::create(home.path(), "other").unwrap();
        assert_eq!(Config::load(home.path()).unwrap().network.name, "changed");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_toml_is_told_by_its_place_on_one_short_line() {
        let long = "x".repeat(5000);
        for (text, expected) in [
            ("[store]\nmax_snapshots = \u{1b}[2J5", "line 2, column "),
            ("[store]\n\nmax_snapshots 5\n", "line 3, column "),
            ("name = \"ab", "line 1, column "),
            (&format!("[network]\nmode = \"{long}\u{1b}\""), "line 2"),
            (
                &format!("[network]\nmode = \"{long}\\u001b\""),
                "network.mode",
            ),
            ("[network]\nname = \"a\\u001b[2Jb\\n\"", "network.name"),
            ("[network]\n\"a\\u001bb\\nc\" = 1", "network."),
        ] {
            let problem = Config::parse(text).unwrap_err().to_string();
            assert!(problem.starts_with(expected), "{problem}");
            assert!(!problem.contains(char::is_control), "{problem:?}");
            assert!(problem.chars().count() < 1000, "{problem}");
        }
    }

    #[test]
    fn a_problem_in_the_file_names_the_file_and_the_key() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(CONFIG_NAME), "[store]\nmax_snapshot = 3\n").unwrap();
        let error = Config::load(home.path()).unwrap_err();
        assert!(error.to_string().contains("config.toml"));
        let inner = std::error::Error::source(&error).unwrap().to_string();
        assert!(inner.contains("store.max_snapshot"), "{inner}");
    }
}
