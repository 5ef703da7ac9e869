"""The optimiser and its learning rate schedule."""

import torch
from torch import nn

from mmpareto.training.settings import Settings


def make_optimizer(settings: Settings, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters; parameters without a gradient are not changed."""
    rate, decay = settings.learning_rate, settings.weight_decay
    fused = is_fused(settings.fused, settings.amp)
    if settings.optimizer == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(network.parameters(), lr=rate, momentum=momentum, weight_decay=decay, fused=fused)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
    return kind(network.parameters(), lr=rate, weight_decay=decay, fused=fused)


def is_fused(fused: bool, amp: str | None) -> bool | None:
    """The optimiser's `fused` argument: always True under fp16, where it skips an overflow without a host sync."""
    return True if fused or amp == "fp16" else None


def learning_rate(settings: Settings, epoch: int) -> float:
    """The learning rate of an epoch (from 1)."""
    decays = (epoch - 1) // settings.lr_decay_step if settings.scheduler == "step" else 0
    return settings.learning_rate * settings.lr_decay_ratio**decays


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: Settings, epoch: int) -> None:
    """Set the optimiser's learning rate to that of an epoch (from 1)."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(settings, epoch)
