//! What the store tells about snapshots, and its settings.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Bitmap, ChunkId, Manifest, ManifestId, PieceIndex, Scope, UniqueIndex};

/// How long a snapshot that someone downloads from us is kept beyond its time
/// (DESIGN.md §6).
pub const DEFAULT_LEASE: Duration = Duration::from_secs(600);

/// Harvested snapshots kept of each chain.
pub const DEFAULT_MAX_SNAPSHOTS: u32 = 5;

/// Limits of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreSettings {
    /// Bytes that archives and downloads may take together; nothing: as many as
    /// the disk has. Temporaries of a publication are not counted.
    pub quota_bytes: Option<u64>,
    /// The newest harvested snapshots of each chain that are kept. What is
    /// pinned is kept beside them, and so is what a person loaded or fetched.
    pub max_snapshots: u32,
    /// How long a lease holds, and how long leases can delay a removal.
    pub lease: Duration,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            quota_bytes: None,
            max_snapshots: DEFAULT_MAX_SNAPSHOTS,
            lease: DEFAULT_LEASE,
        }
    }
}

/// How a snapshot came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A person loaded it from files.
    Loaded,
    /// It was taken from a CometBFT node.
    Harvested,
    /// It came from the swarm.
    Fetched,
    /// The same, as a way to another one only: a delta on top of what was here.
    Step,
    /// A delta that was made here of what was harvested, without a person asking for it.
    Derived,
}

impl Origin {
    /// The word for people and scripts: loaded, harvested, fetched, step, derived.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Harvested => "harvested",
            Self::Fetched => "fetched",
            Self::Step => "step",
            Self::Derived => "derived",
        }
    }

    /// Of a snapshot that came twice: what a person brought stays as it was, what was
    /// harvested or derived becomes a person's, and a step whatever it comes as.
    pub(super) fn or(self, later: Self) -> Self {
        match (self, later) {
            (Self::Step, later) => later,
            (before, Self::Step) => before,
            (Self::Harvested | Self::Derived, later) => later,
            (Self::Loaded | Self::Fetched, _) => self,
        }
    }
}

/// A snapshot of the home, complete or under download.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it is.
    pub manifest: Arc<Manifest>,
    /// Whether all of it is here.
    pub complete: bool,
    /// Bytes of distinct chunks that are here and verified.
    pub have_bytes: u64,
    /// Of one that is not complete: the scopes that were asked for, where no more is to
    /// come.
    pub only: Vec<Scope>,
    /// Whether it is kept whatever its age.
    pub pinned: bool,
    /// Whether the chain itself confirmed the application hash.
    pub proven: bool,
    /// The application's version in the chain's header that did, where it is known.
    pub app_version: Option<u64>,
    /// How it came here.
    pub origin: Origin,
    /// When it came here: seconds since 1970.
    pub added_unix_s: u64,
    /// Until when its removal waits for someone who downloads it.
    pub leased_until: Option<Instant>,
    /// Whether it is being downloaded by this process.
    pub downloading: bool,
    /// The archive, or the download.
    pub file: PathBuf,
    /// What the file takes on disk.
    pub file_bytes: u64,
}

/// A file that was moved aside because its bytes could not be trusted, or that
/// cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedFile {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong; for a file that an earlier run moved, only that it did.
    pub problem: String,
    /// It could not be read, and may be as it should be.
    pub unread: bool,
}

impl DamagedFile {
    /// One whose bytes are wrong.
    pub(super) fn new(path: PathBuf, problem: String) -> Self {
        Self {
            path,
            problem,
            unread: false,
        }
    }

    /// The snapshot to which it belonged, by its name.
    pub fn manifest(&self) -> Option<ManifestId> {
        super::home::owner(&self.path)
    }
}

/// Where a verified chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundChunk {
    /// The snapshot that holds it.
    pub manifest: ManifestId,
    /// Its number there.
    pub unique: UniqueIndex,
    /// Its size in bytes.
    pub size: u32,
    /// Where it begins in the file.
    pub offset: u64,
    /// Whether that snapshot is complete.
    pub complete: bool,
}

/// What others can have of a snapshot from us.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Servable {
    /// All of it.
    Complete,
    /// The pieces of its checked chunks.
    Pieces(Bitmap),
}

/// What reading a chunk of a download back showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkVerdict {
    /// It has its SHA-256, stands at each of its places, and can be served.
    Checked,
    /// Each piece has the SHA-256 that the manifest says, and the chunk has not:
    /// the manifest is false and can never be completed.
    ManifestFalse,
    /// The disk gave back other bytes than were written: these pieces are
    /// missing again.
    Damaged(Vec<PieceIndex>),
}

/// A snapshot that was removed to keep the limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Removed {
    /// Which.
    pub id: ManifestId,
    /// Its chain.
    pub chain_id: String,
    /// Its height.
    pub height: u64,
    /// Bytes that are free now.
    pub bytes: u64,
    /// Its distinct chunks: what is not served any more unless another snapshot
    /// has them.
    pub chunks: Vec<ChunkId>,
    /// Why.
    pub because: RemovedBecause,
}

/// Why a snapshot was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RemovedBecause {
    /// The harvest brought `max_snapshots` newer ones of its chain.
    Superseded,
    /// The quota needed its bytes.
    Quota,
    /// Somebody took its file away.
    Vanished,
}

/// Of a check of a whole snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Which snapshot.
    pub id: ManifestId,
    /// Chunks that were read and hashed.
    pub chunks: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Whether they hold the records of a state.
    pub state: bool,
}

/// Of an export into a CAR file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exported {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub file_bytes: u64,
}

/// Of an import from a CAR file.
#[derive(Clone, Debug)]
pub struct Imported {
    /// What it holds.
    pub manifest: Arc<Manifest>,
    /// False when the snapshot was here before; the file was not read beyond its
    /// manifest then.
    pub new: bool,
}

/// Called by long operations with the bytes done and the bytes in all; the
/// operation ends with [`StoreError::Stopped`](super::StoreError::Stopped) when
/// it breaks.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;
