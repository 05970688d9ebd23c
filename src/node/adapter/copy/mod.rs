//! Snapshots of a Xian node's storage: copied here, made by the daemon.
//!
//! At heights that the interval divides, the answer to Commit is held while the last
//! changes are copied (`desk`, `copyist`, and [`crate::xian::Copier`] for what that
//! costs). Before, the most of it is copied ahead: when the adapter starts, when the
//! height comes near, and after each of the last blocks. Afterwards the daemon is told,
//! once the chain has confirmed the application hash, and reads the copy; nothing is
//! written into it until the daemon has answered.
//!
//! Laws:
//!
//! * Consensus waits for the copy alone, within its bound, and for nothing else.
//! * One snapshot is made at a time. Where the next height comes meanwhile, it is left
//!   out, and that is said.
//! * A storage that is empty before the first block is no trouble: a node that begins with
//!   its genesis has no state yet.
//! * A daemon that is not there, or that ends, is asked again until the next height is
//!   near; a snapshot that fails otherwise is given up. Either way the next one is tried.
//! * This process never calls libhdf5.

mod copyist;
mod desk;
mod lock;

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::copyist::{Told, WORDS};
use self::desk::Desk;
use super::daemon::{self, Made};
use crate::abci::{CommitHold, Learnt};
use crate::node::command::{Command, CopyCommand, Failure, FailureCode, XianStatus};
use crate::node::failure::blocking;
use crate::store::PidLock;
use crate::xian::{Copied, CopyStats, XianError};

/// Copying ahead begins so many blocks before the height, or a tenth of the interval
/// before where that is less: what a node writes in as many is copied in no time.
const NEAR_BLOCKS: u64 = 100;
/// After each of so many blocks before the height it is done again: what is left then is
/// what one block changes, also where the last of these is interrupted.
const LAST_BLOCKS: u64 = 2;
/// A daemon that is not there is asked again after so long, and after twice as long each
/// time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After a defect of our own, or where no copy can begin, it begins anew.
const DEFECT_PAUSE: Duration = Duration::from_secs(60);
/// The daemon is told how it stands as often, in case that it was started anew.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// What is copied, where to, and when.
#[derive(Clone, Debug)]
pub(super) struct CopySettings {
    pub(super) home: PathBuf,
    pub(super) storage: PathBuf,
    pub(super) state_patches: Option<PathBuf>,
    pub(super) copy: PathBuf,
    /// Blocks between two snapshots.
    pub(super) interval: NonZeroU64,
    /// The answer to Commit is held at most so long.
    pub(super) hold: Duration,
}

impl CopySettings {
    /// The copy's folder is emptied: it must have no part of the storage.
    pub(super) fn check(&self) -> Result<(), Failure> {
        let (storage, copy) = (real(&self.storage), real(&self.copy));
        if !storage.starts_with(&copy) && !copy.starts_with(&storage) {
            return Ok(());
        }
        let failure = format!(
            "the copy of the storage would be in {}, which is not apart from {}",
            copy.display(),
            storage.display()
        );
        Err(Failure::new(FailureCode::Usage, failure)
            .hint("name another folder with xian.copy_in in config.toml"))
    }

    /// Two that copy into one folder would empty it for each other.
    pub(super) async fn lock(&self) -> Result<PidLock, Failure> {
        let copy = self.copy.clone();
        blocking(move || lock::take(&copy, lock::PATIENCE)).await
    }
}

/// A path without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => real,
        (Err(_), Some(parent), Some(name)) => real(parent).join(name),
        _ => path.to_owned(),
    }
}

/// The copies of one storage.
pub(super) struct Copying {
    with: CopySettings,
    desk: Arc<Desk>,
    learnt: Learnt,
    _lock: PidLock,
}

impl Copying {
    pub(super) fn new(with: CopySettings, lock: PidLock, learnt: Learnt) -> Self {
        let desk = Arc::new(Desk::new(with.storage.clone(), with.interval.get()));
        Self {
            with,
            desk,
            learnt,
            _lock: lock,
        }
    }

    /// What is done at Commit.
    pub(super) fn hold(&self) -> CommitHold {
        CommitHold {
            every: self.with.interval,
            limit: self.with.hold,
            then: self.desk.clone(),
        }
    }

    /// Copies and hands over until cancelled. A defect of ours ends one run, and another
    /// begins.
    pub(super) async fn run(self, cancel: CancellationToken) {
        loop {
            let run = Run::new(&self);
            match tokio::spawn(run.run(cancel.clone())).await {
                Ok(Ok(())) => break,
                Ok(Err(problem)) => trouble(&self.desk, &problem),
                Err(error) if error.is_cancelled() => break,
                Err(error) => trouble(&self.desk, &format!("a defect of snapswarm: {error}")),
            }
            let pause = tokio::time::sleep(DEFECT_PAUSE);
            if cancel.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
        self.desk.end();
    }
}

fn trouble(desk: &Desk, problem: &str) {
    if desk.status().last_error.as_deref() != Some(problem) {
        tracing::warn!(problem, "the node's state is not copied");
    }
    desk.note(|status| status.last_error = Some(problem.to_owned()));
}

fn log(what: &str, stats: &CopyStats) {
    tracing::debug!(
        files = stats.files,
        changed = stats.changed_files,
        cloned = stats.cloned_files,
        read = stats.read_bytes,
        written = stats.written_bytes,
        seconds = stats.took.as_secs_f64(),
        "{what}"
    );
}

/// A run with one copyist.
struct Run {
    with: CopySettings,
    desk: Arc<Desk>,
    learnt: Learnt,
    commits: watch::Receiver<u64>,
    /// The copyist is copying ahead.
    is_copying: bool,
    /// It has since the height came near.
    has_begun: bool,
    /// There was no storage before the first block.
    awaits_storage: bool,
}

impl Run {
    fn new(copying: &Copying) -> Self {
        Self {
            with: copying.with.clone(),
            desk: copying.desk.clone(),
            learnt: copying.learnt.clone(),
            commits: copying.learnt.commits(),
            is_copying: false,
            has_begun: false,
            awaits_storage: false,
        }
    }

    /// Until cancelled; an error is a reason to begin anew.
    async fn run(mut self, cancel: CancellationToken) -> Result<(), String> {
        let (told, mut words) = mpsc::channel(WORDS);
        let (storage, copy) = (self.with.storage.clone(), self.with.copy.clone());
        copyist::start(storage, copy, self.desk.clone(), told)
            .map_err(|error| format!("no thread can be started: {error}"))?;
        self.copy_ahead();
        let mut tell = tokio::time::interval(TELL_EVERY);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                changed = self.commits.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.committed();
                    // A snapshot may have been left out.
                    if self.tip().is_multiple_of(self.interval()) {
                        self.tell();
                    }
                }
                word = words.recv() => match word {
                    None => return Err("the copyist has ended".to_owned()),
                    Some(Told::NoCopy(error)) => return Err(error.to_string()),
                    Some(Told::Ahead(copied)) => self.copied_ahead(copied),
                    Some(Told::Copied(height, copied)) => {
                        let handed = cancel.run_until_cancelled(self.copied(height, copied));
                        if handed.await.is_none() {
                            return Ok(());
                        }
                    }
                },
                _ = tell.tick() => self.tell(),
            }
        }
    }

    fn interval(&self) -> u64 {
        self.with.interval.get()
    }

    fn tip(&self) -> u64 {
        *self.commits.borrow()
    }

    /// Blocks before the height within which copying ahead begins.
    fn near(&self) -> u64 {
        (self.interval() / 10).clamp(LAST_BLOCKS, NEAR_BLOCKS)
    }

    /// A block was committed.
    fn committed(&mut self) {
        if std::mem::take(&mut self.awaits_storage) {
            self.copy_ahead();
        }
        let left = self.interval() - self.tip() % self.interval();
        if left > self.near() {
            self.has_begun = false;
        } else if !self.has_begun || left <= LAST_BLOCKS {
            self.has_begun = true;
            self.copy_ahead();
        }
    }

    fn copy_ahead(&mut self) {
        if !self.is_copying {
            self.is_copying = self.desk.copy_ahead();
        }
    }

    fn copied_ahead(&mut self, copied: Result<CopyStats, XianError>) {
        self.is_copying = false;
        match copied {
            Ok(stats) => {
                self.desk.set_unable(None);
                log("the node's state was copied ahead", &stats);
            }
            // An answer to Commit waits; or the node began a file anew.
            Err(XianError::Stopped | XianError::Changed { .. }) => {}
            // The first block of a node that begins makes one.
            Err(XianError::NoStorage { .. }) if self.tip() == 0 => self.awaits_storage = true,
            Err(error) => {
                let problem = error.to_string();
                trouble(&self.desk, &problem);
                let is_full = matches!(error, XianError::NoSpace { .. });
                self.desk.set_unable(is_full.then_some(problem));
            }
        }
    }

    /// There is a copy, or it failed when the node had gone on.
    async fn copied(&mut self, height: u64, copied: Result<Copied, XianError>) {
        let made = match copied {
            Ok(copied) => {
                log("what the last block changed was copied", &copied.stats);
                self.hand_over(copied).await
            }
            Err(error) => Err(error.into()),
        };
        match made {
            Ok(made) => {
                tracing::info!(
                    height,
                    manifest = made.published,
                    records = made.records,
                    "the daemon made a snapshot of the node's state"
                );
                self.desk.note(|status| status.last_error = None);
            }
            Err(failure) => {
                let problem = failure.message;
                tracing::warn!(height, problem, "the node's state became no snapshot");
                self.desk.note(|status| {
                    status.failed += 1;
                    status.last_error = Some(format!("height {height}: {problem}"));
                });
            }
        }
        self.desk.is_free();
        self.has_begun = false;
        self.tell();
    }

    /// Has the daemon make a snapshot of the copy. It is asked again until the next
    /// height is near.
    async fn hand_over(&mut self, copied: Copied) -> Result<Made, Failure> {
        let height = copied.block.height;
        let command = Command::PublishCopy(self.command(&copied).await?);
        let next_is_near = height + self.interval() - self.near();
        let mut pause = FIRST_PAUSE;
        loop {
            let asked = daemon::publish(&self.with.home, &command);
            let failure = match daemon::patiently(asked).await {
                Ok(made) => return Ok(made),
                Err(failure) => failure,
            };
            if !matches!(failure.code, FailureCode::Failed | FailureCode::Interrupted) {
                return Err(failure);
            }
            self.waits(height, &failure.message);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.commits.wait_for(|tip| *tip >= next_is_near) => return Err(failure),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The log hears only of a change.
    fn waits(&self, height: u64, problem: &str) {
        let told = format!("height {height} waits: {problem}");
        if self.desk.status().last_error.as_ref() != Some(&told) {
            tracing::warn!(height, problem, "the copy of the node's state waits");
            self.desk.note(|status| status.last_error = Some(told));
        }
    }

    /// What the daemon is asked for, once the chain has confirmed the application hash.
    async fn command(&mut self, copied: &Copied) -> Result<CopyCommand, Failure> {
        let (height, app_hash) = (copied.block.height, hex::encode(&copied.block.app_hash));
        let confirmed = hex::encode(self.confirmed(height).await?);
        if confirmed != app_hash {
            return Err(Failure::new(
                FailureCode::Verification,
                format!("the storage has application hash {app_hash}, the chain {confirmed}"),
            ));
        }
        Ok(CopyCommand {
            chain_id: super::chain_id(&self.learnt)?,
            copy: self.with.copy.clone(),
            state_patches: self.with.state_patches.clone(),
            height,
            app_hash,
        })
    }

    /// The application hash after a block, as soon as the next one is decided.
    async fn confirmed(&mut self, height: u64) -> Result<Bytes, Failure> {
        let lost = |why: &str| Failure::new(FailureCode::Verification, why);
        loop {
            if let Some(app_hash) = self.learnt.app_hash(height) {
                return Ok(app_hash);
            }
            let changed = self.commits.changed().await;
            changed.map_err(|_| Failure::interrupted("the adapter has ended"))?;
            if self.tip() < height {
                return Err(lost("the chain began anew"));
            }
            if self.learnt.is_past(height) {
                return Err(lost("its application hash went by too long ago"));
            }
        }
    }

    /// Tells the daemon how it stands, where there is one.
    fn tell(&self) {
        let held = self.learnt.last_hold();
        let status = XianStatus {
            last_hold_ms: held.map(|held| held.took.as_secs_f64() * 1000.0),
            ..self.desk.status()
        };
        let home = self.with.home.clone();
        tokio::spawn(async move { daemon::tell(&home, &Command::Copying(status)).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_storage_is_trouble_only_after_the_first_block() {
        let learnt = Learnt::of_test("a");
        let folder = tempfile::tempdir().unwrap();
        let lock = lock::take(&folder.path().join("copy"), Duration::ZERO).unwrap();
        let with = CopySettings {
            home: "/home".into(),
            storage: "/storage".into(),
            state_patches: None,
            copy: "/copy".into(),
            interval: NonZeroU64::new(1000).unwrap(),
            hold: Duration::ZERO,
        };
        let mut run = Run::new(&Copying::new(with, lock, learnt.clone()));
        let orders = run.desk.new_copyist();
        let trouble = |run: &Run| run.desk.status().last_error;
        let no_storage = || {
            let path = "/storage".into();
            Err(XianError::NoStorage { path })
        };
        run.copied_ahead(no_storage());
        assert_eq!(trouble(&run), None);
        // It is looked at again, once.
        for (height, is_looked_at) in [(1, true), (2, false)] {
            learnt.commit(height);
            run.committed();
            assert_eq!(orders.try_recv().is_ok(), is_looked_at, "{height}");
        }
        run.copied_ahead(no_storage());
        let told = trouble(&run).unwrap();
        assert!(told.contains("is no storage of a Xian node"), "{told}");
    }

    #[test]
    fn a_copy_is_never_made_where_the_storage_is() {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("xian");
        std::fs::create_dir(&storage).unwrap();
        std::os::unix::fs::symlink(&storage, folder.path().join("link")).unwrap();
        let check = |copy: &str| {
            let settings = CopySettings {
                home: folder.path().to_owned(),
                storage: storage.clone(),
                state_patches: None,
                copy: folder.path().join(copy),
                interval: NonZeroU64::new(10).unwrap(),
                hold: Duration::ZERO,
            };
            settings.check()
        };
        for wrong in ["xian", "xian/copy", "link/copy/deeper", "."] {
            assert_eq!(
                check(wrong).unwrap_err().code,
                FailureCode::Usage,
                "{wrong}"
            );
        }
        check("xian-copy").unwrap();
        check("home/xian-copy").unwrap();
    }
}
