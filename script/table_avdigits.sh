#!/bin/sh
# Compares the methods on audio-visual digits.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_avdigits.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py avdigits "$@"
