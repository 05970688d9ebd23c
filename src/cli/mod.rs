//! The command line: one file for each verb.
//!
//! A verb's file holds its arguments, how they become a
//! [`Command`], and how its [`Outcome`] reads. A command
//! goes to the daemon of the home when one runs there, else this process
//! carries it out. Outcomes go to stdout (one JSON document with `--json`),
//! everything else to stderr. Exit codes and JSON forms are a contract
//! (DESIGN.md §11).
//!
//! What comes from the network is never printed as it is: see
//! [`text::safe`].

mod answer;
mod arguments;
mod home;
mod interrupt;
pub mod screen;
pub mod text;

mod adapter;
mod delete;
mod delta;
mod diff;
mod doctor;
mod dump;
mod endorse;
mod feed;
mod fetch;
mod genesis;
mod init;
mod join;
mod limits;
mod list;
mod load;
mod pin;
mod restore;
mod show;
mod start;
mod status;
mod unpin;
mod verify;
mod xian;

use std::{
    error::Error,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand, error::ErrorKind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{arguments::Cid, screen::Screen};
use crate::{
    node::{
        self,
        command::{Command, Failure, FailureCode, Outcome, Progress},
        remote,
    },
    telemetry::LogSettings,
};

/// Progress values between the work and the screen.
const PROGRESS_QUEUE: usize = 64;

/// Above the options that all verbs have, in their help.
const EVERYWHERE: &str = "Options of every verb";

/// Peer-to-peer snapshot distribution for CometBFT chains.
#[derive(Debug, Parser)]
#[command(
    name = "snapswarm",
    version,
    after_help = "Example: a new node gets its state from the swarm and follows the chain\n  \
        snapswarm join --chain-rpc https://a.example,https://b.example --node-home ~/.cometbft\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 verification failed,\n\
        5 no space or storage fault, 6 interrupted (the same command goes on), 7 stopped by policy,\n\
        8 synced, but not from the swarm"
)]
pub struct Cli {
    /// The folder with identity, settings and snapshots [default: SNAPSWARM_HOME, or ~/.snapswarm]
    #[arg(long, global = true, value_name = "DIR", help_heading = EVERYWHERE)]
    home: Option<PathBuf>,
    /// Write one JSON document to stdout at the end
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    json: bool,
    /// Write logs as JSON lines (SNAPSWARM_LOG=debug says what is logged)
    #[arg(long, global = true, help_heading = EVERYWHERE)]
    log_json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Arguments),
    Load(load::Arguments),
    Join(join::Arguments),
    Restore(restore::Arguments),
    Start(start::Arguments),
    Fetch(fetch::Arguments),
    Feed(feed::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Verify(verify::Arguments),
    Dump(dump::Arguments),
    Diff(diff::Arguments),
    Delta(delta::Arguments),
    Genesis(genesis::Arguments),
    Delete(delete::Arguments),
    Pin(pin::Arguments),
    Unpin(unpin::Arguments),
    Endorse(endorse::Arguments),
    Status(status::Arguments),
    Limits(limits::Arguments),
    Doctor(doctor::Arguments),
    Adapter(adapter::Arguments),
    #[command(name = node::xian::VERB, hide = true)]
    Xian(xian::Arguments),
}

impl Cli {
    /// Reads the arguments. Help and wrong use are answered here; the error is
    /// the exit code.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        let given: Vec<OsString> = arguments.into_iter().collect();
        Self::try_parse_from(&given).map_err(|error| {
            let json = given
                .iter()
                .take_while(|argument| *argument != "--")
                .any(|argument| argument == "--json");
            if json && error.kind() == ErrorKind::DisplayVersion {
                let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
                return match answer::outcome(true, &version, "") {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(failure) => answer::failure(true, &failure),
                };
            }
            if error.exit_code() == 0 || !json {
                // Help goes to stdout, errors to stderr; either may be gone.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
            answer::failure(true, &arguments::usage(&error))
        })
    }

    /// How this verb logs.
    pub fn logs(&self) -> LogSettings {
        LogSettings {
            json: self.log_json,
            default_filter: match self.verb {
                Verb::Start(_) | Verb::Adapter(_) => "warn,snapswarm=info,libp2p_kad=error",
                _ => "error,snapswarm=warn",
            },
            // Consensus goes through it, and does not wait for a log.
            lossy: matches!(self.verb, Verb::Adapter(_)),
        }
    }

    /// Tells a failure in the form that was asked for.
    pub fn fail(&self, error: &(dyn Error + 'static)) -> ExitCode {
        let found = error.downcast_ref::<Failure>().cloned();
        let mut told = found.unwrap_or_else(|| failure(FailureCode::Failed, chain(error), None));
        let hint = told.hint.take();
        told.hint = hint.map(|hint| home::with_home(&hint, self.home.as_deref()));
        answer::failure(self.json, &told)
    }

    /// Carries the verb out and writes its outcome.
    pub async fn run(&self, screen: &Screen) -> Result<ExitCode, Failure> {
        let home = home::find(self.home.as_deref())?;
        let door = Door {
            home: &home,
            named_home: self.home.as_deref(),
            json: self.json,
            screen,
        };
        match &self.verb {
            Verb::Join(arguments) => return arguments.run(&door).await,
            Verb::Restore(arguments) => return arguments.run(&door).await,
            Verb::Doctor(arguments) => return arguments.run(&door).await,
            Verb::Init(arguments) => arguments.run(&door),
            Verb::Start(arguments) => arguments.run(&door).await,
            Verb::Adapter(arguments) => arguments.run(&door).await,
            Verb::Load(arguments) => door.go(arguments.command()?, load::text).await,
            Verb::Fetch(arguments) => door.go(arguments.command()?, fetch::text).await,
            Verb::Feed(arguments) => door.go(arguments.command(), feed::text).await,
            Verb::List(arguments) => door.go(arguments.command(), list::text).await,
            Verb::Show(arguments) => door.go(arguments.command(), show::text).await,
            Verb::Verify(arguments) => door.go(arguments.command()?, verify::text).await,
            Verb::Dump(arguments) => door.go(arguments.command()?, dump::text).await,
            Verb::Diff(arguments) => door.go(arguments.command(), diff::text).await,
            Verb::Delta(arguments) => door.go(arguments.command(), delta::text).await,
            Verb::Genesis(arguments) => door.go(arguments.command()?, genesis::text).await,
            Verb::Delete(arguments) => door.go(arguments.command(), delete::text).await,
            Verb::Pin(arguments) => door.go(arguments.command(), pin::text).await,
            Verb::Unpin(arguments) => door.go(arguments.command(), unpin::text).await,
            Verb::Endorse(arguments) => door.go(arguments.command(), endorse::text).await,
            Verb::Status(arguments) => door.go(arguments.command(), status::text).await,
            Verb::Limits(arguments) => door.go(arguments.command(), limits::text).await,
            Verb::Xian(arguments) => arguments.run(),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Where a verb goes through: the home it acts on and the way it answers.
struct Door<'a> {
    home: &'a Path,
    /// What the person wrote for it.
    named_home: Option<&'a Path>,
    json: bool,
    screen: &'a Screen,
}

impl Door<'_> {
    /// Carries a command out, shows its progress and writes its outcome.
    async fn go(
        &self,
        command: Command,
        text: fn(&Outcome) -> Option<String>,
    ) -> Result<(), Failure> {
        let outcome = self.carry_out(command).await?;
        let text = text(&outcome).ok_or_else(Failure::other_answer)?;
        let text = home::with_home(&text, self.named_home);
        answer::outcome(self.json, &outcome, &text)
    }

    async fn carry_out(&self, command: Command) -> Result<Outcome, Failure> {
        let cancel = interrupt::listen(self)?;
        self.carry_out_until(command, cancel).await
    }

    /// The same for a verb that does more than one thing.
    async fn carry_out_until(
        &self,
        command: Command,
        cancel: CancellationToken,
    ) -> Result<Outcome, Failure> {
        let (progress, mut news) = mpsc::channel(PROGRESS_QUEUE);
        let work = async {
            match remote::ask(self.home, &command, progress.clone(), cancel.clone()).await {
                Some(answer) => answer,
                None if matches!(command, Command::Limits(_)) => Err(limits::no_daemon()),
                None => {
                    let config = home::open(self.home, command.only_looks(), self.screen)?;
                    node::run_local(self.home, config, command.clone(), progress, cancel).await
                }
            }
        };
        self.shown(work, &mut news).await.map_err(how_to_go_on)
    }

    /// Shows what the work says until it is done.
    async fn shown<T>(
        &self,
        work: impl Future<Output = T>,
        news: &mut mpsc::Receiver<Progress>,
    ) -> T {
        tokio::pin!(work);
        let mut view = self.screen.progress();
        let answer = loop {
            tokio::select! {
                biased;
                Some(value) = news.recv() => view.show(&value),
                answer = &mut work => break answer,
            }
        };
        while let Ok(value) = news.try_recv() {
            view.show(&value);
        }
        answer
    }
}

/// What was interrupted without a word of its own begins again: the person is told.
fn how_to_go_on(mut failure: Failure) -> Failure {
    if failure.code == FailureCode::Interrupted && failure.hint.is_none() {
        failure.hint = Some("give the same command again: it starts anew".to_owned());
    }
    failure
}

fn failure(code: FailureCode, message: impl Into<String>, hint: Option<&str>) -> Failure {
    let told = Failure::new(code, message);
    match hint {
        Some(hint) => told.hint(hint),
        None => told,
    }
}

/// An error with its causes, on one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        line = format!("{line}: {inner}");
        cause = inner.source();
    }
    line
}

/// Writes a line to stdout at once, for whoever waits for it.
fn first_line(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::io::Error::other("the cable is out");
        let error = crate::config::ConfigError::File {
            path: "x.toml".into(),
            source: inner,
        };
        assert_eq!(chain(&error), "cannot use x.toml: the cable is out");
    }

    #[test]
    fn what_was_interrupted_says_how_to_go_on() {
        let told = how_to_go_on(failure(FailureCode::Interrupted, "stopped", None));
        assert!(told.hint.unwrap().contains("same command"));
        let kept = how_to_go_on(failure(FailureCode::Interrupted, "stopped", Some("mine")));
        assert_eq!(kept.hint.unwrap(), "mine");
    }
}
