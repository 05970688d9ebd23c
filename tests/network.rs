//! The demo network in short form: real CometBFT nodes, real daemons, a new
//! node from nothing to the tip. `testnet/test.sh` installs what it needs.

use std::path::Path;
use std::process::Command;

#[test]
fn a_new_node_starts_from_four_providers_and_follows_the_chain() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testnet/networks/smoke.toml");
    let status = Command::new(env!("CARGO_BIN_EXE_testnet"))
        .arg("run")
        .arg(file)
        .status()
        .unwrap();
    assert!(status.success(), "testnet run: {status}");
}
