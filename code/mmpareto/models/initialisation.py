"""How weights start."""

from torch import nn


def released_initialisation(module: nn.Module) -> None:
    """Initialise, in place, as OGM-GE's backbone does, which the released MMPareto code uses.

    Convolution weights: Kaiming normal over the fan-out for ReLU. BatchNorm: weight from N(1, 0.02²), bias 0.
    Linear layers keep what PyTorch gave them.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.affine:
            nn.init.normal_(part.weight, mean=1.0, std=0.02)
            nn.init.zeros_(part.bias)
