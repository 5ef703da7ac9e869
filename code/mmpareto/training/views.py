"""Random views of a batch for contrastive learning, drawn on tensors on the device."""

from collections.abc import Collection, Mapping

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor

from mmpareto.data.loading.batches import UNSHARDED, Shard

VIEWS = 2
CROP_AREA = (0.4, 1.0)
"""Area of a random crop, as a fraction. Chosen here, milder than SimCLR's 0.08, which leaves little of a digit."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Its width over its height, as in SimCLR and torchvision."""
LARGEST_RECTANGLE = 0.5
"""Longest sides of an erased rectangle, as fractions of the image's; at most a quarter of it is erased."""
LARGEST_BAND = 0.25
"""Longest band that is masked along an axis, as a fraction of the axis."""
MASKED_ENTRIES = 0.3
"""Fraction of a vector's entries that are masked."""
CROP_DRAWS, MASK_DRAWS = 4, 4


def two_views(
    inputs: Mapping[str, Tensor],
    images: Collection[str],
    samples: int,
    seeds: tuple[int, ...],
    share: Shard = UNSHARDED,
) -> dict[str, Tensor]:
    """Two views per sample: (B, …) becomes (2B, …), with the two views of a sample in adjacent rows.

    The kind of input decides what is drawn, independently per view:

        images (C, H, W), clips (T, C, H, W)   a random resized crop, the same for all frames of a clip (SimCLR), and an
                                               erased rectangle (random erasing, Zhong et al., AAAI 2020)
        filterbanks and other maps (C, H, W)   a random resized crop, which shifts and stretches time and frequency
                                               (BYOL-A, Niizumi et al., IJCNN 2021), and a masked band along each axis
                                               (SpecAugment, Park et al., Interspeech 2019)
        sequences (T, F + 1)                   a masked band along each axis; the last channel, the padding mask, stays
        vectors (F)                            masked entries

    What is masked or erased has the mean of the sample's view; in sequences and vectors, it is 0. Images are not
    mirrored, which would turn digits into others; where the data set's loader crops and mirrors in training, that comes
    first.

    Arguments:
        inputs: modality → this process's samples, in floating point, as normalised.
        images: the modalities of images and clips.
        samples: number of samples in the whole batch, over all processes.
        seeds: of the draws; these are functions of the seeds and of the sample's number in the whole batch alone, on
            any device and with any number of processes.
        share: this process's share of the batch.
    """
    generator = torch.Generator().manual_seed(_seed(seeds))
    views = {}
    for name, x in inputs.items():
        draws = torch.rand(samples, VIEWS, _draws(x), generator=generator)  # on the CPU, where all devices draw alike
        own = draws[share.rank :: share.count].flatten(0, 1).to(x.device, non_blocking=True)
        views[name] = _view(x.repeat_interleave(VIEWS, dim=0), own, name in images)
    return views


def _seed(seeds: tuple[int, ...]) -> int:
    """One seed from several; the spawn key keeps them apart from those of samples and of an epoch's order."""
    return int(np.random.SeedSequence(seeds, spawn_key=(1,)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _draws(x: Tensor) -> int:
    """Number of uniform numbers that a view of such an input takes."""
    return x.shape[1] if x.dim() == 2 else MASK_DRAWS if x.dim() == 3 else CROP_DRAWS + MASK_DRAWS


def _view(x: Tensor, draws: Tensor, is_image: bool) -> Tensor:
    """A view of each row, from its uniform numbers (rows, `_draws`)."""
    if not len(x):  # a process may have no sample
        return x
    if x.dim() == 2:
        return x.masked_fill(draws < MASKED_ENTRIES, 0.0)
    if x.dim() == 3:
        masked = _cross(x.shape[1], x.shape[2] - 1, draws)
        return torch.cat([x[..., :-1].masked_fill(masked, 0.0), x[..., -1:]], dim=2)
    shape, maps = x.shape, x.flatten(1, -3)  # the frames of a clip as further channels
    maps = _resized_crop(maps, draws[:, :CROP_DRAWS])
    mask = _rectangle if is_image else _cross
    masked = mask(shape[-2], shape[-1], draws[:, CROP_DRAWS:]).unsqueeze(1)
    return torch.where(masked, maps.mean(dim=(2, 3), keepdim=True), maps).view(shape)


def _resized_crop(maps: Tensor, draws: Tensor) -> Tensor:
    """A crop of each map (rows, C, H, W), resized to H × W by bilinear interpolation."""
    area, log_ratio, down, right = draws.unbind(1)
    area = CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area
    low, high = np.log(CROP_RATIO)
    root = (0.5 * (low + (high - low) * log_ratio)).exp()
    height, width = (area.sqrt() / root).clamp(max=1), (area.sqrt() * root).clamp(max=1)
    zero = torch.zeros_like(area)
    x = torch.stack([width, zero, (1 - width) * (2 * right - 1)], dim=1)
    y = torch.stack([zero, height, (1 - height) * (2 * down - 1)], dim=1)
    grid = F.affine_grid(torch.stack([x, y], dim=1).to(maps.dtype), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)


def _rectangle(height: int, width: int, draws: Tensor) -> Tensor:
    """(rows, height, width) bool: a random rectangle."""
    rows, columns = _band(height, LARGEST_RECTANGLE, draws[:, :2]), _band(width, LARGEST_RECTANGLE, draws[:, 2:])
    return rows.unsqueeze(2) & columns.unsqueeze(1)


def _cross(height: int, width: int, draws: Tensor) -> Tensor:
    """(rows, height, width) bool: a random band along each axis."""
    rows, columns = _band(height, LARGEST_BAND, draws[:, :2]), _band(width, LARGEST_BAND, draws[:, 2:])
    return rows.unsqueeze(2) | columns.unsqueeze(1)


def _band(length: int, largest: float, draws: Tensor) -> Tensor:
    """(rows, length) bool: a random interval, of up to `largest` · length."""
    size = draws[:, :1] * largest * length
    start = draws[:, 1:] * (length - size)
    centres = torch.arange(length, device=draws.device) + 0.5
    return (centres >= start) & (centres < start + size)
