#!/bin/sh
# Compares what a training step by each method takes: seconds and memory.
# Measures it on random inputs, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_cost.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py cost "$@"
