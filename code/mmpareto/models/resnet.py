"""ResNets: ResNet-18 is the encoder of the MMPareto paper's experiments."""

from collections.abc import Callable
from typing import ClassVar

import torchvision
from torch import Tensor, nn


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier, for any number of input channels; base class.

    Parameter names are torchvision's (`conv1.weight`, `bn1.weight`, `layer1.0.conv1.weight`, …), so that its
    weight files load. He et al., "Deep residual learning for image recognition", CVPR 2016.

    Arguments:
        channels: channels of the input: 1 for a filterbank, 3 for colour images.

    Attributes:
        layers: 18, 34 or 50.
        widths: output channels of the stages.
    """

    takes = ("images", "clips")
    layers: ClassVar[int]
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    feature_size = 512

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, f"resnet{self.layers}")(weights=None)
        if channels != 3:
            resnet.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or (B, T, C, H, W) for T frames, to (B, feature size), averaged over space and frames."""
        batch = x.shape[0]
        for stage in self.stages():
            x = stage(x)
        return self.pool(x, batch)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """Everything before `pool`, in four parts; maps are (B·T, channels, H, W)."""
        return [self._stem_and_layer1, self.layer2, self.layer3, self.layer4]

    def _stem_and_layer1(self, x: Tensor) -> Tensor:
        if x.dim() == 5:
            x = x.flatten(0, 1)
        return self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))

    def pool(self, x: Tensor, batch: int) -> Tensor:
        """The last map (B·T, feature size, H, W) averaged over space and frames: (B, feature size)."""
        return x.mean(dim=(2, 3)).unflatten(0, (batch, x.shape[0] // max(batch, 1))).mean(dim=1)  # a batch may be empty


class ResNet18(ResNet):
    """ResNet-18: 11 million parameters; features of length 512."""

    layers = 18


class ResNet34(ResNet):
    """ResNet-34: 21 million parameters; features of length 512."""

    layers = 34


class ResNet50(ResNet):
    """ResNet-50: 24 million parameters; features of length 2,048."""

    layers = 50
    widths = (256, 512, 1024, 2048)
    feature_size = 2048
