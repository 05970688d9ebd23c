//! What the verbs give back: the JSON forms on stdout.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::DumpFormat;
use super::belief::{Basis, Endorsed, EndorsementDetail};
use super::states::{DeltaMade, Diffed, GenesisWritten};

/// What a verb gives back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Of `load`.
    Loaded(Loaded),
    /// Of `fetch`.
    Fetched(Fetched),
    /// Of `feed`.
    Fed(Fed),
    /// Of `list`.
    List(SnapshotList),
    /// Of `show`.
    Shown(Box<SnapshotDetail>),
    /// Of `verify`.
    Verified(Verified),
    /// Of `dump`.
    Dumped(Dumped),
    /// Of `diff`.
    Diffed(Diffed),
    /// Of `genesis`.
    Genesis(GenesisWritten),
    /// Of `delta`.
    Delta(DeltaMade),
    /// Of `delete`, `pin`, `unpin`.
    Changed(Changed),
    /// Of `endorse`.
    Endorsed(Endorsed),
    /// Of `limits`.
    Limits(LimitsNow),
    /// Of what the adapter asks for.
    Harvested(Harvested),
    /// Likewise, of a copy.
    StatePublished(StatePublished),
    /// Of `status`.
    Status(Box<Status>),
    /// Of what a join tells of itself.
    Noted(Noted),
}

/// Of what a join tells of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Noted {
    /// Always true.
    pub noted: bool,
}

/// Of `join`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Joined {
    /// Where the state came from: swarm, peers, blocks; none for a node that had
    /// blocks already.
    pub rung: String,
    /// CID of the snapshot that was restored from the swarm.
    pub manifest: Option<String>,
    /// Why its state was believed, where the chain's application hash does not prove it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub believed: Option<String>,
    /// Its height.
    pub snapshot_height: Option<u64>,
    /// The node's newest block when it was where the chain is.
    pub height: u64,
    /// The application hash in that block, hex.
    pub app_hash: Option<String>,
    /// From the start to that moment.
    pub seconds: f64,
    /// What took how long, in order.
    pub phases: Vec<JoinPhase>,
    /// What was tried before and did not hold.
    pub steps: Vec<JoinStep>,
    /// The download, where there was one.
    pub fetched: Option<Fetched>,
    /// The daemon that was left behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeding: Option<Seeding>,
}

/// A daemon in the background.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seeding {
    /// Its process.
    pub process: u32,
    /// What it says.
    pub log: PathBuf,
}

/// A phase of a join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinPhase {
    /// What was done.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
}

/// A rung of the ladder that did not hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinStep {
    /// Which.
    pub rung: String,
    /// Why.
    pub why: String,
}

/// How far a join is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinStatus {
    /// The node's home.
    pub node_home: PathBuf,
    /// The rung that is being tried, or held.
    pub rung: String,
    /// What is being done.
    pub phase: String,
    /// Height of the snapshot.
    pub height: Option<u64>,
    /// What was tried before and did not hold.
    pub steps: Vec<JoinStep>,
}

/// Of what the adapter asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Harvested {
    /// CIDs of what was taken.
    pub taken: Vec<String>,
    /// Height, format and ABCI hash (hex) of what need not be asked for again: it is
    /// here, or was here and was removed, or is older than what is kept.
    #[serde(default)]
    pub settled: Vec<(u64, u32, String)>,
    /// Height and format of what is to be asked for again.
    pub waiting: Vec<(u64, u32)>,
    /// The trouble that there was.
    pub trouble: Option<String>,
}

/// Of a copy that became a snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatePublished {
    /// CID.
    pub published: String,
    /// Height.
    pub height: u64,
    /// How many records its state has.
    pub records: u64,
    /// Number of chunks.
    pub chunks: u32,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// Time taken.
    pub seconds: f64,
}

/// Of `load`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loaded {
    /// CID.
    pub manifest: String,
    /// Number of chunks.
    pub chunks: u32,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// How many records its state has; absent where chunks are the application's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// Whether the snapshot of a CAR was here before; then the file was not read beyond
    /// its manifest.
    #[serde(default)]
    pub was_here: bool,
    /// Time taken.
    pub seconds: f64,
    /// Whether the chain itself (its RPC) confirmed the application hash: not by
    /// loading, but of the same snapshot before.
    pub proven: bool,
    /// Application hash that it carries, hex; absent in a snapshot without one.
    #[serde(default)]
    pub app_hash: Option<String>,
}

/// Of `fetch`. Waste is received + resumed − bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetched {
    /// CID.
    pub manifest: String,
    /// Of the snapshot.
    #[serde(default)]
    pub height: u64,
    /// Bytes of the distinct chunks.
    pub bytes: u64,
    /// Piece payload received in this run, duplicates and bad included.
    pub received_bytes: u64,
    /// Bytes that earlier runs had brought.
    pub resumed_bytes: u64,
    /// received + resumed − bytes.
    pub wasted_bytes: u64,
    /// Time taken.
    pub seconds: f64,
    /// Whether a CometBFT RPC confirmed the application hash, and that stands for the
    /// state: never where it holds the records of a state.
    pub proven: bool,
    /// Whether a CometBFT RPC confirmed the application hash, whatever that proves.
    #[serde(default)]
    pub app_hash_confirmed: bool,
    /// The application hash that the snapshot names, hex.
    pub app_hash: Option<String>,
    /// What came from whom.
    pub peers: Vec<PeerBytes>,
    /// Whether it holds the records of a state, and not what an application takes.
    #[serde(default)]
    pub state: bool,
    /// Whether all of it was here before; then nothing of it was read now.
    #[serde(default)]
    pub was_here: bool,
    /// The contracts (scopes) that are here whole, of those that were asked for now or
    /// before, where it is not all of the snapshot; `bytes` are those of the chunks that
    /// were asked for now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// Why the state is believed, of a snapshot whose state no application hash
    /// proves; absent where it is not, and in every other snapshot.
    #[serde(default)]
    pub basis: Option<Basis>,
    /// Of a delta, CID of what it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// What one peer gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerBytes {
    /// Peer id.
    pub peer_id: String,
    /// Piece payload.
    pub bytes: u64,
}

/// Of `feed`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fed {
    /// CID.
    pub manifest: String,
    /// Height restored.
    pub height: u64,
    /// Application hash, hex.
    pub app_hash: String,
    /// Whether the node took it and stored a state of that height.
    pub restored: bool,
    /// Time taken.
    pub seconds: f64,
}

/// Of `list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotList {
    /// Newest first.
    pub snapshots: Vec<SnapshotSummary>,
    /// Files that were moved aside, and files that cannot be read.
    #[serde(default)]
    pub damaged: Vec<DamagedSummary>,
    /// CIDs of pinned snapshots whose files were taken away.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// A damaged file of `list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DamagedSummary {
    /// CID of the snapshot to which it belonged: `delete` with it removes the
    /// file. Absent for another file of the home.
    pub manifest: Option<String>,
    /// Where it is now.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// It could not be read, and may be as it should be.
    #[serde(default)]
    pub unread: bool,
}

/// A line of `list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotSummary {
    /// CID.
    pub manifest: String,
    /// Chain id.
    pub chain_id: String,
    /// Height.
    pub height: u64,
    /// ABCI format.
    pub format: u32,
    /// Number of chunks.
    pub chunks: u32,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// Bytes of it that are here and verified.
    pub have_bytes: u64,
    /// Whether all of it is here.
    pub complete: bool,
    /// Of a delta, CID of what it builds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Whether it is kept whatever its age.
    pub pinned: bool,
    /// Whether the chain itself (its RPC) confirmed the application hash, and that stands
    /// for the state: never where it holds the records of a state, of which Xian's
    /// application hash says nothing.
    pub proven: bool,
    /// Whether the chain itself confirmed the application hash, whatever that proves.
    #[serde(default)]
    pub app_hash_confirmed: bool,
    /// How it came here: loaded, harvested, fetched; step, where it was fetched on the way
    /// to another one; derived, a delta that the daemon made.
    pub origin: String,
    /// Of one that is not complete: the contracts (scopes) that were asked for, where no
    /// more is to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// Of `show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotDetail {
    /// The line of `list`.
    pub snapshot: SnapshotSummary,
    /// Application hash, hex; absent in a snapshot without one.
    pub app_hash: Option<String>,
    /// ABCI hash, hex.
    pub hash: String,
    /// ABCI metadata, hex.
    pub metadata: String,
    /// Bytes of the manifest.
    pub manifest_bytes: u32,
    /// The archive file, or the download's.
    pub file: PathBuf,
    /// Why its state is believed by the settings, where no application hash proves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// In ABCI order.
    pub chunks: Vec<ChunkDetail>,
    /// How many records its state has, as it says; absent where chunks are the
    /// application's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// The scopes of its state: in Xian, contracts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The hash over the chain's state patches up to its height, hex, where it notes one:
    /// without it, or with another, the same records have another CID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches_sha256: Option<String>,
    /// Who speaks for it.
    #[serde(default)]
    pub endorsements: Vec<EndorsementDetail>,
}

/// A chunk of `show`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkDetail {
    /// ABCI index.
    pub index: u32,
    /// CID.
    pub cid: String,
    /// Bytes.
    pub size: u32,
}

/// Of `verify`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// CID.
    pub manifest: String,
    /// Number of chunks checked.
    pub chunks: u32,
    /// Bytes checked.
    pub verified_bytes: u64,
    /// Time taken.
    pub seconds: f64,
    /// Whether it holds the records of a state, and not what an application takes.
    #[serde(default)]
    pub state: bool,
}

/// Of `dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dumped {
    /// CID.
    pub manifest: String,
    /// The file or folder written.
    pub file: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// What was written.
    #[serde(default)]
    pub format: DumpFormat,
    /// Records in it; absent of a CAR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// The contracts (scopes) whose records these are, where it is not the whole state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
}

/// Of `delete`, `pin`, `unpin`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changed {
    /// CID.
    pub manifest: String,
    /// What was done: deleted, pinned, unpinned.
    pub done: String,
    /// Of what was deleted: CIDs of deltas that are here and build on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed_by: Vec<String>,
}

/// Of `limits`: what is in force now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsNow {
    /// Bytes a second over all peers; 0 is no limit.
    pub upload_bytes_per_s: u64,
    /// Peers served at once.
    pub upload_slots: u32,
}

/// Of `status`, and the body of `GET /v1/status`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Whether a daemon runs on this home.
    pub running: bool,
    /// Program version.
    pub version: String,
    /// Own peer id; empty where no daemon runs and the key cannot be read.
    pub peer_id: String,
    /// Addresses bound, with peer id.
    pub listen: Vec<String>,
    /// Connected peers.
    pub peers: u32,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Disk quota; absent when there is none.
    pub quota_bytes: Option<u64>,
    /// All snapshots.
    pub snapshots: Vec<SnapshotSummary>,
    /// Downloads under way.
    pub downloads: Vec<DownloadStatus>,
    /// Uploads so far and limits.
    pub upload: UploadStatus,
    /// The harvest, where one is configured.
    pub harvest: Option<HarvestStatus>,
    /// The join that this home's daemon was last told of.
    #[serde(default)]
    pub join: Option<JoinStatus>,
    /// The folder of a Cosmos SDK node, where one is configured.
    pub sdk_snapshots: Option<FolderStatus>,
    /// The snapshots of a Xian node, as its adapter told last.
    #[serde(default)]
    pub xian: Option<XianStatus>,
    /// This node's place in the swarm, while a daemon runs.
    #[serde(default)]
    pub network: Option<NetworkStatus>,
}

/// How others find and reach this node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Whether it answers for the DHT; else it only asks.
    pub dht_server: bool,
    /// Peers in the DHT's routing table.
    pub dht_peers: u64,
    /// External addresses that peers agree on, with a way in that was used.
    pub external_confirmed: Vec<String>,
    /// External addresses that peers name and that are not confirmed.
    pub external_observed: Vec<String>,
    /// Whether a person named external addresses.
    pub external_configured: bool,
    /// Whether a connection came in from a public address since the start.
    pub inbound_from_outside: bool,
}

/// A download under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DownloadStatus {
    /// CID.
    pub manifest: String,
    /// Bytes here and verified.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes a second.
    pub rate: u64,
    /// Peers that deliver.
    pub peers: u32,
}

/// Uploads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadStatus {
    /// Piece payload sent since start.
    pub bytes: u64,
    /// Peers being served.
    pub active: u32,
    /// Limits in force.
    pub limits: LimitsNow,
}

/// The harvest from a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HarvestStatus {
    /// `ID@HOST:PORT`.
    pub node: String,
    /// Whether its p2p connection stands.
    pub connected: bool,
    /// Newest height harvested.
    pub newest_height: Option<u64>,
    /// What went wrong last, if anything did since the last success.
    pub last_error: Option<String>,
}

/// The snapshot folder of a Cosmos SDK node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FolderStatus {
    /// The folder.
    pub folder: String,
    /// Newest height harvested.
    pub newest_height: Option<u64>,
    /// Why the newest snapshot that lies there is not here, where that is so.
    pub waiting: Option<String>,
    /// What went wrong last, if anything did since the last success.
    pub last_error: Option<String>,
}

/// The snapshots of a Xian node that runs behind an adapter.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct XianStatus {
    /// Its storage.
    pub storage: PathBuf,
    /// Blocks between two snapshots.
    pub snapshot_interval: u64,
    /// The block whose snapshot is being made.
    #[serde(default)]
    pub making: Option<u64>,
    /// Newest height of which there is a snapshot.
    #[serde(default)]
    pub newest_height: Option<u64>,
    /// How long the answer to Commit was held last, milliseconds.
    #[serde(default)]
    pub last_hold_ms: Option<f64>,
    /// Snapshots that were left out since the adapter was started, because the answer
    /// to Commit would have been held too long, or another was being made.
    #[serde(default)]
    pub skipped: u64,
    /// Snapshots that failed since then.
    #[serde(default)]
    pub failed: u64,
    /// What went wrong last, if anything did since the last success.
    #[serde(default)]
    pub last_error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_comes_back_from_json_as_the_kind_it_was() {
        let outcome = Outcome::Verified(Verified {
            manifest: "x".to_owned(),
            chunks: 1,
            verified_bytes: 2,
            seconds: 0.5,
            state: false,
        });
        let json = serde_json::to_string(&outcome).unwrap();
        assert!(matches!(
            serde_json::from_str::<Outcome>(&json).unwrap(),
            Outcome::Verified(_)
        ));
    }
}
