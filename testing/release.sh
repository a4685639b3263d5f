#!/usr/bin/env bash
# Tests what is released: packaging/release.sh, in a small repository of its own, accepts what is right and names each
# thing that is not; and the crate has all of src, and nothing that is not named here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0
fail() { echo "[release] FAILED: $*"; exit 1; }

# Not built here, which takes minutes: the workflow does.
cargo package --list --quiet --allow-dirty --package bucket-av-scanner | sort > "$work/crate"
{
    printf '%s\n' .cargo_vcs_info.json Cargo.lock Cargo.toml Cargo.toml.orig LICENSE README.md docs/CHANGELOG.md
    git ls-files --cached --others --exclude-standard src
} | sort > "$work/expected"
diff "$work/expected" "$work/crate" || fail "files of the crate: see 'include' in Cargo.toml"
rm "$work/expected" "$work/crate"
passed=$((passed + 1))

mkdir -p "$work"/{packaging,docs,fuzz,chart}
cp packaging/release.sh "$work/packaging"
cd "$work"
export CHART=chart HOME=$work GIT_CONFIG_NOSYSTEM=1
printf '[workspace.package]\nversion = "1.2.3"\nedition = "2024"\n\n[other]\nversion = "9"\n' > Cargo.toml
printf '[[package]]\nname = "bucket-av-scanner"\nversion = "1.2.3"\n' | tee Cargo.lock > fuzz/Cargo.lock
printf 'name: bucket-av-scanner\nversion: 1.2.3\nappVersion: "1.2.3"\n' > chart/Chart.yaml
printf '# Changelog\n\n## [1.2.3] – 2026-02-28\n\nNew things.\n\n### Fixed\n\n- Much.\n\n## [1.2.2] – 2026-01-01\n\nOld things.\n' > docs/CHANGELOG.md
git init --quiet --initial-branch main
git config user.name tests
git config user.email tests@localhost
git config commit.gpgsign false
git add .
git commit --quiet --message first

check() { packaging/release.sh "$1" > output 2>&1 && code=0 || code=$?; }
# What is wrong after `change`, a command, has to be named in one line, and to be all.
refuses() {
    local what=$1 line=$2 version=${3-1.2.3}
    eval "$what"
    git add .
    git diff --cached --quiet || git commit --quiet --message change
    check "$version"
    [ "$code" = 1 ] || fail "exit code $code after: $what"
    if [ "$(wc -l < output)" != 1 ] || ! grep --quiet --fixed-strings -- "$line" output; then
        fail "after '$what', instead of '$line': $(cat output)"
    fi
    git reset --quiet --hard "$base"
    passed=$((passed + 1))
}
printf 'output\n' > .gitignore
git add .gitignore
git commit --quiet --message ignore
base=$(git rev-parse HEAD)

check 1.2.3
[ "$code" = 0 ] || fail "the right state is refused: $(cat output)"
grep --quiet 'git tag --sign v1.2.3' output || fail "no instructions: $(cat output)"
[ -z "$(git tag)$(git status --porcelain)" ] || fail "it changed something"
expected=$'New things.\n\n### Fixed\n\n- Much.'
[ "$(packaging/release.sh --notes 1.2.3)" = "$expected" ] || fail "notes: $(packaging/release.sh --notes 1.2.3)"
[ -z "$(packaging/release.sh --notes 1.2)" ] || fail "notes of a version that is not there"
passed=$((passed + 3))

refuses "sed -i 's/^version = .1.2.3./version = \"1.2.4\"/' Cargo.toml" 'Cargo.toml says 1.2.4'
refuses "sed -i s/1.2.3/1.2.2/ Cargo.lock" 'Cargo.lock says 1.2.2'
refuses "sed -i s/1.2.3/1.2.2/ fuzz/Cargo.lock" 'fuzz/Cargo.lock says 1.2.2'
refuses "sed -i s/^version.*/version:\ 1.2.2/ chart/Chart.yaml" 'version in chart/Chart.yaml says 1.2.2'
refuses "sed -i /^appVersion/d chart/Chart.yaml" 'appVersion in chart/Chart.yaml says nothing'
refuses "sed -i s/2026-02-28/unreleased/ docs/CHANGELOG.md" 'has to begin with'
refuses "sed -i s/2026-02-28/2026-02-30/ docs/CHANGELOG.md" 'is no date'
refuses "sed -i '/^New/,/^- Much/d' docs/CHANGELOG.md" 'says nothing about 1.2.3'
refuses "sed -i '/1.2.3/,/^- Much/d' docs/CHANGELOG.md" "not with '## [1.2.2]"
refuses "git tag v1.2.3 && touch new" 'the tag v1.2.3 is at another commit'
git tag --delete v1.2.3 > /dev/null

# On its own tag, as CI checks it, all is well.
git tag v1.2.3
check 1.2.3
[ "$code" = 0 ] || fail "on its own tag: $(cat output)"
touch left-behind
check 1.2.3
grep --quiet 'not committed' output || fail "a file that is not committed: $(cat output)"
passed=$((passed + 2))
for version in '' 1.2 v1.2.3 1.2.3+build 01.2.3; do
    check "$version"
    [ "$code" = 2 ] || fail "version '$version' is accepted"
    passed=$((passed + 1))
done
echo "[release] $passed passed, 0 failed"
