#!/usr/bin/env bash
# Makes .venv with sage-ray in it, in versions that the tests ran with; does nothing if that is what is there already.
# Packages come from wherever this user's pip is set up to look.
set -euo pipefail
cd "$(dirname "$0")/.."

stamp=.venv/.setup-stamp
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | sha256sum | cut -d' ' -f1)
if [[ -x .venv/bin/sage-ray && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    exit 0
fi

new_enough() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [[ ! -x .venv/bin/python ]] || ! new_enough .venv/bin/python; then
    python=""
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3 python; do
        if new_enough "$candidate"; then python=$candidate; break; fi
    done
    if [[ -z $python ]]; then
        echo "no Python >= 3.11 with venv found: install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
        exit 2
    fi
    "$python" -m venv --clear .venv
fi

# Twice quiet: what pip warns of is how this machine is set up; errors are still told.
pip=(.venv/bin/python -m pip install --disable-pip-version-check --quiet --quiet)
# torch first and by its exact version: a range would pull a newer build than the one tested.
"${pip[@]}" -c constraints.txt "$(grep '^torch==' constraints.txt)"
"${pip[@]}" -c constraints.txt -e '.[dev]'
echo "$wanted" > "$stamp"
echo "ready: .venv/bin/sage-ray (try: .venv/bin/sage-ray doctor)"
