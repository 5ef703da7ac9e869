#!/bin/sh
# Trains DGL (disentangled gradient learning) on CREMA-D if data/cremad exists, otherwise on the synthetic stand-in.
# Arguments go on to train.py and override these: sh script/dgl.sh --epochs 3 --alpha 5
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
. script/setup.sh
exec python code/train.py --dataset cremad --stand_in --method dgl --recipe dgl --protocol paper "$@"
