"""The gradients that a run recorded with --record_gradients, as arrays."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmpareto.errors import InputError
from mmpareto.training.cross_terms import CROSS_COSINE, CROSS_DIFFERENCE
from mmpareto.training.recorder import REPORTED, read_records

Array = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class EncoderRecords:
    """Records of one encoder with P layers over R steps; NaN where a step lacks a value.

    Attributes:
        layers: P names.
        norms: objective → (R, P).
        cosine: (R, P), or None without two objectives; of more than two, that of the pair with the smallest one.
        cosines: (R, P, pairs) of every two objectives, in the order of itertools.combinations, or None likewise.
        weights: (R, G, n), or None where the method reports none.
        conflict: (R, G), 0 or 1, or None likewise.
        rescale: (R, R'), or None likewise.
        cross_cosine, cross_difference: (R,), or None where no cross terms are left out or included.
    """

    layers: list[str]
    norms: dict[str, Array]
    cosine: Array | None
    cosines: Array | None
    weights: Array | None
    conflict: Array | None
    rescale: Array | None
    cross_cosine: Array | None = None
    cross_difference: Array | None = None

    def whole_norm(self, objective: str) -> Array:
        """(R,) norm of an objective's gradient over the whole encoder."""
        return np.sqrt(np.square(self.norms[objective]).sum(axis=1))

    def whole_cosine(self) -> Array:
        """(R,) cosine between the gradients over the whole encoder, the smallest of any two; 0 where one is zero."""
        assert self.cosines is not None
        pairs = itertools.combinations(self.norms, 2)
        return np.min([self._whole_cosine(*pair, self.cosines[..., n]) for n, pair in enumerate(pairs)], axis=0)

    def _whole_cosine(self, first: str, second: str, cosine: Array) -> Array:
        inner = (cosine * self.norms[first] * self.norms[second]).sum(axis=1)
        product = self.whole_norm(first) * self.whole_norm(second)
        return np.divide(inner, product, out=np.where(np.isnan(product), np.nan, 0.0), where=product > 0)

    def conflict_share(self) -> Array:
        """(R,) share of the layers in which any two gradients have a negative cosine."""
        assert self.cosine is not None
        return np.where(np.isnan(self.cosine), np.nan, self.cosine < 0).mean(axis=1)


@dataclasses.dataclass(frozen=True)
class GradientRecords:
    """Records of a run: every `every`-th step; `steps` and `epochs` (R,) count from 1; `encoders` by modality."""

    every: int
    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    encoders: dict[str, EncoderRecords]


def read_gradient_records(path: Path) -> GradientRecords:
    """Read a gradients.npz.

    Raises:
        InputError: the file is damaged, or has no step yet.
    """
    arrays = read_records(path)
    if not len(arrays["step"]):
        raise InputError(f"{path} holds no step yet: let the run continue (--resume {path.parent}).")
    return GradientRecords(
        every=int(arrays["every"]),
        steps=arrays["step"],
        epochs=arrays["epoch"],
        encoders={str(modality): _encoder(arrays, str(modality)) for modality in arrays["modalities"]},
    )


def _encoder(arrays: dict[str, NDArray], modality: str) -> EncoderRecords:
    def array(name: str) -> Array | None:
        values = arrays.get(f"{name}_{modality}")
        return None if values is None else values.astype(np.float64)

    names = map(str, arrays["objectives"])
    norms = {name: values for name in names if (values := array(f"norm_{name}")) is not None}
    optional = {name: array(name) for name in (*REPORTED, CROSS_COSINE, CROSS_DIFFERENCE)}
    cosines = array("cosine")
    if cosines is not None and cosines.ndim == 2:  # of the only two objectives
        cosines = cosines[..., np.newaxis]
    cosine = None if cosines is None else cosines.min(axis=-1)
    return EncoderRecords(arrays[f"layers_{modality}"].tolist(), norms, cosine, cosines, **optional)
