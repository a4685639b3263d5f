#!/usr/bin/env bash
# Prints the toolchain that make has rustup use (RUSTUP_TOOLCHAIN), or nothing where the one of
# rust-toolchain.toml is there, or where another was asked for.
#
# rustup knows toolchains by name, and the release that is wanted may be there as `stable`. Where it
# is not there at all, rustup installs it; where it may not or cannot, the default one is used, which
# testing/setup.sh refuses when it is too old.
set -euo pipefail
export RUST_BACKTRACE=0
cd "$(dirname "$0")/.."

wanted=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
command -v rustup > /dev/null || exit 0
[ -z "${RUSTUP_TOOLCHAIN-}" ] || exit 0
! rustup toolchain list | grep --quiet "^$wanted\(-\| \|$\)" || exit 0

default=$(rustup default 2> /dev/null | awk '{ print $1 }')
[ -n "$default" ] || exit 0
if [ "$(rustup run "$default" rustc --version | awk '{ print $2 }')" = "$wanted" ]; then
    echo "$default"
elif ! rustc --version > /dev/null; then
    echo "[make] Rust $wanted (rust-toolchain.toml) cannot be installed: using $default" >&2
    echo "$default"
fi
