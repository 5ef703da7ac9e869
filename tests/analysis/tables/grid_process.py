"""A grid in a separate process, in a folder that a `Stage` of test_grid.py has prepared."""

import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

from mmpareto.analysis.tables.grid import run_grid
from mmpareto.cli import run
from mmpareto.training.stop import StopSignals
from stage import Stage


def grid_process(home: Path, output: Path, start: Barrier) -> None:
    """Run the grid in a new session; write one line per outcome to `output`, and exit as tables.py does."""
    os.setsid()
    handle = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = sys.stderr = os.fdopen(handle, "w", buffering=1)
    stage = Stage(home)
    cells = stage.cells()  # before any grid starts, because it writes the data again
    start.wait()

    def main(arguments: list[str] | None) -> int:
        with StopSignals() as signals:
            outcomes = run_grid(cells, stage.runs, ["cpu", "cpu"], signals=signals, programs=stage.programs)
        for outcome in outcomes:
            print(f"outcome {outcome.cell.seed} {outcome.folder.name if outcome.folder else outcome.reason}")
        return 128 + signals.signum if signals.signum else int(any(outcome.reason for outcome in outcomes))

    run(main)
