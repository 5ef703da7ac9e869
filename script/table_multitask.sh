#!/bin/sh
# Compares MMPareto with methods of multi-task learning, on CREMA-D and Kinetics-Sounds.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_multitask.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py multitask "$@"
