"""All plots that `code/figures.py` draws: where each is defined, what it shows, and its flags. Imports nothing slow."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, Literal

from mmpareto.cli import at_least
from mmpareto.registry import Registry

Flags = tuple[tuple[str, dict[str, Any]], ...]


@dataclasses.dataclass(frozen=True)
class PlotEntry:
    """A plot.

    Attributes:
        function: the one that draws it, "module:name" in mmpareto/analysis/plots, whose docstring describes it.
        shows: what it shows, for --help.
        runs: how many runs it takes.
        flags: its own, as the arguments of `add_argument`.
    """

    function: str
    shows: str
    runs: Literal["none", "one", "several"] = "several"
    flags: Flags = ()


def odd(text: str) -> int:
    """The type of a flag whose value is an odd integer from 3 on: points with one in the middle."""
    if int(text) < 3 or int(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"{text} is not 3, 5, 7 …: the minimum would not be one of the points")
    return int(text)


COMMON: Flags = (
    ("--checkpoint", {"default": "last.pt", "metavar": "FILE", "help": "in the run's folder (default: last.pt)"}),
    ("--data", {"type": Path, "metavar": "DIR", "help": "the prepared data set, where it has been moved"}),
    ("--gpu_ids", {"default": "auto", "help": "a GPU's id, or cpu (default: a GPU if there is one)"}),
    ("--anew", {"action": "store_true", "help": "repeat the measurement of runs that have already been measured"}),
)
COVARIANCE: Flags = (
    ("--batches", {"type": at_least(2), "default": 64, "help": "N, the number of gradients (default: 64)"}),
    ("--batch_size", {"type": at_least(1), "help": "samples per batch (default: that of the training)"}),
    *COMMON,
)
SHARPNESS: Flags = (
    ("--samples", {"type": at_least(1), "default": 64, "help": "of the training set (default: 64)"}),
    *COMMON,
)
LANDSCAPE: Flags = (
    ("--samples", {"type": at_least(1), "default": 128, "help": "of the training set (default: 128)"}),
    ("--points", {"type": odd, "default": 41, "help": "of the line from -1 to 1 (default: 41)"}),
    ("--plane", {"type": odd, "metavar": "POINTS", "help": "also measure a plane of POINTS by POINTS, such as 21"}),
    ("--directions_seed", {"type": at_least(0), "default": 0, "help": "of the random directions (default: 0)"}),
    *COMMON,
)

MODALITIES: Flags = (
    ("--costs", {"type": Path, "metavar": "FILE", "help": "steps.json of the report of tables.py modalities"}),
    (
        "--protocol",
        {
            "choices": ("validation", "last", "paper"),
            "default": "validation",
            "help": "that chooses the epoch (default: validation)",
        },
    ),
)

ENTRIES = {
    "accuracy": PlotEntry("training_curves:draw_accuracy", "test accuracy over training, for every head"),
    "gap": PlotEntry("training_curves:draw_gap", "training accuracy minus test accuracy, over training"),
    "conflict": PlotEntry(
        "training_curves:draw_conflict",
        "cosine between joint and unimodal gradient over training, and how often they conflict",
    ),
    "magnitude": PlotEntry("training_curves:draw_magnitude", "norms of joint and unimodal gradients over training"),
    "weights": PlotEntry(
        "training_curves:draw_weights",
        "weights α of joint and unimodal gradient over training; needs runs with --record_gradients N",
    ),
    "covariance": PlotEntry(
        "covariance:draw_covariance",
        "noise of the losses' gradients from batch to batch, at a checkpoint",
        flags=COVARIANCE,
    ),
    "sharpness": PlotEntry(
        "sharpness:draw_sharpness", "largest eigenvalue of the losses' Hessian, at a checkpoint", flags=SHARPNESS
    ),
    "landscape": PlotEntry("landscape:draw_landscape", "loss around the minima of the methods", flags=LANDSCAPE),
    "gradients": PlotEntry(
        "gradients:draw_gradients", "all that a run with --record_gradients N recorded, by layer", "one"
    ),
    "refresh": PlotEntry(
        "refresh:draw_refresh", "how close --refresh K would have come to an exact --variant paper", "one"
    ),
    "cross_terms": PlotEntry(
        "cross_terms:draw_cross_terms", "how far --cross_terms included is from the update without cross terms", "one"
    ),
    "modalities": PlotEntry(
        "modalities:draw_modalities", "accuracy, and cost of a step, against the number of modalities", flags=MODALITIES
    ),
    "integration": PlotEntry("integration:draw_integration", "how each method combines the same two gradients", "none"),
    "cgmnist": PlotEntry("cgmnist:draw_cgmnist", "the digits and colours of CG-MNIST", "none"),
}
PLOTS = Registry("plot", {name: f"mmpareto.analysis.plots.{entry.function}" for name, entry in ENTRIES.items()})
