//! What the program tells about itself: logs ([`start`]) and [`metrics`].
//!
//! Logs go to stderr: text for people, or a JSON object on each line for
//! collectors. `SNAPSWARM_LOG` sets what is logged, in the syntax of
//! `tracing-subscriber`'s `EnvFilter`: `debug`, or `info,snapswarm::net=trace`.
//!
//! Rooms return plain numbers; the hall puts them into a [`metrics::Sample`],
//! and each metric is named in one place.

pub mod metrics;

use std::env;

use tracing_subscriber::{
    EnvFilter,
    fmt::{MakeWriter, time::SystemTime},
};

/// The variable that sets what is logged.
pub const LOG_VARIABLE: &str = "SNAPSWARM_LOG";

/// How to log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// JSON instead of text.
    pub json: bool,
    /// The filter when [`LOG_VARIABLE`] is not set.
    pub default_filter: &'static str,
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
}

/// Sets up logs for the whole process. Everything goes to `writer`, which
/// stands for stderr and may keep a progress bar out of the way.
pub fn start<W>(settings: LogSettings, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter(
        env::var(LOG_VARIABLE).ok().as_deref(),
        settings.default_filter,
    )?;
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
    done.map_err(|_| TelemetryError::Twice)
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
