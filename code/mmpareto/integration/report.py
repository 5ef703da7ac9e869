"""What a method saw and did in a step."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class EncoderReport:
    """What a method saw and did at one encoder; tensors on the encoder's device, free of any graph.

    Columns are the encoder's objectives: joint, unimodal, or those it was given, in their order. G is the number
    of groups over which weights are computed, R of those over which λ is: 1, or the encoder's trainable tensors.

    Attributes:
        cosine: () cosine between the objectives' gradients over the whole encoder; 0 where one of them is zero.
            With more than two objectives, the smallest of their pairs.
        norms: (n,) Euclidean norms of the objectives' gradients over the whole encoder, unscaled.
        weights: (G, n) convex weights α.
        conflict: (G,) bool.
        rescale: (R,) the factor max(1, λ) that restores the magnitude, γ not included; 1 where nothing was
            restored, 0 where the group is stationary.
    """

    cosine: Tensor
    norms: Tensor
    weights: Tensor
    conflict: Tensor
    rescale: Tensor

    @classmethod
    def of(cls, gramian: Tensor, weights: Tensor, conflict: Tensor, rescale: Tensor) -> "EncoderReport":
        """With cosine and norms from the Gramian (n, n) of the objectives' gradients over the whole encoder."""
        norms = gramian.diagonal().sqrt()
        products = norms.outer(norms)
        cosines = torch.where(products == 0, 0.0, gramian / products)  # the diagonal's 1 is never below the others
        return cls(cosines.min(), norms, weights, conflict, rescale)


class Report(dict[str, EncoderReport]):
    """Modality → EncoderReport, for the methods that look at gradients; empty for those that do not.

    Attributes:
        finite: (number of losses,) bool: whether each loss that the method descends, and its gradients, are finite;
            joint, then the unimodal losses in the order given. Where losses were differentiated as one sum, a
            gradient that is not finite counts against each of them that reaches it, unless one of them is not
            finite itself.
        losses: the names of those losses.
        figures: what else the method has to say of the step, such as its coefficients: name → () tensor.
    """

    def __init__(
        self,
        encoders: Mapping[str, EncoderReport],
        finite: Tensor,
        losses: Sequence[str],
        figures: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(encoders)
        self.finite = finite
        self.losses = list(losses)
        self.figures = dict(figures or {})
