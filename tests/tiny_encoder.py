"""A very cheap encoder, for tests of the code around encoders."""

from collections.abc import Callable

from torch import Tensor, nn


class TinyEncoder(nn.Module):
    """Two strided convolutions with BatchNorm; maps (B, C, H, W) or (B, T, C, H, W). Has stages, like ResNet18.

    Casts its input to the dtype of its weights, so that a test can train in float64.
    """

    feature_size = 8
    widths = (4, 4, 8, 8)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        for stage in self.stages():
            x = stage(x)
        return self.pool(x, batch)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        return [self._first, self._second, self.layers[3], self.layers[4]]

    def _first(self, x: Tensor) -> Tensor:
        return self.layers[0]((x.flatten(0, 1) if x.dim() == 5 else x).to(self.layers[0].weight.dtype))

    def _second(self, x: Tensor) -> Tensor:
        return self.layers[2](self.layers[1](x))

    def pool(self, x: Tensor, batch: int) -> Tensor:
        return x.mean(dim=(2, 3)).unflatten(0, (batch, x.shape[0] // max(batch, 1))).mean(1)
