//! How a verb ends: its outcome on stdout, its failure, the exit code.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use serde::Serialize;
use serde_json::json;

use super::text;
use crate::node::command::{Failure, FailureCode};

/// Writes the outcome: one JSON document, or text that ends with a new line.
pub fn outcome(json: bool, document: &impl Serialize, text: &str) -> Result<(), Failure> {
    if json {
        let document = serde_json::to_string(document).map_err(|error| {
            let problem = format!("the outcome cannot be written as JSON: {error}");
            Failure::new(FailureCode::Failed, problem)
        })?;
        write(&format!("{}\n", text::safe_json(&document)))
    } else {
        write(text)
    }
}

/// Tells a failure: to scripts on stdout, to people on stderr.
pub fn failure(json: bool, failure: &Failure) -> ExitCode {
    if json {
        let Failure {
            code,
            message,
            hint,
            ..
        } = failure;
        let error = json!({ "code": code, "message": message, "hint": hint });
        let document = json!({ "error": error }).to_string();
        // Nothing can be said about a stdout that is gone but on stderr.
        if let Err(gone) = write(&format!("{}\n", text::safe_json(&document))) {
            let _ = writeln!(io::stderr(), "error: {}", gone.message);
        }
    } else {
        let _ = writeln!(io::stderr(), "error: {}", text::safe(&failure.message));
        if let Some(hint) = &failure.hint {
            let _ = writeln!(io::stderr(), "  what to do: {}", text::safe(hint));
        }
    }
    ExitCode::from(failure.code.exit_code())
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        // The reader has seen enough (`snapswarm list | head -1`).
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(
            FailureCode::Failed,
            format!("the outcome cannot be written to stdout: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}
