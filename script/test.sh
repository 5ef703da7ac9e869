#!/bin/sh
# Installs what is missing, then runs lint, format check, type check and tests, but those marked slow (-m slow).
# Arguments go on to pytest.
cd -P "$(dirname "$0")/.." && { [ -d code ] || cd ..; }
requirements=tests/requirements.txt
. script/setup.sh
python -m ruff check .
python -m ruff format --check .
python -m mypy
# One process per core, one thread per process.
export OMP_NUM_THREADS=1
exec python -m pytest -n auto --dist worksteal -m "not slow" "$@"
