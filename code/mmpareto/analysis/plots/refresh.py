"""Agreement of `--refresh K` with the exact method in a run, from the gradients that the run recorded.

With G the Gramian of g_m and g_u at a step, f the factors of the two that the exact method decides on, and f' those
that it decided on at the last refresh, the updates are h = Σ fᵢ gᵢ and h' = Σ f'ᵢ gᵢ. So norms, weights and rescaling
give

    cos(h, h') = fᵀG f' / √(fᵀG f · f'ᵀG f')

without another run. The gradients are those along the path of the exact method: the comparison shows, at each of its
steps, how different that one step would have been.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmpareto.analysis.finished_run import Array, FinishedRun
from mmpareto.analysis.gradient_records import EncoderRecords, GradientRecords
from mmpareto.analysis.plots import style
from mmpareto.analysis.plots.style import BLACK, MMPARETO, PURPLE, WARNING
from mmpareto.errors import InputError
from mmpareto.files import write_text

KS = (2, 5, 10, 20, 50)
SHOWN = 10  # the K whose steps are drawn one by one
HEIGHT = 2.0  # of a panel, in inches

Agreements = Mapping[str, Mapping[int, "Agreement"]]  # modality → K → agreement


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Updates under --refresh K compared with exact ones, in the B steps between two refreshes.

    Attributes:
        indices: (B,) of the steps among the records.
        cosine: (B,) between the exact update of the encoder and that with the factors of the last refresh.
        ratio: (B,) of their norms, the latter over the former.
        same: (B,) bool: whether both make the same decision on a conflict.
    """

    indices: NDArray[np.int64]
    cosine: Array
    ratio: Array
    same: NDArray[np.bool_]

    def metrics(self) -> dict[str, float | int | None]:
        """Mean, 5th percentile and minimum of the cosine, and so on; None where there is no such step."""
        count = len(self.indices)
        cosine, same, ratio = (x if count else np.array([np.nan]) for x in (self.cosine, self.same, self.ratio))
        metrics = {
            "cosine_mean": cosine.mean(),
            "cosine_5_percent": np.percentile(cosine, 5),
            "cosine_min": cosine.min(),
            "same_conflict": same.mean(),
            "norm_ratio_median": np.median(ratio),
            "norm_ratio_min": ratio.min(),
            "norm_ratio_max": ratio.max(),
        }
        return {"steps": count, **{name: float(value) if count else None for name, value in metrics.items()}}


def draw_refresh(out: Path, runs: Sequence[FinishedRun], options: argparse.Namespace) -> str:
    """Compare exact and refreshed updates for several K: as a plot, as JSON beside it, and as text.

    Raises:
        InputError: the run is not of MMPareto with weights and rescale "encoder", or did not record every step.
    """
    run = runs[0]
    agreements = agreements_of(run)
    style.save(refresh_plot(run, agreements), out)
    metrics = {
        "dataset": run.dataset,
        "seed": run.seed,
        "steps": len(run.recorded_gradients().steps),
        "encoders": {m: {str(k): one.metrics() for k, one in by_k.items()} for m, by_k in agreements.items()},
    }
    path = style.file_names(out)[0].with_suffix(".json")
    write_text(path, json.dumps(metrics, indent=1) + "\n")
    return f"{table(metrics)}\n{path}"


def agreements_of(run: FinishedRun) -> Agreements:
    """The agreement for every encoder and every K of `KS`; raises as `draw_refresh`."""
    records, options = run.recorded_gradients(), run.options
    whole = options.get("weights") == options.get("rescale") == "encoder" and options.get("refresh", 1) == 1
    if run.method != "mmpareto" or not whole:
        raise InputError(
            f"{run.folder} is not a run of --method mmpareto --variant paper: there is no refresh to compare with."
        )
    if records.every != 1 or records.steps[0] != 1:
        raise InputError(f"{run.folder} did not record every step from the first on: train with --record_gradients 1.")
    return {
        modality: {k: agreement(encoder, factors_of(encoder, options["gamma"], options["boost"]), k) for k in KS}
        for modality, encoder in records.encoders.items()
    }


def agreement(encoder: EncoderRecords, factors: Array, k: int) -> Agreement:
    """Compare the update of every step with that by the last refresh's factors.

    A step that is not finite decides nothing and is left out, as are steps before the first decision.

    Arguments:
        encoder: the records of all steps of a run.
        factors: (R, 2) that the exact method decides on.
        k: steps 1, K + 1, 2K + 1 … refresh.
    """
    assert encoder.conflict is not None
    gramians = gramians_of(encoder)
    finite = np.isfinite(gramians.sum((1, 2)) + factors.sum(1))
    last, pairs = -1, []
    for index in range(len(factors)):
        if index % k == 0:
            last = index if finite[index] else last
        elif finite[index] and last >= 0:
            pairs.append((index, last))
    now, then = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    inner = np.einsum("ri,rij,rj->r", factors[now], gramians[now], factors[then])
    exact = np.sqrt(np.einsum("ri,rij,rj->r", factors[now], gramians[now], factors[now]).clip(0))
    refreshed = np.sqrt(np.einsum("ri,rij,rj->r", factors[then], gramians[now], factors[then]).clip(0))
    conflict = encoder.conflict[:, 0].astype(bool)
    return Agreement(
        indices=now,
        cosine=_quotient(inner, exact * refreshed).clip(-1, 1),
        ratio=_quotient(refreshed, exact),
        same=conflict[now] == conflict[then],
    )


def gramians_of(encoder: EncoderRecords) -> Array:
    """(R, 2, 2) inner products of the two gradients over the whole encoder."""
    norms = np.stack([encoder.whole_norm(objective) for objective in encoder.norms], axis=1)
    gramians = norms[:, :, None] * norms[:, None, :]
    gramians[:, 0, 1] *= encoder.whole_cosine()
    gramians[:, 1, 0] = gramians[:, 0, 1]
    return gramians


def factors_of(encoder: EncoderRecords, gamma: float, boost: str) -> Array:
    """(R, 2) factors of g_m and g_u in the exact update: 2α · max(1, λ) · γ, where γ applies."""
    assert encoder.weights is not None and encoder.rescale is not None and encoder.conflict is not None
    boosted = np.where((encoder.conflict > 0) | (boost == "always"), gamma, 1.0)
    return 2 * encoder.weights[:, 0] * encoder.rescale * boosted


def table(metrics: Mapping[str, Any]) -> str:
    """The content of the JSON file as text."""
    lines = [
        f"{metrics['dataset']}, seed {metrics['seed']}: {metrics['steps']} steps; those between two refreshes compared "
        "with the exact ones",
        f"{'encoder':12}{'K':>4}{'cosine: mean':>14}{'5 %':>9}{'least':>9}{'same conflict':>15}    norm / exact norm",
    ]
    for modality, by_k in metrics["encoders"].items():
        for k, values in by_k.items():
            if values["steps"]:
                lines.append(
                    f"{modality:12}{k:>4}{values['cosine_mean']:14.4f}{values['cosine_5_percent']:9.4f}"
                    f"{values['cosine_min']:9.4f}{values['same_conflict']:14.1%}    {values['norm_ratio_median']:.3f} "
                    f"({values['norm_ratio_min']:.2f} – {values['norm_ratio_max']:.2f})"
                )
    return "\n".join(lines)


def refresh_plot(run: FinishedRun, agreements: Agreements) -> Figure:
    """Agreement of every step for K = 10 and, below, of all K: one column per modality."""
    records = run.recorded_gradients()
    with style.paper():
        figure = style.new_figure(style.WIDTH, 2 * HEIGHT + 0.3)
        grid = figure.subplots(2, len(agreements), sharey="row", squeeze=False)
        for (modality, by_k), (above, below) in zip(agreements.items(), grid.T, strict=True):
            above.set_title(modality)
            _draw_steps(above, records, by_k[SHOWN])
            _draw_means(below, {k: one for k, one in by_k.items() if len(one.indices)})
        grid[0, 0].set_ylabel(f"cosine, K = {SHOWN}")
        grid[1, 0].set_ylabel("cosine, or share of steps")
        for axes in grid[:, -1]:
            style.legend(axes)
        notes = [
            f"Data set: {run.title}. {run.label}, seed {run.seed}, epochs {records.epochs[0]} to {records.epochs[-1]}. "
            "Each step between two refreshes: the update with the factors of the last refresh, compared with the exact "
            "update of the same step."
        ]
        style.finish(figure, f"Updates under --refresh K compared with exact ones: {run.title}", notes, run.banner)
    return figure


def _draw_steps(axes: Axes, records: GradientRecords, one: Agreement) -> None:
    steps = records.steps[one.indices]
    for kind, label, colour in (
        (one.same, "same decision", MMPARETO),
        (~one.same, "conflict decided\notherwise", WARNING),
    ):
        axes.plot(steps[kind], one.cosine[kind], ".", ms=3, color=colour, label=label)
    axes.set_xlabel("training step")


def _draw_means(axes: Axes, by_k: Mapping[int, Agreement]) -> None:
    kinds = (
        ("cosine_mean", "cosine: mean", BLACK),
        ("cosine_5_percent", "cosine: 5th\npercentile", PURPLE),
        ("same_conflict", "share of same\ndecisions", MMPARETO),
    )
    for name, label, colour in kinds:
        values = [one.metrics()[name] for one in by_k.values()]
        axes.plot(list(by_k), [math.nan if v is None else v for v in values], marker="o", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xticks(list(by_k), [str(k) for k in by_k])
    axes.minorticks_off()
    axes.set_xlabel("K")


def _quotient(above: Array, below: Array) -> Array:
    """above / below; 1 where both are 0."""
    return np.divide(above, below, out=np.where(above == 0, 1.0, np.inf), where=below > 0)
