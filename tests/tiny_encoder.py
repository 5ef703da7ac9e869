"""An encoder that costs next to nothing, for tests of what is around it."""

from torch import Tensor, nn


class TinyEncoder(nn.Module):
    """Two strided convolutions with BatchNorm; takes (B, C, H, W) or (B, T, C, H, W)."""

    feature_size = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 4, 5, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        frames = x.flatten(0, 1) if x.dim() == 5 else x
        features = self.layers(frames).mean(dim=(2, 3))
        return features.view(len(x), -1, self.feature_size).mean(1)
