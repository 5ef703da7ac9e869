"""MMTM blocks, through which encoders recalibrate each other's channels (Joze et al., CVPR 2020)."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

RATIO = 4  # of reduction, as in Wu et al., ICML 2022


def batch_means(gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Modality → mean (C,) of its gates (B, C) over the batch."""
    return {name: gate.mean(0) for name, gate in gates.items()}


class MMTM(nn.Module):
    """Multimodal transfer module: the channels of every modality are gated depending on all modalities.

    Every map is squeezed to its channel means (over space and frames). One shared linear layer of width 2·ΣC/ratio with
    a ReLU sees the means of all modalities; one further linear layer per modality with a sigmoid computes its gates. As
    in Wu et al., "Characterizing and overcoming the greedy nature of learning in multi-modal deep neural networks"
    (ICML 2022), the block keeps the mean of each modality's gates over all training steps and can use it instead of the
    gates, so that the modality learns through its own encoder only. (The released code of that paper uses the first
    modality's mean for both and keeps updating it in evaluation; here each modality has its own, from training.)

    Arguments:
        widths: modality → channels C of its map.

    Attributes:
        batch_means: the function `batch_means`, or one that also averages over several processes that share a batch:
            held gates depend on these means within the same forward pass.
    """

    batch_means: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    steps: Tensor

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        total = sum(widths.values())
        self.squeeze = nn.Linear(total, 2 * total // RATIO)
        self.excite = nn.ModuleDict({name: nn.Linear(2 * total // RATIO, width) for name, width in widths.items()})
        self.batch_means = batch_means
        self.register_buffer("steps", torch.zeros(()))
        for name, width in widths.items():
            self.register_buffer(f"mean_{name}", torch.zeros(width))

    def forward(self, maps: Mapping[str, Tensor], batch: int, hold: str | None = None) -> dict[str, Tensor]:
        """Gate the maps.

        Arguments:
            maps: modality → (B·T, C, H, W), T frames per sample. Where a modality is absent, the gates of all others
                are replaced by their running means: none depends on another modality.
            batch: B.
            hold: the modality whose gates are replaced by their running mean.
        """
        if any(name not in maps for name in self.excite):
            return {name: x * self._mean(name).to(x.dtype)[:, None, None] for name, x in maps.items()}
        frames = {name: x.shape[0] // max(batch, 1) for name, x in maps.items()}  # a batch may be empty
        squeezed = [maps[name].unflatten(0, (batch, frames[name])).mean(dim=(1, 3, 4)) for name in self.excite]
        shared = self.squeeze(torch.cat(squeezed, dim=1)).relu()
        gates = {name: excite(shared).sigmoid() for name, excite in self.excite.items()}
        if self.training:
            self._update_means(gates)
        gated = {}
        for name, x in maps.items():
            gate = self._mean(name).expand_as(gates[name]) if name == hold else gates[name]
            gated[name] = x * gate.to(x.dtype).repeat_interleave(frames[name], dim=0)[:, :, None, None]
        return gated

    def _mean(self, name: str) -> Tensor:
        return self.get_buffer(f"mean_{name}")

    @torch.no_grad()
    def _update_means(self, gates: Mapping[str, Tensor]) -> None:
        # In place, like BatchNorm's statistics: under DataParallel the first replica shares the module's buffers.
        self.steps.add_(1)
        for name, batch_mean in self.batch_means(gates).items():
            mean = self._mean(name)
            mean.lerp_(batch_mean.to(mean.dtype), 1 / self.steps)
