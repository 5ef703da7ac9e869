"""Distance of the cheaper `--cross_terms included` from the update without cross terms, over one run.

The recorder compares both updates of every recorded step (`training.cross_terms`); here they are drawn and summarised.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.plots import style
from mmpareto.errors import InputError
from mmpareto.files import write_text

HEIGHT = 2.0  # of a panel, in inches
Comparison = Mapping[str, tuple[Array, Array]]  # modality → cosines and relative differences (R,)


def draw_cross_terms(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Compare the updates of a run: as a plot, as JSON beside it, and as text.

    Raises:
        InputError: the run recorded no gradients, or its encoders have no cross terms to leave out.
    """
    run = runs[0]
    comparison = comparison_of(run)
    style.save(cross_terms_plot(run, comparison), out)
    encoders = {name: summary(*values) for name, values in comparison.items()}
    metrics = {"run": run.label, "title": run.title, "seed": run.seed, "encoders": encoders}
    path = style.file_names(out)[0].with_suffix(".json")
    write_text(path, json.dumps(metrics, indent=1) + "\n")
    return f"{table(metrics)}\n{path}"


def comparison_of(run: FinishedRun) -> Comparison:
    """Modality → the cosine between both updates, and the norm of their difference; raises as `draw_cross_terms`."""
    comparison = {}
    for modality, encoder in run.recorded_gradients().encoders.items():
        if encoder.cross_cosine is None or encoder.cross_difference is None:
            raise InputError(
                f"{run.folder} compared no updates: that takes encoders that interact (--blocks mmtm, MBT), "
                "--record_gradients N, and a method that differentiates the unimodal losses apart, such as mmpareto."
            )
        comparison[modality] = encoder.cross_cosine, encoder.cross_difference
    return comparison


def summary(cosine: Array, difference: Array) -> dict[str, float | int | None]:
    """Mean, 5th percentile and minimum of the cosine, and median and maximum of the difference, over finite steps."""
    kept = np.isfinite(cosine) & np.isfinite(difference)
    if not kept.any():
        return {"steps": 0}
    cosine, difference = cosine[kept], difference[kept]
    values = {
        "cosine_mean": cosine.mean(),
        "cosine_5_percent": np.percentile(cosine, 5),
        "cosine_min": cosine.min(),
        "difference_median": np.median(difference),
        "difference_max": difference.max(),
    }
    return {"steps": int(kept.sum()), **{name: float(value) for name, value in values.items()}}


def table(metrics: Mapping[str, Any]) -> str:
    """The content of the JSON file as text."""
    lines = [
        f"{metrics['title']}, {metrics['run']}, seed {metrics['seed']}: the update with cross terms compared with the "
        "one without",
        f"{'encoder':12}{'steps':>7}{'cosine: mean':>14}{'5 %':>9}{'least':>9}    difference / update: median, largest",
    ]
    for modality, values in metrics["encoders"].items():
        if values["steps"]:
            lines.append(
                f"{modality:12}{values['steps']:>7}{values['cosine_mean']:14.4f}{values['cosine_5_percent']:9.4f}"
                f"{values['cosine_min']:9.4f}    {values['difference_median']:.3f}, {values['difference_max']:.3f}"
            )
    return "\n".join(lines)


def cross_terms_plot(run: FinishedRun, comparison: Comparison) -> Figure:
    """Cosine and, below, relative difference over the recorded steps: one column per modality."""
    records = run.recorded_gradients()
    with style.paper():
        figure = style.new_figure(style.WIDTH, 2 * HEIGHT + 0.3)
        grid = figure.subplots(2, len(comparison), sharex=True, sharey="row", squeeze=False)
        for (modality, values), panels in zip(comparison.items(), grid.T, strict=True):
            panels[0].set_title(modality)
            for axes, series, colour in zip(panels, values, (style.MMPARETO, style.WARNING), strict=True):
                axes.plot(records.steps, series, ".", ms=3, color=colour)
            panels[1].set_xlabel("training step")
        grid[0, 0].set_ylabel("cosine")
        grid[1, 0].set_ylabel("difference / update")
        notes = [
            f"Data set: {run.title}. {run.label}, seed {run.seed}, epochs {records.epochs[0]} to {records.epochs[-1]}; "
            f"recorded every {records.every} steps. Each step: the encoder's update with the cross terms of the other "
            "modalities' losses, compared with the update without them, from the same weights."
        ]
        style.finish(figure, f"Updates with and without cross terms: {run.title}", notes, run.banner)
    return figure
