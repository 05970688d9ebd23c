//! One process of ours: how it is tied to us, or not, and how it ended.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid, setsid};
use tokio::process::{Child, Command};

/// A process of ours.
pub struct Running {
    /// What it is called in logs.
    pub name: String,
    /// The process.
    pub child: Child,
    /// What it leads.
    pub group: Pid,
    /// Whether it runs on when this is dropped.
    pub let_go: bool,
}

impl Running {
    /// Starts a process that ends with us, or one that may outlive us.
    pub fn start(name: &str, mut command: Command, outlives: bool) -> anyhow::Result<Self> {
        command.stdin(Stdio::null());
        match outlives {
            true => lead_a_session(&mut command),
            false => end_with_us(&mut command),
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
            let_go: false,
        })
    }

    /// Sends a signal to its group.
    pub fn signal(&self, signal: Signal) {
        // Gone already is as good.
        let _ = killpg(self.group, signal);
    }
}

fn lead_a_session(command: &mut Command) {
    // SAFETY: between fork and exec one system call, no allocation.
    unsafe {
        command.pre_exec(|| {
            setsid()?;
            Ok(())
        });
    }
}

fn end_with_us(command: &mut Command) {
    let parent = nix::unistd::getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only calls that are safe there: prctl and
    // getppid, no allocation.
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
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.let_go {
            return;
        }
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
