#!/bin/sh
# Compares the time and memory of a training step with each method.
# Measures it on random inputs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_cost.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py cost "$@"
