#!/bin/sh
# Compares all methods of the field.
# Trains the missing runs and writes the report into runs/tables; first the teachers of UMT, ensembles of SEEDS (default:
# 0 1 2) on DATASETS (default: cremad kinetics_sounds), into runs/teachers. Arguments are passed to tables.py.
#   DATASETS=avdigits SEEDS="0 1" sh script/table_field.sh --slots 2 -- --amp bf16 --channels_last
#   sh script/table_field.sh --dataset synthetic --quick     # on the stand-in; without teachers, UMT ends with an error
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
: "${SEEDS:=0 1 2}" "${DATASETS:=cremad kinetics_sounds}"
case " $* " in
*" --dataset "* | *" --report_only "* | *" --dry_run "*) exec python code/tables.py field "$@" ;;
esac
for dataset in $DATASETS; do
    for seed in $SEEDS; do
        run=runs/teachers/data/$dataset-seed$seed
        if [ -e "$run/config.json" ]; then
            python code/train.py --resume "$run" || exit # a finished run ends at once
        else
            python code/train.py --dataset "$dataset" --method ensemble --random_seed "$seed" --ckpt_path "$run" || exit
        fi
    done
done
# shellcheck disable=SC2086
exec python code/tables.py field --dataset $DATASETS --seeds $SEEDS "$@"
