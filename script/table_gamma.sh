#!/bin/sh
# Compares values of MMPareto's boost γ, on CREMA-D.
# Runs what is missing, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_gamma.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py gamma "$@"
