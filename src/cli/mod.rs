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
mod home;
mod interrupt;
pub mod screen;
pub mod text;

mod delete;
mod dump;
mod feed;
mod fetch;
mod init;
mod limits;
mod list;
mod load;
mod pin;
mod show;
mod start;
mod status;
mod unpin;
mod verify;

use std::{
    error::Error,
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use tokio::sync::mpsc;

use self::screen::Screen;
use crate::{
    config,
    node::{
        self,
        command::{Command, Failure, FailureCode, Outcome},
        remote,
    },
    telemetry::LogSettings,
};

/// Progress values between the work and the screen.
const PROGRESS_QUEUE: usize = 64;

/// Peer-to-peer snapshot distribution for CometBFT chains.
#[derive(Debug, Parser)]
#[command(
    name = "snapswarm",
    version,
    propagate_version = true,
    after_help = "Example: a new node gets a snapshot and is fed from it\n  \
        snapswarm fetch --chain-id my-chain --node-rpc http://127.0.0.1:26657\n\n\
        Exit codes: 0 done, 1 failed, 2 wrong use, 3 not found, 4 verification failed,\n\
        5 no space or storage fault, 6 interrupted (the same command goes on), 7 stopped by policy"
)]
pub struct Cli {
    /// The folder with identity, settings and snapshots [default: SNAPSWARM_HOME, or ~/.snapswarm]
    #[arg(long, global = true, value_name = "DIR")]
    home: Option<PathBuf>,
    /// Write one JSON document to stdout at the end
    #[arg(long, global = true)]
    json: bool,
    /// Write logs as JSON lines (SNAPSWARM_LOG=debug says what is logged)
    #[arg(long, global = true)]
    log_json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Arguments),
    Load(load::Arguments),
    Start(start::Arguments),
    Fetch(fetch::Arguments),
    Feed(feed::Arguments),
    List(list::Arguments),
    Show(show::Arguments),
    Verify(verify::Arguments),
    Dump(dump::Arguments),
    Delete(delete::Arguments),
    Pin(pin::Arguments),
    Unpin(unpin::Arguments),
    Status(status::Arguments),
    Limits(limits::Arguments),
}

/// A snapshot's name.
#[derive(Debug, Args)]
struct Cid {
    /// The snapshot, as `list` shows it
    #[arg(value_name = "CID", value_parser = cid)]
    cid: String,
}

impl Cli {
    /// Reads the arguments. Help and wrong use are answered here; the error is
    /// the exit code.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ExitCode> {
        let arguments: Vec<OsString> = arguments.into_iter().collect();
        Self::try_parse_from(&arguments).map_err(|error| {
            let json = arguments
                .iter()
                .take_while(|argument| *argument != "--")
                .any(|argument| argument == "--json");
            if error.exit_code() == 0 || !json {
                // Help goes to stdout, errors to stderr; either may be gone.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
            }
            answer::failure(true, &usage(&error))
        })
    }

    /// How this verb logs.
    pub fn logs(&self) -> LogSettings {
        LogSettings {
            json: self.log_json,
            default_filter: match self.verb {
                Verb::Start(_) => "warn,snapswarm=info",
                _ => "error,snapswarm=warn",
            },
        }
    }

    /// Tells a failure in the form that was asked for.
    pub fn fail(&self, error: &(dyn Error + 'static)) -> ExitCode {
        let found = error.downcast_ref::<Failure>().cloned();
        let told = found.unwrap_or_else(|| failure(FailureCode::Failed, chain(error), None));
        answer::failure(self.json, &told)
    }

    /// Carries the verb out and writes its outcome.
    pub async fn run(&self, screen: &Screen) -> Result<(), Failure> {
        let home = home::find(self.home.as_deref())?;
        let door = Door {
            home: &home,
            json: self.json,
            screen,
        };
        match &self.verb {
            Verb::Init(arguments) => arguments.run(&door),
            Verb::Start(arguments) => arguments.run(&door).await,
            Verb::Load(arguments) => door.go(arguments.command()?, load::text).await,
            Verb::Fetch(arguments) => door.go(arguments.command()?, fetch::text).await,
            Verb::Feed(arguments) => door.go(arguments.command(), feed::text).await,
            Verb::List(arguments) => door.go(arguments.command(), list::text).await,
            Verb::Show(arguments) => door.go(arguments.command(), show::text).await,
            Verb::Verify(arguments) => door.go(arguments.command()?, verify::text).await,
            Verb::Dump(arguments) => door.go(arguments.command()?, dump::text).await,
            Verb::Delete(arguments) => door.go(arguments.command(), delete::text).await,
            Verb::Pin(arguments) => door.go(arguments.command(), pin::text).await,
            Verb::Unpin(arguments) => door.go(arguments.command(), unpin::text).await,
            Verb::Status(arguments) => door.go(arguments.command(), status::text).await,
            Verb::Limits(arguments) => door.go(arguments.command(), limits::text).await,
        }
    }
}

/// Where a verb goes through: the home it acts on and the way it answers.
struct Door<'a> {
    home: &'a Path,
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
        let text = text(&outcome).ok_or_else(|| {
            failure(
                FailureCode::Failed,
                "the daemon answered another question",
                Some("use the same version of snapswarm on both sides: restart the daemon"),
            )
        })?;
        answer::outcome(self.json, &outcome, &text)
    }

    async fn carry_out(&self, command: Command) -> Result<Outcome, Failure> {
        let cancel = interrupt::listen(self.screen.clone())?;
        let (progress, mut news) = mpsc::channel(PROGRESS_QUEUE);
        let work = async {
            match remote::ask(self.home, &command, progress.clone(), cancel.clone()).await {
                Some(answer) => answer,
                None if matches!(command, Command::Limits(_)) => Err(limits::no_daemon()),
                None => {
                    let config = home::open(self.home, self.screen)?;
                    node::run_local(self.home, config, command.clone(), progress, cancel).await
                }
            }
        };
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
        answer.map_err(how_to_go_on)
    }
}

/// What was interrupted goes on with the same command: the person is told.
fn how_to_go_on(mut failure: Failure) -> Failure {
    if failure.code == FailureCode::Interrupted && failure.hint.is_none() {
        failure.hint = Some("give the same command again: it goes on where it stopped".to_owned());
    }
    failure
}

fn failure(code: FailureCode, message: impl Into<String>, hint: Option<&str>) -> Failure {
    Failure {
        code,
        message: message.into(),
        hint: hint.map(str::to_owned),
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

/// What clap found, without its colours and its usage lines.
fn usage(error: &clap::Error) -> Failure {
    let rendered = error.render().to_string();
    let told = rendered
        .split("\n\nUsage:")
        .next()
        .and_then(|text| text.split("\n\nFor more information").next())
        .unwrap_or_default();
    let message = told
        .trim_start_matches("error: ")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    failure(
        FailureCode::Usage,
        message,
        Some("`snapswarm --help` and `snapswarm VERB --help` show the use with examples"),
    )
}

fn cid(text: &str) -> Result<String, String> {
    config::check_cid(text)?;
    Ok(text.to_owned())
}

fn rpc_url(text: &str) -> Result<String, String> {
    config::check_rpc_url(text)?;
    Ok(text.to_owned())
}

fn node_address(text: &str) -> Result<String, String> {
    config::check_node_address(text)?;
    Ok(text.to_owned())
}

fn bootstrap(text: &str) -> Result<libp2p::Multiaddr, String> {
    let address = multiaddr(text)?;
    config::check_bootstrap(&address)?;
    Ok(address)
}

fn multiaddr(text: &str) -> Result<libp2p::Multiaddr, String> {
    text.parse()
        .map_err(|error| format!("is no multiaddress such as /ip4/192.0.2.7/tcp/26670 ({error})"))
}

fn hex_bytes(text: &str) -> Result<String, String> {
    match hex::decode(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(error) => Err(format!("is no hex: {error}")),
    }
}

/// Writes a line to stdout at once, for whoever waits for it.
fn first_line(line: &str) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_tree_of_verbs_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_error_is_told_with_its_causes() {
        let inner = std::io::Error::other("the cable is out");
        let error = config::ConfigError::File {
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
