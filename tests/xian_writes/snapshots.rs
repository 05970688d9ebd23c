//! What the adapter and the daemon do beside the node: copy ahead all the time, take the
//! rest of it at Commit, make a snapshot of the copy.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};
use snapswarm::state::{OpenChunk, Record, Records, StateError};
use snapswarm::xian::{Copier, XianError};

use crate::node::State;
use crate::support::*;

/// Far longer than a copy takes.
const LIMIT: Duration = Duration::from_secs(60);

/// A Commit whose answer waits.
struct Hold {
    state: State,
    go_on: SyncSender<()>,
}

/// What came of it.
#[derive(Default, Debug)]
#[allow(dead_code)] // it is printed
pub struct Made {
    pub snapshots: u64,
    pub copies_ahead: u64,
    pub longest_hold: Duration,
}

pub struct Snapshots {
    holds: SyncSender<Hold>,
    hurry: Arc<AtomicBool>,
    is_busy: Arc<AtomicBool>,
    copyist: JoinHandle<Made>,
}

impl Snapshots {
    pub fn start(storage: &Path, work: &Path) -> Self {
        let (holds, orders) = sync_channel(1);
        let (hurry, is_busy) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let copyist = Copyist {
            copier: Copier::new(storage, &work.join("copy"), NonZeroUsize::new(2).unwrap())
                .unwrap(),
            folder: work.join("copy"),
            hurry: hurry.clone(),
            is_busy: is_busy.clone(),
            made: Made::default(),
        };
        Self {
            holds,
            hurry,
            is_busy,
            copyist: std::thread::spawn(move || copyist.run(&orders)),
        }
    }

    /// Holds the answer to a Commit until the copy has what it needs; no longer than this
    /// the node keeps still. At once while a snapshot is being made.
    pub fn commit(&mut self, state: &State) {
        assert!(
            !self.copyist.is_finished(),
            "a copy or a snapshot failed: it has said so above"
        );
        if self.is_busy.swap(true, Ordering::SeqCst) {
            return;
        }
        let (go_on, word) = sync_channel(1);
        let state = state.clone();
        self.hurry.store(true, Ordering::SeqCst);
        self.holds.send(Hold { state, go_on }).unwrap();
        word.recv().expect("no copy: it has said why above");
    }

    /// Waits for the last of them.
    pub fn end(self) -> Made {
        drop(self.holds);
        self.copyist
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Copyist {
    copier: Copier,
    folder: PathBuf,
    hurry: Arc<AtomicBool>,
    is_busy: Arc<AtomicBool>,
    made: Made,
}

impl Copyist {
    fn run(mut self, orders: &Receiver<Hold>) -> Made {
        loop {
            match orders.try_recv() {
                Ok(hold) => {
                    self.hurry.store(false, Ordering::SeqCst);
                    self.snapshot(hold);
                    self.is_busy.store(false, Ordering::SeqCst);
                }
                Err(TryRecvError::Empty) => self.copy_ahead(),
                Err(TryRecvError::Disconnected) => return self.made,
            }
        }
    }

    fn copy_ahead(&mut self) {
        match self.copier.ahead(&|| self.hurry.load(Ordering::SeqCst)) {
            Ok(_) => self.made.copies_ahead += 1,
            Err(XianError::Stopped | XianError::Changed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn snapshot(&mut self, hold: Hold) {
        let height = hold.state.height;
        let held = self.copier.held(height, LIMIT).unwrap();
        hold.go_on.send(()).unwrap();
        let copied = held.write().unwrap();
        assert_eq!(copied.block.height, height);
        self.made.longest_hold = self.made.longest_hold.max(copied.stats.took);
        let (records, sum) = sum(&self.folder);
        assert_eq!(records, hold.state.records, "records at height {height}");
        assert_eq!(sum, hold.state.sum, "state at height {height}");
        self.made.snapshots += 1;
    }
}

/// How many records a snapshot of the storage has, and what they add up to.
fn sum(storage: &Path) -> (u64, String) {
    let (manifest, chunks) = snapshot_of("xian-1", storage, None);
    let content = manifest.state().unwrap();
    let scopes = manifest
        .chunk_indexes()
        .map(|index| content.scopes_of(index).to_vec());
    let chunks = chunks.into_iter().zip(scopes);
    let chunks = chunks.map(|(bytes, scopes)| Ok::<_, StateError>(OpenChunk { bytes, scopes }));
    let (mut records, mut sum) = (0, [0; 32]);
    for record in Records::new(chunks).unwrap() {
        records += 1;
        for (sum, byte) in sum.iter_mut().zip(digest(&record.unwrap())) {
            *sum ^= byte;
        }
    }
    (records, hex::encode(sum))
}

/// As the node takes it: of a line of JSON.
fn digest(record: &Record) -> [u8; 32] {
    Sha256::digest(words(record).to_string()).into()
}
