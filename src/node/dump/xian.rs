//! Records as the storage folder of a Xian node.

use std::path::Path;

use super::Sink;
use crate::node::command::Failure;
use crate::node::content::Content;
use crate::node::{genesis, xian};
use crate::state::Record;
use crate::store::NewFolder;
use crate::xian::{Restore, discard_old};

/// A storage that is being made.
pub(super) struct Storage {
    restore: Restore,
    folder: NewFolder,
}

impl Storage {
    pub(super) fn create(path: &Path, content: &Content) -> Result<Self, Failure> {
        let block = genesis::latest_block(content.manifest())?;
        let folder = NewFolder::create(path, content.least_bytes())?;
        let restore = Restore::begin(folder.beside(), &block, &xian::workers())?;
        Ok(Self { restore, folder })
    }
}

impl Sink for Storage {
    fn put(&mut self, record: &Record) -> Result<(), Failure> {
        Ok(self.restore.put(record)?)
    }

    fn finish(self) -> Result<u64, Failure> {
        let stats = self.restore.finish()?;
        discard_old(self.folder.beside())?;
        self.folder.finish()?;
        Ok(stats.bytes)
    }
}
