//! What a person can ask of a home, and what comes back: the contract between
//! the command line, the control socket and the hall. The JSON forms are
//! DESIGN.md §11's; scripts rely on them.

mod belief;
mod outcome;
mod states;

use std::path::PathBuf;

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

pub use self::belief::{Basis, Endorsed, EndorsementDetail};
pub use self::outcome::{
    Changed, ChunkDetail, DamagedSummary, DownloadStatus, Dumped, Fed, Fetched, FolderStatus,
    HarvestStatus, Harvested, JoinPhase, JoinStatus, JoinStep, Joined, LimitsNow, Loaded,
    NetworkStatus, Noted, Outcome, PeerBytes, Seeding, SnapshotDetail, SnapshotList,
    SnapshotSummary, StatePublished, Status, UploadStatus, Verified, XianStatus,
};
pub use self::states::{Amount, DeltaMade, Diffed, GenesisWritten, ScopeDiff, StateName};
pub use crate::snapshot::{MAX_HEIGHT, STATE_FORMAT};

/// One verb with its arguments. Paths are absolute: the process that carries
/// the command out may have another working folder than the person.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Command {
    /// Publish chunks from a folder, one file or a CAR.
    Load(LoadCommand),
    /// Gather a snapshot from the swarm.
    Fetch(FetchCommand),
    /// Offer a complete snapshot to a joining CometBFT node.
    Feed(FeedCommand),
    /// All snapshots of the home.
    List,
    /// One snapshot in detail.
    Show(ManifestCommand),
    /// Read a snapshot back and check every byte.
    Verify(VerifyCommand),
    /// Write a snapshot, or the records of its state, into a file.
    Dump(DumpCommand),
    /// Say what changed from one state to another.
    Diff(DiffCommand),
    /// Write a state as the beginning of a new network.
    Genesis(GenesisCommand),
    /// Make a snapshot of what leads from one state to another.
    Delta(DeltaCommand),
    /// Remove a snapshot.
    Delete(ManifestCommand),
    /// Keep a snapshot whatever its age.
    Pin(ManifestCommand),
    /// Let a snapshot go when its time comes.
    Unpin(ManifestCommand),
    /// Vouch for a snapshot.
    Endorse(ManifestCommand),
    /// What the home holds and what its daemon does.
    Status,
    /// Change upload limits of a running daemon.
    Limits(LimitsCommand),
    /// Take new snapshots from an application, as the adapter asks for it.
    Harvest(HarvestCommand),
    /// Make a snapshot of the copy of a Xian node's storage, as the adapter asks for it.
    PublishCopy(CopyCommand),
    /// How it stands with such copies, for the status.
    Copying(XianStatus),
    /// How far a join is, for the status.
    Joining(JoinStatus),
}

impl Command {
    /// Whether it only looks at the home: such a verb needs neither the home's
    /// lock nor the right to write. Damage that `verify` finds is told first and
    /// moved aside after.
    pub fn only_looks(&self) -> bool {
        match self {
            Self::List
            | Self::Show(_)
            | Self::Verify(_)
            | Self::Dump(_)
            | Self::Diff(_)
            | Self::Genesis(_)
            | Self::Status => true,
            Self::Load(_)
            | Self::Fetch(_)
            | Self::Feed(_)
            | Self::Delta(_)
            | Self::Delete(_)
            | Self::Pin(_)
            | Self::Unpin(_)
            | Self::Endorse(_)
            | Self::Limits(_)
            | Self::Harvest(_)
            | Self::PublishCopy(_)
            | Self::Copying(_)
            | Self::Joining(_) => false,
        }
    }
}

/// Whether a chain can have this id: 1 to 50 printable ASCII characters.
pub fn check_chain_id(text: &str) -> Result<(), String> {
    crate::snapshot::check_chain_id(text)
}

/// Whether an application can listen there: tcp://HOST:PORT or unix://PATH.
pub fn check_app_address(text: &str) -> Result<(), String> {
    let address: Result<crate::abci::Address, _> = text.parse();
    address.map(drop).map_err(|error| error.to_string())
}

/// What an application has, and what the chain has confirmed of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HarvestCommand {
    /// Its ABCI socket.
    pub app: String,
    /// Its chain.
    pub chain_id: String,
    /// Its snapshots.
    pub offers: Vec<AppOffer>,
}

/// One snapshot of an application.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AppOffer {
    /// Its height.
    pub height: u64,
    /// Its ABCI format.
    pub format: u32,
    /// How many chunks it has.
    pub chunks: u32,
    /// ABCI hash, hex.
    pub hash: String,
    /// ABCI metadata, hex.
    pub metadata: String,
    /// The application hash of header H+1, hex, once the chain has it.
    pub app_hash: Option<String>,
}

/// A consistent copy of the storage of a Xian node that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CopyCommand {
    /// Its chain.
    pub chain_id: String,
    /// Where the copy is; nobody writes it until this is answered.
    pub copy: PathBuf,
    /// The chain's `state_patches.json`; it may be missing.
    pub state_patches: Option<PathBuf>,
    /// The block whose state it is.
    pub height: u64,
    /// The application hash after it, hex, as the chain has confirmed it.
    pub app_hash: String,
}

/// Where `load` finds its chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadKind {
    /// A folder: each file is a chunk.
    Files,
    /// One file: the only chunk.
    File,
    /// A CAR that `dump` wrote.
    Car,
    /// The storage of a Xian node that does not run.
    Xian,
}

/// Arguments of `load`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadCommand {
    /// File or folder.
    pub path: PathBuf,
    /// What it is.
    pub kind: LoadKind,
    /// Chain id; not used for a CAR, which names its own, but checked when given. A
    /// Xian node's stands in the genesis beside its storage.
    pub chain_id: Option<String>,
    /// Height; a CAR and a storage name their own, and it is checked when given.
    pub height: Option<u64>,
    /// Application hash of header H+1, hex; that of a storage is checked when given.
    pub app_hash: Option<String>,
    /// ABCI snapshot format.
    pub format: Option<u32>,
    /// ABCI snapshot hash, hex.
    pub hash: Option<String>,
    /// ABCI snapshot metadata, hex.
    pub metadata: Option<String>,
    /// Of a Xian node, its `state_patches.json`.
    #[serde(default)]
    pub state_patches: Option<PathBuf>,
}

/// Which snapshot to fetch.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FetchTarget {
    /// The one of this name.
    Manifest(String),
    /// The newest complete one of a chain, or the one at a height.
    Chain {
        /// Chain id.
        chain_id: String,
        /// Exactly this height.
        height: Option<u64>,
    },
}

/// Arguments of `fetch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FetchCommand {
    /// What.
    pub target: FetchTarget,
    /// Peers to begin with, beside the configured and remembered ones.
    pub bootstrap: Vec<String>,
    /// CometBFT RPC that tells the application hash.
    pub node_rpc: Option<String>,
    /// Endpoints of the chain which prove it, instead of one that tells it.
    #[serde(default)]
    pub chain: Option<ChainCommand>,
    /// Folder that gets the chunks as files as well.
    pub out: Option<PathBuf>,
    /// How long to look for a provider before giving up, seconds.
    pub timeout_s: u64,
    /// Of a chain, no snapshot below this height.
    #[serde(default)]
    pub not_below: Option<u64>,
    /// Of a chain, none of these CIDs.
    #[serde(default)]
    pub except: Vec<String>,
    /// Of a chain, only records of a state: an application's own snapshots prove nothing
    /// where the application hash does not commit to the state.
    #[serde(default)]
    pub state_only: bool,
    /// Folders that the state is to be restored into: each must have room for as many
    /// bytes as the snapshot has, beside those that are downloaded. None named: it is not
    /// to be restored now.
    #[serde(default)]
    pub room_for: Vec<PathBuf>,
    /// Of a state, only what holds these contracts; empty: all of it.
    #[serde(default)]
    pub only: Vec<String>,
}

impl FetchCommand {
    /// Whether a node gets its state from it.
    pub fn is_to_be_restored(&self) -> bool {
        !self.room_for.is_empty()
    }
}

/// A chain, and what is believed of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChainCommand {
    /// Its id.
    pub chain_id: String,
    /// RPC endpoints; at least two, unless a block is trusted.
    pub endpoints: Vec<String>,
    /// A block that the person trusts, instead of what the endpoints agree in: height
    /// and hash in hex.
    pub trusted: Option<(u64, String)>,
    /// How old a block may be to be trusted, seconds.
    pub trust_period_s: u64,
}

/// What the chain's header behind a height says of the state there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProvenState {
    /// Application hash, hex.
    pub app_hash: String,
    /// The application's version.
    pub app_version: u64,
}

/// Arguments of `feed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FeedCommand {
    /// The snapshot.
    pub manifest: String,
    /// `ID@HOST:PORT` of the joining node's p2p listener.
    pub node_p2p: String,
    /// Its RPC.
    pub node_rpc: String,
    /// RPC of another node of the chain, which proves the application hash of a
    /// snapshot that is not proven yet.
    #[serde(default)]
    pub chain_rpc: Option<String>,
    /// What the chain was proven to have after the snapshot's height; with it nobody is
    /// asked.
    #[serde(default)]
    pub proof: Option<ProvenState>,
    /// How long the whole restore may take without any progress, seconds.
    pub timeout_s: u64,
}

/// A verb that takes a snapshot's name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManifestCommand {
    /// The snapshot, as CID.
    pub manifest: String,
}

/// Arguments of `verify`: a CID or a CAR file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyCommand {
    /// A snapshot of the home.
    Manifest(String),
    /// A file.
    Car(PathBuf),
}

/// What `dump` writes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DumpFormat {
    /// The snapshot itself, as a CAR file.
    #[default]
    Car,
    /// The records of its state, one on each line, as JSON.
    Jsonl,
    /// The same as a database of SQLite.
    Sqlite,
    /// The same as the storage folder of a Xian node.
    Xian,
}

/// Arguments of `dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DumpCommand {
    /// The snapshot, as CID.
    pub manifest: String,
    /// The file or folder to write; must not exist.
    pub file: PathBuf,
    /// What to write.
    #[serde(default)]
    pub format: DumpFormat,
}

/// Arguments of `diff`: two snapshots of state content, as CIDs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiffCommand {
    /// The earlier state.
    pub from: String,
    /// The later one.
    pub to: String,
}

/// Arguments of `delta`: two snapshots of state content of one chain, as CIDs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeltaCommand {
    /// What the delta builds on.
    pub base: String,
    /// The later state.
    pub to: String,
}

/// For whom `genesis` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenesisFormat {
    /// The `abci_genesis` of a Xian network.
    Xian,
}

/// Arguments of `genesis`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GenesisCommand {
    /// The snapshot whose state it is, as CID.
    pub manifest: String,
    /// For whom.
    pub format: GenesisFormat,
    /// The file to write; must not exist.
    pub file: PathBuf,
}

/// New upload limits; what is absent stays.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LimitsCommand {
    /// Bytes a second over all peers; 0 lifts the limit.
    pub upload_bytes_per_s: Option<u64>,
    /// Peers served at once.
    pub upload_slots: Option<u32>,
}

/// What a verb says while it works.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub enum Progress {
    /// A new phase begins; a sentence.
    Phase {
        /// What happens now.
        text: String,
        /// What comes after it, when that is known: "sealing the archive".
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    },
    /// Bytes of the phase.
    Bytes {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
        /// Bytes a second, over the last few seconds.
        rate: u64,
        /// Peers that deliver.
        peers: u32,
        /// Seconds to the end, when it can be told.
        eta_s: Option<u64>,
    },
    /// Something worth a line.
    Note {
        /// The line.
        text: String,
    },
}

/// Why a verb failed; its number is the exit code.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// Failed for a reason of its own.
    Failed,
    /// Wrong use.
    Usage,
    /// Not found, or not within the time given.
    NotFound,
    /// Bytes or hashes do not fit.
    Verification,
    /// No space, or a storage fault.
    Storage,
    /// Interrupted; the same command goes on where it stopped.
    Interrupted,
    /// Stopped by policy.
    Policy,
}

impl FailureCode {
    /// The process's exit code (DESIGN.md §11).
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Verification => 4,
            Self::Storage => 5,
            Self::Interrupted => 6,
            Self::Policy => 7,
        }
    }
}

/// A failure as a person or a script sees it.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its class.
    pub code: FailureCode,
    /// What happened, to what.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Whether it is about the chain itself, as its endpoints tell of it: then no other
    /// snapshot and no other way is any better.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub about_chain: bool,
    /// Whether the daemon went away before it answered: what was asked may be asked of the
    /// next one.
    #[serde(skip)]
    pub daemon_gone: bool,
}

/// What `start` was told on the command line; it wins over the configuration.
#[derive(Clone, Debug, Default)]
pub struct StartOptions {
    /// Addresses to listen on; empty: the configured ones.
    pub listen: Vec<Multiaddr>,
    /// Peers to begin with, beside the configured and remembered ones.
    pub bootstrap: Vec<Multiaddr>,
    /// Addresses under which others reach us, beside the configured ones.
    pub external_addresses: Vec<Multiaddr>,
    /// `ID@HOST:PORT` of a CometBFT node whose snapshots are taken; comes with
    /// [`Self::node_rpc`].
    pub harvest: Option<String>,
    /// The folder in which a Cosmos SDK node keeps its snapshots; comes with
    /// [`Self::node_rpc`].
    pub sdk_snapshots: Option<PathBuf>,
    /// URL of the node's RPC.
    pub node_rpc: Option<String>,
}

/// The first line of `start`: all listeners are bound.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Own peer id.
    pub peer_id: String,
    /// Addresses bound, with `/p2p/PEER_ID`.
    pub listen: Vec<String>,
    /// The status page, `http://127.0.0.1:PORT`.
    pub api: String,
}

/// Of `init`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Initialised {
    /// Own peer id.
    pub peer_id: String,
    /// The configuration file.
    pub config: PathBuf,
}
