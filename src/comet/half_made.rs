//! Stores of CometBFT that were never made to their end.
//!
//! A node that is killed in the moment in which it makes its stores leaves some without
//! the file `CURRENT`, which names what is in one: it is written last, and replaced by
//! renaming. CometBFT does not start with such a store, and nothing was ever in it.

use std::fs::{self, DirEntry};
use std::io;
use std::path::Path;

/// Written when a store is made, by each of the databases that CometBFT is built with.
const MADE: &str = "CURRENT";
/// Files with these endings hold what was put into a store.
const CONTENTS: [&str; 3] = ["ldb", "sst", "log"];

/// Whether a store is there that was never made to its end. One that lost its `CURRENT`
/// and holds something is damaged, and not for us to judge.
pub(super) fn is_half_made(store: &Path) -> io::Result<bool> {
    let entries = match fs::read_dir(store) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == MADE || has_content(&entry)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_content(entry: &DirEntry) -> io::Result<bool> {
    let name = entry.path();
    let ending = name.extension().unwrap_or_default();
    Ok(CONTENTS.iter().any(|content| ending == *content) && entry.metadata()?.len() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_half_made_while_nothing_names_its_content_and_none_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("state.db");
        assert!(!is_half_made(&store).unwrap(), "it is not there");
        fs::create_dir(&store).unwrap();
        for (name, bytes) in [("LOCK", ""), ("LOG", "x"), ("MANIFEST-000000", "x")] {
            fs::write(store.join(name), bytes).unwrap();
            assert!(is_half_made(&store).unwrap(), "{name}");
        }
        fs::write(store.join("000001.log"), "").unwrap();
        assert!(is_half_made(&store).unwrap());
        fs::write(store.join("000001.log"), "a block").unwrap();
        assert!(!is_half_made(&store).unwrap(), "it lost its CURRENT");
        fs::remove_file(store.join("000001.log")).unwrap();
        fs::write(store.join(MADE), "MANIFEST-000000\n").unwrap();
        assert!(!is_half_made(&store).unwrap());
    }
}
