#!/bin/sh
# Compares MMPareto with its approximation --refresh 10, on CREMA-D.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_refresh.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py refresh "$@"
