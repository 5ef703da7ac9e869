"""What is kept of the steps of an epoch, without waiting for the device."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.integration.report import EncoderReport


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


def report_figures(reports: Mapping[str, EncoderReport]) -> dict[str, Tensor]:
    """What a method's report says of every encoder, as () tensors named for metrics.jsonl.

    Weights and the rescaling factor are means over groups; the conflict rate is the share of groups in conflict.
    """
    figures: dict[str, Tensor] = {}
    for modality, report in reports.items():
        weights = report.weights.mean(0)
        figures |= {
            f"conflict_rate_{modality}": report.conflict.double().mean(),
            f"cosine_{modality}": report.cosine,
            f"norm_joint_{modality}": report.norms[0],
            f"norm_unimodal_{modality}": report.norms[1],
            f"weight_joint_{modality}": weights[0],
            f"weight_unimodal_{modality}": weights[1],
            f"rescale_{modality}": report.rescale.mean(),
        }
    return figures


class NonFiniteError(Exception):
    """A loss or its gradient is NaN or infinite; the message says where."""


class FiniteWatch:
    """Reads `report.finite` late, so that no step waits for the device for it.

    Arguments:
        names: of the losses, in the order of the flags.
        smallest_scale: under loss scaling, what is not finite above this scale is left to the scaler.
        every: steps between two readings.
    """

    def __init__(self, names: Sequence[str], smallest_scale: float, every: int = 20) -> None:
        self.names, self.smallest_scale, self.every = names, smallest_scale, every
        self._seen: list[tuple[int, int, Tensor]] = []

    def see(self, epoch: int, step: int, finite: Tensor, scale: Tensor | None) -> None:
        """Note a step's flags; read them when it is time.

        Raises:
            NonFiniteError: see `read`.
        """
        settled = finite if scale is None else finite | (scale > self.smallest_scale)
        self._seen.append((epoch, step, settled))
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
        for (epoch, step, _), flags in zip(seen, torch.stack([flags for *_, flags in seen]).tolist(), strict=True):
            if not all(flags):
                bad = " and ".join(name for name, sound in zip(self.names, flags, strict=True) if not sound)
                raise NonFiniteError(f"epoch {epoch}, step {step}: the {bad} loss or its gradient is NaN or infinite")
