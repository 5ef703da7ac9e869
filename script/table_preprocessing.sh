#!/bin/sh
# Compares preprocessing, numbers of frames, schedules and learning rates, on CREMA-D.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_preprocessing.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py preprocessing "$@"
