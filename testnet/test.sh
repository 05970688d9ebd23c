#!/usr/bin/env bash
# All tests: unit, simulation, protocol, crash, end to end with real processes,
# and the demo network in short form. Installs what is missing (see
# testnet/tools.sh).
#
#   testnet/test.sh [ARGUMENT OF cargo test]…
set -euo pipefail
cd "$(dirname "$0")/.."
. testnet/tools.sh

install_build_tools
install_cometbft
install_other_cometbfts
install_wasmd
install_test_python
install_test_filesystems
say "testing (the first time it compiles for some minutes)"
exec cargo test --release --locked "$@"
