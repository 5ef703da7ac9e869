#!/bin/sh
# Compares values of MMPareto's boost γ, and the plain sum with larger steps, on CREMA-D.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_gamma.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py gamma "$@"
