//! The map, its bytes, and its place on disk.
//!
//! Bytes of a map: how many entries (u64), then each entry in ascending order of its
//! key: bytes of the key (u32), bytes of the value (u32), key, value. Numbers are
//! little-endian. The application hash is the SHA-256 of these bytes.
//!
//! On disk, in `DIR/state`: `HASH.map` with the bytes of the map that has this hash,
//! and `head`, a line `HEIGHT HASH`. The map is written before the head that names
//! it, each under another name first: a kill leaves the old head or the new one, and
//! the map of either.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};

/// An application hash.
pub type AppHash = [u8; 32];

/// A map from key to value.
#[derive(Clone, Default)]
pub struct Values(BTreeMap<Bytes, Bytes>);

impl Values {
    /// Key and value of a transaction.
    pub fn read_tx(tx: &Bytes) -> Result<(Bytes, Bytes), &'static str> {
        match tx.iter().position(|byte| *byte == b'=') {
            None => Err("a transaction is KEY=VALUE"),
            Some(0) => Err("a key is not empty"),
            Some(at) => Ok((tx.slice(..at), tx.slice(at + 1..))),
        }
    }

    pub fn set(&mut self, key: Bytes, value: Bytes) {
        self.0.insert(key, value);
    }

    pub fn get(&self, key: &[u8]) -> Option<&Bytes> {
        self.0.get(key)
    }

    pub fn app_hash(&self) -> AppHash {
        let mut hash = Sha256::new();
        self.write(|bytes| hash.update(bytes));
        hash.finalize().into()
    }

    /// Appends the map's bytes.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        self.write(|part| bytes.extend_from_slice(part));
    }

    fn write(&self, mut out: impl FnMut(&[u8])) {
        out(&(self.0.len() as u64).to_le_bytes());
        for (key, value) in &self.0 {
            // A transaction is far below 4 GiB.
            out(&(key.len() as u32).to_le_bytes());
            out(&(value.len() as u32).to_le_bytes());
            out(key);
            out(value);
        }
    }

    /// Reads what [`Self::append_to`] writes, and nothing else.
    pub fn read(mut bytes: Bytes) -> Result<Self, &'static str> {
        const CUT_OFF: &str = "a state is cut off";
        let count = bytes.try_get_u64_le().map_err(|_| CUT_OFF)?;
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let mut len = || bytes.try_get_u32_le().map(|len| len as usize);
            let (key_len, value_len) = (len().map_err(|_| CUT_OFF)?, len().map_err(|_| CUT_OFF)?);
            let mut part = |len| (len <= bytes.len()).then(|| bytes.split_to(len));
            let key = part(key_len).ok_or(CUT_OFF)?;
            let value = part(value_len).ok_or(CUT_OFF)?;
            let is_next = (values.last_key_value()).is_none_or(|(last, _)| *last < key);
            if !is_next {
                return Err("the keys of a state do not ascend");
            }
            values.insert(key, value);
        }
        if bytes.has_remaining() {
            return Err("a state has bytes left over");
        }
        Ok(Self(values))
    }
}

/// A map at a height; height 0 is before the first block.
#[derive(Clone)]
pub struct State {
    pub height: u64,
    pub values: Values,
    pub app_hash: AppHash,
}

impl State {
    pub fn new(height: u64, values: Values) -> Self {
        let app_hash = values.app_hash();
        Self {
            height,
            values,
            app_hash,
        }
    }

    pub fn empty() -> Self {
        Self::new(0, Values::default())
    }
}

/// The folder of the state.
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// Opens the folder, and reads the state that was saved last.
    pub fn open(data: &Path) -> anyhow::Result<(Self, State)> {
        let path = data.join("state");
        fs::create_dir_all(&path)
            .with_context(|| format!("the folder {} cannot be made", path.display()))?;
        let folder = Self(path);
        let state = folder
            .read()
            .with_context(|| format!("the state in {} cannot be read", folder.0.display()))?;
        Ok((folder, state))
    }

    fn read(&self) -> anyhow::Result<State> {
        let head = match fs::read_to_string(self.0.join("head")) {
            Ok(head) => head,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(State::empty());
            }
            Err(error) => return Err(error.into()),
        };
        let Some((height, hash)) = head.trim_end().split_once(' ') else {
            bail!("its head is {head:?}");
        };
        let bytes = fs::read(self.map(hash))?;
        let values = Values::read(bytes.into()).map_err(anyhow::Error::msg)?;
        let state = State::new(height.parse()?, values);
        ensure!(hex::encode(state.app_hash) == hash, "its map is torn");
        Ok(state)
    }

    fn map(&self, hash: &str) -> PathBuf {
        self.0.join(format!("{hash}.map"))
    }

    /// Makes a state the one that the next start finds.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let hash = hex::encode(state.app_hash);
        let map = self.map(&hash);
        if !map.exists() {
            let mut bytes = Vec::new();
            state.values.append_to(&mut bytes);
            replace(&map, &bytes)?;
        }
        let head = format!("{} {hash}\n", state.height);
        replace(&self.0.join("head"), head.as_bytes())?;
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path != map && !path.ends_with("head") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }
}

/// Makes a file whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let making = path.with_extension("making");
    fs::write(&making, bytes)
        .and_then(|()| fs::rename(&making, path))
        .with_context(|| format!("{} cannot be written", path.display()))
}
