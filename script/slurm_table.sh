#!/bin/sh
# Builds a table with Slurm on a runs folder that all machines share: N tasks with one GPU each, and then the report:
#   job=$(sbatch --parsable --array=1-20%8 script/slurm_table.sh main --dataset cremad)
#   sbatch --dependency=afterany:$job script/slurm_table.sh main --dataset cremad --report_only
# Task I trains every Nth run from the Ith on, so that no two tasks work on the same run. Arguments are passed to
# tables.py. Submit it from the repository's root. Ten minutes before its time limit, a task saves its runs and ends;
# the same two commands again continue whatever is unfinished. Options of sbatch override these:
#SBATCH --job-name=table
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd "${SLURM_SUBMIT_DIR:-..}"; }
if [ "${SLURM_ARRAY_TASK_ID:-}" ]; then
    # Of any other array, such as 3,7 or 0-19, a task cannot tell which runs belong to the others.
    if [ "$SLURM_ARRAY_TASK_MIN" != 1 ] || [ "$SLURM_ARRAY_TASK_COUNT" != "$SLURM_ARRAY_TASK_MAX" ]; then
        echo "error: the tasks are not those of --array=1-N; submit all of them, as finished runs take no time." >&2
        exit 2
    fi
    set -- --share "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" "$@"
fi
. script/setup.sh
exec python code/tables.py "$@"
