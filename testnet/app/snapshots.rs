//! Snapshots: made from a state, kept on disk, listed, loaded.
//!
//! The bytes of a snapshot are a mark, the height (u64, little-endian), and the bytes
//! of the map: with the height in them, a snapshot's hash is never an application
//! hash. They are cut into chunks of `--chunk-bytes`. The hash is the SHA-256 of all
//! of them, the metadata the SHA-256 of each chunk, one after the other.
//!
//! On disk: `DIR/snapshots/HEIGHT`, with the chunks `0`, `1`, … and the files `hash`
//! and `metadata`; the folder gets its name when all of it is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tendermint_proto::v0_38::abci::Snapshot;

use super::Options;
use super::state::{State, Values};

/// The only format.
pub const FORMAT: u32 = 1;
/// Bytes of a SHA-256.
pub const DIGEST_BYTES: usize = 32;
/// The first bytes of a snapshot.
const MARK: &[u8] = b"testnet-app snapshot 1\n";
/// The folder of a snapshot that is being made.
const MAKING: &str = "making";
/// The folder of one that is being removed.
const GOING: &str = "going";

/// The SHA-256 of bytes.
pub fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    Sha256::digest(bytes).into()
}

/// The bytes of a state's snapshot.
fn write(state: &State) -> Vec<u8> {
    let mut bytes = MARK.to_vec();
    bytes.extend(state.height.to_le_bytes());
    state.values.append_to(&mut bytes);
    bytes
}

/// The state of a snapshot's bytes.
pub fn read(mut bytes: Bytes) -> Result<State, &'static str> {
    if !bytes.starts_with(MARK) {
        return Err("a snapshot begins with another mark");
    }
    bytes.advance(MARK.len());
    let height = (bytes.try_get_u64_le()).map_err(|_| "a snapshot ends before its height")?;
    Ok(State::new(height, Values::read(bytes)?))
}

/// The snapshots on disk.
pub struct Snapshots {
    folder: PathBuf,
    interval: u64,
    keep: usize,
    chunk_bytes: usize,
    kept: BTreeMap<u64, Snapshot>,
}

impl Snapshots {
    /// Finds what an earlier process made.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let folder = options.data.join("snapshots");
        fs::create_dir_all(&folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        let mut kept = BTreeMap::new();
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            match find(&path) {
                Some(snapshot) => {
                    kept.insert(snapshot.height, snapshot);
                }
                None => remove(&path)?,
            }
        }
        Ok(Self {
            folder,
            interval: options.snapshot_interval,
            keep: options.keep,
            chunk_bytes: options.chunk_bytes as usize,
            kept,
        })
    }

    /// Whether there is to be one at a height.
    pub fn is_due(&self, height: u64) -> bool {
        self.interval > 0 && height.is_multiple_of(self.interval)
    }

    /// Makes one, and lets go of the oldest above what is kept.
    pub fn take(&mut self, state: &State) -> anyhow::Result<&Snapshot> {
        let bytes = write(state);
        let making = self.folder.join(MAKING);
        remove(&making)?;
        fs::create_dir(&making)?;
        let mut metadata = Vec::new();
        for (index, chunk) in bytes.chunks(self.chunk_bytes).enumerate() {
            metadata.extend(digest(chunk));
            fs::write(making.join(index.to_string()), chunk)?;
        }
        let snapshot = Snapshot {
            height: state.height,
            format: FORMAT,
            chunks: u32::try_from(metadata.len() / DIGEST_BYTES)?,
            hash: digest(&bytes).to_vec().into(),
            metadata: metadata.into(),
        };
        fs::write(making.join("metadata"), &snapshot.metadata)?;
        fs::write(making.join("hash"), &snapshot.hash)?;
        // A block that is played again makes its snapshot again.
        self.let_go(state.height)?;
        fs::rename(&making, self.path(state.height))?;
        self.kept.insert(state.height, snapshot);
        while self.keep > 0 && self.kept.len() > self.keep {
            let Some((oldest, _)) = self.kept.pop_first() else {
                break;
            };
            self.let_go(oldest)?;
        }
        (self.kept.get(&state.height)).context("one older than all that are kept was made")
    }

    /// All of them, the oldest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.kept.values().cloned().collect()
    }

    /// The bytes of a chunk; empty when there is none.
    pub fn chunk(&self, height: u64, format: u32, index: u32) -> Bytes {
        let is_there = format == FORMAT
            && (self.kept.get(&height)).is_some_and(|snapshot| index < snapshot.chunks);
        match is_there {
            true => fs::read(self.path(height).join(index.to_string()))
                .unwrap_or_default()
                .into(),
            false => Bytes::new(),
        }
    }

    /// Lets go of all.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        while let Some((height, _)) = self.kept.pop_first() {
            self.let_go(height)?;
        }
        Ok(())
    }

    /// Removes one that is there. It loses its name first: a process that is killed in
    /// the middle leaves no half that looks like a whole.
    fn let_go(&self, height: u64) -> anyhow::Result<()> {
        let going = self.folder.join(GOING);
        remove(&going)?;
        match fs::rename(self.path(height), &going) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => remove(&going),
        }
    }

    fn path(&self, height: u64) -> PathBuf {
        self.folder.join(height.to_string())
    }
}

/// The snapshot in a folder; nothing when it is no whole one.
fn find(folder: &Path) -> Option<Snapshot> {
    let height = folder.file_name()?.to_str()?.parse().ok()?;
    let metadata = fs::read(folder.join("metadata")).ok()?;
    let hash = fs::read(folder.join("hash")).ok()?;
    let chunks = u32::try_from(metadata.len() / DIGEST_BYTES).ok()?;
    (chunks > 0).then(|| Snapshot {
        height,
        format: FORMAT,
        chunks,
        hash: hash.into(),
        metadata: metadata.into(),
    })
}

fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{} cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}
