//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::snapshot::{ManifestError, ManifestId};

use super::disk::free_bytes;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has this home open.
    #[error("the home {} is in use{}", home.display(), by_pid(*pid))]
    Locked {
        /// The home folder.
        home: PathBuf,
        /// The process that holds it, when its lock file says so.
        pid: Option<u32>,
    },
    /// An operation on a file failed.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// What was tried: "read", "create", …
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is too full.
    #[error(
        "no space for {}: {needed} bytes are needed, {available} are free",
        path.display()
    )]
    NoSpace {
        /// The file that was to grow.
        path: PathBuf,
        /// Bytes that it needs.
        needed: u64,
        /// Bytes that its file system has left.
        available: u64,
    },
    /// The quota leaves no room, not even by removing all that may go.
    #[error(
        "{needed} more bytes do not fit the quota of {quota} bytes: {kept} bytes are kept \
         (loaded, fetched, pinned or being downloaded)"
    )]
    OverQuota {
        /// Bytes of the new file.
        needed: u64,
        /// The limit.
        quota: u64,
        /// Bytes that may not be removed.
        kept: u64,
    },
    /// The home has no such snapshot.
    #[error("there is no snapshot {0} here")]
    NotFound(ManifestId),
    /// The snapshot is here in part only.
    #[error("snapshot {0} is not complete yet")]
    Incomplete(ManifestId),
    /// The snapshot is here already.
    #[error("snapshot {0} is complete already")]
    AlreadyComplete(ManifestId),
    /// The snapshot is being downloaded by another task of this process.
    #[error("snapshot {0} is being downloaded already")]
    DownloadOpen(ManifestId),
    /// A download cannot be sealed: a chunk was not checked.
    #[error("snapshot {id} cannot be sealed: {missing} of its chunks are not checked")]
    Unchecked {
        /// Which snapshot.
        id: ManifestId,
        /// Distinct chunks that are not checked.
        missing: u32,
    },
    /// A verified piece does not fit the download it was given to.
    #[error("piece {piece} does not belong to snapshot {id}")]
    ForeignPiece {
        /// Which download.
        id: ManifestId,
        /// The number of the piece.
        piece: u32,
    },
    /// A file of ours has other bytes than it should have.
    #[error("{} is damaged: {problem}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where in it.
        problem: String,
    },
    /// libhdf5 did not make a skeleton.
    #[error("cannot create the archive {}: {problem}", path.display())]
    Hdf5 {
        /// Which file.
        path: PathBuf,
        /// What libhdf5 said.
        problem: String,
    },
    /// Chunks and fields do not make a snapshot.
    #[error("these chunks and fields make no snapshot: {0}")]
    Manifest(#[from] ManifestError),
    /// A CAR file is not one that can be taken.
    #[error("{}, byte {offset}: {problem}", path.display())]
    Car {
        /// The file.
        path: PathBuf,
        /// Where in it the problem begins.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The caller's own check refused the manifest of a CAR file.
    #[error("{} is not taken: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file would be overwritten.
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    /// A folder that must be empty is not.
    #[error("the folder {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// A place outside of the home cannot be written.
    #[error("cannot write to {}", path.display())]
    Outside {
        /// Where the person wanted the bytes.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk of a place outside of the home is too full.
    #[error(
        "no space at {}: {needed} bytes or more are needed, {available} are free", path.display()
    )]
    OutsideFull {
        /// Where the person wanted the bytes.
        path: PathBuf,
        /// Bytes that they are at least.
        needed: u64,
        /// Bytes that the file system there has left.
        available: u64,
    },
    /// The caller's progress callback asked to stop.
    #[error("interrupted")]
    Stopped,
}

/// The class of an error, from which an exit code follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The disk or a limit on it: no space, quota, a failing file.
    Storage,
    /// Bytes that are not what they should be.
    Verification,
    /// What was asked for is not here.
    NotFound,
    /// The request makes no sense as it stands: a file exists, fields are wrong.
    Usage,
    /// A limit or check of the caller's own said no.
    Policy,
    /// Stopped on request.
    Interrupted,
    /// Something else has the home or the download.
    Busy,
}

impl StoreError {
    /// What class of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. }
            | Self::NoSpace { .. }
            | Self::OverQuota { .. }
            | Self::Outside { .. }
            | Self::OutsideFull { .. }
            | Self::Hdf5 { .. } => ErrorKind::Storage,
            Self::Damaged { .. } | Self::Car { .. } => ErrorKind::Verification,
            Self::NotFound(_) | Self::Incomplete(_) => ErrorKind::NotFound,
            Self::AlreadyComplete(_)
            | Self::Unchecked { .. }
            | Self::ForeignPiece { .. }
            | Self::Manifest(_)
            | Self::Refused { .. }
            | Self::Exists(_)
            | Self::NotEmpty(_) => ErrorKind::Usage,
            Self::Stopped => ErrorKind::Interrupted,
            Self::Locked { .. } | Self::DownloadOpen(_) => ErrorKind::Busy,
        }
    }

    /// Whether the same call can succeed later without another change than time
    /// or a person making room.
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            ErrorKind::Storage | ErrorKind::Busy | ErrorKind::Interrupted => true,
            ErrorKind::Verification
            | ErrorKind::NotFound
            | ErrorKind::Usage
            | ErrorKind::Policy => false,
        }
    }

    /// What a person can do about it, where something can be done.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Locked { pid, .. } => match pid {
                Some(pid) => format!(
                    "Process {pid} uses this home: its daemon (`snapswarm status` tells), or a \
                     verb that ends by itself, such as a fetch (`snapswarm list` shows what it \
                     brings). Wait for it or stop it, or give another home with --home."
                ),
                None => "Wait for the other snapswarm on this home or stop it, or use another \
                         --home."
                    .to_owned(),
            },
            Self::Io { source, path, .. } => return io_hint(source, path),
            Self::NoSpace {
                path,
                needed,
                available,
            } => format!(
                "Free at least {} bytes on the disk of {}, delete snapshots (snapswarm list, \
                 snapswarm delete CID), or use a home on a larger disk.",
                needed.saturating_sub(*available),
                path.display()
            ),
            Self::OverQuota { .. } => {
                "Raise the quota (store.disk_quota in config.toml), or unpin or delete snapshots \
                 (snapswarm list)."
                    .to_owned()
            }
            Self::Incomplete(id) => format!("snapswarm fetch {id} goes on with it."),
            Self::Damaged { .. } => {
                "snapswarm verify CID moves it aside; then fetch or load it again, and check the \
                 disk if this comes back."
                    .to_owned()
            }
            Self::Car { .. } => {
                "Make the file again with snapswarm dump, or copy it again.".to_owned()
            }
            Self::Outside { .. } => "Give a place that this user may write to.".to_owned(),
            Self::OutsideFull {
                needed, available, ..
            } => format!(
                "Free at least {} bytes there, or give a place on another disk.",
                needed.saturating_sub(*available).max(1)
            ),
            Self::Exists(_) => "Give another name, or remove the file first.".to_owned(),
            Self::NotEmpty(_) => "Give a new or an empty folder.".to_owned(),
            Self::DownloadOpen(id) => format!(
                "`snapswarm status` shows how far it is. Wait for it, or stop its `snapswarm fetch \
                 {id}` with Ctrl-C."
            ),
            Self::NotFound(_)
            | Self::AlreadyComplete(_)
            | Self::Unchecked { .. }
            | Self::ForeignPiece { .. }
            | Self::Hdf5 { .. }
            | Self::Manifest(_)
            | Self::Refused { .. }
            | Self::Stopped => return None,
        })
    }

    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }

    /// The error of writing `needed` more bytes to a place outside of the home.
    pub(super) fn outside(path: &Path, needed: u64) -> impl Fn(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::OutsideFull {
                path: path.to_owned(),
                needed,
                available: free_bytes(path).unwrap_or(0),
            },
            _ => Self::Outside {
                path: path.to_owned(),
                source,
            },
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            problem: problem.into(),
        }
    }
}

fn by_pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" by process {pid}"))
        .unwrap_or_default()
}

fn io_hint(source: &io::Error, path: &Path) -> Option<String> {
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Some(format!(
            "Make {} writable for this user, or use another home with --home.",
            path.parent().unwrap_or(path).display()
        )),
        _ => None,
    }
}
