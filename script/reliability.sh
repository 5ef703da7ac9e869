#!/bin/sh
# Reads 10,000 hostile and broken files, each in a child process with bounds of time and memory (docs/reliability.md).
# Arguments go on to tests/reliability/hostile.py.
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
requirements=tests/requirements.txt
. script/setup.sh
exec python tests/reliability/hostile.py --inputs 10000 "$@"
