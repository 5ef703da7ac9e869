"""Base class of methods that combine an encoder's gradients by weights computed from their Gramians."""

import abc

import torch
from torch import Tensor

from mmpareto.integration.differentiation import Gradients
from mmpareto.integration.linear_algebra import combine_and_release, gramians
from mmpareto.integration.method import Method
from mmpareto.integration.objectives import Objectives
from mmpareto.integration.report import EncoderReport

GROUPS = ("parameter", "encoder")
"""Values of the option `weights`: compute weights per parameter tensor, or once for the whole encoder."""


class WeightedGradients(Method):
    """Base class of methods with h = n Σ αᵢ gᵢ, where α = 1/n is the plain sum. A subclass computes the weights α."""

    def __init__(self) -> None:
        super().__init__()
        self.present: dict[str, Tensor] = {}
        """Modality → (n,) bool, for encoders of which an objective is absent in this step."""

    def prepare(self, objectives: Objectives, gradients: Gradients) -> dict[str, Tensor]:
        """Record which objectives are absent."""
        self.present = {
            modality: present
            for modality, encoder in objectives.encoders.items()
            if encoder.objectives and (present := gradients.are_present(encoder.objectives)) is not None
        }
        return {}

    def all_present(self, modality: str, like: Tensor) -> Tensor:
        """() bool on the device of `like`: whether all objectives of an encoder are present."""
        present = self.present.get(modality)
        return torch.ones_like(like, dtype=torch.bool).all() if present is None else present.all().to(like.device)

    @abc.abstractmethod
    def weigh(self, modality: str, grams: Tensor) -> Tensor:
        """Return the weights α.

        Arguments:
            modality: name of the encoder.
            grams: (P, n, n) Gramian of the objectives' gradients per parameter tensor, without the loss scale. An
                absent objective has zeros.

        Returns:
            (P, n) weights per parameter tensor, or (1, n) weights of the whole encoder.
        """

    def integrate(
        self, modality: str, gradients: list[list[Tensor | None]], scale: Tensor
    ) -> tuple[list[Tensor | None], EncoderReport | None]:
        """Return the weighted sum, and report conflicts over the same groups as the weights."""
        grams = gramians(gradients, scale)
        alpha = self.weigh(modality, grams)
        conflict = in_conflict(groups_of(grams, len(alpha) > 1))
        combined = combine_and_release(gradients, alpha.expand(grams.shape[:2]))
        whole = grams.sum(0)
        return combined, EncoderReport.of(whole, alpha, conflict, torch.ones_like(whole[:1, 0]))


def groups_of(grams: Tensor, per_tensor: bool) -> Tensor:
    """Return Gramians (P, n, n) as they are, or their sum (1, n, n), which is the Gramian of the whole encoder."""
    return grams if per_tensor else grams.sum(0, keepdim=True)


def in_conflict(grams: Tensor) -> Tensor:
    """Return (G,) bool: whether any two gradients of a group, with Gramian (n, n), have a negative inner product."""
    return (grams < 0).flatten(1).any(1)
