"""BatchNorm over the samples of all processes."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def synchronised(network: nn.Module, device: torch.device) -> Any:
    """The network with every BatchNorm normalising by the statistics of all processes' samples; its tensors stay.

    On a GPU it is PyTorch's own, which knows no CPU.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        network.add_module(name, synchronised(child, device))
    return BatchNormOnCPU(network) if isinstance(network, nn.modules.batchnorm._BatchNorm) else network


class BatchNormOnCPU(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose mean and variance, in training, are those of the samples of all processes.

    A process may have no sample. Two sums over the processes in each direction.

    Arguments:
        other: the BatchNorm that it takes the place of, whose parameters and buffers it takes over.
    """

    def __init__(self, other: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(other.num_features, other.eps, other.momentum, other.affine, other.track_running_stats)
        self._parameters, self._buffers = other._parameters, other._buffers
        self.training = other.training

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, …)."""
        if not self.training:
            return super().forward(input)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        axes = [axis for axis in range(input.dim()) if axis != 1]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        here = x.new_tensor([x.numel() / x.shape[1]])
        total, count = _Sum.apply(torch.cat([x.sum(axes), here])).split([x.shape[1], 1])
        mean = total / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach(), count.detach())
        x = centred * (variance + self.eps).rsqrt().view(shape)
        return (x * self.weight.view(shape) + self.bias.view(shape) if self.affine else x).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * count / (count - 1), weight)


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is the gradient's."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient
