#!/usr/bin/env bash
# Tests the Debian package: makes it of a program that is built already, installs it in a clean Debian, looks at what
# is there, runs it there as the service's user, and purges it, after which nothing may be left.
#
#   testing/deb.sh                       with target/debug/bucket-av-scanner
#   testing/deb.sh PROGRAM MANUAL        with another, and the folder that the example `manual` wrote
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

START=$SECONDS
passed=0
say() { printf '[deb] %3d s  %s\n' $((SECONDS - START)) "$*"; }
fail() { say "FAILED: $*"; exit 1; }

# Each of these is one test: what it is about, and what has to hold.
expect() {
    "${@:2}" || fail "$1"
    passed=$((passed + 1))
}
same() { expect "$1: '$2' instead of '$3'" [ "$2" = "$3" ]; }
holds() { expect "$1: no '$3' in: $(head -n 20 "$2")" grep --quiet -- "$3" "$2"; }
lacks() { same "$1" "$(grep -- "$3" "$2" || true)" ''; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot "$root" "$@"; }

# --- the package ----------------------------------------------------------------

# As whoever runs it; all that follows, as root, on what this made.
if [ "${1-}" != --made ]; then
    if ! command -v dpkg > /dev/null || ! command -v apt-get > /dev/null; then
        say "SKIPPED: this is no Debian"
        exit 0
    fi
    program=${1:-target/debug/bucket-av-scanner}
    manual=${2:-$work/manual}
    [ -x "$program" ] || fail "$program is missing: cargo build --locked --workspace --all-targets"
    [ -n "${2-}" ] || target/debug/examples/manual "$manual"
    strip -o "$work/program" "$program"
    mkdir -p .stack/tools
    rm -f target/debian/*.deb
    packaging/deb.sh "$work/program" "$manual" --fast
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" "$0" --made target/debian/bucket-av-scanner_*.deb "$("$program" --version | awk '{ print $2 }')"
    exit
fi

package=$2
version=$3
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" > "$work/log" 2>&1; }
missing=()
for tool in mmdebstrap:mmdebstrap systemd-analyze:systemd; do
    command -v "${tool%:*}" > /dev/null || missing+=("${tool#*:}")
done
if [ ${#missing[@]} != 0 ]; then
    say "installing ${missing[*]}"
    install "${missing[@]}" || { apt-get update > /dev/null && install "${missing[@]}"; } \
        || { tail -n 5 "$work/log"; fail "could not install ${missing[*]}"; }
fi

field() { dpkg-deb --field "$package" "$1"; }
same version "$(field Version)" "${version/-/\~}-1"
same architecture "$(field Architecture)" "$(dpkg --print-architecture)"
field Depends > "$work/depends"
holds dependencies "$work/depends" 'adduser.*libc6 '

# Everything is root's, nothing is writable by others or runs as another user, and nothing is where it should not be.
dpkg-deb --contents "$package" > "$work/contents"
lacks "owners and modes" "$work/contents" '^.....w\|^........w\|^...[sS]\|^......[sS]'
same owners "$(awk '{ print $2 }' "$work/contents" | sort -u)" 0/0
same folders "$(awk '{ print $6 }' "$work/contents" | grep -v '/$' | xargs dirname | sort -u)" "\
./etc/bucket-av-scanner
./usr/bin
./usr/lib/systemd/system
./usr/share/bash-completion/completions
./usr/share/doc/bucket-av-scanner
./usr/share/fish/vendor_completions.d
./usr/share/man/man1
./usr/share/zsh/vendor-completions"

# --- a clean Debian -------------------------------------------------------------

# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:?}")
base=.stack/tools/debian-$suite.tar
if [ ! -f "$base" ]; then
    say "bootstrapping $suite"
    # In memory, where there is some: on disk it takes three times as long.
    TMPDIR=$([ ! -w /dev/shm ] || echo /dev/shm) \
        mmdebstrap --quiet --variant=essential --include=adduser "$suite" "${base%.tar}.new.tar" 2> "$work/log" \
        || { tail -n 5 "$work/log"; fail "mmdebstrap"; }
    mv "${base%.tar}.new.tar" "$base"
fi
mkdir "$root"
tar --directory "$root" --extract --file "$base"

# All files but what any installation of packages changes, and the accounts.
state() {
    (cd "$root" && find . -path ./var/lib/dpkg -prune -o -path ./var/cache -prune -o -path ./var/log -prune \
        -o -path ./run -prune -o -path ./proc -prune -o -path ./dev -prune -o -path './etc/*-' -prune -o -type f -printf '%p %m %U %G\n' \
        -o -printf '%p\n') | sort
    cat "$root/etc/passwd" "$root/etc/group"
}
state > "$work/before"
cp "$package" "$root/package.deb"
install_it() { inside dpkg --install /package.deb > "$work/log" 2>&1 || { tail -n 5 "$work/log"; fail "dpkg --install"; }; }
install_it
say "installed in a clean $suite"

# --- what is there --------------------------------------------------------------

unit=usr/lib/systemd/system/bucket-av-scanner.service
owner() { same "$1" "$(inside stat --format '%a %U:%G' "/$1")" "$2"; }
owner etc/bucket-av-scanner/environment '640 root:root'
owner etc/bucket-av-scanner/secrets '750 root:bucket-av-scanner'
owner $unit '644 root:root'
owner usr/bin/bucket-av-scanner '755 root:root'
same "enabled before it is configured" "$(find "$root/etc/systemd" -name 'bucket-av-scanner*')" ''
share=$root/usr/share
for page in '' -check -redrive -sweep-status -quarantine-restore; do
    expect "manual of $page" gzip --test "$share/man/man1/bucket-av-scanner$page.1.gz"
done
gzip --decompress --stdout "$share/man/man1/bucket-av-scanner.1.gz" > "$work/manual.1"
holds "settings in the manual" "$work/manual.1" RABBITMQ_REGULAR_USER_PASS_FILE
# shellcheck disable=SC2016
expect "completion of bash" bash -c '. "$1" && complete -p bucket-av-scanner > /dev/null' - \
    "$share/bash-completion/completions/bucket-av-scanner"
holds "completion of zsh" "$share/zsh/vendor-completions/_bucket-av-scanner" '^#compdef bucket-av-scanner'
holds "completion of fish" "$share/fish/vendor_completions.d/bucket-av-scanner.fish" 'complete -c bucket-av-scanner'

# By this machine's systemd, since there is none inside.
sed "s|^ExecStart=|&$root|" "$root/$unit" > "$work/bucket-av-scanner.service"
systemd-analyze verify --man=no "$work/bucket-av-scanner.service" > "$work/log" 2>&1 \
    || { cat "$work/log"; fail "systemd-analyze verify"; }
lacks "systemd-analyze verify" "$work/log" bucket-av-scanner
systemd-analyze security --offline=yes --threshold=20 --root="$root" $unit > "$work/log" 2>&1 \
    || { cat "$work/log"; fail "systemd-analyze security"; }
holds "systemd-analyze security" "$work/log" 'exposure level .*: [01]\.'
say "$(sed -n 's/^→ //p' "$work/log" | cut -d ' ' -f 1-6)"

# --- it runs --------------------------------------------------------------------

inside bucket-av-scanner --help > "$work/help"
holds --help "$work/help" '^Commands:'
# As the unit does: the settings come from root, the secrets are read by the service's user.
as_service() { inside setpriv --reuid bucket-av-scanner --regid bucket-av-scanner --clear-groups "$@"; }
settings() { grep -v -e '^#' -e '^$' "$root/etc/bucket-av-scanner/environment"; }
run_check() {
    local values
    mapfile -t values < <(settings)
    as_service env "${values[@]}" "$@" timeout 60 bucket-av-scanner check > "$work/check" 2>&1 && code=0 || code=$?
}
run_check
same "exit code without secrets" "$code" 78
holds "without secrets" "$work/check" RABBITMQ_REGULAR_USER_PASS_FILE
for secret in s3_key s3_secret mq_pass; do
    echo not-to-be-seen > "$root/etc/bucket-av-scanner/secrets/$secret"
    inside chgrp bucket-av-scanner "/etc/bucket-av-scanner/secrets/$secret"
    chmod 640 "$root/etc/bucket-av-scanner/secrets/$secret"
done
# Everything is read, and nothing answers on this port: it says so for each, and shows no secret.
run_check MINIO_SERVER_URL=http://127.0.0.1:1 RABBITMQ_ENDPOINT=127.0.0.1 RABBITMQ_PORT=1
same "exit code without peers" "$code" 1
for peer in broker store engine; do
    holds "check" "$work/check" "^$peer *FAILED"
done
lacks "a secret" "$work/check" not-to-be-seen
as_service cat /etc/bucket-av-scanner/environment > "$work/log" 2>&1 || true
holds "the environment file, read by the service's user" "$work/log" 'Permission denied'
say "runs as its user"

# --- upgraded, removed, purged --------------------------------------------------

echo '# mine' >> "$root/etc/bucket-av-scanner/environment"
install_it
holds "settings after an upgrade" "$root/etc/bucket-av-scanner/environment" '^# mine'
holds "secrets after an upgrade" "$root/etc/bucket-av-scanner/secrets/mq_pass" not-to-be-seen
inside dpkg --remove bucket-av-scanner > "$work/log" 2>&1 || { cat "$work/log"; fail "dpkg --remove"; }
expect "the program after a removal" [ ! -e "$root/usr/bin/bucket-av-scanner" ]
holds "secrets after a removal" "$root/etc/bucket-av-scanner/secrets/mq_pass" not-to-be-seen
inside dpkg --purge bucket-av-scanner > "$work/log" 2>&1 || { cat "$work/log"; fail "dpkg --purge"; }
lacks "warnings of a purge" "$work/log" warning
rm "$root/package.deb"
state > "$work/after"
expect "a purge leaves something" diff "$work/before" "$work/after"
say "purged, nothing is left"
echo "[deb] $passed passed, 0 failed"
