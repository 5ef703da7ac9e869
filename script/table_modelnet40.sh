#!/bin/sh
# Compares the methods on ModelNet40.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_modelnet40.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py modelnet40 "$@"
