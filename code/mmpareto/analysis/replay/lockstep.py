"""Two training loops in lock step: whenever a released loop has taken a step, ours takes it, and both are compared."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmpareto.analysis.replay.checkout import CPU, Float64Input
from mmpareto.analysis.replay.repositories import ReleasedRepository, recognise
from mmpareto.analysis.replay.result import ReplayResult, StepComparison, largest
from mmpareto.data.loading.batches import Batch
from mmpareto.errors import InputError
from mmpareto.models.building import build_network
from mmpareto.progress import progress
from mmpareto.training.data import Data
from mmpareto.training.devices import Precision
from mmpareto.training.loop import Trainer
from mmpareto.training.method_options import make_method
from mmpareto.training.optimisation import learning_rate, make_optimizer
from mmpareto.training.settings import Settings, parse

CHANNELS = {"audio": 1, "visual": 3}
CLASSES = 6  # of CREMA-D
EPOCHS = 4
REPEATS = 10
FREQUENCIES = 32


@dataclasses.dataclass(frozen=True)
class ReplayConditions:
    """Conditions of a replay.

    Attributes:
        steps: number of steps, in four epochs.
        batch_size: samples per step.
        image_size: height and width in pixels, and time steps of the audio feature.
        seed: of weights and batches.
        fusion: the released code's name of a fusion.
        tolerance: largest relative difference with which the two agree.
    """

    steps: int = 100
    batch_size: int = 4
    image_size: int = 48
    seed: int = 0
    fusion: str = "concat"
    tolerance: float = 1e-6


class LockStep:
    """The data loader that a released loop is given. It compares after each step, when it is asked for the next batch.

    Arguments:
        repository: the released code.
        settings: of our run; its number of epochs is that of the replay.
        conditions: of the replay.
    """

    def __init__(self, repository: ReleasedRepository, settings: Settings, conditions: ReplayConditions) -> None:
        self.repository, self.conditions = repository, conditions
        self.lengths = [len(part) for part in np.array_split(range(conditions.steps), settings.epochs)]
        self.batches = random_batches(conditions, settings.frames)
        self.trainer = make_trainer(settings, samples=self.lengths[0] * conditions.batch_size)
        self.precision = ObservingPrecision()
        self.trainer.precision = self.precision
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.steps: list[StepComparison] = []
        self.rates: list[tuple[str, float, float]] = []
        self.error: Exception | None = None
        self.bar = progress(total=conditions.steps, desc="steps", leave=False, disable=None)

    def __len__(self) -> int:
        return self.lengths[0]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for _ in range(self.lengths[len(self.rates)]):
            if self.finished:
                return  # a value is no longer finite
            batch = next(self.batches)
            inputs = self.repository.layout(batch.inputs["audio"], batch.inputs["visual"])
            audio, images = (x.clone().as_subclass(Float64Input) for x in inputs)
            yield audio, images, batch.labels.clone()
            self._compare(batch)
            self.bar.update()

    @property
    def finished(self) -> bool:
        """True after the last step, or when a value is no longer finite."""
        return len(self.steps) == self.conditions.steps or not all(
            math.isfinite(step.absolute.size) for step in self.steps[-1:]
        )

    def begin_epoch(self, model: nn.Module, optimizer: Any) -> None:
        """Take over their weights, in the first epoch, and begin ours."""
        self.model, self.optimizer = model, optimizer
        if not self.pairs:
            self.pairs = matching(self.repository, model, self.trainer.network)
            for theirs, ours in self.pairs.values():
                ours.copy_(theirs)
        self.trainer.epoch, self.trainer.steps = len(self.rates) + 1, 0
        self.trainer.begin_epoch()
        for module in self.repository.frozen(self.trainer.network):
            module.requires_grad_(False)

    def end_epoch(self) -> None:
        """Record both learning rates of the epoch."""
        rates = (optimizer.param_groups[0]["lr"] for optimizer in (self.optimizer, self.trainer.optimizer))
        self.rates.append((f"epoch {self.trainer.epoch} of the replay", *rates))

    def _compare(self, batch: Batch) -> None:
        theirs = self.repository.decisions(self.model)
        try:
            metrics = self.trainer.step(batch)
        except Exception as error:
            self.error = error  # it passes through their loop
            raise
        prefix = "conflict_rate_"
        ours = {f"conflict of {key.removeprefix(prefix)}": bool(x > 0) for key, x in metrics.items() if prefix in key}
        ours["clipping"] = self.precision.clipped
        size = {name: (a - b).abs().max().item() for name, (a, b) in self.pairs.items()}
        scale = {name: a.abs().max().item() for name, (a, _) in self.pairs.items()}
        share = {name: size[name] / scale[name] if scale[name] else size[name] for name in size}
        self.steps.append(StepComparison(len(self.steps) + 1, largest(size), largest(share), theirs, ours))


class ScheduleOnly:
    """A loader without batches, for a run that only reads the released code's hyper-parameters and schedule."""

    error: Exception | None = None

    def __init__(self) -> None:
        self.optimizer: dict[str, Any] = {}
        self.rates: list[float] = []

    def __len__(self) -> int:
        return 1  # the loops divide by it

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(())

    def begin_epoch(self, model: nn.Module, optimizer: Any) -> None:
        """Record the optimiser as it is before the first epoch."""
        self._group = optimizer.param_groups[0]
        self.optimizer = self.optimizer or optimiser_settings(optimizer)

    def end_epoch(self) -> None:
        """Record the epoch's learning rate."""
        self.rates.append(self._group["lr"])


class ObservingPrecision(Precision):
    """No mixed precision; records whether the last step's gradients were clipped."""

    def __init__(self) -> None:
        super().__init__(None, CPU)
        self.clipped = False

    def step(self, optimizer: torch.optim.Optimizer, clip_grad: float | None) -> None:
        """Clip and step."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.clipped = clip_grad is not None and bool(nn.utils.get_total_norm(gradients) > clip_grad)
        super().step(optimizer, clip_grad)


def replay(against: Path, conditions: ReplayConditions) -> ReplayResult:
    """Train by a checkout's own loop and by ours, from the same weights and on the same batches, in float64.

    The checkout's code is executed. It is run twice: once without batches, for its hyper-parameters and its schedule;
    and once for the steps that are compared, in four epochs, with its learning rate decaying in the third if at all.

    Raises:
        InputError: the folder is no checkout of either repository, has no such fusion, or its code has another
            interface than `ReleasedRepository` states.
    """
    repository = recognise(against, conditions.fusion)
    settings = parse([*repository.our_arguments.split(), "--gpu_ids", "cpu"]).settings
    schedule = ScheduleOnly()
    arguments = repository.run(schedule, [])
    optimizer = make_optimizer(settings, nn.Linear(1, 1))
    whole = dataclasses.asdict(settings) | dict(settings.options) | optimiser_settings(optimizer)
    values = schedule.optimizer | repository.hyper_parameters(arguments)
    rates = [
        (f"epoch {epoch}", theirs, learning_rate(settings, epoch)) for epoch, theirs in enumerate(schedule.rates, 1)
    ]
    result = ReplayResult(
        repository, conditions.tolerance, {name: (value, whole[name]) for name, value in values.items()}, rates
    )

    words, settings = repository.shortened(arguments, settings, min(EPOCHS, conditions.steps))
    settings = dataclasses.replace(settings, batch_size=conditions.batch_size, random_seed=conditions.seed)
    lock_step = LockStep(repository, settings, conditions)
    sizes = ["--batch_size", str(conditions.batch_size), "--random_seed", str(conditions.seed)]
    with lock_step.bar:
        repository.run(lock_step, [*words, *sizes])
    if not lock_step.finished:
        taken = f"{len(lock_step.steps)} of {conditions.steps} batches"
        raise InputError(f"{repository.path}: its train_epoch took {taken}; give an unchanged checkout.")
    result.rates += lock_step.rates
    result.steps = lock_step.steps
    return result


def make_trainer(settings: Settings, samples: int) -> Trainer:
    """Return a trainer of a fresh network in float64 on the CPU, whose steps the caller feeds.

    Arguments:
        samples: number of samples in an epoch.
    """
    method = make_method(settings.method, settings.options)
    network = build_network(CHANNELS, CLASSES, fusion=settings.fusion, **method.network).double()
    unread: Any = range(samples)
    data = Data(train=unread, train_fixed=unread, val=None, test=unread, record={})
    trainer = Trainer(settings, data, network, method, CPU, [], {})
    method.begin_training(trainer.method_context)
    return trainer


def random_batches(conditions: ReplayConditions, frames: int) -> Iterator[Batch]:
    """Random inputs and labels in float64, each batch ten times in a row.

    Gradients are large for a new batch and small for one that has been learned, so that some are clipped and some not.
    """
    generator = torch.Generator().manual_seed(conditions.seed)
    samples, side = conditions.batch_size, conditions.image_size
    for _ in range(0, conditions.steps, REPEATS):
        labels = torch.randint(CLASSES, (samples,), generator=generator)
        audio = torch.randn(samples, 1, side, FREQUENCIES, generator=generator, dtype=torch.float64)
        images = torch.randn(samples, frames, 3, side, side, generator=generator, dtype=torch.float64)
        yield from [Batch({"audio": audio, "visual": images}, labels, torch.arange(samples))] * REPEATS


def matching(repository: ReleasedRepository, model: Any, network: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Their name → their tensor and ours, of all floating-point parameters and buffers; a copy, where we have none.

    The tensors are those that training changes in place.

    Raises:
        InputError: the two networks do not have the same tensors.
    """
    theirs, ours = model.module.state_dict(), network.state_dict()
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in theirs.items():
        if not tensor.is_floating_point():
            continue
        if name.startswith(tuple(f"{module}." for module in repository.untrained)):
            pairs[name] = tensor, tensor.clone()
            continue
        our_name = _renamed(name, repository.names)
        if our_name is None or our_name not in ours or ours[our_name].shape != tensor.shape:
            raise InputError(f"{repository.path}: its network has a tensor {name} {tuple(tensor.shape)}, ours has not.")
        pairs[name] = tensor, ours.pop(our_name)
    left = [name for name, tensor in ours.items() if tensor.is_floating_point()]
    if left:
        raise InputError(f"{repository.path}: its network lacks our tensor {left[0]}.")
    return pairs


def _renamed(name: str, names: Mapping[str, str]) -> str | None:
    """Our name of a tensor, by the name of the longest module that holds it."""
    held = [module for module in names if name.startswith(f"{module}.")]
    module = max(held, key=len, default=None)
    return None if module is None else names[module] + name.removeprefix(module)


def optimiser_settings(optimizer: Any) -> dict[str, Any]:
    """Kind and settings of an optimiser, by the names of `Settings` where it has them."""
    group = optimizer.param_groups[0]
    kept = ("momentum", "weight_decay", "dampening", "nesterov")
    values = {name: group[name] for name in kept if name in group}
    return {"optimizer": type(optimizer).__name__.lower(), "learning_rate": group["lr"], **values}
