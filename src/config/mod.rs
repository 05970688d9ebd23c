//! Settings: one typed tree, read from `config.toml` in the home.
//!
//! Every key has a default that works, so the empty file is a configuration. A
//! key that is not known is refused with its path: a misspelt limit must not be
//! silently no limit. [`Config::check`] holds everything that a type cannot say;
//! a `Config` that was read has passed it. Flags of the command line win over
//! the file.
//!
//! Only the hall and the doors read this; rooms get small settings of their own.

mod check;
mod file;
mod size;
mod trust;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

pub use check::{
    check_bootstrap, check_cid, check_network_name, check_node_address, check_rpc_url,
};
pub use file::{CONFIG_NAME, ConfigError};
pub use size::{ByteSize, SizeError};
pub use trust::TrustConfig;

/// The network that nodes join when no other is named.
pub const PUBLIC_NETWORK: &str = "public";

/// Where a daemon listens unless told otherwise. One port for both transports,
/// because people open ports by number; near CometBFT's own (26656-26660).
pub const DEFAULT_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/26670", "/ip4/0.0.0.0/udp/26670/quic-v1"];

/// Where it listens instead when nothing was configured and the default port is
/// taken, and where a one-shot `fetch` listens.
pub const ANY_LISTEN: [&str; 2] = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];

/// Everything that can be set.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The swarm.
    pub network: NetworkConfig,
    /// The disk.
    pub store: StoreConfig,
    /// What others get from us.
    pub upload: UploadConfig,
    /// What the DHT learns from us.
    pub announce: AnnounceConfig,
    /// A CometBFT node whose snapshots are taken.
    pub harvest: HarvestConfig,
    /// The ABCI adapter.
    pub adapter: AdapterConfig,
    /// Snapshots that the adapter makes of a Xian node's storage.
    pub xian: XianConfig,
    /// The status page.
    pub api: ApiConfig,
    /// What is believed without proof.
    pub trust: TrustConfig,
}

/// `[adapter]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterConfig {
    /// What becomes of snapshots that peers of CometBFT offer a joining node.
    pub offers: OfferPolicy,
    /// How long an offer waits for the rest of that very snapshot; 0: not at all.
    pub hold_minutes: u32,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            offers: OfferPolicy::default(),
            hold_minutes: 3,
        }
    }
}

impl AdapterConfig {
    /// The time that an offer waits, as a duration.
    pub fn hold(&self) -> Duration {
        Duration::from_secs(u64::from(self.hold_minutes) * 60)
    }
}

/// `[xian]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XianConfig {
    /// The storage of the node behind the adapter; relative to the home. Without it
    /// there are no such snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<PathBuf>,
    /// The chain's `state_patches.json`; relative to the home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_patches: Option<PathBuf>,
    /// Blocks between two snapshots.
    pub snapshot_interval: u64,
    /// Whether a delta from the snapshot before is made as well.
    pub deltas: bool,
    /// The longest time that the answer to Commit is held for a copy, milliseconds.
    pub commit_hold_ms: u32,
    /// The folder in which the copy lies; relative to the home. Without it: the home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy_in: Option<PathBuf>,
}

impl Default for XianConfig {
    fn default() -> Self {
        Self {
            storage: None,
            state_patches: None,
            snapshot_interval: 1000,
            deltas: true,
            commit_hold_ms: 250,
            copy_in: None,
        }
    }
}

impl XianConfig {
    /// The folder in the one above that is the copy. It is emptied, so it has a name
    /// of its own.
    const COPY: &str = "xian-copy";

    /// The longest hold as a duration.
    pub fn commit_hold(&self) -> Duration {
        Duration::from_millis(u64::from(self.commit_hold_ms))
    }

    /// Where the copy is, seen from `home`.
    pub fn copy(&self, home: &Path) -> PathBuf {
        let folder = self.copy_in.as_deref().unwrap_or(Path::new(""));
        home.join(folder).join(Self::COPY)
    }
}

/// What becomes of a snapshot that CometBFT offers and that is not here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OfferPolicy {
    /// It is rejected.
    SwarmOnly,
    /// It is rejected while the swarm brings one or has just brought one, for half an
    /// hour at most.
    #[default]
    PreferSwarm,
    /// It is taken as without an adapter.
    Any,
}

/// `[network]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Nodes of different networks do not meet.
    pub name: String,
    /// Addresses to listen on; empty: [`DEFAULT_LISTEN`], and [`ANY_LISTEN`]
    /// when its port is taken.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach us, where they cannot be found out.
    pub external_addresses: Vec<Multiaddr>,
    /// Peers to begin with, each with `/p2p/PEER_ID`.
    pub bootstrap: Vec<Multiaddr>,
    /// A file with the network's pre-shared key; relative to the home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psk_file: Option<PathBuf>,
    /// Part in the DHT.
    pub mode: DhtMode,
    /// Peer ids that alone may connect; empty: everybody may.
    pub allow_peers: Vec<String>,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            name: PUBLIC_NETWORK.to_owned(),
            listen: Vec::new(),
            external_addresses: Vec::new(),
            bootstrap: Vec::new(),
            psk_file: None,
            mode: DhtMode::Auto,
            allow_peers: Vec::new(),
        }
    }
}

/// Part in the DHT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DhtMode {
    /// A client until an address is confirmed from outside, then a server.
    #[default]
    Auto,
    /// A server always: for loopback and local networks, where nobody confirms
    /// addresses.
    Server,
    /// Never a server.
    Client,
}

/// `[store]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Newest harvested snapshots kept for each chain; pinned ones are kept
    /// beside them, and so is what a person loaded or fetched.
    pub max_snapshots: u32,
    /// All snapshots together; absent: as much as the disk has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_quota: Option<ByteSize>,
    /// The largest snapshot that is downloaded without being named by its CID.
    pub max_download_bytes: ByteSize,
    /// How long a snapshot is kept after somebody last downloaded from it.
    pub lease_minutes: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            max_snapshots: 5,
            disk_quota: None,
            max_download_bytes: ByteSize(200 << 30),
            lease_minutes: 10,
        }
    }
}

impl StoreConfig {
    /// The lease as a duration.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(u64::from(self.lease_minutes) * 60)
    }
}

/// `[upload]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UploadConfig {
    /// Which defaults the other two keys have.
    pub profile: UploadProfile,
    /// Bytes a second on the wire over all peers; 0 is no limit; absent: the
    /// profile's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<ByteSize>,
    /// Peers served at once; 0 measures the uplink and decides; absent: the
    /// profile's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<u32>,
}

/// Upload defaults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadProfile {
    /// A machine whose uplink is for this.
    #[default]
    Open,
    /// A machine beside a validator, whose votes go first.
    Validator,
}

impl UploadConfig {
    /// Beside a validator: enough to be of use, a tenth of a gigabit uplink.
    pub const VALIDATOR_BYTES_PER_S: u64 = 12_000_000;
    /// Beside a validator: few seeks and little memory at a time.
    pub const VALIDATOR_SLOTS: u32 = 4;
    /// The protocol has no use for more: `facts/swarm-policy.md` caps at 64.
    pub const MAX_SLOTS: u32 = 64;

    /// The limit in force; 0 is none.
    pub fn bytes_per_s(&self) -> u64 {
        match (self.bytes_per_s, self.profile) {
            (Some(limit), _) => limit.0,
            (None, UploadProfile::Open) => 0,
            (None, UploadProfile::Validator) => Self::VALIDATOR_BYTES_PER_S,
        }
    }

    /// The slots in force; 0 is measured.
    pub fn slots(&self) -> u32 {
        match (self.slots, self.profile) {
            (Some(slots), _) => slots,
            (None, UploadProfile::Open) => 0,
            (None, UploadProfile::Validator) => Self::VALIDATOR_SLOTS,
        }
    }
}

/// `[announce]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnnounceConfig {
    /// What is announced.
    pub what: AnnounceWhat,
}

/// What is announced in the DHT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum AnnounceWhat {
    /// Chains, snapshots and their chunks, within a paced budget.
    #[default]
    #[serde(rename = "manifests+chunks")]
    ManifestsAndChunks,
    /// Chains and snapshots only.
    #[serde(rename = "manifests")]
    Manifests,
}

/// `[harvest]`: none of the keys, or `rpc` and one or both of the others.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HarvestConfig {
    /// `ID@HOST:PORT` of the node's p2p listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The folder in which a Cosmos SDK node keeps its snapshots; relative to the
    /// home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdk_snapshots: Option<PathBuf>,
    /// URL of the node's RPC, for the application hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc: Option<String>,
}

/// `[api]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where the read-only status page listens; loopback only; port 0 is any.
    pub http: SocketAddr,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}

impl Config {
    /// The pre-shared key's file, seen from `home`.
    pub fn psk_file(&self, home: &Path) -> Option<PathBuf> {
        self.network.psk_file.as_ref().map(|file| home.join(file))
    }

    /// The snapshot folder of a Cosmos SDK node, seen from `home`.
    pub fn sdk_snapshots(&self, home: &Path) -> Option<PathBuf> {
        let folder = self.harvest.sdk_snapshots.as_ref();
        folder.map(|folder| home.join(folder))
    }
}
