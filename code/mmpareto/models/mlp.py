"""A small multilayer perceptron for vectors of features."""

from torch import Tensor, nn

WIDTH = 256
DROPOUT = 0.1


class MLP(nn.Module):
    """Two linear layers with a ReLU and dropout between them, for vectors such as clinical measurements or embeddings.

    BatchNorm comes first: the features of a table (years, millilitres, counts) differ by orders of magnitude.

    Arguments:
        channels: length of the vectors.
    """

    takes = ("vectors",)
    feature_size = WIDTH

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)
        self.linear1 = nn.Linear(channels, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.linear2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F) to (B, 256)."""
        return self.linear2(self.dropout(self.linear1(self.norm(x)).relu()))
