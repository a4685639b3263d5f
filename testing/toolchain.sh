#!/usr/bin/env bash
# Prints the toolchain that make sets as RUSTUP_TOOLCHAIN. Prints nothing if the one of
# rust-toolchain.toml is installed, or if RUSTUP_TOOLCHAIN is already set.
#
# rustup finds toolchains by name, and the wanted release may be installed as `stable`. If it is not
# installed at all, rustup installs it. If it cannot or may not, the default toolchain is used;
# testing/setup.sh refuses it when it is too old.
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
