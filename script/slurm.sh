#!/bin/sh
# Trains on several machines with Slurm, one process per GPU: sbatch --nodes 4 script/slurm.sh --dataset cremad
# Arguments go on to train.py; --batch_size is that of all GPUs together. Submit it from the repository's root, which
# all machines must be able to read, including the data and runs/. Ten minutes before its time limit, the job saves and
# ends, even in the middle of an epoch; sbatch --nodes 4 script/slurm.sh --resume runs/<run> continues it.
#SBATCH --job-name=mmpareto
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --output=slurm-%j.txt
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd "${SLURM_SUBMIT_DIR:-..}"; }
if [ -z "${MMPARETO_NODES:-}" ]; then
    . script/setup.sh
    MMPARETO_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export MMPARETO_NODES
    # Without --kill-on-bad-exit, the other machines would wait for a failed one until they time out.
    exec srun --ntasks-per-node=1 --kill-on-bad-exit=1 sh script/slurm.sh "$@"
fi
first=$(for node in $MMPARETO_NODES; do echo "$node" && break; done)
port=$((20000 + SLURM_JOB_ID % 10000))
set -- --master-addr "$first" --master-port "$port" --nproc-per-node gpu code/train.py "$@"
exec python -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" --node-rank "$SLURM_NODEID" "$@"
