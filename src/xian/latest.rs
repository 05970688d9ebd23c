//! `__latest_block.json`: which block's state a storage holds.
//!
//! `{"hash": "<hex>", "height": N}`, written by the node at each commit, before the
//! state itself; the node's answer to Info is read from it each time. The hash is the
//! application hash after block N, so it stands in the header of block N+1. Xian's is
//! the ASCII of a SHA3-256 in hex, so its text here is the hex of hex digits.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::XianError;
use super::stamp::open_file;
use crate::snapshot::{MAX_APP_HASH_BYTES, MAX_HEIGHT};

/// The node's has some hundred; of a longer one so much is read.
const MAX_BYTES: u64 = 64 << 10;

/// The block whose state a storage holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LatestBlock {
    /// Its height; a node before its first block has 0.
    pub height: u64,
    /// The application hash after it; empty before the first block.
    pub app_hash: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Json {
    hash: String,
    height: u64,
}

impl LatestBlock {
    /// That of a node before its first block.
    pub const NONE: Self = Self {
        height: 0,
        app_hash: Bytes::new(),
    };

    /// Its file's name.
    pub const NAME: &str = "__latest_block.json";

    /// Where it stands in a storage.
    pub fn path(storage: &Path) -> PathBuf {
        storage.join(Self::NAME)
    }

    /// Reads it from a storage.
    pub fn read(storage: &Path) -> Result<Self, XianError> {
        let path = Self::path(storage);
        let damaged = |problem: String| {
            let path = path.clone();
            XianError::Damaged { path, problem }
        };
        let failed = XianError::io("read", &path);
        let mut text = Vec::new();
        match open_file(&path) {
            Ok(Some(file)) => file
                .take(MAX_BYTES)
                .read_to_end(&mut text)
                .map_err(failed)?,
            Ok(None) => return Err(damaged("it is no file".to_owned())),
            Err(error) => return Err(failed(error)),
        };
        Self::parse(&text).map_err(damaged)
    }

    /// The same, of a storage that may be missing or empty: without the file there is no
    /// block.
    pub fn read_or_none(storage: &Path) -> Result<Self, XianError> {
        match Self::read(storage) {
            Err(XianError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::NONE)
            }
            read => read,
        }
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let json: Json = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if json.height > MAX_HEIGHT {
            return Err(format!("{} is no height", json.height));
        }
        let app_hash = hex::decode(&json.hash).map_err(|_| "its hash is not in hex".to_owned())?;
        if app_hash.len() > MAX_APP_HASH_BYTES {
            return Err(format!("its hash has {} bytes", app_hash.len()));
        }
        Ok(Self {
            height: json.height,
            app_hash: app_hash.into(),
        })
    }

    /// Its text, as the node writes it.
    pub(super) fn to_json(&self) -> String {
        let hash = hex::encode(&self.app_hash);
        format!("{{\"hash\": \"{hash}\", \"height\": {}}}", self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let block = LatestBlock {
            height: 1234,
            app_hash: Bytes::from_static(b"3fc9"),
        };
        let text = block.to_json();
        assert_eq!(text, r#"{"hash": "33666339", "height": 1234}"#);
        assert_eq!(LatestBlock::parse(text.as_bytes()).unwrap(), block);
    }

    #[test]
    fn a_node_before_its_first_block_has_no_hash() {
        let block = LatestBlock::parse(br#"{"hash": "", "height": 0}"#).unwrap();
        assert_eq!(block, LatestBlock::NONE);
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        for storage in [folder.path(), &missing] {
            assert_eq!(
                LatestBlock::read_or_none(storage).unwrap(),
                LatestBlock::NONE
            );
        }
    }

    #[test]
    fn a_file_that_is_cut_or_says_nonsense_is_damaged() {
        let long = format!(r#"{{"hash":"{}","height":1}}"#, "ab".repeat(257));
        for text in [
            "",
            r#"{"hash": "33"#,
            r#"{"hash": "33"}"#,
            r#"{"hash": "3", "height": 1}"#,
            r#"{"hash": "zz", "height": 1}"#,
            r#"{"hash": "33", "height": -1}"#,
            r#"{"hash": "33", "height": 9223372036854775808}"#,
            &long,
        ] {
            assert!(LatestBlock::parse(text.as_bytes()).is_err(), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        let missing = LatestBlock::read(folder.path()).unwrap_err();
        assert!(missing.to_string().contains(LatestBlock::NAME));
    }

    #[test]
    fn what_is_no_file_of_its_own_or_without_an_end_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = LatestBlock::path(folder.path());
        let read = || LatestBlock::read(folder.path()).unwrap_err().to_string();
        let elsewhere = folder.path().join("elsewhere");
        std::fs::write(&elsewhere, LatestBlock::NONE.to_json()).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(read().contains(LatestBlock::NAME));
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read().contains("it is no file"), "{}", read());
        std::fs::remove_file(&path).unwrap();
        let endless = std::fs::File::create(&path).unwrap();
        endless.set_len(1 << 40).unwrap();
        assert!(read().contains("damaged"), "{}", read());
    }
}
