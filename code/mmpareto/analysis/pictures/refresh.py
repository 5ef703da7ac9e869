"""How near `--refresh K` comes to the exact method over a run, from what the run recorded of its gradients.

With G the Gramian of g_m and g_u at a step, f the factors of the two that the exact method decides there, and f' those
that it decided at the last refresh, the updates are h = Σ fᵢ gᵢ and h' = Σ f'ᵢ gᵢ. So norms, weights and rescaling tell

    cos(h, h') = fᵀG f' / √(fᵀG f · f'ᵀG f')

without another run. The gradients are those on the way of the exact method: at each of its steps, this is how far the
step would have been another.
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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mmpareto.analysis.gradient_records import Array, EncoderRecords, GradientRecords, read_run
from mmpareto.analysis.pictures.files import names, save
from mmpareto.analysis.pictures.gradients import DPI, LAYERS, WHOLE
from mmpareto.analysis.pictures.style import MMPARETO, WARNING
from mmpareto.errors import InputError
from mmpareto.files import write_text
from mmpareto.training.run_folder import read_config

KS = (2, 5, 10, 20, 50)
SHOWN = 10  # the K whose steps are drawn one by one
HEIGHT, WIDTH = 3.0, 4.8  # of a panel, in inches


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What --refresh K would have done at the B steps between two refreshes.

    Attributes:
        places: (B,) their places among the records.
        cosine: (B,) between the exact update of the encoder and that with the factors of the last refresh.
        ratio: (B,) of their norms, the latter over the former.
        same: (B,) bool: whether both decide alike that there is a conflict.
    """

    places: NDArray[np.int64]
    cosine: Array
    ratio: Array
    same: NDArray[np.bool_]

    def figures(self) -> dict[str, float | int | None]:
        """Mean, 5th percentile and minimum of the cosine, and so on; None where there is no such step."""
        some = len(self.places) > 0
        return {
            "steps": len(self.places),
            "cosine_mean": float(self.cosine.mean()) if some else None,
            "cosine_5_percent": float(np.percentile(self.cosine, 5)) if some else None,
            "cosine_min": float(self.cosine.min()) if some else None,
            "same_conflict": float(self.same.mean()) if some else None,
            "norm_ratio_median": float(np.median(self.ratio)) if some else None,
            "norm_ratio_min": float(self.ratio.min()) if some else None,
            "norm_ratio_max": float(self.ratio.max()) if some else None,
        }


def draw_refresh(out: Path, runs: Sequence[Path], options: argparse.Namespace) -> str:
    """Compare exact and refreshed updates over a run, for several K: drawn, the same as JSON beside it, and as text.

    Raises:
        InputError: there is no such run, it is not of MMPareto with weights and rescale "encoder", or it did not record
            every step.
    """
    records, factors = _read(runs[0])
    found = {
        modality: {every: agreement(seen, factors[modality], every) for every in KS}
        for modality, seen in records.encoders.items()
    }
    figure = _figure(records, found)
    save(figure, out, DPI)
    figures = {
        "dataset": records.dataset,
        "seed": records.seed,
        "steps": len(records.steps),
        "encoders": {
            modality: {str(every): one.figures() for every, one in ks.items()} for modality, ks in found.items()
        },
    }
    path = names(out)[0].with_suffix(".json")
    write_text(path, json.dumps(figures, indent=1) + "\n")
    return f"{table(figures)}\n{path}"


def agreement(seen: EncoderRecords, factors: Array, every: int) -> Agreement:
    """Compare the update of every step with that of the last refresh's factors.

    A step that is not finite decides nothing and is left out, as are steps before anything is decided.

    Arguments:
        seen: the records of all steps of a run.
        factors: (R, 2) that the exact method decides on.
        every: K: steps 1, K + 1, 2K + 1 … refresh.
    """
    assert seen.conflict is not None
    gramians = gramians_of(seen)
    finite = np.isfinite(gramians.sum((1, 2)) + factors.sum(1))
    last, pairs = -1, []
    for place in range(len(factors)):
        if place % every == 0:
            last = place if finite[place] else last
        elif finite[place] and last >= 0:
            pairs.append((place, last))
    now, then = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    inner = np.einsum("ri,rij,rj->r", factors[now], gramians[now], factors[then])
    exact = np.sqrt(np.einsum("ri,rij,rj->r", factors[now], gramians[now], factors[now]).clip(0))
    other = np.sqrt(np.einsum("ri,rij,rj->r", factors[then], gramians[now], factors[then]).clip(0))
    conflict = seen.conflict[:, 0].astype(bool)
    return Agreement(
        places=now,
        cosine=_quotient(inner, exact * other).clip(-1, 1),
        ratio=_quotient(other, exact),
        same=conflict[now] == conflict[then],
    )


def gramians_of(seen: EncoderRecords) -> Array:
    """(R, 2, 2) inner products of the two gradients over the whole encoder."""
    norms = np.stack([seen.whole_norm(objective) for objective in seen.norms], axis=1)
    gramians = norms[:, :, None] * norms[:, None, :]
    gramians[:, 0, 1] *= seen.whole_cosine()
    gramians[:, 1, 0] = gramians[:, 0, 1]
    return gramians


def factors_of(seen: EncoderRecords, gamma: float, boost: str) -> Array:
    """(R, 2) factors of g_m and g_u in the exact update: 2α · max(1, λ) · γ, where γ applies."""
    assert seen.weights is not None and seen.rescale is not None and seen.conflict is not None
    boosted = np.where((seen.conflict > 0) | (boost == "always"), gamma, 1.0)
    return 2 * seen.weights[:, 0] * seen.rescale * boosted


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"{figures['dataset']}, seed {figures['seed']}: {figures['steps']} steps; those between two refreshes beside "
        "the exact ones",
        f"{'encoder':12}{'K':>4}{'cosine: mean':>14}{'5 %':>9}{'least':>9}{'same conflict':>15}    norm / exact norm",
    ]
    for modality, ks in figures["encoders"].items():
        for every, found in ks.items():
            if found["steps"]:
                lines.append(
                    f"{modality:12}{every:>4}{found['cosine_mean']:14.4f}{found['cosine_5_percent']:9.4f}"
                    f"{found['cosine_min']:9.4f}{found['same_conflict']:14.1%}    {found['norm_ratio_median']:.3f} "
                    f"({found['norm_ratio_min']:.2f} – {found['norm_ratio_max']:.2f})"
                )
    return "\n".join(lines)


def _read(run: Path) -> tuple[GradientRecords, dict[str, Array]]:
    """The records of a run, and modality → (R, 2) exact factors."""
    records = read_run(run)
    arguments = read_config(run)["arguments"]
    options = arguments.get("options", {})
    whole = options.get("weights") == options.get("rescale") == "encoder" and options.get("refresh", 1) == 1
    if arguments.get("method") != "mmpareto" or not whole:
        raise InputError(f"{run} is no run of --method mmpareto --variant paper: there is no refresh to compare with.")
    if records.every != 1 or records.steps[0] != 1:
        raise InputError(f"{run} did not record every step from the first on: train with --record-gradients 1.")
    factors = {name: factors_of(seen, options["gamma"], options["boost"]) for name, seen in records.encoders.items()}
    return records, factors


def _figure(records: GradientRecords, found: Mapping[str, Mapping[int, Agreement]]) -> Figure:
    figure = Figure((WIDTH * len(found), 2 * HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{records.dataset}, seed {records.seed}: updates with the last refresh's factors beside exact ones"
    )
    grid = figure.subplots(2, len(found), sharey="row", squeeze=False)
    for (modality, ks), (above, below) in zip(found.items(), grid.T, strict=True):
        above.set_title(modality)
        _draw_steps(above, records, ks[SHOWN])
        _draw_means(below, {every: one for every, one in ks.items() if len(one.places)})
    grid[0, 0].set_ylabel(f"cosine, K = {SHOWN}")
    grid[1, 0].set_ylabel("of the steps between")
    for axes in grid[:, -1]:
        axes.legend(loc="best", fontsize="small")
    if records.banner:
        figure.supxlabel(records.banner.replace(". ", ".\n"), color=WARNING, fontsize="medium", fontweight="bold")
    return figure


def _draw_steps(axes: Axes, records: GradientRecords, one: Agreement) -> None:
    steps = records.steps[one.places]
    for kind, label, colour in (
        (one.same, "same decision", MMPARETO),
        (~one.same, "conflict decided otherwise", WARNING),
    ):
        axes.plot(steps[kind], one.cosine[kind], ".", ms=4, color=colour, label=label)
    axes.set_xlabel(f"step (epochs {records.epochs[0]} to {records.epochs[-1]})")


def _draw_means(axes: Axes, ks: Mapping[int, Agreement]) -> None:
    kinds = (
        ("cosine_mean", "cosine: mean", WHOLE),
        ("cosine_5_percent", "5th percentile", LAYERS),
        ("same_conflict", "share of same decisions", MMPARETO),
    )
    for name, label, colour in kinds:
        values = [one.figures()[name] for one in ks.values()]
        axes.plot(list(ks), [math.nan if v is None else v for v in values], marker="o", color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xticks(list(ks), [str(every) for every in ks])
    axes.minorticks_off()
    axes.set_xlabel("K")


def _quotient(above: Array, below: Array) -> Array:
    """above / below; 1 where both are 0."""
    return np.divide(above, below, out=np.where(above == 0, 1.0, np.inf), where=below > 0)
