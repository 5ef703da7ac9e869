#!/bin/sh
# Trains MMPareto on CREMA-D if data/cremad exists, otherwise on the synthetic stand-in.
# Arguments go on to train.py and override these: sh script/mmpareto.sh --epochs 3 --random_seed 1
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/train.py --dataset cremad --stand_in --method mmpareto --recipe released --protocol paper "$@"
