//! Which files of a storage are the state, and what they are called in it.
//!
//! ```text
//! STORAGE/contract_state/NAME     every NAME that does not begin with "__"
//! STORAGE/run_state/__NAME        every other, but "__pn"
//! STORAGE/__latest_block.json     see [`latest`](super::latest)
//! ```
//!
//! A file's scope is its path in the storage. The chain finds a file by the part of a
//! key before the first `.` or `:`, so what has one in its name is no part of the
//! state, as is what stands in the wrong folder: such files, and those that begin with
//! a dot, are left where they are (a backup, a temporary file). What the chain *could*
//! read under a name that no contract has is refused with a word: to leave it out would
//! lose it, to take it along would make this node's snapshot differ from all others.
//!
//! `run_state/__pn` holds the nonces of the node's own mempool, and stays with the node.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::XianError;
use super::stamp::FileStamp;
use crate::state::{Scope, StateError};

/// The folder of contracts.
pub(super) const CONTRACTS: &str = "contract_state";
/// The folder of all that is no contract's.
pub const RUN: &str = "run_state";
/// Names that begin so stand in [`RUN`].
const RUN_MARK: &str = "__";
/// The scope of the nonces that transactions have used.
pub const NONCES: &str = "run_state/__n";
/// Nonces of transactions that wait in the node's mempool.
const PENDING_NONCES: &str = "__pn";
/// The chain's own limit on a file's name, and the file system's.
const MAX_NAME_BYTES: usize = 255;

/// What a name in one of the two folders is.
#[derive(PartialEq, Eq, Debug)]
enum Standing {
    State,
    /// No part of the state; nothing is done to it.
    Beside,
    Refused(&'static str),
}

fn standing(folder: &str, name: &OsStr) -> Standing {
    let Some(name) = name.to_str() else {
        return Standing::Refused("has a name that is not UTF-8");
    };
    if name.contains(['.', ':'])
        || name.starts_with(RUN_MARK) != (folder == RUN)
        || name == PENDING_NONCES
    {
        return Standing::Beside;
    }
    match check_name(name) {
        Ok(()) => Standing::State,
        Err(problem) => Standing::Refused(problem),
    }
}

/// A contract is a module of Python's: its name is letters, digits and `_`.
fn check_name(name: &str) -> Result<(), &'static str> {
    let fits = |c: char| c.is_alphanumeric() || c == '_';
    match name.len() {
        1..=MAX_NAME_BYTES if name.chars().all(fits) => Ok(()),
        _ => Err("has a name that no contract has"),
    }
}

/// A file of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StateFile {
    pub(super) scope: Scope,
    pub(super) path: PathBuf,
    /// How it was when it was listed.
    pub(super) stamp: FileStamp,
}

/// The files of the state in a storage, by scope.
pub(super) fn state_files(storage: &Path) -> Result<Vec<StateFile>, XianError> {
    let mut files = Vec::new();
    for folder in [CONTRACTS, RUN] {
        let dir = storage.join(folder);
        let entries = match fs::read_dir(&dir) {
            // A node that never ran a transaction has no nonces.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder == RUN => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = storage.to_owned();
                return Err(XianError::NoStorage { path });
            }
            entries => entries.map_err(XianError::io("read", &dir))?,
        };
        for entry in entries {
            let entry = entry.map_err(XianError::io("read", &dir))?;
            files.extend(state_file(folder, &entry)?);
        }
    }
    files.sort_by(|one, other| one.scope.cmp(&other.scope));
    Ok(files)
}

fn state_file(folder: &str, entry: &fs::DirEntry) -> Result<Option<StateFile>, XianError> {
    let (path, name) = (entry.path(), entry.file_name());
    let refused = |problem: &str| XianError::Stray {
        path: path.clone(),
        problem: problem.to_owned(),
    };
    match standing(folder, &name) {
        Standing::Beside => return Ok(None),
        Standing::Refused(problem) => return Err(refused(problem)),
        Standing::State => {}
    }
    let meta = match entry.metadata() {
        // The node may remove a file at any time.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        meta => meta.map_err(XianError::io("look at", &path))?,
    };
    if !meta.is_file() {
        return Err(refused("is no regular file"));
    }
    let scope = Scope::new(&format!("{folder}/{}", name.to_string_lossy()));
    let scope = scope.map_err(StateError::from)?;
    let stamp = FileStamp::of_meta(&meta);
    Ok(Some(StateFile { scope, path, stamp }))
}

/// Where the records of a scope belong, below a storage. The scope may come from
/// anywhere: the path stays in one of the two folders.
pub(super) fn path_of(scope: &Scope) -> Result<&Path, XianError> {
    let text = scope.as_str();
    match text.split_once('/') {
        Some((folder @ (CONTRACTS | RUN), name))
            if standing(folder, OsStr::new(name)) == Standing::State =>
        {
            Ok(Path::new(text))
        }
        _ => Err(XianError::Records {
            problem: format!("{text} is no file of a storage"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn storage(names: &[&str]) -> tempfile::TempDir {
        let storage = tempfile::tempdir().unwrap();
        for folder in [CONTRACTS, RUN] {
            fs::create_dir(storage.path().join(folder)).unwrap();
        }
        for name in names {
            fs::write(storage.path().join(name), b"x").unwrap();
        }
        storage
    }

    fn scopes(storage: &Path) -> Result<Vec<String>, XianError> {
        let files = state_files(storage)?;
        Ok(files.iter().map(|file| file.scope.to_string()).collect())
    }

    #[test]
    fn the_state_is_what_the_chain_finds_by_a_key() {
        let storage = storage(&[
            "contract_state/currency",
            "contract_state/con_währung_2",
            "contract_state/currency.bak",
            "contract_state/.currency.swp",
            "contract_state/a:b",
            "contract_state/__n",
            "run_state/__n",
            "run_state/__pn",
            "run_state/currency",
            "run_state/__n.tmp",
            "__latest_block.json",
        ]);
        assert_eq!(
            scopes(storage.path()).unwrap(),
            [
                "contract_state/con_währung_2",
                "contract_state/currency",
                "run_state/__n"
            ]
        );
    }

    #[test]
    fn what_no_contract_is_called_is_refused_by_its_name() {
        for name in ["my contract", "currency~", "a\nb", "#currency#", "a-b"] {
            let storage = storage(&[&format!("contract_state/{name}")]);
            let error = scopes(storage.path()).unwrap_err();
            assert!(matches!(error, XianError::Stray { .. }), "{error}");
            assert!(error.to_string().contains("move it"), "{error}");
        }
        let storage = storage(&[]);
        let name = OsStr::from_bytes(b"contract_state/\xff");
        fs::write(storage.path().join(name), b"x").unwrap();
        let error = scopes(storage.path()).unwrap_err();
        assert!(error.to_string().contains("UTF-8"), "{error}");
    }

    #[test]
    fn links_and_folders_are_no_files_of_the_state() {
        let storage = storage(&["elsewhere"]);
        let contracts = storage.path().join(CONTRACTS);
        symlink(storage.path().join("elsewhere"), contracts.join("currency")).unwrap();
        let error = scopes(storage.path()).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
        fs::remove_file(contracts.join("currency")).unwrap();
        fs::create_dir(contracts.join("currency")).unwrap();
        let error = scopes(storage.path()).unwrap_err();
        assert!(error.to_string().contains("no regular file"), "{error}");
    }

    #[test]
    fn a_folder_without_contracts_is_no_storage_and_one_without_nonces_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            state_files(folder.path()),
            Err(XianError::NoStorage { .. })
        ));
        fs::create_dir(folder.path().join(CONTRACTS)).unwrap();
        assert_eq!(state_files(folder.path()).unwrap(), []);
    }

    #[test]
    fn no_scope_leads_out_of_the_two_folders() {
        let path_of = |text: &str| path_of(&Scope::new(text).unwrap()).map(Path::to_owned);
        assert_eq!(
            path_of("contract_state/currency").unwrap(),
            Path::new("contract_state/currency")
        );
        assert_eq!(
            path_of("run_state/__n").unwrap(),
            Path::new("run_state/__n")
        );
        let long = format!("contract_state/{}", "a".repeat(MAX_NAME_BYTES + 1));
        for text in [
            "currency",
            "contract_state",
            "contract_state/",
            "contract_state/..",
            "contract_state/../x",
            "contract_state/a/b",
            "/contract_state/a",
            "contract_state//a",
            "contract_state/__n",
            "run_state/currency",
            "run_state/__pn",
            "contract_state/a.b",
            "elsewhere/a",
            &long,
        ] {
            assert!(path_of(text).is_err(), "{text}");
        }
    }
}
