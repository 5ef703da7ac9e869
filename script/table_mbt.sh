#!/bin/sh
# Compares the methods in the transformer MBT, on CREMA-D and Kinetics-Sounds.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_mbt.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py mbt "$@"
