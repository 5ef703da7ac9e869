"""An encoder: any module that maps the input of a modality to features (B, feature_size)."""

from torch import Tensor, nn


class GRU(nn.Module):
    """A gated recurrent unit over the steps of a sequence; its feature is the mean of the outputs at real steps.

    Arguments:
        channels: features per step.

    Attributes:
        takes: kinds of input; train.py refuses the encoder for others. Without it, every input is tried.
        feature_size: length of the feature.
    """

    takes = ("sequences",)
    feature_size = 48

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, self.feature_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, channels + 1), with the mask last, to (B, 48)."""
        outputs, _ = self.gru(x[:, :, :-1])
        mask = x[:, :, -1:]
        return (outputs * mask).sum(1) / mask.sum(1).clamp(min=1)
