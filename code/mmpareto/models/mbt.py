"""MBT: one vision transformer per modality; from a layer on, they exchange information through bottleneck tokens.

Nagrani et al., "Attention bottlenecks for multimodal fusion", NeurIPS 2021 (arXiv 2107.00135); code in
google-research/scenic, projects/mbt. With tokens x_k of modality k and bottleneck tokens z, each fusion layer l does

    [x_k, z_k] ← layer_k,l([x_k, z])  for every modality k,  then  z ← mean over k of z_k

Of the paper (from second-hand accounts, as its text was not at hand): ViT-B/16 per modality, four bottleneck tokens,
fusion from layer 8 on, one class token per modality, whose logits are averaged before the softmax.

Of the code (at 4a38d47, read): layers are counted from 0, so the first eight see one modality; bottleneck tokens are
drawn from N(0, 0.02²); no layer is shared; one linear classifier takes the class tokens of all modalities
(`AverageLogitsFusion`); the patches of all frames are one sequence, with one learned position embedding per token,
N(0, 0.02²); class tokens start at 0, the weights of all layers are Xavier uniform; position embeddings of a pre-trained
ViT are interpolated linearly to a frame's grid of patches, and repeated for every frame.

Other than in the code: every modality has a final LayerNorm of its own, as it is part of its encoder here (there, all
share one); the configuration that is released averages over all tokens instead of reading a class token, and where it
has class tokens, it adds a fifth bottleneck token and descends the mean of the modalities' cross-entropies, not that of
the averaged logits. There are no tubelets, no stochastic depth, no mixup and no SpecAugment here, the classifier does
not start from 0, and GELU is exact, as in the libraries whose weights load.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor, nn

STD = 0.02  # of position embeddings and bottleneck tokens
EPS = 1e-6  # of LayerNorm, as in ViT; PyTorch's default is another

# Parameter names of torchvision's VisionTransformer → timm's, which are those here.
_LAYER = r"encoder\.layers\.encoder_layer_(\d+)\."
TORCHVISION_NAMES = {
    r"class_token$": "cls_token",
    r"encoder\.pos_embedding$": "pos_embed",
    r"conv_proj\.": "patch_embed.proj.",
    rf"{_LAYER}ln_([12])\.": r"blocks.\1.norm\2.",
    rf"{_LAYER}self_attention\.in_proj_": r"blocks.\1.attn.qkv.",
    rf"{_LAYER}self_attention\.out_proj\.": r"blocks.\1.attn.proj.",
    rf"{_LAYER}mlp\.(?:0|linear_1)\.": r"blocks.\1.mlp.fc1.",
    rf"{_LAYER}mlp\.(?:3|linear_2)\.": r"blocks.\1.mlp.fc2.",
    r"encoder\.ln\.": "norm.",
}


class MBT(nn.Module):
    """Vision transformer of one modality, without its classifier; base class of the sizes.

    Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021: pre-norm layers on patches, and a class token, whose
    last state is the feature. Parameter names are timm's. This is encoder k of MBT: embedding, layers and final norm of
    its modality. The bottleneck tokens (`bottleneck_blocks`) and the classifier belong to the rest of the network.

    Arguments:
        channels: channels of the input.
        shape: shape of a sample: (C, H, W), or (T, C, H, W) for T frames.

    Attributes:
        depth, width, heads, mlp_width: number of layers; length of tokens; attention heads; hidden units of the MLPs.
        patch: width and height of a patch.
        fusion_layer: the first layer, counted from 0, whose tokens attend to the bottlenecks; `depth` for none.
        bottlenecks: number of bottleneck tokens.
        frames, grid: T, and the patches of a frame along height and width.

    Raises:
        ValueError: patches do not divide the input.
    """

    takes = ("images", "clips")
    input_sized = True
    initialises_itself = True
    fusion = "average_logits"
    depth: ClassVar[int] = 12
    width: ClassVar[int]
    heads: ClassVar[int]
    mlp_width: ClassVar[int]
    patch: ClassVar[int] = 16
    fusion_layer: ClassVar[int] = 8
    bottlenecks: ClassVar[int] = 4

    def __init__(self, channels: int, shape: Sequence[int]) -> None:
        super().__init__()
        height, width = shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"patches of {self.patch} × {self.patch} do not divide its input of {height} × {width}; change "
                "--image_size (images), or --audio_frames and --audio_pool (audio)"
            )
        self.shape, self.feature_size = tuple(shape), self.width
        self.frames = shape[0] if len(shape) == 4 else 1
        self.grid = (height // self.patch, width // self.patch)
        tokens = 1 + self.frames * math.prod(self.grid)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width))
        self.pos_embed = nn.Parameter(STD * torch.randn(1, tokens, self.width))
        self.patch_embed = PatchEmbed(channels, self.width, self.patch)
        self.blocks = nn.ModuleList(TransformerLayer(self.width, self.heads, self.mlp_width) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), or (B, T, C, H, W), to (B, width), without bottlenecks: an ordinary ViT."""
        batch = x.shape[0]
        for stage in self.stages():
            x = stage(x)
        return self.pool(x, batch)

    def stages(self) -> list[Callable[[Tensor], Tensor]]:
        """The embedding, then every layer; maps are tokens (B, 1 + number of patches, width), class token first."""
        return [self._embed, *self.blocks]

    def _embed(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"samples of shape {self.shape} expected, got {tuple(x.shape[1:])}")
        batch = x.shape[0]
        tokens = self.patch_embed(x.flatten(0, -4)).unflatten(0, (batch, self.frames)).flatten(1, 2)
        return torch.cat([self.cls_token.expand(batch, -1, -1), tokens], dim=1) + self.pos_embed

    def pool(self, x: Tensor, batch: int) -> Tensor:
        """The normalised class token (B, width)."""
        return self.norm(x[:, 0])

    @classmethod
    def bottleneck_blocks(cls) -> list[nn.Module]:
        """The blocks of `MultimodalNetwork`, one after each of the encoders' last stages; none without fusion layers.

        The first one precedes the first fusion layer. That after the last layer changes nothing: the class tokens alone
        are read from there on.
        """
        averages = [AverageBottlenecks(cls.bottlenecks) for _ in range(cls.fusion_layer, cls.depth)]
        return [AppendBottlenecks(cls.width, cls.bottlenecks), *averages] if averages else []

    @staticmethod
    def library_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights with torchvision's names, perhaps with a prefix, replaced by those here."""
        renamed = {}
        for name, tensor in weights.items():
            for theirs, ours in TORCHVISION_NAMES.items():
                name = re.sub(rf"(?:^|(?<=\.)){theirs}", ours, name)
            renamed[name] = tensor
        return renamed

    def fitted(self, weights: Mapping[str, Tensor], *, of_a_run: bool = False) -> tuple[dict[str, Tensor], list[str]]:
        """Return weights of a ViT for square colour images, changed to fit the input here, and notes on the changes.

        Position embeddings for another grid of patches are interpolated (`resized_positions`). A stem for three
        channels becomes its mean over them, for every channel here, as in AST (Gong et al., "AST: audio spectrogram
        transformer", Interspeech 2021). MBT's code repeats a spectrogram as three channels instead, which amounts to
        the sum.

        Arguments:
            of_a_run: whether they are from a run of this program, whose inputs need not be square: as many position
                embeddings as here are then for the same patches. (196 may be 14 × 14 patches, or four frames of 7 × 7.)
        """
        fitted, notes = dict(weights), []
        positions, own = weights.get("pos_embed"), self.pos_embed
        if positions is not None and positions.dim() == 3:
            resized = resized_positions(positions, self.frames, self.grid)
            if resized is not None and not (of_a_run and positions.shape == own.shape):
                fitted["pos_embed"] = resized
                notes.append(f"position embeddings interpolated from {positions.shape[1]} to {own.shape[1]}")
        stem, channels = weights.get("patch_embed.proj.weight"), self.patch_embed.proj.in_channels
        if stem is not None and stem.dim() == 4 and stem.shape[1] == 3 != channels:
            fitted["patch_embed.proj.weight"] = stem.mean(1, keepdim=True).expand(-1, channels, -1, -1)
            notes.append("stem averaged over the file's three channels")
        return fitted, notes


class MBTBase(MBT):
    """MBT of the paper, from ViT-B/16: 86 million parameters per modality."""

    width, heads, mlp_width = 768, 12, 3072


class MBTSmall(MBT):
    """MBT from ViT-S/16 (Touvron et al., DeiT, ICML 2021): 22 million parameters per modality."""

    width, heads, mlp_width = 384, 6, 1536


class MBTTiny(MBT):
    """MBT for tests and the stand-in, of a size chosen here: 0.2 million parameters per modality, patches of 8 × 8."""

    depth, width, heads, mlp_width = 4, 64, 4, 256
    patch, fusion_layer = 8, 2


class PatchEmbed(nn.Module):
    """Linear embedding of patches: (B, C, H, W) → (B, number of patches, width), row by row."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)
        nn.init.trunc_normal_(self.proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Embed every patch."""
        return self.proj(x).flatten(2).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Pre-norm layer of ViT: self-attention and an MLP, each with a residual; (B, N, width) → the same.

    Unlike `transformer.PreNormLayer`, it has the names and the GELU of ViT, and neither padding nor dropout.
    """

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = MLPBlock(width, mlp_width)

    def forward(self, x: Tensor) -> Tensor:
        """Update every token."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, width) → the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        for weight in (*self.qkv.weight.chunk(3), self.proj.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to all tokens."""
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=2)
        )
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class MLPBlock(nn.Module):
    """Two linear layers with a GELU between them, token by token."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Transform every token."""
        return self.fc2(F.gelu(self.fc1(x)))


class AppendBottlenecks(nn.Module):
    """Block of `MultimodalNetwork` that appends the bottleneck tokens to the tokens of every modality."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(STD * torch.randn(1, count, width))

    def forward(self, maps: Mapping[str, Tensor], batch: int, hold: str | None = None) -> dict[str, Tensor]:
        """Map tokens (B, N, width) of every modality to (B, N + count, width)."""
        return {name: torch.cat([x, self.tokens.expand(batch, -1, -1)], dim=1) for name, x in maps.items()}


class AverageBottlenecks(nn.Module):
    """Block of `MultimodalNetwork` that replaces every modality's bottleneck tokens by their mean over the modalities.

    The mean is over those that are given: without a modality, over the others; one alone keeps its own.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, maps: Mapping[str, Tensor], batch: int, hold: str | None = None) -> dict[str, Tensor]:
        """Average the last `count` tokens of all modalities, each (B, N, width)."""
        mean = torch.stack([x[:, -self.count :] for x in maps.values()]).mean(0)
        return {name: torch.cat([x[:, : -self.count], mean], dim=1) for name, x in maps.items()}


def resized_positions(positions: Tensor, frames: int, grid: tuple[int, int]) -> Tensor | None:
    """Position embeddings (1, 1 + s², width) for s × s patches, resized to (1, 1 + frames · h · w, width).

    Bilinear interpolation to the grid, corners to corners as in MBT's code, then the same for every frame. The class
    token keeps its own. None if they are not for a square, or for the same patches already.
    """
    side = math.isqrt(max(positions.shape[1] - 1, 0))
    if side == 0 or side**2 != positions.shape[1] - 1 or (frames, grid) == (1, (side, side)):
        return None
    square = positions[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)
    return torch.cat([positions[:, :1].float(), resized.repeat(1, frames, 1)], dim=1)
