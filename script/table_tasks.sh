#!/bin/sh
# Compares methods where one encoder serves two tasks, with and without noise that makes one of them harder: MultiMNIST.
# Trains the missing runs and writes the report into runs/tables.
# Arguments are passed to tables.py: sh script/table_tasks.sh --seeds 0 1 -- --epochs 1
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/tables.py tasks "$@"
