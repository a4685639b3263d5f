#!/usr/bin/env bash
# Fuzzes the parsers of input from outside, starting from the inputs in fuzz/corpus.
#
#   testing/fuzz.sh [seconds for each target] [names of targets]
#
# New inputs are kept in target/fuzz/corpus for the next run. An input that breaks something is left in
# fuzz/artifacts: copy it to fuzz/corpus under a name that says what it is, and `make test` replays it.
# Stable Rust is enough: coverage needs no sanitizer, and there is no unsafe code to check with one.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-600}
targets=${2:-event clamd clamav_rest store_headers config}

version=0.13.2
root=$PWD/.stack/tools/cargo-fuzz-$version
log=target/fuzz/log
mkdir -p "$log"

if [ ! -x "$root/bin/cargo-fuzz" ]; then
    echo "[fuzz] installing cargo-fuzz $version (a minute, once)"
    cargo install --quiet --locked --root "$root" "cargo-fuzz@$version"
fi
fuzz() {
    local command=$1
    shift
    "$root/bin/cargo-fuzz" fuzz "$command" --sanitizer none --target-dir target/fuzz "$@"
}

echo "[fuzz] building (a first build takes some minutes)"
# Fails if the lock file is out of date; the builds below use it unchecked.
cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml > "$log/metadata"
for target in ${targets//,/ }; do
    fuzz build "$target" > "$log/build" 2>&1 || { tail -n 20 "$log/build"; exit 1; }
done

broken=
for target in ${targets//,/ }; do
    echo "[fuzz] $target: $seconds s"
    mkdir -p "target/fuzz/corpus/$target"
    fuzz run "$target" "target/fuzz/corpus/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        > "$log/$target" 2>&1 || broken="$broken $target"
done

echo "[fuzz] target          executions  per second  edges covered"
for target in ${targets//,/ }; do
    stat() { sed -n "s/^stat::$1: *//p" "$log/$target" | tail -n 1; }
    edges=$(grep -o 'cov: [0-9]*' "$log/$target" | tail -n 1 | cut -d ' ' -f 2)
    printf '[fuzz] %-14s %11s %11s %14s\n' "$target" \
        "$(stat number_of_executed_units)" "$(stat average_exec_per_sec)" "${edges:--}"
done
for target in $broken; do
    echo "[fuzz] $target FOUND SOMETHING; the end of $log/$target:"
    grep -a -E 'panicked|^assertion|left:|right:|Test unit written|ERROR' -A1 "$log/$target" |
        tail -n 12
done
[ -z "$broken" ]
