//! The processes of a run, none of which outlives it.
//!
//! Each process leads a group of its own; whoever drops a [`Running`] kills
//! that group and waits for its leader. A panic or an early return therefore
//! leaves nothing behind, and for an end without any unwinding (SIGKILL) the
//! kernel sends each process the same signal that ended us.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 15;

/// A process of ours.
struct Running {
    name: String,
    child: Child,
    group: Pid,
}

impl Running {
    fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        let parent = nix::unistd::getpid();
        command.process_group(0).stdin(Stdio::null());
        // SAFETY: between fork and exec only calls that are safe there: prctl
        // and getppid, no allocation.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                // The parent may have died before the line above.
                if getppid() != parent {
                    return Err(std::io::ErrorKind::Interrupted.into());
                }
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| {
            let program = command.as_std().get_program().display();
            format!("{name}: {program} does not start")
        })?;
        let id = child
            .id()
            .context("a process that was just started has an id")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            group: Pid::from_raw(i32::try_from(id)?),
        })
    }

    fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = killpg(self.group, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        // SIGKILL takes effect in moments: a process in a disk wait ends when
        // the disk answers.
        while matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// How a process that was told to stop ended.
pub struct Stopped {
    /// Its name.
    pub name: String,
    /// Its status; absent when it had to be killed.
    pub status: Option<ExitStatus>,
}

/// All processes of a run and the folder of their logs.
pub struct Processes {
    logs: PathBuf,
    running: Vec<Running>,
}

impl Processes {
    /// Nothing runs yet; logs go to `logs`.
    pub fn new(logs: PathBuf) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&logs)
            .with_context(|| format!("the folder {} cannot be made", logs.display()))?;
        Ok(Self {
            logs,
            running: Vec::new(),
        })
    }

    /// Where logs lie.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    fn open_log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.log(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("the log {} cannot be opened", path.display()))
    }

    /// Starts a process that runs until [`stop`](Self::stop); all that it
    /// says goes to its log.
    pub fn start(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = self.open_log(name)?;
        command.stdout(log.try_clone()?).stderr(log);
        self.running.push(Running::start(name, command)?);
        Ok(())
    }

    /// Starts a process like [`start`](Self::start) and waits for the first
    /// line on its standard output.
    pub async fn start_with_first_line(
        &mut self,
        name: &str,
        mut command: Command,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let log = self.open_log(name)?;
        command.stdout(Stdio::piped()).stderr(log);
        let mut running = Running::start(name, command)?;
        let stdout = running.child.stdout.take().context("stdout is piped")?;
        self.running.push(running);
        let mut lines = BufReader::new(stdout).lines();
        let first = match tokio::time::timeout(patience, lines.next_line()).await {
            Ok(Ok(Some(line))) => line,
            Ok(_) => bail!("{name} ended before it said anything{}", self.tail(name)),
            Err(_) => bail!(
                "{name} said nothing within {} s{}",
                patience.as_secs(),
                self.tail(name)
            ),
        };
        // Whatever follows is read, so that the process never blocks on it.
        let mut log = tokio::fs::File::from_std(self.open_log(name)?);
        tokio::spawn(async move {
            tokio::io::copy(lines.get_mut(), &mut log).await.ok();
        });
        Ok(first)
    }

    /// Runs a short command to its end; standard error goes to its log.
    pub async fn run(
        &self,
        name: &str,
        mut command: Command,
        patience: Duration,
    ) -> anyhow::Result<Output> {
        command.stdout(Stdio::piped()).stderr(self.open_log(name)?);
        let mut running = Running::start(name, command)?;
        let mut stdout = running.child.stdout.take().context("stdout is piped")?;
        let mut output = Vec::new();
        let ends = async {
            tokio::io::AsyncReadExt::read_to_end(&mut stdout, &mut output).await?;
            running.child.wait().await
        };
        match tokio::time::timeout(patience, ends).await {
            Ok(status) => Ok(Output {
                status: status.with_context(|| format!("{name} cannot be waited for"))?,
                stdout: output,
                stderr: Vec::new(),
            }),
            Err(_) => bail!(
                "{name} has not ended within {} s{}",
                patience.as_secs(),
                self.tail(name)
            ),
        }
    }

    /// An error if a process that should run has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let ended = self.running.iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok().flatten()?;
            Some((running.name.clone(), status))
        });
        match ended {
            None => Ok(()),
            Some((name, status)) => {
                bail!("{name} has ended by itself ({status}){}", self.tail(&name))
            }
        }
    }

    /// Tells all processes to stop and kills what has not stopped within
    /// `patience`.
    pub async fn stop(&mut self, patience: Duration) -> Vec<Stopped> {
        let mut stopped = Vec::new();
        for running in &self.running {
            running.signal(Signal::SIGTERM);
        }
        let deadline = tokio::time::Instant::now() + patience;
        while let Some(mut running) = self.running.pop() {
            let status = tokio::time::timeout_at(deadline, running.child.wait()).await;
            stopped.push(Stopped {
                name: running.name.clone(),
                status: status.ok().and_then(Result::ok),
            });
        }
        stopped
    }

    /// The end of a log, for an error's text.
    pub fn tail(&self, name: &str) -> String {
        let path = self.log(name);
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        let mut tail = format!("\n  the end of {}:", path.display());
        for line in &lines[from..] {
            tail.push_str("\n    ");
            tail.push_str(line);
        }
        tail
    }
}

impl Stopped {
    /// Whether it ended by itself with exit code 0.
    pub fn cleanly(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The end in words.
    pub fn words(&self) -> String {
        match self.status {
            None => "did not stop and was killed".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("stopped with exit code {code}"),
                (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn dropping_kills_the_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(folder.path().into()).unwrap();
        let line = processes
            .start_with_first_line("parent", shell("sleep 600 & echo $!; wait"), PATIENCE)
            .await
            .unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap());
        assert!(nix::sys::signal::kill(grandchild, None).is_ok());
        drop(processes);
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            let stat = stat.unwrap_or_default();
            let state = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned();
            state.is_empty() || state.starts_with(['Z', 'X'])
        };
        // The kernel has the signal; when the process is gone is its affair.
        let gone = async {
            while !ended() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_is_named_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(folder.path().into()).unwrap();
        processes
            .start("unlucky", shell("echo 'no space here'; exit 3"))
            .unwrap();
        let error = loop {
            match processes.check() {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error.to_string(),
            }
        };
        assert!(
            error.contains("unlucky") && error.contains("no space here"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_does_not_stop_when_told_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut processes = Processes::new(folder.path().into()).unwrap();
        let script = "trap '' TERM; echo ready; while :; do sleep 1; done";
        processes
            .start_with_first_line("stubborn", shell(script), PATIENCE)
            .await
            .unwrap();
        let stopped = processes.stop(Duration::from_millis(50)).await;
        assert!(!stopped[0].cleanly());
        assert!(stopped[0].words().contains("killed"));
    }
}
