# Sourced by scripts/serve and scripts/test: makes .venv from a hash-pinned requirements file on
# first use and whenever that file changes. Needs Python >= 3.11 with venv; uses uv when it is there.
# shellcheck shell=sh

cd "$(dirname "$0")/.." || exit 1

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "token-server needs Python 3.11 or newer (set PYTHON=/path/to/python3)." >&2
    exit 1
}

# set_up REQUIREMENTS_FILE: a .venv that holds at least these requirements and the project itself.
set_up() {
    requirements=$1
    stamp=".venv/.installed-$requirements"
    # The test requirements contain the server's: a full .venv serves, too.
    for made in "$stamp" ".venv/.installed-requirements-test.txt"; do
        source_file=${made#.venv/.installed-}
        if [ -e "$made" ] && cmp -s "$made" "$source_file" && .venv/bin/python -c '' 2>/dev/null; then
            return
        fi
    done
    python=$(find_python) || exit 1
    echo "Setting up .venv from $requirements (first use, about a minute) ..." >&2
    rm -rf .venv
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python "$python" .venv
        uv pip install --quiet --python .venv/bin/python --require-hashes -r "$requirements"
        uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
    else
        "$python" -m venv .venv || {
            echo "This Python has no venv module (on Debian: apt install python3-venv)." >&2
            exit 1
        }
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
    fi
    cp "$requirements" "$stamp"
}
