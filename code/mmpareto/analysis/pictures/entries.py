"""All figures that `code/figures.py` draws: where each is drawn, what it shows, and its flags. Imports nothing slow."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from mmpareto.analysis.measurements import flags
from mmpareto.registry import Registry

PICTURES = "mmpareto.analysis.pictures"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A figure.

    Attributes:
        place: the function that draws it, as mmpareto/analysis/pictures/__init__.py describes it.
        shows: what it shows, for --help.
        runs: how many runs it takes.
        flags: its own, as the arguments of `add_argument`.
    """

    place: str
    shows: str
    runs: Literal["none", "one", "several"] = "several"
    flags: Sequence[tuple[str, dict[str, Any]]] = ()


ENTRIES = {
    "accuracy": Entry(f"{PICTURES}.curves:draw_accuracy", "accuracy on the test set over training, for every head"),
    "gap": Entry(f"{PICTURES}.curves:draw_gap", "accuracy in training less that on the test set, over training"),
    "conflict": Entry(
        f"{PICTURES}.gradient_curves:draw_conflict",
        "cosine between joint and unimodal gradient over training, and how often they conflict",
    ),
    "magnitude": Entry(
        f"{PICTURES}.gradient_curves:draw_magnitude", "norms of joint and unimodal gradients over training"
    ),
    "weights": Entry(
        f"{PICTURES}.gradient_curves:draw_weights",
        "weights α of joint and unimodal gradient over training; of runs with --record-gradients N",
    ),
    "covariance": Entry(
        f"{PICTURES}.covariance:draw_covariance",
        "noise of the losses' gradients from batch to batch, at a checkpoint",
        flags=flags.COVARIANCE,
    ),
    "sharpness": Entry(
        f"{PICTURES}.sharpness:draw_sharpness",
        "largest eigenvalue of the losses' Hessian, at a checkpoint",
        flags=flags.SHARPNESS,
    ),
    "landscape": Entry(
        f"{PICTURES}.landscape:draw_landscape",
        "losses around the minima of the methods",
        flags=flags.LANDSCAPE,
    ),
    "gradients": Entry(
        f"{PICTURES}.gradients:draw_gradients", "all that a run with --record-gradients N recorded, by layer", "one"
    ),
    "refresh": Entry(
        f"{PICTURES}.refresh:draw_refresh", "how near --refresh K would have come to an exact --variant paper", "one"
    ),
    "integration": Entry(
        f"{PICTURES}.integration:draw_integration", "what each way of integration makes of two gradients", "none"
    ),
    "cgmnist": Entry(f"{PICTURES}.cgmnist:draw_cgmnist", "the digits and colours of CG-MNIST", "none"),
}
FIGURES = Registry("figure", {name: entry.place for name, entry in ENTRIES.items()})
