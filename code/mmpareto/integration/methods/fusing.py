"""Methods that apply the model's fusion themselves, to features of their choice."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.method import Method


class FusingMethod(Method):
    """Base class of methods that make joint predictions of their own, such as those of a part of the features.

    In your own loop, call `use_fusion(…)` once before training.
    """

    fusion: Callable[[Mapping[str, Tensor]], Tensor] | None = None

    def use_fusion(self, fusion: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """Set the function {modality: feature (B, …)} → joint logits (B, C)."""
        self.__dict__["fusion"] = fusion  # not as a submodule of the method

    def begin_training(self, context: TrainingContext) -> None:
        """Take the fusion of the network."""
        self.use_fusion(context.network.fusion)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C) of the features, in float32 at least.

        Raises:
            ValueError: there is no fusion.
        """
        if self.fusion is None:
            raise ValueError(f"{type(self).__name__} needs the fusion: call use_fusion() with it")
        return self.fusion({name: x.to(torch.promote_types(x.dtype, torch.float32)) for name, x in features.items()})
