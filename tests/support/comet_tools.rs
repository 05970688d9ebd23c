//! CometBFT's own programs for tests: where they are, or where they come from.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that the tests run against.
const VERSION: &str = "v0.38.25";

/// CometBFT's programs.
pub struct CometTools {
    /// `cometbft`: makes homes.
    pub cometbft: PathBuf,
    /// CometBFT with its e2e application in process.
    pub e2e_node: PathBuf,
}

/// The programs named by `SNAPSWARM_COMETBFT` and `SNAPSWARM_E2E_NODE`, else
/// those in `tools/bin` of the target folder, where `testnet/test.sh` puts
/// them; installed there with Go when they are missing.
pub fn comet_tools() -> CometTools {
    CometTools {
        cometbft: tool("SNAPSWARM_COMETBFT", "cometbft", "cmd/cometbft"),
        e2e_node: tool("SNAPSWARM_E2E_NODE", "node", "test/e2e/node"),
    }
}

fn tool(variable: &str, name: &str, package: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let bin = target.join("tools/bin");
    let program = bin.join(name);
    if !program.is_file() {
        install(&bin, name, package);
    }
    program
}

/// Builds beside the final place, so that a program is there whole or not.
fn install(bin: &Path, name: &str, package: &str) {
    std::fs::create_dir_all(bin).unwrap();
    let building = tempfile::tempdir_in(bin).unwrap();
    let status = Command::new("go")
        .arg("install")
        .arg(format!("github.com/cometbft/cometbft/{package}@{VERSION}"))
        .env("GOBIN", building.path())
        .env("CGO_ENABLED", "0")
        .status()
        .unwrap_or_else(|error| panic!("go cannot be run, and {name} is not in {bin:?}: {error}"));
    assert!(status.success(), "go install of {name} failed: {status}");
    std::fs::rename(building.path().join(name), bin.join(name)).unwrap();
}
