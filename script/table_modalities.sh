#!/bin/sh
# Compares cost and accuracy as the number of modalities grows from 2 to 8, on made-up data.
# Prepares the data, trains the missing runs, measures the steps and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_modalities.sh --seeds 0 1 2
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py modalities "$@"
