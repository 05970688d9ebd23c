//! Records as the storage folder of a Xian node.

use std::fs;
use std::path::Path;

use super::Sink;
use crate::node::command::Failure;
use crate::node::content::Content;
use crate::node::{genesis, xian};
use crate::state::Record;
use crate::store::NewFolder;
use crate::xian::{LatestBlock, Restore, XianTarget, discard_old};

/// A storage that is being made.
pub(super) struct Storage {
    restore: Restore,
    folder: NewFolder,
    is_part: bool,
}

impl Storage {
    pub(super) fn create(path: &Path, content: &Content) -> Result<Self, Failure> {
        let block = genesis::latest_block(content.manifest())?;
        let is_part = !content.only().is_empty();
        let needed = match is_part {
            true => content.least_bytes(),
            false => XianTarget::needed_bytes(content.manifest()),
        };
        let folder = NewFolder::create(path, needed)?;
        let restore = Restore::begin(folder.beside(), &block, &xian::workers())?;
        Ok(Self {
            restore,
            folder,
            is_part,
        })
    }
}

impl Sink for Storage {
    fn put(&mut self, record: &Record) -> Result<(), Failure> {
        Ok(self.restore.put(record)?)
    }

    fn finish(self) -> Result<u64, Failure> {
        let stats = self.restore.finish()?;
        discard_old(self.folder.beside())?;
        if self.is_part {
            // Without it nobody takes the folder for a node's whole state.
            let latest = LatestBlock::path(self.folder.beside());
            fs::remove_file(&latest).map_err(|error| Failure::io(latest.display(), &error))?;
        }
        self.folder.finish()?;
        Ok(stats.bytes)
    }
}
