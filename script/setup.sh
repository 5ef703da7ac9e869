# Makes `python` a Python that satisfies requirements.txt: the active one where it does, else that of .venv, made here.
# Run alone it installs; the other scripts read it with `. script/setup.sh`. test.sh names further files in
# $requirements.
set -eu
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
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

# A signal to the script ends what it is waiting for, too.
attended() {
    "$@" &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 130' INT
    trap 'kill "$child" 2>/dev/null; exit 143' TERM
    wait "$child" || { echo "error: setting up failed: $*" >&2; exit 1; }
    trap - INT TERM
}

if ! { command -v python >/dev/null && satisfies python; }; then
    if ! { [ -x .venv/bin/python ] && satisfies .venv/bin/python; }; then
        for base in python3 python python3.14 python3.13 python3.12 python3.11; do
            command -v "$base" >/dev/null && "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && break
            base=
        done
        if [ -z "$base" ]; then
            echo "error: Python 3.11 or newer is needed and none was found; install it and try again." >&2
            exit 2
        fi
        echo "installing $requirements into .venv (about 5 GB, a few minutes)"
        .venv/bin/python -m pip --version >/dev/null 2>&1 || attended "$base" -m venv .venv
        arguments=
        for file in $requirements; do arguments="$arguments -r $file"; done
        # shellcheck disable=SC2086
        attended .venv/bin/python -m pip install --quiet --disable-pip-version-check $arguments
    fi
    PATH="$PWD/.venv/bin:$PATH"
    export PATH
fi
