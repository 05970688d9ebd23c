//! What a join has to remember when it is killed: a file in the node's own home.
//!
//! It is written *before* what it tells is done, and removed when nothing of it is
//! left to undo or to go on with. Two things stand in it. The settings that were
//! changed: the next start puts them back. And whether the node's stores and its
//! application may disagree ([`Journal::window`]): CometBFT stores the state of a
//! snapshot first and its first block later, and a node that was stopped between
//! them panics at each start (`facts/cometbft-peer.md`); the next start empties it
//! and restores again, from chunks that are here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Rung;
use crate::comet::settings::Change;
use crate::node::command::{Failure, FailureCode};

/// The file in the node's home.
const NAME: &str = "snapswarm-join.json";
/// A journal that has more was not written here.
const MAX_BYTES: u64 = 1 << 20;
/// The version of this layout.
const VERSION: u32 = 1;

/// What is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Journal {
    version: u32,
    /// What is changed in the node's config.toml.
    #[serde(default)]
    pub(super) settings: Vec<Change>,
    /// The snapshot that is being restored.
    #[serde(default)]
    pub(super) manifest: Option<String>,
    /// Whether a restore began and no block was stored since.
    #[serde(default)]
    pub(super) window: bool,
    /// Snapshots that this node did not take.
    #[serde(default)]
    pub(super) refused: BTreeSet<String>,
    /// The way of getting the state that is being tried.
    #[serde(default)]
    pub(super) rung: Rung,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            version: VERSION,
            settings: Vec::new(),
            manifest: None,
            window: false,
            refused: BTreeSet::new(),
            rung: Rung::Swarm,
        }
    }
}

impl Journal {
    /// Reads what an earlier join left.
    pub(super) fn load(node_home: &Path) -> Result<Self, Failure> {
        let path = path(node_home);
        let read = || {
            if fs::metadata(&path)?.len() > MAX_BYTES {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            fs::read(&path)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::io(path.display(), &error)),
        };
        let found: Result<Self, _> = serde_json::from_slice(&bytes);
        match found {
            Ok(journal) if journal.version == VERSION => Ok(journal),
            Ok(_) => Err(unreadable(&path, "it is of another version of snapswarm")),
            Err(error) => Err(unreadable(&path, &error.to_string())),
        }
    }

    /// Writes it down, durably; removes the file when there is nothing to remember.
    pub(super) fn save(&self, node_home: &Path) -> Result<(), Failure> {
        let path = path(node_home);
        let save = || {
            if *self == Self::default() {
                return match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            }
            let mut fresh = tempfile::Builder::new()
                .prefix(".snapswarm-join.")
                .tempfile_in(node_home)?;
            fresh.write_all(&serde_json::to_vec_pretty(self)?)?;
            fresh.as_file().sync_all()?;
            fresh.persist(&path)?;
            File::open(node_home)?.sync_all()
        };
        save().map_err(|error| Failure::io(path.display(), &error))
    }
}

/// What a join that has not ended wrote down; also one that runs now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::node) struct LeftOpen {
    /// Settings that are changed for a while.
    pub(in crate::node) settings: Vec<String>,
    /// Whether a restore began and no block was stored since.
    pub(in crate::node) window: bool,
}

/// Whether a join of this node left something to be undone.
pub(in crate::node) fn left_open(node_home: &Path) -> Result<Option<LeftOpen>, Failure> {
    let journal = Journal::load(node_home)?;
    Ok(
        (journal.window || !journal.settings.is_empty()).then(|| LeftOpen {
            settings: journal.settings.iter().map(Change::name).collect(),
            window: journal.window,
        }),
    )
}

fn path(node_home: &Path) -> PathBuf {
    node_home.join(NAME)
}

fn unreadable(path: &Path, problem: &str) -> Failure {
    Failure::new(
        FailureCode::Storage,
        format!("{} cannot be read: {problem}", path.display()),
    )
    .hint(
        "it says what `join` changed in the node's config.toml: put your own settings back there, \
         remove this file, and start again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_comes_back_and_leaves_no_file_when_nothing_is_to_be_remembered() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Journal::load(home.path()).unwrap(), Journal::default());
        let journal = Journal {
            manifest: Some("m".to_owned()),
            window: true,
            rung: Rung::Blocks,
            ..Journal::default()
        };
        journal.save(home.path()).unwrap();
        assert_eq!(Journal::load(home.path()).unwrap(), journal);
        Journal::default().save(home.path()).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_journal_of_another_version_is_not_guessed_at() {
        let home = tempfile::tempdir().unwrap();
        for text in [r#"{"version": 2}"#, "{", r#"{"version":1,"more":1}"#] {
            fs::write(path(home.path()), text).unwrap();
            let failure = Journal::load(home.path()).unwrap_err();
            assert_eq!(failure.code, FailureCode::Storage);
            assert!(failure.hint.unwrap().contains("config.toml"));
        }
    }
}
