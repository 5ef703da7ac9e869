#!/bin/sh
# Makes `python` a Python that satisfies requirements.txt: the active one if it does, otherwise that of .venv, which is
# made here. Run by itself, this script installs; the other scripts source it from the root, with `. script/setup.sh`.
# test.sh adds further files in $requirements. What pip installs is in the .lock file beside each: every package that the
# requirements bring, with the hashes that its files must have (CONTRIBUTING.md, "Dependencies").
case ${0##*/} in setup.sh) cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; } ;; esac
set -eu
requirements="requirements.txt ${requirements:-}"

satisfies() {
    # shellcheck disable=SC2086 # a list of files
    "$1" - $requirements 2>/dev/null <<'PYTHON'
import importlib.metadata
import sys

for path in sys.argv[1:]:
    for line in open(path, encoding="utf-8"):
        name, _, pin = line.partition("#")[0].strip().partition("==")
        if name and importlib.metadata.version(name).partition("+")[0] != pin:
            sys.exit(1)
sys.exit(sys.version_info < (3, 11))
PYTHON
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Finds a Python that can make a .venv; Debian's lacks ensurepip until python3-venv is installed.
find_base() {
    for base in python3 python python3.14 python3.13 python3.12 python3.11; do
        command -v "$base" >/dev/null && is_new_enough "$base" && "$base" -c 'import ensurepip' 2>/dev/null && return
    done
    echo "error: Python 3.11 or newer with its venv module is required, and none was found;" \
        "install it (on Debian and Ubuntu: apt install python3-venv) and try again." >&2
    exit 2
}

# attended SIGNAL PYTHON …: runs a Python command in its own process group. A signal to the script then ends, by SIGNAL,
# everything that the command started: pip and venv have child processes, and a shell's background jobs ignore Ctrl-C.
attended() {
    ending=$1
    shift
    trap 'leave 129' HUP
    trap 'leave 130' INT
    trap 'leave 143' TERM
    "$1" -c '
import os, signal, sys
os.setpgid(0, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])' "$@" &
    wait "$!" || { echo "error: setting up failed: $*" >&2; exit 1; }
    trap - HUP INT TERM
}

# A second signal kills at once.
leave() {
    trap 'kill -s KILL -- "-$!" 2>/dev/null || :' HUP INT TERM
    kill -s "$ending" -- "-$!" 2>/dev/null || kill -s TERM "$!" 2>/dev/null || :
    wait "$!" || :
    kill -s KILL -- "-$!" 2>/dev/null || :
    echo "stopped while setting up; start again to continue" >&2
    exit "$1"
}

# The list of its files is the last thing that an installation of pip writes.
has_whole_pip='
import importlib.metadata, sys
sys.exit(not any(pip.files for pip in importlib.metadata.distributions(name="pip")))'

# Waits while another script installs. The lock belongs to descriptor 9, so it outlives the Python that takes it.
queue() {
    exec 9<requirements.txt
    for any in python3 python .venv/bin/python; do
        "$any" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null && return
    done
}

make_venv() {
    if ! .venv/bin/python -c '' 2>/dev/null; then
        find_base
        attended TERM "$base" -m venv --clear .venv # --clear: the present one does not run
    elif ! is_new_enough .venv/bin/python; then
        echo "error: the Python in .venv is older than 3.11; delete .venv and try again." >&2
        exit 2
    elif ! .venv/bin/python -c "$has_whole_pip"; then
        attended TERM .venv/bin/python -m ensurepip
    fi
}

install() {
    make_venv
    echo "installing $requirements into .venv (about 5 GB, a few minutes)"
    arguments=
    for file in $requirements; do arguments="$arguments -r ${file%.txt}.lock"; done
    # SIGINT lets pip remove the gigabytes that it has downloaded so far.
    # shellcheck disable=SC2086
    attended INT .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes $arguments
}

if ! { command -v python >/dev/null && satisfies python; }; then
    if ! satisfies .venv/bin/python; then
        queue || :
        satisfies .venv/bin/python || install
        exec 9<&-
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
fi
