#!/bin/sh
# Compares DGL with its parts switched off, other values of α, and its baselines, with DGL's own recipe.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_dgl.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py dgl "$@"
