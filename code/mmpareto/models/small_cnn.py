"""The small convolutional encoder of the CG-MNIST experiments."""

from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Four convolutions and one average pool for images of about 28×28, trained from scratch.

    The encoder for CG-MNIST of Fan et al., "PMR: prototypical modal rebalance for multimodal learning", CVPR 2023. The
    paper says no more; the sizes are those of their released code, which took them from Kim et al., "Learning not to
    learn", CVPR 2019: BatchNorm of the input; 5×5 to 32 channels, ReLU, max pool 3×3 of stride 2; 3×3 to 32, ReLU; 3×3
    of stride 2 to 64, ReLU; 3×3 to 64, ReLU; average over the 7×7 map; a linear layer to 512. Here the average is over
    a map of any size, so that other image sizes work.

    Arguments:
        channels: channels of the input: 1 for grey images, 3 for colour images.
    """

    takes = ("images",)
    feature_size = 512

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=5, padding=2)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(32, 32, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(64, 64, kernel_size=3, padding=1)
        self.project = nn.Linear(64, self.feature_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 512)."""
        x = self.maxpool(self.conv1(self.norm(x)).relu())
        x = self.conv2(x).relu()
        x = self.conv3(x).relu()
        x = self.conv4(x).relu()
        return self.project(x.mean(dim=(2, 3)))
