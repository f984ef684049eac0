#!/bin/sh
# Makes .venv with exactly what locks/dev.txt names; does nothing when it is there already.
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=0.13.9
stamp=.venv/.stamp
want=$(cat pyproject.toml locks/dev.txt "$0" | sha256sum | cut -c1-16)
if [ -f $stamp ] && [ "$(cat $stamp)" = "$want" ]; then exit 0; fi
python=${PYTHON:-python3}
command -v "$python" >/dev/null || { echo "Python 3.11 or later is missing: install it, or set PYTHON" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed; set PYTHON" >&2; exit 1; }
if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    echo "Installing python3-venv" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi
tools=${XDG_CACHE_HOME:-$HOME/.cache}/ax-operator/uv-$UV_VERSION
if [ ! -x "$tools/bin/uv" ]; then
    echo "Installing uv $UV_VERSION" >&2
    "$python" -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "uv==$UV_VERSION"
fi
echo "Installing the Python packages of locks/dev.txt into .venv" >&2
[ -x .venv/bin/python ] || "$tools/bin/uv" venv --quiet --python "$python" .venv
"$tools/bin/uv" pip sync --quiet --python .venv/bin/python --require-hashes locks/dev.txt
"$tools/bin/uv" pip install --quiet --python .venv/bin/python --no-deps --editable .
echo "$want" > $stamp
