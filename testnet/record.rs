//! Who a process is, on disk: for processes that outlive the program that started
//! them, and are ended by another.
//!
//! A process id is given again when its process has ended. The kernel's start time
//! tells the two apart; it is looked at each time before something is signalled.

use std::fs;
use std::path::Path;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that was started.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What it is called in logs.
    pub name: String,
    pid: i32,
    /// Clock ticks from the machine's start to its own.
    start_ticks: u64,
}

impl Record {
    /// Of a running process.
    pub fn of(name: &str, pid: Pid) -> anyhow::Result<Self> {
        let pid = pid.as_raw();
        Ok(Self {
            name: name.to_owned(),
            pid,
            start_ticks: start_ticks(pid).with_context(|| format!("{name} has ended at once"))?,
        })
    }

    /// Whether this very process runs.
    pub fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }

    /// Sends a signal, if the process is still the one that was started.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive() {
            // Gone meanwhile is as good.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }

    /// Writes it into `folder`, under its name.
    pub fn save(&self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(&self.name);
        fs::write(&path, serde_json::to_vec(self)?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// All that were written into `folder`.
    pub fn all(folder: &Path) -> anyhow::Result<Vec<Self>> {
        let what = || format!("{} cannot be read", folder.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).with_context(what)? {
            let path = entry.with_context(what)?.path();
            let read = fs::read(&path).with_context(what)?;
            let record = serde_json::from_slice(&read);
            found.push(record.with_context(|| format!("{} is no record", path.display()))?);
        }
        Ok(found)
    }
}

/// When a process was started; nothing for one that has ended, also when nobody has
/// waited for it yet.
fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold spaces and parentheses itself. What follows it is
    // the third field of proc_pid_stat(5), the state; the start time is the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()?.starts_with(['Z', 'X']) {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_knows_its_own_process() {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::of("this", nix::unistd::getpid()).unwrap();
        assert!(record.is_alive());
        record.save(folder.path()).unwrap();
        assert_eq!(Record::all(folder.path()).unwrap(), [record]);
    }

    #[test]
    fn a_process_id_that_was_given_again_is_left_alone() {
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut record = Record::of("sleep", pid).unwrap();
        record.start_ticks -= 1;
        record.signal(Signal::SIGKILL);
        assert!(child.try_wait().unwrap().is_none());

        record.start_ticks += 1;
        record.signal(Signal::SIGKILL);
        child.wait().unwrap();
        assert!(!record.is_alive());
    }
}
