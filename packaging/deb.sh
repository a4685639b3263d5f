#!/usr/bin/env bash
# Makes the Debian package of a program that is built already: target/debian/bucket-av-scanner_*.deb
#
#   packaging/deb.sh PROGRAM MANUAL [OPTION…]    MANUAL: what `cargo run --example manual -- MANUAL` wrote;
#                                                further options are cargo-deb's
set -euo pipefail
program=$(realpath "${1:?which program?}")
manual=$(realpath "${2:?the manual\'s folder?}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=3.8.0
root=$PWD/.stack/tools/cargo-deb-$version

if [ ! -x "$root/bin/cargo-deb" ]; then
    echo "[deb] installing cargo-deb $version (half a minute, once)"
    # Not optimised, which takes three times as long: the compression is done by xz.
    command -v xz > /dev/null || { echo "[deb] xz is missing: apt-get install xz-utils" >&2; exit 1; }
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features \
        --root "$root" "cargo-deb@$version"
fi

# cargo-deb looks below a target folder. It gets one of its own, so that it cannot pick another program.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/release" target/debian
cp "$program" "$work/release/bucket-av-scanner"
cp -r "$manual" "$work/release/manual"
gzip --best --no-name "$work"/release/manual/*.1
CARGO_TARGET_DIR=$work "$root/bin/cargo-deb" --quiet --no-build --locked --output target/debian "${@:3}"
