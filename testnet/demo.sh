#!/usr/bin/env bash
# The demo: four validators of real CometBFT, a provider beside each, and a new
# node that starts from what they hand out. Installs what is missing (see
# testnet/tools.sh), builds, runs; exit code 0 only if all of it worked.
#
#   testnet/demo.sh [NETWORK.toml] [--keep]
set -euo pipefail
cd "$(dirname "$0")/.."
. testnet/tools.sh

network=testnet/networks/demo.toml
case "${1:-}" in
-h | --help)
    sed -n '2,/^set /{s/^# \{0,1\}//p}' "$0"
    exit 0
    ;;
"" | -*) ;;
*)
    network=$1
    shift
    ;;
esac

install_build_tools
install_cometbft
if grep -q '^app = "sdk"' "$network"; then
    install_wasmd
fi
if grep -q '^app = "xian"' "$network"; then
    install_test_python
fi
say "building (the first time some minutes)"
cargo build --release --locked --bins
say "running $network"
exec "$CARGO_TARGET_DIR/release/testnet" run "$network" "$@"
