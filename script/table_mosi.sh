#!/bin/sh
# Compares the methods on three modalities, those of CMU-MOSI.
# Runs what is missing, and writes the report into runs/tables.
# Arguments go on to tables.py: sh script/table_mosi.sh --dataset synthetic --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py mosi "$@"
