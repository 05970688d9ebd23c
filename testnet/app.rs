//! `testnet-app`: a small ABCI application for real CometBFT nodes that keeps
//! keys and values, makes and restores snapshots, and misbehaves as a script says.
//! All of it lies in `app/`, which tests take in as well.

#[path = "app/mod.rs"]
mod app;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let options = app::Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever reads it may be gone: that changes nothing.
            let _ = writeln!(std::io::stderr(), "testnet-app ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &app::Options) -> anyhow::Result<()> {
    let server = app::server::Server::bind(options)?;
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{}", server.address()).and_then(|()| stdout.flush());
    server.run()
}
