"""Quantities that are collected over the steps of an epoch, without waiting for the device at every step."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmpareto.data.loading.samples import PreparedDataset
from mmpareto.errors import first_few
from mmpareto.integration.report import Report
from mmpareto.training.losses import objective_names

Item = TypeVar("Item")


class Meter:
    """Weighted means of metrics over the steps of an epoch that have them, summed on the device in float64.

    Non-finite values are left out: under fp16 they belong to steps that the gradient scaler skips.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.weight = 0

    def add(self, metrics: Mapping[str, Tensor], weight: int) -> None:
        """Add a step's metrics, () each, weighted by its number of samples."""
        names = list(dict.fromkeys([*self.names, *metrics]))
        absent = next(iter(metrics.values())).new_full((), math.nan, dtype=torch.float64)  # a NaN is left out
        values = torch.stack([metrics.get(name, absent).detach().double() for name in names])
        finite = values.isfinite()
        sums = torch.stack([torch.where(finite, values, 0.0), finite]) * weight  # (2, metrics): sums and weights
        if self.sums is not None:
            sums[:, : len(self.names)] += self.sums
        self.names, self.sums = names, sums
        self.weight += weight

    def means(self) -> dict[str, float]:
        """The means so far, NaN for a metric without a finite value; waits for the device."""
        if self.sums is None:
            return {}
        return dict(zip(self.names, (self.sums[0] / self.sums[1]).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The state in tensors and builtins."""
        return {"names": self.names, "sums": self.sums, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore `state_dict`."""
        self.names, self.weight = list(state["names"]), state["weight"]
        self.sums = None if state["sums"] is None else state["sums"].to(device)


def report_metrics(report: Report, own_losses: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """A method's report as () tensors, by their names in metrics.jsonl.

    Weights and the rescaling factor are means over groups; the conflict rate is the fraction of groups in conflict,
    that is, where any two objectives are. The cosine of more than two objectives is the smallest of any two.

    Arguments:
        own_losses: of `MultimodalNetwork.own_losses`.
    """
    metrics: dict[str, Tensor] = {}
    for modality, encoder in report.items():
        weights = encoder.weights.mean(0)
        metrics |= {f"conflict_rate_{modality}": encoder.conflict.double().mean(), f"cosine_{modality}": encoder.cosine}
        for column, loss in enumerate(objective_names(modality, own_losses[modality])):
            metrics |= {
                f"norm_{loss}_{modality}": encoder.norms[column],
                f"weight_{loss}_{modality}": weights[column],
            }
        metrics[f"rescale_{modality}"] = encoder.rescale.mean()
    return metrics | report.metrics


def mean_of_each(steps: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every metric, () each, over those of `steps` that have it."""
    names = dict.fromkeys(name for metrics in steps for name in metrics)
    values = {name: [metrics[name] for metrics in steps if name in metrics] for name in names}
    return {name: same[0] if len(same) == 1 else torch.stack(same).mean(0) for name, same in values.items()}


class WaitTimer:
    """Measures the time spent waiting for batches.

    A GPU may still be computing the previous step meanwhile, so it is idle for at most this time.

    Attributes:
        seconds: total waiting time, including the start of loader processes.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield the same items, adding the time until each of them is available."""
        start = time.monotonic()
        for item in items:
            self.seconds += time.monotonic() - start
            yield item
            start = time.monotonic()
        self.seconds += time.monotonic() - start


class NonFiniteError(Exception):
    """A loss or its gradient is NaN or infinite; the message names the step.

    Attributes:
        step: in the epoch, from 1; None in evaluation.
        advice: a sentence on what to do.
    """

    step: int | None = None
    advice = "A smaller --learning_rate may help."

    def blame(self, dataset: PreparedDataset, keys: Iterable[Any]) -> None:
        """Name those of these samples in the message whose inputs are NaN or infinite, if there are any.

        Arguments:
            keys: of the samples in `dataset`.
        """
        names = [
            f"{name} of {dataset.names[sample.dataset_index]}"
            for sample in (dataset[key] for key in keys)
            for name, values in sample.inputs.items()
            if not bool(values.isfinite().all())
        ]
        if names:
            self.args = (f"{self}, because the input {first_few(names)} is",)
            self.advice = "Prepare the data again, or leave such samples out."


class FiniteMonitor:
    """Checks `report.finite` of every step, a few steps late so that no step waits for the device.

    Arguments:
        smallest_scale: with loss scaling, non-finite values above this scale are left to the gradient scaler.
        every: number of steps between two checks.
    """

    def __init__(self, smallest_scale: float, every: int = 20) -> None:
        self.smallest_scale, self.every = smallest_scale, every
        self._pending: list[tuple[int, int, list[str], Tensor]] = []

    def add(self, epoch: int, step: int, report: Report, scale: Tensor | None) -> None:
        """Add a step's flags, and check all of them after every `every` steps.

        Raises:
            NonFiniteError: see `check`.
        """
        flags = report.finite if scale is None else report.finite | (scale > self.smallest_scale)
        self._pending.append((epoch, step, report.losses, flags))
        if len(self._pending) >= self.every:
            self.check()

    def check(self) -> None:
        """Check all flags added since the last check; waits for the device.

        Raises:
            NonFiniteError: names epoch, step and losses of the first step with a non-finite loss or gradient.
        """
        pending, self._pending = self._pending, []
        if not pending:
            return
        values = iter(torch.cat([flags for *_, flags in pending]).tolist())  # one transfer from the device
        for epoch, step, losses, _ in pending:
            nonfinite = [loss for loss in losses if not next(values)]
            if nonfinite:
                names = " and ".join(nonfinite)
                where = f"epoch {epoch}, step {step}"
                error = NonFiniteError(f"{where}: the {names} loss or its gradient is NaN or infinite")
                error.step = step
                raise error
