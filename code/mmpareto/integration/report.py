"""Report of a step: cosines, norms, weights and conflicts, left on the device."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class EncoderReport:
    """Report on one encoder, in tensors on the encoder's device and without a graph.

    Columns are the encoder's objectives: joint, unimodal, or those that were given, in their order. G is the number of
    groups over which weights are computed, R the number of groups over which λ is (G where there is no λ): 1, or the
    encoder's trainable tensors.

    Attributes:
        cosine: () cosine between the objectives' gradients over the whole encoder; 0 where one of them is zero. With
            more than two objectives, the smallest over all pairs.
        norms: (n,) Euclidean norms of the objectives' gradients over the whole encoder, unscaled.
        weights: (G, n) convex weights α.
        conflict: (G,) bool.
        rescale: (R,) factor max(1, λ) that restores the magnitude, without γ; 1 where nothing is restored, 0 where the
            group is stationary.
    """

    cosine: Tensor
    norms: Tensor
    weights: Tensor
    conflict: Tensor
    rescale: Tensor

    @classmethod
    def of(cls, gramian: Tensor, weights: Tensor, conflict: Tensor, rescale: Tensor) -> "EncoderReport":
        """Report with cosine and norms from the Gramian (n, n) of the objectives' gradients over the whole encoder."""
        norms = gramian.diagonal().sqrt()
        products = norms.outer(norms)
        cosines = torch.where(products == 0, 0.0, gramian / products)  # the diagonal's 1 is never the smallest
        return cls(cosines.min(), norms, weights, conflict, rescale)


class Report(dict[str, EncoderReport]):
    """Modality → EncoderReport; empty for methods that do not look at gradients.

    Attributes:
        finite: (number of losses,) bool: whether each descended loss and its gradients are finite; the joint loss, then
            the unimodal losses in the order given, then absent ones, which count as finite. Where losses are
            differentiated as one sum, a non-finite gradient counts against each of them (in an encoder, those that it
            learns from), unless one of them is non-finite itself.
        losses: names of those losses.
        metrics: name → () tensor: further metrics of the step, such as the method's coefficients.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderReport],
        finite: Tensor,
        losses: Sequence[str],
        metrics: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(encoders)
        self.finite = finite
        self.losses = list(losses)
        self.metrics = dict(metrics or {})

    @property
    def all_finite(self) -> Tensor:
        """() bool: whether all losses and gradients are finite. `if not report.all_finite:` waits for the device."""
        return self.finite.all()
