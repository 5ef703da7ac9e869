"""Synchronised BatchNorm: statistics over the samples of all processes."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


def convert_sync_batchnorm(network: nn.Module, device: torch.device) -> Any:
    """The network with every BatchNorm synchronised over all processes; parameters and buffers are kept.

    On a GPU this is PyTorch's SyncBatchNorm, which does not support the CPU.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for name, child in network.named_children():
        network.add_module(name, convert_sync_batchnorm(child, device))
    return CPUSyncBatchNorm(network) if isinstance(network, nn.modules.batchnorm._BatchNorm) else network


class CPUSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm that normalises, in training, by mean and variance of the samples of all processes.

    A process may have no sample. Uses two all-reduces in the forward and two in the backward pass.

    Arguments:
        original: the BatchNorm to replace; its parameters and buffers are shared.
    """

    def __init__(self, original: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__(
            original.num_features, original.eps, original.momentum, original.affine, original.track_running_stats
        )
        self._parameters, self._buffers = original._parameters, original._buffers
        self.training = original.training

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, …)."""
        if not self.training:
            return super().forward(input)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        axes = [axis for axis in range(input.dim()) if axis != 1]
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        local_count = x.new_tensor([x.numel() / x.shape[1]])
        total, count = _AllReduceSum.apply(torch.cat([x.sum(axes), local_count])).split([x.shape[1], 1])
        mean = total / count
        centred = x - mean.view(shape)
        variance = _AllReduceSum.apply(centred.square().sum(axes)) / count
        self._update_running_stats(mean.detach(), variance.detach(), count.detach())
        x = centred * (variance + self.eps).rsqrt().view(shape)
        return (x * self.weight.view(shape) + self.bias.view(shape) if self.affine else x).to(input.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * count / (count - 1), weight)


class _AllReduceSum(torch.autograd.Function):
    """Sum over the processes; the backward pass sums the gradient over the processes."""

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
