"""What is kept of the steps of an epoch, without waiting for the device."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmpareto.integration.report import Report

Item = TypeVar("Item")


class Meter:
    """Weighted means of a fixed set of figures over the steps of an epoch, summed on the device in float64.

    A figure that is not finite is left out: under fp16 it is of a step that the scaler skips.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.weight = 0

    def add(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Add a step's figures, () each, with the weight of its samples."""
        step = torch.stack([value.detach().double() for value in values.values()])
        finite = step.isfinite()
        step = torch.stack([torch.where(finite, step, 0.0), finite]) * weight  # (2, figures): sums and weights
        self.names = list(values)
        self.sums = step if self.sums is None else self.sums + step
        self.weight += weight

    def means(self) -> dict[str, float]:
        """The means so far, NaN where no step gave a finite figure; waits for the device."""
        if self.sums is None:
            return {}
        return dict(zip(self.names, (self.sums[0] / self.sums[1]).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and builtins."""
        return {"names": self.names, "sums": self.sums, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Take up `state_dict`."""
        self.names, self.weight = list(state["names"]), state["weight"]
        self.sums = None if state["sums"] is None else state["sums"].to(device)


def report_metrics(report: Report) -> dict[str, Tensor]:
    """What a method's report says, as () tensors named for metrics.jsonl.

    Weights and the rescaling factor are means over groups; the conflict rate is the share of groups in conflict.
    """
    figures: dict[str, Tensor] = {}
    for modality, seen in report.items():
        weights = seen.weights.mean(0)
        figures |= {f"conflict_rate_{modality}": seen.conflict.double().mean(), f"cosine_{modality}": seen.cosine}
        for place, name in enumerate(("joint", "unimodal")):
            figures |= {f"norm_{name}_{modality}": seen.norms[place], f"weight_{name}_{modality}": weights[place]}
        figures[f"rescale_{modality}"] = seen.rescale.mean()
    return figures | report.metrics


class Waiting:
    """How long was waited for data.

    With a GPU, the step before may still be computing meanwhile, so that the GPU itself waited no longer than this.

    Attributes:
        seconds: spent in asking for items, the start of loader processes included.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; the time until each of them is there is added up."""
        begin = time.monotonic()
        for item in items:
            self.seconds += time.monotonic() - begin
            yield item
            begin = time.monotonic()
        self.seconds += time.monotonic() - begin


class NonFiniteError(Exception):
    """A loss or its gradient is NaN or infinite; the message says where."""


class FiniteWatch:
    """Reads `report.finite` late, so that no step waits for the device for it.

    Arguments:
        smallest_scale: under loss scaling, what is not finite above this scale is left to the scaler.
        every: steps between two readings.
    """

    def __init__(self, smallest_scale: float, every: int = 20) -> None:
        self.smallest_scale, self.every = smallest_scale, every
        self._seen: list[tuple[int, int, list[str], Tensor]] = []

    def see(self, epoch: int, step: int, report: Report, scale: Tensor | None) -> None:
        """Note a step's flags; read them when it is time.

        Raises:
            NonFiniteError: see `read`.
        """
        settled = report.finite if scale is None else report.finite | (scale > self.smallest_scale)
        self._seen.append((epoch, step, report.losses, settled))
        if len(self._seen) >= self.every:
            self.read()

    def read(self) -> None:
        """Read all flags noted so far; waits for the device.

        Raises:
            NonFiniteError: names epoch, step and loss of the first that is not finite.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        values = torch.cat([flags for *_, flags in seen]).tolist()
        for epoch, step, names, flags in seen:
            sound, values = values[: len(flags)], values[len(flags) :]
            if not all(sound):
                bad = " and ".join(name for name, fine in zip(names, sound, strict=True) if not fine)
                raise NonFiniteError(f"epoch {epoch}, step {step}: the {bad} loss or its gradient is NaN or infinite")
