"""The small convolutional encoder of the MultiMNIST experiments."""

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two convolutions and a linear layer for images of digits, which keeps where in the image a feature is.

    The shared part of the network for MultiMNIST in the code of Sener & Koltun, "Multi-task learning as multi-objective
    optimization", NeurIPS 2018 (isl-org/MultiObjectiveOptimization at 1c6d0d5, multi_task/models/multi_lenet.py), there
    for 28×28: 5×5 to 10 channels, max pool 2×2, ReLU; 5×5 to 20, max pool to 4×4, ReLU; a linear layer to 50, ReLU.
    Here, the second pool leaves 4×4 of an image of any size, and channel dropout is left out: the task heads, which are
    linear here and have a hidden layer of 50 with dropout there, would be the only other part that it regularises.
    (`SmallCNN` averages over the whole map, so it can hardly tell one digit of an image from another.)

    Arguments:
        channels: channels of the input.
    """

    takes = ("images",)
    feature_size = 50

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.halve, self.pool = nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(4)
        self.fc = nn.Linear(20 * 4 * 4, self.feature_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), H and W at least 20, to (B, 50)."""
        x = self.halve(self.conv1(x)).relu()
        x = self.conv2(x)
        x = adaptive_max(x, 4) if torch.compiler.is_exporting() else self.pool(x)  # ONNX lacks adaptive pooling
        x = x.relu()
        return self.fc(x.flatten(1)).relu()


def adaptive_max(x: Tensor, size: int) -> Tensor:
    """The values of `AdaptiveMaxPool2d(size)`: each is the maximum over rows ⌊i·H/size⌋ … ⌈(i + 1)·H/size⌉ − 1."""
    for dim in (2, 3):
        length = x.shape[dim]
        bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
        x = torch.stack([x.narrow(dim, start, end - start).amax(dim) for start, end in bounds], dim)
    return x
