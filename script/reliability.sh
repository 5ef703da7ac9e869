#!/bin/sh
# The checks of docs/reliability.md at full size, until one fails: 10,000 hostile and broken files, kills, full disks, and
# last a training run of two hours. Arguments go on to tests/reliability/long_run.py, such as --minutes 15.
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
requirements=tests/requirements.txt
. script/setup.sh
python tests/reliability/hostile.py --inputs 10000 || exit
python tests/reliability/kills.py || exit
python tests/reliability/disk.py || exit
exec python tests/reliability/long_run.py "$@"
