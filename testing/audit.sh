#!/usr/bin/env bash
# Dependency audit. Always checks bans, licences and sources; checks advisories if their database, a git
# repository, can be reached.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
root=.stack/tools/cargo-deny-$version
deny=$root/bin/cargo-deny

if [ ! -x "$deny" ]; then
    echo "[audit] installing cargo-deny $version (some minutes, once)"
    cargo install --quiet --locked --root "$root" "cargo-deny@$version"
fi

"$deny" --log-level error --all-features check bans licenses sources
if "$deny" fetch db > /dev/null 2>&1; then
    "$deny" --log-level error --all-features check advisories
else
    echo "[audit] advisories SKIPPED: their database cannot be reached from here"
fi
