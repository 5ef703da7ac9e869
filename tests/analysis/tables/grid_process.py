"""A grid as a process of its own: `python grid_process.py HOME`, on what `Stage` in test_grid.py has prepared there."""

import sys
from pathlib import Path

import test_grid
from mmpareto.analysis.tables.grid import run_grid
from mmpareto.cli import run
from mmpareto.training.stop import StopSignals


def main(arguments: list[str] | None = None) -> int:
    """Run the grid and print an outcome a line; the exit status of tables.py."""
    stage = test_grid.Stage(Path(sys.argv[1]))
    print("ready", flush=True)
    sys.stdin.readline()  # until it is told to begin
    with StopSignals() as signals:
        outcomes = run_grid(stage.cells(), stage.runs, ["cpu", "cpu"], signals=signals, programs=stage.programs)
    for outcome in outcomes:
        print(f"outcome {outcome.cell.seed} {outcome.folder.name if outcome.folder else outcome.reason}")
    return 128 + signals.signum if signals.signum else int(any(outcome.reason for outcome in outcomes))


if __name__ == "__main__":
    run(main)
