#!/bin/sh
# Compares MMPareto with methods of multi-task learning, on CREMA-D and Kinetics-Sounds.
# Runs what is missing, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_multitask.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py multitask "$@"
