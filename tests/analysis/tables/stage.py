"""A folder with data, runs, and fake programs for tests of the grid."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mmpareto.analysis.finished_run import identity
from mmpareto.analysis.tables.cells import Cell, Outcome, make_cells, run_name
from mmpareto.analysis.tables.definitions import Column, Row, Table
from mmpareto.analysis.tables.grid import run_grid
from mmpareto.analysis.tables.job import Programs
from mmpareto.data.loading.layout import fingerprint
from mmpareto.training.settings import to_config

FAKE_PROGRAMS = Path(__file__).parent / "fake_programs.py"
TABLE = Table(
    "one", "One", "?", (Column("CREMA-D", "--dataset cremad"),), (Row("Uniform", "--method uniform"),), "Uniform"
)


def table_of(*rows: Row) -> Table:
    """A table of Uniform and these rows."""
    return Table("two", "Two", "?", TABLE.columns, (*TABLE.rows, *rows), "Uniform")


class Stage:
    """Data, runs, and fake programs in a folder."""

    def __init__(self, home: Path) -> None:
        self.home, self.runs, self.data, self.stage = home, home / "runs", home / "data", home / "stage"
        for folder in (self.data, self.stage):
            folder.mkdir(parents=True, exist_ok=True)
        (self.data / "stat.csv").write_text("a\nb\n")
        fake = (sys.executable, "-S", str(FAKE_PROGRAMS))
        self.programs = Programs((*fake, "train", str(self.stage)), (*fake, "evaluate", str(self.stage)))
        self.reported: list[str] = []

    def cells(self, seeds: Sequence[int] = (0, 1, 2), table: Table = TABLE) -> list[Cell]:
        """Return cells, after preparing the config.json that the fake program writes for each of them."""
        cells = make_cells(table, seeds, "validation", ["--data", str(self.data), "--epochs", "3"])
        for cell in cells:
            config = {"arguments": to_config(cell.settings), "data": {"folder": str(self.data)}}
            config["data"]["fingerprint"] = fingerprint(self.data)
            (self.stage / f"{self.name(cell)}.json").write_text(json.dumps(config))
        return cells

    def name(self, cell: Cell) -> str:
        return run_name(identity(to_config(cell.settings), fingerprint(self.data)))

    def folder(self, cell: Cell) -> Path:
        return self.runs / self.name(cell)

    def let(self, cell: Cell, *actions: str) -> None:
        """Set the actions of the cell's next attempts."""
        (self.stage / f"{self.name(cell)}.do").write_text(" ".join(actions))

    def run(self, cells: Sequence[Cell], slots: Sequence[str] = ("cpu", "cpu")) -> list[Outcome]:
        return run_grid(cells, self.runs, slots, programs=self.programs, report=self.reported.append)

    def calls(self, first: str = "") -> list[str]:
        """The lines of the fake programs' log that begin with these words."""
        path = self.stage / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.startswith(first)]
