//! Who shares the snapshot when a join has left: a daemon in a process of its own.
//!
//! A join of a home without a daemon runs one itself. When it leaves, another takes its
//! place in the background, so that whoever joins next finds one more provider. The
//! person is told of it, and how to end it.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command as Process, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;

use super::{DAEMON_PATIENCE, Join, LOGS, has_daemon};
use crate::node::command::{Command, Failure, FailureCode, Outcome, Seeding, SnapshotSummary};
use crate::node::failure::blocking;
use crate::node::own_program;
use crate::store::Store;

/// What the daemon says, among the logs of the home.
const DAEMON_LOG: &str = "daemon.log";
/// A log that has grown beyond this begins anew, and the one before is kept.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// What a daemon that ends at once may have said.
const SAID_BYTES: u64 = 64 << 10;
/// Nobody else's business.
const LOG_RIGHTS: u32 = 0o600;
/// A daemon opens its store and its listeners within this.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Join {
    /// Leaves a daemon behind, in place of the one of this process. None where that is
    /// not wanted, where another runs already, and where there is nothing to share.
    pub(super) async fn seed_on(&mut self) -> Option<Seeding> {
        if !self.options.seeds_on || self.daemon.is_none() || !self.has_snapshots().await {
            return None;
        }
        self.stop_daemon().await;
        let started = async {
            let since = Instant::now();
            while !is_free(&self.asker.home).await && since.elapsed() < DAEMON_PATIENCE {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            background_daemon(&self.asker.home, &self.options.bootstrap).await
        };
        // Whoever stops the join now wants no daemon either.
        match self.cancel.run_until_cancelled(started).await? {
            Ok(seeding) => Some(seeding),
            // The node is where it should be, all the same.
            Err(failure) => {
                let hint = failure.hint.unwrap_or_default();
                self.reporter.note(format!("{}; {hint}", failure.message));
                None
            }
        }
    }

    async fn has_snapshots(&self) -> bool {
        match self.ask(Command::List).await {
            Ok(Outcome::List(list)) => {
                let is_there =
                    |one: &SnapshotSummary| one.complete && one.chain_id == self.chain.id();
                list.snapshots.iter().any(is_there)
            }
            _ => false,
        }
    }
}

async fn is_free(home: &Path) -> bool {
    let home = home.to_owned();
    let looked = blocking(move || Ok(Store::is_free(&home))).await;
    looked.unwrap_or_default()
}

/// Starts a daemon of the home that outlives this process, and waits until it answers.
async fn background_daemon(home: &Path, bootstrap: &[Multiaddr]) -> Result<Seeding, Failure> {
    let log = home.join(LOGS).join(DAEMON_LOG);
    let failed = |why: &dyn std::fmt::Display| {
        let message = format!("no daemon shares the snapshot now: {why}");
        Failure::new(FailureCode::Failed, message).hint(format!(
            "`snapswarm --home {} start` does, and says what is wrong",
            home.display()
        ))
    };
    begin_anew(&log);
    let said_before = fs::metadata(&log).map_or(0, |found| found.len());
    let program = own_program()?;
    let child = spawn(&program, home, bootstrap, &log).map_err(|error| failed(&error))?;
    let process = child.id();
    let mut starting = Starting(Some(child));
    let since = Instant::now();
    while since.elapsed() < READY_PATIENCE {
        if let Some(status) = starting.ended().map_err(|error| failed(&error))? {
            let why = said_last(&log, said_before).unwrap_or_else(|| status.to_string());
            return Err(failed(&why));
        }
        if has_daemon(home).await.unwrap_or_default() {
            starting.0 = None;
            return Ok(Seeding { process, log });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let seconds = READY_PATIENCE.as_secs();
    let why = format!("process {process} does not answer after {seconds} seconds");
    Err(failed(&why))
}

/// A log that cannot be moved goes on.
fn begin_anew(log: &Path) {
    if fs::metadata(log).is_ok_and(|found| found.len() > MAX_LOG_BYTES) {
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

/// A daemon that is not ready yet: it ends with whoever waits for it.
struct Starting(Option<Child>);

impl Starting {
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0.as_mut().map_or(Ok(None), Child::try_wait)
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Why it ended, in its own words.
fn said_last(log: &Path, from: u64) -> Option<String> {
    let mut log = File::open(log).ok()?;
    log.seek(io::SeekFrom::Start(from)).ok()?;
    let mut said = Vec::new();
    log.take(SAID_BYTES).read_to_end(&mut said).ok()?;
    let said = String::from_utf8_lossy(&said);
    let why = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    why.map(str::to_owned)
}

/// In a process group of its own: what ends this terminal's work is not meant for it. Its
/// output goes to the log, so that nobody waits for the end of a pipe.
fn spawn(program: &Path, home: &Path, bootstrap: &[Multiaddr], log: &Path) -> io::Result<Child> {
    fs::create_dir_all(home.join(LOGS))?;
    let mut options = File::options();
    let log = options
        .create(true)
        .append(true)
        .mode(LOG_RIGHTS)
        .open(log)?;
    let mut command = Process::new(program);
    command.arg("--home").arg(home).arg("start");
    for peer in bootstrap {
        command.arg("--bootstrap").arg(peer.to_string());
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_has_grown_large_begins_anew_and_the_one_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        begin_anew(&log);
        fs::write(&log, "short").unwrap();
        begin_anew(&log);
        assert!(log.exists());
        let file = File::options().write(true).open(&log).unwrap();
        file.set_len(MAX_LOG_BYTES + 1).unwrap();
        begin_anew(&log);
        assert!(!log.exists());
        let before = fs::metadata(folder.path().join("daemon.log.1")).unwrap();
        assert_eq!(before.len(), MAX_LOG_BYTES + 1);
    }

    #[test]
    fn what_a_daemon_said_at_its_end_is_its_own_and_not_that_of_an_earlier_one() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        let before = "error: of an earlier one\n";
        fs::write(&log, before).unwrap();
        assert_eq!(said_last(&log, before.len() as u64), None);
        let said = format!("{before}INFO begins\nerror: the home is in use\n  what to do: wait\n");
        fs::write(&log, said).unwrap();
        let why = said_last(&log, before.len() as u64);
        assert_eq!(why.as_deref(), Some("the home is in use"));
        assert_eq!(said_last(&folder.path().join("none"), 0), None);
    }
}
