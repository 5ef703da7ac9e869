"""ResNet-18, the encoder of the MMPareto paper's experiments."""

from collections.abc import Callable

import torchvision
from torch import Tensor, nn


class ResNet18(nn.Module):
    """torchvision's ResNet-18 without its classifier, for any number of input channels.

    Parameter names are torchvision's (`conv1.weight`, `bn1.weight`, `layer1.0.conv1.weight`, …), so that its
    weight files load. He et al., "Deep residual learning for image recognition", CVPR 2016.

    Arguments:
        channels: channels of the input: 1 for a filterbank, 3 for colour images.
    """

    feature_size = 512
    widths = (64, 128, 256, 512)
    """Output channels of the stages."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18(weights=None)
        if channels != 3:
            resnet.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or (B, T, C, H, W) for T frames, to (B, 512), averaged over space and frames."""
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
        """The last map (B·T, 512, H, W) averaged over space and frames: (B, 512)."""
        return x.mean(dim=(2, 3)).unflatten(0, (batch, x.shape[0] // max(batch, 1))).mean(dim=1)  # a batch may be empty
