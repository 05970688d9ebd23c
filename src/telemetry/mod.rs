//! What the program tells about itself: logs ([`start`]) and [`metrics`].
//!
//! Logs go to stderr: text for people, or a JSON object on each line for
//! collectors. `SNAPSWARM_LOG` sets what is logged, in the syntax of
//! `tracing-subscriber`'s `EnvFilter`: `debug`, or `info,snapswarm::net=trace`.
//!
//! Rooms return plain numbers; the hall puts them into a [`metrics::Sample`],
//! and each metric is named in one place.

mod lossy;
pub mod metrics;

use std::env;
use std::io::{self, Write};
use std::time::Duration;

use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, time::SystemTime, writer::BoxMakeWriter},
};

use self::lossy::Lossy;

/// The variable that sets what is logged.
pub const LOG_VARIABLE: &str = "SNAPSWARM_LOG";

/// How to log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// JSON instead of text.
    pub json: bool,
    /// The filter when [`LOG_VARIABLE`] is not set.
    pub default_filter: &'static str,
    /// Lines that cannot be written at once are dropped and counted: for a process
    /// that must not wait for whoever reads its log.
    pub lossy: bool,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable is set to something that is no filter.
    #[error(
        "{LOG_VARIABLE}={text:?} is no log filter ({problem}); write for example \"info\" or \"snapswarm=debug\""
    )]
    Filter {
        /// Its value.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody set up logs before.
    #[error("logs are set up already")]
    Twice,
    /// The system gives no thread.
    #[error("no thread can be started that writes logs")]
    Thread(#[source] io::Error),
}

/// Logs that are set up.
pub struct Logs(Option<Lossy>);

impl Logs {
    /// Waits until what was logged is written, for so long at most.
    pub fn finish(&self, patience: Duration) {
        if let Some(lossy) = &self.0 {
            lossy.finish(patience);
        }
    }
}

/// Sets up logs for the whole process. Everything goes to `writer`, which
/// stands for stderr and may keep a progress bar out of the way.
pub fn start<W>(settings: LogSettings, writer: W) -> Result<Logs, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(
        env::var(LOG_VARIABLE).ok().as_deref(),
        settings.default_filter,
    )?;
    let (lossy, writer) = match settings.lossy {
        false => (None, BoxMakeWriter::new(writer)),
        true => {
            let lossy = lossy(writer)?;
            (Some(lossy.clone()), BoxMakeWriter::new(lossy))
        }
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SystemTime)
        .with_writer(writer)
        // Without colours every escape character in a line is somebody else's,
        // so that the writer can make lines safe for a terminal.
        .with_ansi(false);
    let done = if settings.json {
        logs.json().flatten_event(true).try_init()
    } else {
        logs.with_target(false).try_init()
    };
    done.map_err(|_| TelemetryError::Twice)?;
    Ok(Logs(lossy))
}

/// The same writer behind a queue. The words of a panic go there, too: they are
/// written where the panic is, and would make that wait.
fn lossy<W>(writer: W) -> Result<Lossy, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let write = move |line: &[u8]| {
        // A log that cannot be written must not stop what it tells about.
        let _ = writer.make_writer().write_all(line);
    };
    let tell = |lines| tracing::warn!(lines, "log lines were lost: nobody took them in time");
    let lossy = Lossy::start(write, tell).map_err(TelemetryError::Thread)?;
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a defect of snapswarm");
    }));
    Ok(lossy)
}

fn filter(variable: Option<&str>, default: &str) -> Result<EnvFilter, TelemetryError> {
    match variable {
        None | Some("") => Ok(EnvFilter::new(default)),
        Some(text) => EnvFilter::try_new(text).map_err(|error| TelemetryError::Filter {
            text: text.to_owned(),
            problem: error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_wins_over_the_default_and_nonsense_is_refused() {
        assert_eq!(filter(None, "warn").unwrap().to_string(), "warn");
        assert_eq!(filter(Some(""), "warn").unwrap().to_string(), "warn");
        assert_eq!(filter(Some("debug"), "warn").unwrap().to_string(), "debug");
        let error = filter(Some("snapswarm=loudly"), "warn").unwrap_err();
        assert!(error.to_string().contains(LOG_VARIABLE));
    }
}
