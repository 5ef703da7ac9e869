#!/bin/sh
# Goes from MMPareto as released to MMPareto here, one change per row, on CREMA-D.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_bridge.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py bridge "$@"
