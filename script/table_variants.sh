#!/bin/sh
# Compares the variants of MMPareto (per tensor, paper, released code), with two recipes, on CREMA-D.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_variants.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py variants "$@"
