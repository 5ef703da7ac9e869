"""ResNet-18, the encoder of the MMPareto paper's experiments."""

import torchvision
from torch import Tensor, nn


class ResNet18(nn.Module):
    """torchvision's ResNet-18 without its classifier, for any number of input channels.

    Parameter names are torchvision's (`conv1.weight`, `bn1.weight`, `layer1.0.conv1.weight`, …), so that its
    weight files fit. He et al., "Deep residual learning for image recognition", CVPR 2016.

    Arguments:
        channels: channels of the input: 1 for a filterbank, 3 for colour images.
    """

    feature_size = 512

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18(weights=None)
        if channels != 3:
            resnet.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
            resnet.layer4,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or (B, T, C, H, W) for T frames, to (B, 512), averaged over space and frames."""
        batch, frames = x.shape[0], x.shape[1] if x.dim() == 5 else 1
        if x.dim() == 5:
            x = x.flatten(0, 1)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3)).reshape(batch, frames, self.feature_size).mean(dim=1)
