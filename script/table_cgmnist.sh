#!/bin/sh
# Compares the methods on CG-MNIST.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_cgmnist.sh --quick
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py cgmnist "$@"
