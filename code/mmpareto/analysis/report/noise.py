"""Sampling noise of the test set: a bootstrap over test clips, as a table of the report."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mmpareto.analysis.finished_run import JOINT_HEAD
from mmpareto.analysis.report.results import CellResults, Results
from mmpareto.analysis.report.sheet import SheetCell, SheetColumn, SheetPart, SheetRow
from mmpareto.analysis.report.statistics import RESAMPLES, clip_noise, signed
from mmpareto.analysis.tables.definitions import Table

TEXT = (
    f"Percentile bootstrap over test clips ({RESAMPLES:,} resamples, 95%, not corrected): an estimate of what other "
    "test sets of this size would give for the same trained networks, averaged over their seeds. It is not a test of a "
    "method, because training again gives other networks. Differences are clip by clip, over seeds that both have."
)
ABSENT = (
    "Noise of the test set is not shown, because no run has been evaluated clip by clip (python code/evaluate.py "
    "RUN/best.pt, or RUN/last.pt for the last epoch)."
)


def noise_part(table: Table, results: Results) -> SheetPart | None:
    """The table of noise; None if no run has been evaluated clip by clip."""
    if not any(_correct(cell) for cell in results.values()):
        return None
    columns = [
        SheetColumn(title, column.label)
        for column in table.columns
        for title in ("accuracy, %", f"difference from {table.baseline}, points")
    ]
    rows = []
    for row in table.rows:
        cells = []
        for column in table.columns:
            cell, base = results.get((row.label, column.label)), results.get((table.baseline, column.label))
            cells.append(_accuracy(cell))
            cells.append(SheetCell("baseline") if row.label == table.baseline else _difference(cell, base))
        rows.append(SheetRow(row.label, cells, row.label == table.baseline))
    return SheetPart("Noise of the test set", TEXT, columns, rows)


def _accuracy(cell: CellResults | None) -> SheetCell:
    correct = _correct(cell)
    if cell is None or not correct:
        return SheetCell("–", note="not evaluated")
    if len({cell.results[seed].test_clips.clips for seed in correct}) > 1:
        return SheetCell("–", note="the seeds were evaluated on different clips", incomplete=True)
    return _shown(np.stack([*correct.values()]), "{:.2f}".format)


def _difference(cell: CellResults | None, base: CellResults | None) -> SheetCell:
    correct, base_correct = _correct(cell), _correct(base)
    seeds = [seed for seed in correct if seed in base_correct]
    if cell is None or base is None or not seeds:
        return SheetCell("–", note="not both evaluated with one seed")
    if len({one.results[seed].test_clips.clips for one in (cell, base) for seed in seeds}) > 1:
        return SheetCell("–", note="evaluated on different clips", incomplete=True)
    differences = [correct[seed].astype(np.float64) - base_correct[seed] for seed in seeds]
    return _shown(np.stack(differences), signed)


def _correct(cell: CellResults | None) -> dict[int, NDArray[np.bool_]]:
    """Seed → (C,) whether the joint head was correct, for the runs that were evaluated clip by clip; ascending."""
    results = cell.results if cell else {}
    return {
        seed: one.test_clips.correct[JOINT_HEAD]
        for seed, one in results.items()
        if JOINT_HEAD in one.test_clips.correct
    }


def _shown(matrix: NDArray[np.generic], show: Callable[[float], str]) -> SheetCell:
    mean = float(matrix.mean())
    low, high = clip_noise(matrix)
    seeds, clips = matrix.shape
    numbers = {"mean": mean, "low": low, "high": high, "level": 0.95, "seeds": float(seeds), "clips": float(clips)}
    text = f"{show(100 * mean)} [{show(100 * low)}, {show(100 * high)}]"
    return SheetCell(text, mean, f"{clips:,} clips, {seeds} seed{'s' if seeds > 1 else ''}", numbers=numbers)
