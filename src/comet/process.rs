//! Processes of a node: CometBFT, and an application beside it.
//!
//! A command line is given to a shell, as its operator would type it. The shell leads
//! a group of its own and passes SIGTERM on to it; the kernel sends it one when we are
//! killed, so that whatever was started ends with us. All that it says goes to a log file, and what
//! CometBFT says of its state sync is picked out of it ([`Sign`]).

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::fs::{self, File};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::sign::{Sign, plain};

/// Runs the command line that it is given and waits for it; the first SIGTERM goes to
/// the whole group, however the command line is made up. The kernel may send several as
/// our threads end one after another: the others must not end the shell before it has
/// passed the first one on.
const KEEPER: &str = r#"trap 'trap "" TERM; kill -TERM 0; wait' TERM; (eval "$1") & wait $!"#;

/// A log that has grown beyond this begins anew, and the one before is kept.
const MAX_LOG_BYTES: u64 = 64 << 20;
/// A node's log has its settings, and keys may stand in the addresses of endpoints.
const LOG_RIGHTS: u32 = 0o600;
/// A line is read so far; more of it is not looked at.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Signs that wait to be looked at; the newest are dropped when nobody does.
const SIGN_QUEUE: usize = 256;
/// Between two looks at a group that was told to stop.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What a process said before it ended is read within this.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of a log's end that are shown with a failure.
const TAIL_BYTES: usize = 16_000;

/// Why a process cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` cannot be started")]
pub struct StartError {
    /// The command line.
    pub command: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A command line.
    pub command: String,
    /// Variables beside those of our own environment.
    pub environment: Vec<(String, PathBuf)>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    group: Pid,
    log: PathBuf,
    /// Where in its log it begins: what stands before was said by others.
    began: Arc<AtomicU64>,
    signs: mpsc::Receiver<Sign>,
    /// When its end was noticed.
    ended: Option<Instant>,
}

impl Process {
    /// Starts it. Call it from a thread that lives as long as the process shall: the
    /// kernel takes the end of the thread for ours.
    pub async fn start(plan: &Plan) -> Result<Self, StartError> {
        let failed = |source| StartError {
            command: plan.command.clone(),
            source,
        };
        let log = File::options()
            .create(true)
            .append(true)
            .mode(LOG_RIGHTS)
            .open(&plan.log)
            .await
            .map_err(failed)?;
        let (reader, writer) = io::pipe().map_err(failed)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", KEEPER, "sh", &plan.command])
            .envs(plan.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer)
            .process_group(0);
        #[cfg(target_os = "linux")]
        end_with_us(&mut command);
        let child = command.spawn().map_err(failed)?;
        // It holds the pipe's other end for as long as it lives.
        drop(command);
        let group = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Pid::from_raw(group.ok_or_else(|| failed(io::Error::other("it has no id")))?);
        let (sender, signs) = mpsc::channel(SIGN_QUEUE);
        let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into());
        let reader = reader.map_err(failed)?;
        let size = log.metadata().await.map_or(0, |found| found.len());
        let log = Log {
            file: log,
            path: plan.log.clone(),
            size,
            began: Arc::new(AtomicU64::new(size)),
        };
        let began = log.began.clone();
        tokio::spawn(keep_log(reader, log, sender));
        Ok(Self {
            child,
            group,
            log: plan.log.clone(),
            began,
            signs,
            ended: None,
        })
    }

    /// Its next sign; nothing once it has ended and all that it said is read.
    pub async fn next(&mut self) -> Option<Sign> {
        tokio::select! {
            biased;
            Some(sign) = self.signs.recv() => Some(sign),
            _ = self.child.wait() => {
                // What it said last is on its way; a child of its own may hold the pipe.
                let since = *self.ended.get_or_insert_with(Instant::now);
                let rest = tokio::time::timeout_at(since + LAST_WORDS, self.signs.recv());
                rest.await.ok().flatten()
            }
        }
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Tells it to stop, and kills what has not stopped after `patience`.
    pub async fn stop(mut self, patience: Duration) {
        self.tell_to_stop();
        // The shell may end long before what it started.
        let gone = async {
            let _ = self.child.wait().await;
            while killpg(self.group, None).is_ok() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(patience, gone).await.is_err() {
            tracing::warn!(
                log = %self.log.display(),
                seconds = patience.as_secs(),
                "a process did not stop when it was told to and is killed"
            );
        }
        // Also what it may have left behind.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait().await;
    }

    /// Once, to each process of the group: some take a second signal for impatience.
    fn tell_to_stop(&mut self) {
        let _ = match self.is_running() {
            // The shell passes it on.
            true => kill(self.group, Signal::SIGTERM),
            false => killpg(self.group, Signal::SIGTERM),
        };
    }

    /// The last that it said.
    pub fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let began = usize::try_from(self.began.load(Ordering::Acquire)).unwrap_or(usize::MAX);
        let from = began.max(text.len().saturating_sub(TAIL_BYTES));
        plain(&String::from_utf8_lossy(
            text.get(from..).unwrap_or_default(),
        ))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            self.tell_to_stop();
        }
    }
}

/// The kernel sends the process a SIGTERM when the thread that started it ends.
#[cfg(target_os = "linux")]
fn end_with_us(command: &mut Command) {
    let parent = nix::unistd::getpid();
    // SAFETY: between fork and exec only two system calls are made, without
    // allocation or locks.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?;
            // We may have ended before the line above.
            if nix::unistd::getppid() != parent {
                return Err(io::ErrorKind::Interrupted.into());
            }
            Ok(())
        });
    }
}

/// The log that a process writes to.
struct Log {
    file: File,
    path: PathBuf,
    size: u64,
    began: Arc<AtomicU64>,
}

impl Log {
    /// A log that cannot be written stops nobody.
    async fn write(&mut self, line: &[u8]) {
        if self.size > MAX_LOG_BYTES
            && let Ok(fresh) = begin_anew(&self.path).await
        {
            (self.file, self.size) = (fresh, 0);
            self.began.store(0, Ordering::Release);
        }
        self.size += line.len() as u64;
        let _ = self.file.write_all(line).await;
        // Whoever looks at the log of a process that ended wants its last line.
        let _ = self.file.flush().await;
    }
}

/// Writes lines to the log and picks signs out of them, until the last holder of the
/// pipe is gone.
async fn keep_log(pipe: tokio::net::unix::pipe::Receiver, mut log: Log, signs: mpsc::Sender<Sign>) {
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut bounded = (&mut lines).take(MAX_LINE_BYTES);
        if !matches!(bounded.read_until(b'\n', &mut line).await, Ok(1..)) {
            break;
        }
        if let Some(sign) = Sign::of(&String::from_utf8_lossy(&line)) {
            let _ = signs.try_send(sign);
        }
        log.write(&line).await;
    }
}

async fn begin_anew(path: &Path) -> io::Result<File> {
    let mut old = path.as_os_str().to_owned();
    old.push(".1");
    fs::rename(path, old).await?;
    let mut options = File::options();
    options.create(true).append(true).mode(LOG_RIGHTS);
    options.open(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn plan(folder: &Path, command: &str) -> Plan {
        Plan {
            command: command.to_owned(),
            environment: vec![("PLACE".to_owned(), folder.to_owned())],
            log: folder.join("log"),
        }
    }

    #[tokio::test]
    async fn what_a_process_says_is_logged_and_its_signs_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo here in $PLACE; echo 'I[1] Snapshot restored height=5' >&2; exit 3";
        let mut process = Process::start(&plan(folder.path(), script)).await.unwrap();
        let mut next = async || {
            tokio::time::timeout(PATIENCE, process.next())
                .await
                .unwrap()
        };
        assert_eq!(next().await, Some(Sign::Restored));
        assert_eq!(next().await, None);
        assert!(process.tail().contains("height=5"));
        assert!(process.tail().contains(folder.path().to_str().unwrap()));
    }

    #[tokio::test]
    async fn what_an_earlier_process_said_is_not_taken_for_the_words_of_the_next() {
        let folder = tempfile::tempdir().unwrap();
        for said in ["panic: one", "two"] {
            let script = format!("echo '{said}'; exit 1");
            let mut process = Process::start(&plan(folder.path(), &script)).await.unwrap();
            assert_eq!(process.next().await, None);
            assert_eq!(process.tail(), format!("{said}\n"));
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
        assert_eq!(log, "panic: one\ntwo\n", "the log has both");
    }

    #[tokio::test]
    async fn stopping_ends_the_whole_group_and_kills_the_stubborn() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; sleep 600 & echo $! > $PLACE/child; echo up > $PLACE/up; wait";
        let process = Process::start(&plan(folder.path(), script)).await.unwrap();
        let up = async {
            while !folder.path().join("up").exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, up).await.unwrap();
        let child = std::fs::read_to_string(folder.path().join("child")).unwrap();
        process.stop(Duration::from_millis(50)).await;
        let stat = format!("/proc/{}/stat", child.trim());
        let is_over = || {
            let stat = std::fs::read_to_string(&stat).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        let gone = async {
            while !is_over() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }

    /// Takes a moment to stop, and is no child of ours but of a shell's.
    const COMPOUND: &str = "cd / && sh -c \
        'trap \"echo > $PLACE/told; sleep 0.3; echo >> $PLACE/stopped; exit\" TERM; \
        echo > $PLACE/up; \
        while :; do sleep 0.05; done'";

    async fn until_there(path: PathBuf) {
        let there = async {
            while !path.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, there).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_compound_command_started_gets_time_to_stop_and_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&plan(folder.path(), COMPOUND))
            .await
            .unwrap();
        until_there(folder.path().join("up")).await;
        process.stop(PATIENCE).await;
        let stopped = std::fs::read(folder.path().join("stopped")).unwrap();
        assert_eq!(stopped, b"\n");
    }

    #[tokio::test]
    async fn what_a_compound_command_started_ends_when_its_shell_is_told_that_we_have_gone() {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&plan(folder.path(), COMPOUND))
            .await
            .unwrap();
        until_there(folder.path().join("up")).await;
        kill(process.group, Signal::SIGTERM).unwrap();
        until_there(folder.path().join("stopped")).await;
    }

    #[tokio::test]
    async fn a_second_signal_neither_ends_the_shell_early_nor_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let direct = COMPOUND.replacen("cd / &&", "exec", 1);
        let mut process = Process::start(&plan(folder.path(), &direct)).await.unwrap();
        until_there(folder.path().join("up")).await;
        kill(process.group, Signal::SIGTERM).unwrap();
        until_there(folder.path().join("told")).await;
        kill(process.group, Signal::SIGTERM).unwrap();
        assert!(process.is_running());
        assert_eq!(process.next().await, None);
        let stopped = std::fs::read(folder.path().join("stopped")).unwrap();
        assert_eq!(stopped, b"\n");
    }

    #[tokio::test]
    async fn a_command_that_is_not_there_says_so_in_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Process::start(&plan(folder.path(), "no-such-program-here"))
            .await
            .unwrap();
        assert_eq!(process.next().await, None);
        assert!(process.tail().contains("no-such-program-here"));
    }
}
