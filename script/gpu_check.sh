#!/bin/sh
# Checks and measures everything that needs a GPU, in less than 8 minutes; see docs/scaling.md.
# Installs nothing where a Python with PyTorch exists: machines that are lent for minutes have no network.
# Arguments are passed to benchmark.py gpu: sh script/gpu_check.sh --minutes 4 --sections tests step
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
has_torch='import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'
set -- gpu --batch_size 64 --image_size 224 --frames 2 --audio_frames 1024 "$@"
for python in python python3; do
    if "$python" -c "$has_torch" 2>/dev/null; then exec "$python" code/benchmark.py "$@"; fi
done
. script/setup.sh
exec python code/benchmark.py "$@"
