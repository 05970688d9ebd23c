//! Taking snapshots from the folder in which a Cosmos SDK node keeps its own. The
//! chain's name, the heights that it confirmed and their application hashes come
//! from that node's RPC; see `sdk` for what makes files a snapshot.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::intake::{AppHashes, Order};
use super::{BROKEN_PAUSE, LOOK_EVERY, Told, newest_harvested, on_cancel};
use crate::comet::peer::Stop;
use crate::comet::rpc::{NodeStatus, Rpc};
use crate::node::command::{Failure, FolderStatus};
use crate::node::failure::blocking;
use crate::node::services::Services;
use crate::sdk::{SnapshotFolder, View};
use crate::snapshot::{Manifest, Source};

/// Blocks that the chain has behind a snapshot's when a restoring node asks for
/// them.
const BLOCKS_BEHIND: u64 = 2;

/// A folder that is looked at again and again.
pub(in crate::node) struct FolderHarvest {
    services: Arc<Services>,
    dir: PathBuf,
    rpc: Rpc,
    stop: Stop,
    told: Told,
    newest_height: Option<u64>,
}

impl FolderHarvest {
    pub(in crate::node) fn new(
        services: Arc<Services>,
        dir: PathBuf,
        rpc: &str,
    ) -> Result<Self, Failure> {
        let rpc = Rpc::new(rpc)?;
        services.set_sdk_snapshots(FolderStatus {
            folder: dir.display().to_string(),
            newest_height: None,
            waiting: None,
            last_error: None,
        });
        Ok(Self {
            services,
            told: Told::new(dir.display().to_string()),
            dir,
            rpc,
            stop: Stop::new(),
            newest_height: None,
        })
    }

    /// Takes every new snapshot until cancelled. Trouble is logged, shown in the
    /// status and tried again.
    pub(in crate::node) async fn run(mut self, cancel: CancellationToken) {
        let stop = self.stop.clone();
        let _guard = on_cancel(&cancel, move || stop.stop());
        let mut folder = self.folder();
        loop {
            let pause;
            (folder, pause) = match self.round(folder).await {
                Ok(folder) => (folder, LOOK_EVERY),
                Err(failure) => {
                    tracing::error!(folder = %self.dir.display(), error = %failure, "the harvest is broken");
                    (self.folder(), BROKEN_PAUSE)
                }
            };
            let pause = tokio::time::sleep(pause);
            if cancel.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    fn folder(&self) -> SnapshotFolder {
        let stop = self.stop.clone();
        let keep = self.services.config.store.max_snapshots as usize;
        SnapshotFolder::new(&self.dir, keep, move || stop.is_stopped())
    }

    /// One look at the folder, and whatever is new in it. A failure is trouble of our
    /// own.
    async fn round(&mut self, folder: SnapshotFolder) -> Result<SnapshotFolder, Failure> {
        let (folder, trouble) = match self.rpc.status().await {
            Ok(node) => self.look(folder, node).await?,
            Err(error) => (folder, Some(Failure::from(error).message)),
        };
        if !self.stop.is_stopped() {
            self.tell(&folder, trouble);
        }
        Ok(folder)
    }

    /// Takes what is new; tells the trouble that it had.
    async fn look(
        &self,
        folder: SnapshotFolder,
        node: NodeStatus,
    ) -> Result<(SnapshotFolder, Option<String>), Failure> {
        let view = View {
            heights: confirmed(node.earliest_height, node.height),
            here: self.here(&node.chain_id),
        };
        let (folder, listed) = blocking(move || {
            let mut folder = folder;
            folder.see(view);
            let listed = folder.list();
            Ok((folder, listed))
        })
        .await?;
        let offers = match listed {
            Ok(offers) => offers,
            Err(error) => return Ok((folder, Some(Failure::from(error).message))),
        };
        if self.stop.is_stopped() {
            return Ok((folder, None));
        }
        let order = Order {
            chain_id: node.chain_id,
            offers,
            stop: self.stop.clone(),
        };
        let hashes = AppHashes::Rpc(&self.rpc);
        let mut intake = self.services.intake.lock().await;
        let (folder, round) = intake
            .take_new(&self.services, folder, order, &hashes)
            .await?;
        Ok((folder, round.trouble))
    }

    /// The snapshots of the chain that need not be read again: those that the choice
    /// takes for being here.
    fn here(&self, chain_id: &str) -> Vec<Arc<Manifest>> {
        let stored = self.services.store.list().into_iter();
        stored
            .filter(|stored| stored.complete && stored.manifest.chain_id() == chain_id)
            .filter(|stored| stored.manifest.app_hash().is_some())
            .map(|stored| stored.manifest)
            .collect()
    }

    fn tell(&mut self, folder: &SnapshotFolder, last_error: Option<String>) {
        self.told.tell(last_error.as_deref());
        self.newest_height = newest_harvested(&self.services).or(self.newest_height);
        self.services.set_sdk_snapshots(FolderStatus {
            folder: self.dir.display().to_string(),
            newest_height: self.newest_height,
            waiting: folder.waiting().map(str::to_owned),
            last_error,
        });
    }
}

/// Heights whose application hash a node with these blocks can tell, and behind which
/// a restoring node finds the blocks that it needs.
fn confirmed(earliest_height: u64, height: u64) -> RangeInclusive<u64> {
    // The hash stands in the next block.
    let oldest = earliest_height.saturating_sub(1).max(1);
    oldest..=height.saturating_sub(BLOCKS_BEHIND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_height_is_confirmed_when_the_next_block_is_kept_and_two_are_there() {
        assert_eq!(confirmed(1, 100), 1..=98);
        assert_eq!(confirmed(50, 100), 49..=98);
        for nothing in [confirmed(0, 0), confirmed(1, 2), confirmed(100, 100)] {
            assert!(nothing.is_empty(), "{nothing:?}");
        }
    }
}
