"""How much of a figure is the luck of the test set: the bootstrap over test clips, as a table of its own."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.report.gather import Measured
from mmpareto.analysis.report.layout import Part, SheetCell, SheetColumn, SheetRow
from mmpareto.analysis.report.results import JOINT_HEAD
from mmpareto.analysis.report.statistics import RESAMPLES, clip_noise, signed
from mmpareto.analysis.tables.definitions import Table

TEXT = (
    "Percentile bootstrap over test clips ({resamples:,} resamples, 95%, not corrected): what other test sets of this "
    "size would have given for the very same trained networks, averaged over their seeds. It is no test of a method, "
    "since training anew is another matter; differences are taken clip by clip, over seeds that both have."
)
ABSENT = (
    "Noise of the test set is not shown: no run has been evaluated clip by clip (python code/evaluate.py RUN/best.pt; "
    "of the last epoch, RUN/last.pt)."
)


def noise_part(table: Table, found: Mapping[tuple[str, str], Measured]) -> tuple[Part | None, str]:
    """The table of noise; or None, and a sentence that says why there is none."""
    if not any(result.correct for cell in found.values() for result in cell.results.values()):
        return None, ABSENT
    columns = [
        SheetColumn(title, column.label)
        for column in table.columns
        for title in ("accuracy, %", f"difference to {table.baseline}, points")
    ]
    rows = []
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell, base = found.get((row.label, column.label)), found.get((table.baseline, column.label))
            cells.append(_accuracy(cell))
            cells.append(SheetCell("baseline") if row.label == table.baseline else _difference(cell, base))
        rows.append(SheetRow(row.label, cells, row.label == table.baseline))
    return Part("Noise of the test set", TEXT.format(resamples=RESAMPLES), columns, rows), ""


def _accuracy(cell: Measured | None) -> SheetCell:
    matrices = _correct(cell)
    if cell is None or not matrices:
        return SheetCell("–", note="not evaluated")
    clips = {cell.results[seed].clips for seed in matrices}
    if len(clips) > 1:
        return SheetCell("–", note="the seeds were evaluated on different clips", hole=True)
    return _shown(np.stack([*matrices.values()]), "{:.2f}".format)


def _difference(cell: Measured | None, base: Measured | None) -> SheetCell:
    own, other = _correct(cell), _correct(base)
    seeds = [seed for seed in own if seed in other]
    if cell is None or base is None or not seeds:
        return SheetCell("–", note="not evaluated on one seed")
    if len({measured.results[seed].clips for measured in (cell, base) for seed in seeds}) > 1:
        return SheetCell("–", note="evaluated on different clips", hole=True)
    differences = [own[seed].astype(np.float64) - other[seed] for seed in seeds]
    return _shown(np.stack(differences), signed)


def _correct(cell: Measured | None) -> dict[int, NDArray[np.bool_]]:
    """Seed → (C,) whether the joint head was right, of the runs that were evaluated clip by clip; ascending."""
    if cell is None:
        return {}
    return {seed: result.correct[JOINT_HEAD] for seed, result in cell.results.items() if JOINT_HEAD in result.correct}


def _shown(matrix: NDArray[np.generic], shape: Callable[[float], str]) -> SheetCell:
    mean = float(matrix.mean())
    low, high = clip_noise(matrix)
    seeds, clips = matrix.shape
    numbers = {"mean": mean, "low": low, "high": high, "level": 0.95, "seeds": float(seeds), "clips": float(clips)}
    text = f"{shape(100 * mean)} [{shape(100 * low)}, {shape(100 * high)}]"
    return SheetCell(text, mean, f"{clips:,} clips, {seeds} seed{'s' if seeds > 1 else ''}", numbers=numbers)
