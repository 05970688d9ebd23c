//! What was on the shelf, kept beyond a restart: a snapshot that the quota or a
//! person removed is not taken again. To have one taken again, delete the file.
//!
//! It is written beside itself and renamed. One that makes no sense is no reason
//! not to harvest.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::choice::{Choice, Key, MAX_REMEMBERED, Seen};

/// The file in the home.
pub(super) const FILE: &str = "harvested.json";
const VERSION: u32 = 1;
/// A file that is longer was not written by this program.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// CometBFT knows no longer hash.
const MAX_HASH_BYTES: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Memory {
    version: u32,
    chain_id: String,
    /// The oldest memory first.
    taken: Vec<Line>,
    /// Damages that were looked at.
    damaged: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    height: u64,
    format: u32,
    hash: String,
    manifest: String,
    /// The disk damaged it, and it was not taken again yet.
    lost: bool,
}

/// Reads what an earlier run remembered.
pub(super) fn load(home: &Path) -> Choice {
    let path = home.join(FILE);
    let memory = match read(&path) {
        Ok(memory) => memory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Choice::default(),
        Err(error) => {
            tracing::warn!(
                path = %path.display(), %error,
                "what was harvested before cannot be read; going on without it"
            );
            return Choice::default();
        }
    };
    let seen = memory.taken.iter().take(MAX_REMEMBERED).filter_map(seen);
    Choice::remembering(memory.chain_id, seen, memory.damaged)
}

fn read(path: &Path) -> io::Result<Memory> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    let memory: Memory = serde_json::from_slice(&bytes)?;
    if memory.version == VERSION {
        Ok(memory)
    } else {
        Err(io::Error::other(format!(
            "it is of version {}",
            memory.version
        )))
    }
}

fn seen(line: &Line) -> Option<Seen> {
    let hash = hex::decode(&line.hash).ok()?;
    let manifest = line.manifest.parse().ok()?;
    (hash.len() <= MAX_HASH_BYTES).then(|| Seen {
        key: Key {
            height: line.height,
            format: line.format,
            hash: hash.into(),
        },
        manifest,
        lost: line.lost,
    })
}

/// The bytes of the file.
pub(super) fn encode(choice: &Choice) -> Vec<u8> {
    let line = |seen: &Seen| Line {
        height: seen.key.height,
        format: seen.key.format,
        hash: hex::encode(&seen.key.hash),
        manifest: seen.manifest.to_string(),
        lost: seen.lost,
    };
    let memory = Memory {
        version: VERSION,
        chain_id: choice.chain_id().to_owned(),
        taken: choice.seen().map(line).collect(),
        damaged: choice.damaged().clone(),
    };
    serde_json::to_vec_pretty(&memory).unwrap_or_default()
}

/// Writes the file. Blocking.
pub(super) fn save(home: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(home)?;
    // One daemon has a home, so a name of its own is enough, and what a crash
    // leaves is written over.
    let fresh = home.join(format!("{FILE}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, home.join(FILE))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use bytes::Bytes;

    use super::*;
    use crate::snapshot::hash::sha256;
    use crate::snapshot::{ManifestId, Offer};

    fn offer(height: u64) -> Offer {
        Offer {
            height,
            format: 1,
            chunks: 1,
            hash: Bytes::from_static(b"hash"),
            metadata: Bytes::new(),
        }
    }

    fn taken(choice: &mut Choice, chain_id: &str) -> Vec<u64> {
        let offers = vec![offer(1), offer(2)];
        let chosen = choice.choose(chain_id, &BTreeMap::new(), offers, 5, Instant::now());
        chosen.take.iter().map(|offer| offer.height).collect()
    }

    #[test]
    fn what_was_taken_and_removed_is_not_taken_again_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let mut first = load(home.path());
        assert_eq!(taken(&mut first, "a"), [1, 2]);
        assert!(!first.has_news());
        first.taken(Key::from(&offer(1)), ManifestId(sha256(b"1")));
        assert!(first.has_news() && !first.has_news(), "told once");
        save(home.path(), &encode(&first)).unwrap();
        save(home.path(), &encode(&first)).unwrap();
        let mut second = load(home.path());
        assert_eq!(taken(&mut second, "a"), [2]);
        assert_eq!(taken(&mut second, "b"), [1, 2], "another chain");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_tolerated() {
        let home = tempfile::tempdir().unwrap();
        let line = r#"{"height":1,"format":1,"hash":"no hex","manifest":"","lost":false}"#;
        let bad_line = format!(r#"{{"version":1,"chain_id":"a","taken":[{line}],"damaged":[]}}"#);
        let deep = "[".repeat(100_000);
        for bytes in [
            "",
            "{}",
            r#"{"version":9,"chain_id":"a","taken":[],"damaged":[]}"#,
            &deep,
            &bad_line,
        ] {
            fs::write(home.path().join(FILE), bytes).unwrap();
            assert_eq!(taken(&mut load(home.path()), "a"), [1, 2]);
        }
    }
}
