#!/bin/sh
# Compares all methods of the field.
# Trains the missing runs and writes the report into runs/tables; first the teachers of UMT, ensembles of SEEDS (default:
# 0 1 2) on DATASETS (default: cremad kinetics_sounds), into runs/teachers. Arguments are passed to tables.py.
#   DATASETS=avdigits SEEDS="0 1" sh script/table_field.sh --slots 2 -- --amp bf16 --channels_last
#   sh script/table_field.sh --quick                         # on the stand-in, in minutes
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
size=
case " $* " in
*" --report_only "* | *" --dry_run "*) exec python code/tables.py field "$@" ;;
*" --quick "*)
    DATASETS=synthetic-quick SEEDS="0 1" data=data/synthetic-quick
    size="--data $data --epochs 2 --image_size 32 --audio_pool 8 8 --batch_size 4" # that of tables.py --quick
    [ -e $data/prepared.json ] || python code/prepare.py synthetic --clips 72 --actors 6 --out $data || exit
    ;;
*" --dataset "*) exec python code/tables.py field "$@" ;;
esac
: "${SEEDS:=0 1 2}" "${DATASETS:=cremad kinetics_sounds}"
for dataset in $DATASETS; do
    for seed in $SEEDS; do
        run=runs/teachers/data/$dataset-seed$seed
        if [ -e "$run/config.json" ]; then
            python code/train.py --resume "$run" || exit # a finished run ends at once
        else
            # shellcheck disable=SC2086
            python code/train.py --dataset "${dataset%-quick}" $size --method ensemble --random_seed "$seed" \
                --ckpt_path "$run" || exit
        fi
    done
done
[ -z "$size" ] || exec python code/tables.py field "$@"
# shellcheck disable=SC2086
exec python code/tables.py field --dataset $DATASETS --seeds $SEEDS "$@"
