"""Methods whose step is a weighted sum of an encoder's gradients, with weights that follow from their Gramians."""

import abc

import torch
from torch import Tensor

from mmpareto.integration.linear_algebra import combine_and_release, gramians
from mmpareto.integration.method import Method
from mmpareto.integration.report import EncoderReport


class WeightedGradients(Method):
    """Base of the methods with h = n Σ αᵢ gᵢ: α = 1/n is the plain sum. A subclass computes the weights α, not h."""

    @abc.abstractmethod
    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """The weights α.

        Arguments:
            modality: the encoder's name.
            grams: (P, n, n) inner products of the objectives' gradients, tensor by tensor, without a scaler's factor.

        Returns:
            (G, n), where G is P for weights of each tensor's own, and 1 for those of the whole encoder.
        """

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """The weighted sum; conflict is reported for the groups that the weights are computed over."""
        grams = gramians(gradients, scale)
        alpha = self.weigh(modality, grams)
        conflict = in_conflict(groups_of(grams, len(alpha) > 1))
        combined = combine_and_release(gradients, alpha.expand(grams.shape[:2]))
        whole = grams.sum(0)
        return combined, EncoderReport.of(whole, alpha, conflict, torch.ones_like(whole[:1, 0]))


def check_weights_option(weights: str) -> None:
    """Raise ValueError unless the option is "parameter" or "encoder"."""
    if weights not in ("parameter", "encoder"):
        raise ValueError(f"weights must be 'parameter' or 'encoder', not {weights!r}")


def groups_of(grams: Tensor, each: bool) -> Tensor:
    """(G, n, n): the Gramians of every tensor alone, or their sum, that of the whole encoder."""
    return grams if each else grams.sum(0, keepdim=True)


def in_conflict(gramians: Tensor) -> Tensor:
    """(G,) bool: whether any two gradients have a negative inner product."""
    return (gramians < 0).flatten(1).any(1)
