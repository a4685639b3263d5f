#!/usr/bin/env bash
# Checks that this checkout is what version VERSION should be, and prints how to tag it. Changes nothing.
#
#   packaging/release.sh VERSION            all checks, then the commands
#   packaging/release.sh --notes VERSION    only prints the changelog of that version
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

changelog=docs/CHANGELOG.md
chart=${CHART:-kubernetes/bucket-av-scanner}

# The text below the heading of a version, without blank lines around it.
notes() {
    awk -v heading="## [$1]" '
        /^## / { inside = index($0, heading) == 1; next }
        inside { text = text $0 "\n" }
        END { gsub(/^\n+|\n+$/, "", text); if (text != "") print text }
    ' $changelog
}

if [ "${1-}" = --notes ]; then
    notes "${2:?which version?}"
    exit
fi

version=${1-}
problems=0
wrong() { printf '[release] %s\n' "$*" >&2; problems=1; }

# SemVer, without build metadata: neither tags of images nor Debian knows it.
if ! [[ $version =~ ^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-[0-9A-Za-z.-]+)?$ ]]; then
    echo "[release] which version? make release VERSION=1.2.3" >&2
    exit 2
fi

same() {
    [ "$2" = "$version" ] || wrong "$1 says ${2:-nothing}: set it to $version"
}
of_lock() { sed -n '/^name = "bucket-av-scanner"$/{n;s/^version = "\(.*\)"$/\1/p}' "$1"; }
of_chart() { sed -n "s/^$1: *\"\{0,1\}\([^\" ]*\)\"\{0,1\}.*/\1/p" "$chart/Chart.yaml"; }

[ -z "$(git status --porcelain)" ] || wrong "there are changes that are not committed: git status"
same "[workspace.package] in Cargo.toml" "$(sed -n '/^\[workspace.package\]$/,/^$/s/^version = "\(.*\)"$/\1/p' Cargo.toml)"
same Cargo.lock "$(of_lock Cargo.lock)"
same fuzz/Cargo.lock "$(of_lock fuzz/Cargo.lock)"
if [ -e "$chart/Chart.yaml" ]; then
    same "version in $chart/Chart.yaml" "$(of_chart version)"
    same "appVersion in $chart/Chart.yaml" "$(of_chart appVersion)"
fi

heading=$(grep -m 1 '^## ' $changelog || true)
case $heading in
    "## [$version] – "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9])
        date --date "${heading##* }" > /dev/null 2>&1 || wrong "$changelog: '${heading##* }' is no date"
        [ -n "$(notes "$version")" ] || wrong "$changelog says nothing about $version" ;;
    *) wrong "$changelog has to begin with '## [$version] – YYYY-MM-DD', not with '$heading'" ;;
esac

# A tag is never moved: others may have it already. On the tag itself, which CI checks, all is well.
if tagged=$(git rev-parse --quiet --verify "refs/tags/v$version^{commit}") \
    && [ "$tagged" != "$(git rev-parse HEAD)" ]; then
    wrong "the tag v$version is at another commit: ${tagged:0:12}"
fi

[ $problems = 0 ] || exit 1
cat <<END
[release] $version is ready. Once CI has passed on this commit ($(git rev-parse --short HEAD)):

    git tag --sign v$version --message 'bucket-av-scanner $version'
    git push origin v$version

The workflow 'release' makes a draft from the tag; docs/RELEASING.md says what to look at before it is published.
END
