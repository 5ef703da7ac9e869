"""MMTM blocks: encoders that recalibrate each other's channels (Joze et al., CVPR 2020)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

RATIO = 4  # Wu et al., ICML 2022: of the squeezed width


class MMTM(nn.Module):
    """Multimodal transfer module: every modality's channels are gated by what all modalities show.

    Every map is squeezed to its channel means (over space and, where there are several, frames); one layer of width
    2·ΣC/ratio and a ReLU see all of them; from there, one layer a modality and a sigmoid give its gates. As in Wu et
    al., "Characterizing and overcoming the greedy nature of learning in multi-modal deep neural networks" (ICML 2022),
    the block keeps the mean of each modality's gates over all training steps, and can put it in place of the gates:
    the modality then learns through its own encoder alone. (The released code of that paper keeps the first modality's
    mean for both, and goes on with it in evaluation; here each has its own, of training.)

    Arguments:
        widths: modality → channels C of its map.
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        total = sum(widths.values())
        self.squeeze = nn.Linear(total, 2 * total // RATIO)
        self.excite = nn.ModuleDict({name: nn.Linear(2 * total // RATIO, width) for name, width in widths.items()})
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros(()))
        for name, width in widths.items():
            self.register_buffer(f"mean_{name}", torch.zeros(width))

    def forward(self, maps: Mapping[str, Tensor], batch: int, hold: str | None = None) -> dict[str, Tensor]:
        """Gate the maps.

        Arguments:
            maps: modality → (B·T, C, H, W), T frames a sample.
            batch: B.
            hold: the modality whose gates are replaced by their running mean.
        """
        frames = {name: len(x) // max(batch, 1) for name, x in maps.items()}  # of no sample, too
        squeezed = [maps[name].unflatten(0, (batch, frames[name])).mean(dim=(1, 3, 4)) for name in self.excite]
        common = self.squeeze(torch.cat(squeezed, dim=1)).relu()
        gates = {name: excite(common).sigmoid() for name, excite in self.excite.items()}
        if self.training:
            self._remember(gates)
        gated = {}
        for name, x in maps.items():
            gate = self.get_buffer(f"mean_{name}").expand_as(gates[name]) if name == hold else gates[name]
            gated[name] = x * gate.to(x.dtype).repeat_interleave(frames[name], dim=0)[:, :, None, None]
        return gated

    @torch.no_grad()
    def _remember(self, gates: Mapping[str, Tensor]) -> None:
        # In place, as BatchNorm's statistics: under DataParallel the first replica shares its buffers with the module.
        self.steps.add_(1)
        for name, gate in gates.items():
            mean = self.get_buffer(f"mean_{name}")
            mean.lerp_(gate.mean(0).to(mean.dtype), 1 / self.steps)
