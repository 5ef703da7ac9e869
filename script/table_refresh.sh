#!/bin/sh
# Compares MMPareto with its approximation --refresh 10, on CREMA-D.
# Runs what is missing, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_refresh.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py refresh "$@"
