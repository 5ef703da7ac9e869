"""The optimiser, its parameter groups, and the schedule of its learning rates."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mmpareto.training.settings import Settings


def make_optimizer(settings: Settings, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters; parameters without a gradient are not changed."""
    groups, decay = parameter_groups(settings, network), settings.weight_decay
    rate, fused = settings.learning_rate, is_fused(settings.fused, settings.amp)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, weight_decay=decay, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(groups, lr=rate, weight_decay=decay, fused=fused)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Restore the `state_dict` of such an optimiser. Hyper-parameters are those of the settings, not of the state.

    Raises:
        ValueError: it is of other parameters, or of another optimiser.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError("the optimizer has other parameters")
    trial = torch.zeros(2, requires_grad=True)
    trial.grad = torch.zeros(2)
    known = inspect.signature(type(optimizer)).parameters
    like = type(optimizer)([trial], **{name: value for name, value in optimizer.defaults.items() if name in known})
    like.step()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in state["state"].items():
        shapes = {
            name: None if value is None else parameters[number].shape if value.dim() else torch.Size()
            for name, value in like.state[trial].items()
        }
        if shapes != {name: None if value is None else value.shape for name, value in entries.items()}:
            raise ValueError(f"the optimizer's state of parameter {number} does not fit")
        if not all(value is None or _is_ordinary(value) for value in entries.values()):
            raise ValueError(f"the optimizer's state of parameter {number} is not of numbers")
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


def _is_ordinary(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta and tensor.is_floating_point()


def parameter_groups(settings: Settings, network: nn.Module) -> list[dict[str, Any]]:
    """One group of all parameters; with `--encoder_learning_rate`, the encoders' parameters and then all others."""
    if settings.encoder_learning_rate is None:
        return [{"params": list(network.parameters())}]
    encoders = list(network.get_submodule("encoders").parameters())
    ids = {id(parameter) for parameter in encoders}
    return [{"params": encoders}, {"params": [p for p in network.parameters() if id(p) not in ids]}]


def is_fused(fused: bool, amp: str | None) -> bool | None:
    """The optimiser's `fused` argument: always True under fp16, where it skips an overflow without a host sync."""
    return True if fused or amp == "fp16" else None


def learning_rate(settings: Settings, epoch: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate of all but the encoders, if these have their own, at a step: `settings.learning_rate` scaled.

    Arguments:
        epoch: from 1.
        step: of the epoch, from 0.
        steps: number of steps per epoch.
    """
    return settings.learning_rate * schedule_factor(settings, epoch, step, steps)


def schedule_factor(settings: Settings, epoch: int, step: int = 0, steps: int = 1) -> float:
    """Factor of the learning rates at a step; the arguments are those of `learning_rate`.

    Warm-up of n steps: the factor k / n at its k-th step, as of `LinearLR(start_factor=1/n, total_iters=n − 1)`.
    Beside it, "step" is `StepLR` over epochs, counted from the first one, and "cosine" is `CosineAnnealingLR` down to 0
    over the steps that follow the warm-up.
    """
    done = (epoch - 1) * steps + step
    warmup = round(settings.warmup_epochs * steps)
    factor = min(1.0, (done + 1) / warmup) if warmup else 1.0
    if settings.scheduler == "step":
        factor *= settings.lr_decay_ratio ** ((epoch - 1) // settings.lr_decay_step)
    if settings.scheduler == "cosine":
        left = max(settings.epochs * steps - warmup, 1)
        factor *= (1 + math.cos(math.pi * min(max(done - warmup, 0) / left, 1))) / 2
    return factor


def set_learning_rate(
    optimizer: torch.optim.Optimizer, settings: Settings, epoch: int, step: int = 0, steps: int = 1
) -> None:
    """Set the learning rates of the optimiser's groups; the other arguments are those of `learning_rate`."""
    factor, rates = schedule_factor(settings, epoch, step, steps), [settings.learning_rate]
    if settings.encoder_learning_rate is not None:
        rates = [settings.encoder_learning_rate, *rates]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
