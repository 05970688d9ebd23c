# shellcheck shell=bash
# What builds, demo and tests need beside Rust and Go, in one place.
# Sourced by testnet/demo.sh, testnet/test.sh and .ci/run, from the top folder
# of the checkout, under `set -euo pipefail`.
#
# Everything is installed into the target folder and found there the next time:
#   TARGET/tools/bin     CometBFT, its e2e application, wasmd, cargo-deny
#   TARGET/tools/cometbft-VERSION  the same two of other versions
#   TARGET/tools/python  a Python environment: cmake for HDF5, packages for tests
#   TARGET/tools/xian_…  the source of Xian's own storage code, for tests
# Only what a C compiler and Python themselves lack comes from the system's
# packages: by apt-get for root, otherwise the command to type is printed.
#
# The target folder is, in this order: CARGO_TARGET_DIR where it is set;
# ~/.cache/snapswarm/target where that folder exists (make it once, and all
# checkouts share what is compiled); else target/ in the checkout.

COMETBFT_VERSION=v0.38.25
# What the tests run with beside, each of another line.
OTHER_COMETBFT_VERSIONS="v0.40.0 v1.0.1"
WASMD_VERSION=v0.70.3
CARGO_DENY_VERSION=0.20.2
XIAN_CONTRACTING_VERSION=1.0.0
XIAN_CONTRACTING_SHA256=4783321b87cbaafac8a1f02096185375125db783b58358b0af00327c5935fd15
# The HDF5 that is compiled in asks for it.
CMAKE_MINIMUM=3.26

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# need_packages WHAT PACKAGE…: installs Debian packages, or says how to.
need_packages() {
    local what=$1
    shift
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "$what: missing, installing the packages $*"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    else
        fail "$what: missing. Install it first, on Debian: sudo apt-get install $*"
    fi
}

choose_target() {
    local shared="${HOME:-/nonexistent}/.cache/snapswarm/target"
    if [ -n "${CARGO_TARGET_DIR:-}" ]; then
        :
    elif [ -d "$shared" ]; then
        CARGO_TARGET_DIR=$shared
    else
        CARGO_TARGET_DIR=$PWD/target
    fi
    mkdir -p "$CARGO_TARGET_DIR"
    CARGO_TARGET_DIR=$(cd "$CARGO_TARGET_DIR" && pwd)
    export CARGO_TARGET_DIR
    TOOLS=$CARGO_TARGET_DIR/tools
    mkdir -p "$TOOLS/bin"
    say "target folder: $CARGO_TARGET_DIR"
}

# The two languages are the machine's own affair: a person chooses how to
# install them.
check_languages() {
    command -v cargo >/dev/null || fail "cargo: missing. Install Rust $(rust_version) or later first"
    command -v go >/dev/null || fail "go: missing. Install Go 1.22 or later first"
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

# HDF5 and the cryptography below TLS are C.
install_compiler() {
    if ! command -v cc >/dev/null || ! command -v make >/dev/null; then
        need_packages "C compiler and make" gcc libc6-dev make
    fi
}

install_python() {
    [ -x "$TOOLS/python/bin/pip" ] && return
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        need_packages "Python with venv" python3 python3-venv
    fi
    # A half-made one would be found by its folder.
    python3 -m venv --clear "$TOOLS/python"
}

# cmake_is_new PROGRAM
cmake_is_new() {
    local version
    version=$("$1" --version 2>/dev/null | sed -n '1s/.* \([0-9]*\.[0-9]*\).*/\1/p')
    [ -n "$version" ] && printf '%s\n%s\n' "$CMAKE_MINIMUM" "$version" | sort -VC
}

# Sets CMAKE, which the build of HDF5 obeys.
install_cmake() {
    local candidate
    for candidate in "${CMAKE:-}" "$TOOLS/python/bin/cmake" "$(command -v cmake || true)"; do
        if [ -n "$candidate" ] && cmake_is_new "$candidate"; then
            export CMAKE=$candidate
            return
        fi
    done
    say "cmake $CMAKE_MINIMUM or later: missing, installing it into $TOOLS/python"
    install_python
    "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check "cmake>=$CMAKE_MINIMUM"
    export CMAKE=$TOOLS/python/bin/cmake
}

# go_tool FOLDER VERSION PROGRAM PACKAGE: one of CometBFT's programs, unless that
# version of it is there.
go_tool() {
    local folder=$1 version=$2 program=$1/$3 package=github.com/cometbft/cometbft/$4
    # Tabs stand around the version.
    if [ -x "$program" ] && [[ $(go version -m "$program") == *"	$version	"* ]]; then
        return
    fi
    say "$package $version: missing, installing it into $folder"
    GOBIN=$folder CGO_ENABLED=0 go install "$package@$version"
}

# cometbft_of FOLDER VERSION: it and its e2e application.
cometbft_of() {
    go_tool "$1" "$2" cometbft cmd/cometbft
    go_tool "$1" "$2" node test/e2e/node
}

install_cometbft() {
    cometbft_of "$TOOLS/bin" "$COMETBFT_VERSION"
}

install_other_cometbfts() {
    local version
    for version in $OTHER_COMETBFT_VERSIONS; do
        cometbft_of "$TOOLS/cometbft-$version" "$version"
    done
}

# A node of a chain of the Cosmos SDK. `go install` does not build a module that
# replaces others: it is built in a copy of itself, with its own list of versions.
install_wasmd() {
    local program=$TOOLS/bin/wasmd build=$TOOLS/wasmd-build
    # It is asked rather than looked at: without its library it does not start. It makes
    # a folder in the home of whoever asks.
    mkdir -p "$build"
    if [ "$(HOME=$build "$program" version 2>/dev/null)" = "$WASMD_VERSION" ]; then
        rm -rf "$build"
        return
    fi
    say "wasmd $WASMD_VERSION: missing, building it into $TOOLS/bin (some minutes)"
    install_compiler
    rm -rf "$build"
    cp -r "$(module_folder "github.com/CosmWasm/wasmd@$WASMD_VERSION")" "$build"
    chmod -R u+w "$build"
    (
        cd "$build"
        version=github.com/cosmos/cosmos-sdk/version
        # The loader puts the program's own folder in the place of $ORIGIN.
        CGO_ENABLED=1 go build -buildvcs=false -o "$program" -ldflags "-s -w \
            -X $version.Name=wasm -X $version.AppName=wasmd -X $version.Version=$WASMD_VERSION \
            -extldflags=-Wl,-rpath,\$ORIGIN" ./cmd/wasmd
        library=$(go list -m -f '{{.Dir}}' github.com/CosmWasm/wasmvm/v3)
        install -m 755 "$library/internal/api/libwasmvm.$(uname -m).so" "$TOOLS/bin"
    )
    rm -rf "$build"
}

# module_folder MODULE@VERSION: where Go keeps it, after it was downloaded.
module_folder() {
    go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p'
}

# What the tests read our files with, to have a second opinion.
install_test_python() {
    install_python
    local wanted=tests/requirements.txt installed=$TOOLS/python/snapswarm-requirements.txt
    if ! cmp -s "$wanted" "$installed"; then
        say "Python packages for tests: missing, installing them into $TOOLS/python"
        "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check -r "$wanted"
        cp "$wanted" "$installed"
    fi
    export SNAPSWARM_TEST_PYTHON=$TOOLS/python/bin/python
    install_test_xian
}

# The chain's own reading and writing of a Xian node's storage. It comes as a source
# archive whose C part does not build; what the tests use has no part in that.
install_test_xian() {
    local name=xian_contracting_py311-$XIAN_CONTRACTING_VERSION
    local folder=$TOOLS/$name fresh=$TOOLS/xian-new
    if [ ! -d "$folder" ]; then
        say "xian-contracting-py311 $XIAN_CONTRACTING_VERSION: missing, unpacking it into $TOOLS"
        rm -rf "$fresh"
        mkdir "$fresh"
        "$TOOLS/python/bin/pip" download --quiet --disable-pip-version-check --no-deps \
            --dest "$fresh" "xian-contracting-py311==$XIAN_CONTRACTING_VERSION"
        (cd "$fresh" && echo "$XIAN_CONTRACTING_SHA256  $name.tar.gz" | sha256sum --check --quiet)
        tar -xzf "$fresh/$name.tar.gz" -C "$fresh"
        mv "$fresh/$name" "$folder"
        rm -rf "$fresh"
    fi
    export SNAPSWARM_TEST_XIAN=$folder/src
}

# Root can mount, so the tests that need a file system which clones files are not left
# out.
install_test_filesystems() {
    [ "$(id -u)" = 0 ] || return 0
    command -v mkfs.xfs >/dev/null || need_packages "mkfs.xfs" xfsprogs
    command -v mkfs.btrfs >/dev/null || need_packages "mkfs.btrfs" btrfs-progs
}

install_cargo_deny() {
    if [ "$("$TOOLS/bin/cargo-deny" --version 2>/dev/null)" = "cargo-deny $CARGO_DENY_VERSION" ]; then
        return
    fi
    say "cargo-deny $CARGO_DENY_VERSION: missing, installing it into $TOOLS/bin"
    # Not optimised: it reads a few hundred small files, and compiles in a
    # fraction of the time. Its own folder, so that it is no part of our build.
    cargo install --quiet --locked --debug --force --version "$CARGO_DENY_VERSION" cargo-deny \
        --root "$TOOLS" --target-dir "$TOOLS/cargo-deny-build"
    rm -rf "$TOOLS/cargo-deny-build"
}

# What every build needs.
install_build_tools() {
    choose_target
    check_languages
    install_compiler
    install_cmake
}
