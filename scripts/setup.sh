#!/bin/sh
# Finds a Python that can build the environment, then hands over to scripts/setup.py.
# PYTHON=/path/to/python chooses one by hand. Exit codes are those of scripts/setup.py.
set -eu

case $0 in
    */*) cd "${0%/*}/.." ;;
    *) cd .. ;;
esac

supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

can_make_environments() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

without_venv=
others=
[ -n "${PYTHON:-}" ] || others='python3.12 python3.13 python3 python'
for python in "${PYTHON:-python3.11}" $others; do
    supported "$python" || continue
    if can_make_environments "$python"; then
        exec "$python" -m scripts.setup "$@"
    fi
    without_venv=${without_venv:-$python}
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "set-up: $without_venv can't make virtual environments: its venv module is missing." >&2
    echo "  Debian, Ubuntu:  apt-get install python$version-venv" >&2
elif [ -n "${PYTHON:-}" ]; then
    echo "set-up: PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13." >&2
else
    echo "set-up: Python 3.11, 3.12 or 3.13 is needed and none was found on the PATH." >&2
    echo "  Debian, Ubuntu:  apt-get install python3 python3-venv python3-dev g++" >&2
    echo "  Fedora, RHEL:    dnf install python3.12 python3.12-devel gcc-c++" >&2
    echo "  elsewhere:       install one, then run again with PYTHON=/path/to/python3" >&2
fi
exit 3
