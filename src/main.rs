//! The `snapswarm` program: parse, set up logs, run the verb, tell how it ended.

use std::{process::ExitCode, time::Duration};

use snapswarm::{
    cli::{Cli, screen::Screen},
    telemetry,
};

/// What still runs on the blocking pool when a verb has ended gets so long; the
/// store is safe against being cut off.
const LAST_WRITES_TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let screen = Screen::new();
    let logs = match telemetry::start(cli.logs(), screen.clone()) {
        Ok(logs) => logs,
        Err(error) => return cli.fail(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cli.fail(&error),
    };
    let ended = runtime.block_on(cli.run(&screen));
    runtime.shutdown_timeout(LAST_WRITES_TIMEOUT);
    logs.finish(LAST_WRITES_TIMEOUT);
    match ended {
        Ok(code) => code,
        Err(failure) => cli.fail(&failure),
    }
}
