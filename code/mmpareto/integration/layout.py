"""Tensors that the processes that train together exchange in every step, and the check that they fit together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.objectives import JOINT, Encoder, Objectives


@dataclasses.dataclass
class Layout:
    """Losses and parameters that all processes exchange in every step, whatever each of them has of it.

    Attributes:
        names: losses.
        encoders: modality → encoder.
        outside: parameters outside the encoders.
    """

    names: list[str]
    encoders: dict[str, Encoder]
    outside: list[Tensor]

    def trainable(self) -> dict[str, Encoder]:
        """The encoders without those that are frozen by now."""
        return {name: e for name, e in self.encoders.items() if any(p.requires_grad for p in e.parameters)}

    def contains(self, objectives: Objectives) -> bool:
        """True if the step has no loss, encoder, parameter or objective that the layout lacks.

        It may lack any of them, but for an objective only the joint loss.
        """
        return set(objectives.names) <= set(self.names) and all(
            name in self.encoders
            and {*map(id, encoder.parameters)} <= {*map(id, self.encoders[name].parameters)}
            and self.encoders[name].objectives in (encoder.objectives, [JOINT, *encoder.objectives])
            for name, encoder in objectives.encoders.items()
        )


def describe(layout: Layout) -> dict[str, Any]:
    """All that must be the same in every process, in builtins. Waits for the device."""

    def of(parameters: Sequence[Tensor]) -> list[tuple[Any, float]]:
        kinds = [(tuple(p.shape), p.stride(), str(p.dtype)) for p in parameters]
        return [(kind, float(p.detach().double().sum())) for kind, p in zip(kinds, parameters, strict=True)]

    return {
        "names": layout.names,
        "encoders": {name: (encoder.objectives, of(encoder.parameters)) for name, encoder in layout.encoders.items()},
        "outside": of(layout.outside),
    }


def check_alike(first: dict[str, Any], other: dict[str, Any], rank: int, *, has_model: bool) -> None:
    """Check that process `rank` fits process 0, from their descriptions.

    Raises:
        ValueError: they have other encoders or objectives, reach other parameters, or start from other weights.
    """
    if _structure(first) != _structure(other):
        raise ValueError(
            f"processes 0 and {rank} have different encoders or objectives: pass the same encoders in every process, "
            "also those of absent modalities"
        )
    ours, theirs = first["outside"], other["outside"]
    if _kinds(ours) != _kinds(theirs):
        advice = (
            "give every reducer the same model" if has_model else "pass the model, method.reduce = MeanReducer(model)"
        )
        raise ValueError(
            f"processes 0 and {rank} reach different parameters outside the encoders ({len(ours)} and {len(theirs)} "
            f"tensors): {advice}"
        )
    parts = {name: (one[1], other["encoders"][name][1]) for name, one in first["encoders"].items()}
    for name, (a, b) in (parts | {"the parameters outside the encoders": (ours, theirs)}).items():
        if not torch.allclose(_values(a), _values(b), rtol=1e-4, atol=1e-8, equal_nan=True):
            raise ValueError(
                f"process {rank} has other weights than process 0 in {name}: wrap the model in "
                "DistributedDataParallel, or broadcast its parameters before the first step; if every process trains a "
                "model of its own, set method.reduce = None"
            )


def _structure(described: dict[str, Any]) -> dict[str, Any]:
    return {  # a process may lack the joint loss
        name: ([loss for loss in objectives if loss != JOINT], _kinds(parameters))
        for name, (objectives, parameters) in described["encoders"].items()
    }


def _kinds(described: list[tuple[Any, float]]) -> list[Any]:
    return [kind for kind, _ in described]


def _values(described: list[tuple[Any, float]]) -> Tensor:
    return torch.tensor([value for _, value in described], dtype=torch.float64)
