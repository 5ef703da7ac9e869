"""Methods that apply the model's fusion themselves, to features of their choice."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmpareto.integration.features import features_of
from mmpareto.integration.hooks import TrainingContext
from mmpareto.integration.linear_algebra import at_least_float32
from mmpareto.integration.method import Method


class FusingMethod(Method):
    """Base class of methods that make joint predictions of their own, such as those of a part of the features.

    In your own loop, call `use_fusion(…)` once before training.
    """

    title: ClassVar[str]
    fusion: Callable[[Mapping[str, Tensor]], Tensor] | None = None

    def use_fusion(self, fusion: Callable[[Mapping[str, Tensor]], Tensor]) -> None:
        """Set the function {modality: feature (B, …)} → joint logits (B, C)."""
        self.__dict__["fusion"] = fusion  # not as a submodule of the method

    def begin_training(self, context: TrainingContext) -> None:
        """Take the fusion of the network."""
        self.use_fusion(context.network.fusion)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        """Joint logits (B, C) of the features, computed in the precision of the fusion's weights, or float32 at least.

        Raises:
            ValueError: there is no fusion.
        """
        if self.fusion is None:
            raise ValueError(f"{type(self).__name__} needs the fusion: call use_fusion() with it")
        weights = (p for p in getattr(self.fusion, "parameters", tuple)() if p.is_floating_point())
        like = next(weights, None)
        return at_least_float32(
            self.fusion({n: at_least_float32(x) if like is None else x.to(like.dtype) for n, x in features.items()})
        )

    def fuse_only(self, features: Mapping[str, Tensor], names: Collection[str]) -> Tensor:
        """Joint logits (B, C) with zeros in place of the features of all modalities but these."""
        return self.fuse({name: x if name in names else torch.zeros_like(x) for name, x in features.items()})

    def features_in(self, outputs: Any) -> Mapping[str, Tensor]:
        """Modality → feature (B, …); raises ValueError if the outputs have none."""
        features = features_of(outputs, None)
        if not features:
            raise ValueError(f"{self.title} needs the features: pass outputs=… with `features`, modality → (B, …)")
        return features
