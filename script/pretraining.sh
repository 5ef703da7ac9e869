#!/bin/sh
# Contrastive pre-training on audio-visual digits, then linear probes and fine-tuning with a tenth of the labels.
# Pre-trains what is missing, of SEEDS (default: 0 1 2 3 4), into runs/pretraining-METHOD-seedN, and writes the reports
# of tables.py pretraining and finetuning into runs/tables. Arguments are passed to tables.py.
#   SEEDS=0 sh script/pretraining.sh --slots 2 -- --amp bf16 --channels_last
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
: "${SEEDS:=0 1 2 3 4}"
for seed in $SEEDS; do
    for method in joint uniform pareto mmpareto; do
        run=runs/pretraining-$method-seed$seed
        if [ -e "$run/last.pt" ]; then
            python code/train.py --resume "$run" || exit # a finished run ends at once
        else
            python code/train.py --dataset avdigits --data data/avdigits-speaker --objective contrastive \
                --recipe contrastive --method "$method" --record_gradients 20 --random_seed "$seed" \
                --ckpt_path "$run" || exit
        fi
    done
done
# shellcheck disable=SC2086
python code/tables.py pretraining --seeds $SEEDS "$@" || exit
# shellcheck disable=SC2086
exec python code/tables.py finetuning --seeds $SEEDS "$@"
