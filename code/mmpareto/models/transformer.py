"""A small transformer encoder for sequences of features, padded to equal length."""

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

WIDTH = 64  # small: its data sets have 1,300 to 16,000 training samples, and MulT uses 30 to 50 for them
HEADS = 4
LAYERS = 2
DROPOUT = 0.1


class SequenceTransformer(nn.Module):
    """Encodes a padded sequence by self-attention between its steps, and averages over the steps.

    Vaswani et al., "Attention is all you need", NeurIPS 2017, with pre-normalisation (Xiong et al., ICML 2020), which
    trains without learning-rate warm-up. A linear layer and a LayerNorm come first, because hand-crafted features
    (pitch in hertz, positions in pixels) differ by orders of magnitude. The content of padded steps has no influence; a
    sequence of padding only has the feature 0.

    Arguments:
        channels: features per step.
    """

    takes = ("sequences",)
    feature_size = WIDTH

    frequencies: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.embed = nn.Linear(channels, WIDTH)
        self.embed_norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.layers = nn.ModuleList([PreNormLayer() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        # A constant, so not in checkpoints.
        self.register_buffer("frequencies", 10_000 ** (-torch.arange(0, WIDTH, 2) / WIDTH), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, channels + 1) to (B, 64).

        The last channel is the mask: 1 at a step, 0 at padding. Never waits for the device.

        Raises:
            ValueError: the input has another shape.
        """
        if x.dim() != 3 or x.shape[2] != self.channels + 1:
            raise ValueError(f"sequences (B, T, {self.channels + 1}) expected, mask last, got {tuple(x.shape)}")
        valid = x[:, :, -1] > 0.5
        # A softmax over no step would be NaN: where all is padding, all of it is attended to, and ignored in the mean.
        attended = valid | ~valid.any(dim=1, keepdim=True)
        x = self.dropout(self.embed_norm(self.embed(x[:, :, :-1])) + self._positions(x))
        for layer in self.layers:
            x = layer(x, attended[:, None, None, :])
        weights = valid.to(x.dtype).unsqueeze(2)
        return (self.norm(x) * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    def _positions(self, x: Tensor) -> Tensor:
        """Sinusoidal position encodings, (T, 64)."""
        angles = torch.arange(x.shape[1], device=x.device).unsqueeze(1) * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class PreNormLayer(nn.Module):
    """Pre-norm transformer layer: self-attention with four heads, then two linear layers, each with a residual.

    Not `nn.TransformerEncoderLayer`, whose fast path in evaluation (nested tensors, and a check of the mask that waits
    for the device) differs in the last digits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.project_in = nn.Linear(WIDTH, 3 * WIDTH)
        self.project_out = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.linear1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.linear2 = nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor, attended: Tensor) -> Tensor:
        """Map (B, T, 64) to (B, T, 64); `attended`, bool (B, 1, 1, T), is True at the steps to attend to."""
        x = x + self.dropout(self._attention(self.norm1(x), attended))
        return x + self.dropout(self.linear2(self.dropout(self.linear1(self.norm2(x)).relu())))

    def _attention(self, x: Tensor, attended: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.project_in(x).chunk(3, dim=2)
        )
        dropout = DROPOUT if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, attended, dropout_p=dropout)
        return self.project_out(mixed.transpose(1, 2).flatten(2))
