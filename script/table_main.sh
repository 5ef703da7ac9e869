#!/bin/sh
# Compares the methods on CREMA-D and Kinetics-Sounds.
# Runs what is missing, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_main.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py main "$@"
