//! The processes of a network.
//!
//! Those of a run do not outlive it. Each leads a group of its own; whoever drops a
//! [`Running`] kills that group and waits for its leader. A panic or an early return
//! therefore leaves nothing behind, and for an end without any unwinding (SIGKILL)
//! the kernel sends each process the same signal that ended us.
//!
//! Those of a network that is kept ([`Processes::kept`]) are let go in the end. Each
//! leads a session of its own, so that no terminal takes it along, and is written
//! down as soon as it runs ([`Record`]): also what a cut-off start left can be ended.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::record::Record;
use crate::running::{Running, Stopped};

/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 15;

/// Between two looks for the first line of a process: a file tells nobody.
const LINE_INTERVAL: Duration = Duration::from_millis(20);

/// All processes of a network and the folder of their logs.
pub struct Processes {
    logs: PathBuf,
    /// Where those that may outlive us are written down.
    records: Option<PathBuf>,
    running: Vec<Running>,
}

impl Processes {
    /// Nothing runs yet; logs go to `logs`.
    pub fn new(logs: PathBuf) -> anyhow::Result<Self> {
        make(&logs)?;
        Ok(Self {
            logs,
            records: None,
            running: Vec::new(),
        })
    }

    /// For processes that are let go in the end and written down in `records`.
    pub fn kept(logs: PathBuf, records: PathBuf) -> anyhow::Result<Self> {
        make(&records)?;
        Ok(Self {
            records: Some(records),
            ..Self::new(logs)?
        })
    }

    /// Where logs lie.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// What a process says that is to be read by us.
    fn told(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.out"))
    }

    fn open_log(&self, name: &str) -> anyhow::Result<File> {
        let path = self.log(name);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("the log {} cannot be opened", path.display()))
    }

    fn add(&mut self, name: &str, command: Command) -> anyhow::Result<()> {
        let running = Running::start(name, command, self.records.is_some())?;
        if let Some(records) = &self.records {
            Record::of(name, running.group)?.save(records)?;
        }
        self.running.push(running);
        Ok(())
    }

    /// Starts a process that runs until [`stop`](Self::stop); all that it
    /// says goes to its log.
    pub fn start(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let log = self.open_log(name)?;
        command.stdout(log.try_clone()?).stderr(log);
        self.add(name, command)
    }

    /// Starts a process like [`start`](Self::start) whose standard output is to be
    /// read ([`first_line`](Self::first_line)). It goes to a file, which the process
    /// can write to also when nobody reads any more.
    pub fn start_telling(&mut self, name: &str, mut command: Command) -> anyhow::Result<()> {
        let path = self.told(name);
        let told = File::create(&path)
            .with_context(|| format!("the file {} cannot be made", path.display()))?;
        command.stdout(told).stderr(self.open_log(name)?);
        self.add(name, command)
    }

    /// The first line on the standard output of a process, once it is whole.
    pub fn first_line(&self, name: &str) -> Option<String> {
        let told = std::fs::read_to_string(self.told(name)).ok()?;
        let (line, _) = told.split_once('\n')?;
        Some(line.to_owned())
    }

    /// Starts a process and waits for the first line on its standard output.
    pub async fn start_with_first_line(
        &mut self,
        name: &str,
        command: Command,
        patience: Duration,
    ) -> anyhow::Result<String> {
        self.start_telling(name, command)?;
        let line = async {
            loop {
                if let Some(line) = self.first_line(name) {
                    return Ok(line);
                }
                self.check()?;
                tokio::time::sleep(LINE_INTERVAL).await;
            }
        };
        match tokio::time::timeout(patience, line).await {
            Ok(line) => line,
            Err(_) => bail!(
                "{name} said nothing within {} s{}",
                patience.as_secs(),
                self.tail(name)
            ),
        }
    }

    /// How long the log of a process is, in bytes.
    pub fn log_len(&self, name: &str) -> usize {
        std::fs::metadata(self.log(name)).map_or(0, |found| found.len() as usize)
    }

    /// What a process has logged.
    pub fn read_log(&self, name: &str) -> String {
        let log = std::fs::read(self.log(name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Whether the log of a process has this text, beyond its first `from` bytes.
    pub fn has_logged(&self, name: &str, text: &str, from: usize) -> bool {
        let log = std::fs::read(self.log(name)).unwrap_or_default();
        String::from_utf8_lossy(log.get(from..).unwrap_or_default()).contains(text)
    }

    /// Kills a process with all its group.
    pub fn kill(&mut self, name: &str) {
        self.running.retain(|running| running.name != name);
    }

    /// Lets all processes go: they run on.
    pub fn let_go(mut self) {
        for running in &mut self.running {
            running.let_go = true;
        }
    }

    /// Runs a short command to its end; standard error goes to its log.
    pub async fn run(
        &self,
        name: &str,
        mut command: Command,
        patience: Duration,
    ) -> anyhow::Result<Output> {
        command.stdout(Stdio::piped()).stderr(self.open_log(name)?);
        let mut running = Running::start(name, command, false)?;
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
                let told = std::fs::read_to_string(self.told(&name)).unwrap_or_default();
                bail!(
                    "{name} has ended by itself ({status}) {}{}",
                    told.trim(),
                    self.tail(&name)
                )
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
        let text = self.read_log(name);
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

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("the folder {} cannot be made", folder.display()))
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

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
    async fn what_is_kept_and_let_go_runs_on_and_is_found_by_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("records");
        let mut processes = Processes::kept(folder.path().join("logs"), records.clone()).unwrap();
        let script = "echo ready; exec sleep 600";
        processes
            .start_with_first_line("kept", shell(script), PATIENCE)
            .await
            .unwrap();
        processes.let_go();
        let found = Record::all(&records).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].is_alive());
        found[0].signal(Signal::SIGKILL);
        let gone = async {
            while found[0].is_alive() {
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
