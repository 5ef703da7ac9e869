"""What a run recorded of its gradients, and what follows from it."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpareto.errors import InputError
from mmpareto.training.recorder import OBJECTIVES, read_records
from mmpareto.training.run_folder import GRADIENTS, read_config

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class EncoderRecords:
    """The records of one encoder: R steps, P layers; NaN where a step lacks a figure.

    Attributes:
        layers: P names.
        norms: objective → (R, P).
        cosine: (R, P), or None where there are no two objectives.
        weights: (R, G, n), or None where the method reports none; so are conflict (R, G), 0 or 1, and rescale (R, R').
    """

    layers: list[str]
    norms: dict[str, Array]
    cosine: Array | None
    weights: Array | None
    conflict: Array | None
    rescale: Array | None

    def whole_norm(self, objective: str) -> Array:
        """(R,) norm of an objective's gradient over the whole encoder."""
        return np.sqrt(np.square(self.norms[objective]).sum(axis=1))

    def whole_cosine(self) -> Array:
        """(R,) cosine between the two gradients over the whole encoder; 0 where one of them is zero."""
        assert self.cosine is not None
        first, second = self.norms.values()
        inner = (self.cosine * first * second).sum(axis=1)
        product = np.prod([self.whole_norm(name) for name in self.norms], axis=0)
        return np.divide(inner, product, out=np.where(np.isnan(product), np.nan, 0.0), where=product > 0)


@dataclasses.dataclass(frozen=True)
class GradientRecords:
    """The records of a run; steps and epochs (R,) from 1, an entry of `encoders` a modality."""

    dataset: str
    method: str
    seed: int
    every: int
    banner: str
    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    encoders: dict[str, EncoderRecords]


def read_run(folder: Path) -> GradientRecords:
    """Read what a run recorded.

    Raises:
        InputError: there is no such run, it recorded no gradients, or the file is damaged.
    """
    read_config(folder)  # refuses what is no run
    path = folder / GRADIENTS
    if not path.is_file():
        raise InputError(f"{folder} holds no {GRADIENTS}: train with --record-gradients N.")
    found = read_records(path)
    if not len(found["step"]):
        raise InputError(f"{path} holds no step yet: let the run go on (--resume {folder}).")
    return GradientRecords(
        dataset=str(found["dataset"]),
        method=str(found["method"]),
        seed=int(found["seed"]),
        every=int(found["every"]),
        banner=str(found["banner"]),
        steps=found["step"],
        epochs=found["epoch"],
        encoders={str(modality): _encoder(found, str(modality)) for modality in found["modalities"]},
    )


def spread(values: NDArray, bundle: int = 1) -> tuple[Array, Array, Array]:
    """Lower quartile, median and upper quartile of (R, …), for every `bundle` successive steps, (⌈R / bundle⌉,) each.

    They go over the steps of a bundle and all but the first axis. What is not finite is left out; NaN where nothing is
    left.
    """
    starts = range(0, len(values), bundle)
    quartiles = np.full((3, len(starts)), np.nan)
    for place, start in enumerate(starts):
        piece = values[start : start + bundle]
        if (finite := piece[np.isfinite(piece)]).size:
            quartiles[:, place] = np.percentile(finite, (25, 50, 75))
    return quartiles[0], quartiles[1], quartiles[2]


def _encoder(found: dict[str, NDArray], modality: str) -> EncoderRecords:
    def figure(name: str) -> Array | None:
        values = found.get(f"{name}_{modality}")
        return None if values is None else values.astype(np.float64)

    norms = {name: values for name in OBJECTIVES if (values := figure(f"norm_{name}")) is not None}
    optional = {name: figure(name) for name in ("cosine", "weights", "conflict", "rescale")}
    return EncoderRecords(layers=found[f"layers_{modality}"].tolist(), norms=norms, **optional)
