"""What reads one modality of a prepared folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional as image

from mmpareto.data.loading import layout
from mmpareto.data.loading.options import FEATURE_FILES, InputOptions
from mmpareto.data.loading.picture_cache import PictureCache
from mmpareto.data.loading.sampling import fixed_frames, random_crop, random_frames
from mmpareto.data.raw.optical_flow import FLOW_FOLDERS
from mmpareto.errors import InputError


class Normalisation(NamedTuple):
    """How uint8 images become float32, (x / 255 − mean) / std a channel, and which channels a mirror image negates."""

    mean: Sequence[float]
    std: Sequence[float]
    negated: Sequence[int] = ()


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Source(Protocol):
    """Reads one modality of the samples of a split.

    Attributes:
        channels: what the modality's encoder takes: channels of an image, or the size of a step of a sequence.
        normalisation: of what is uint8 images; None for what is not.
        mirrors: whether training mirrors the images at random.
    """

    channels: int
    normalisation: Normalisation | None
    mirrors: bool

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The input of the sample at `place` of the split's list.

        Arguments:
            generator: of what training draws; None in evaluation.

        Raises:
            InputError: a file is missing or damaged.
        """


class AudioSource:
    """The audio feature of a clip as float32 (1, time, frequency), or (1, frequency, time) for the spectrogram.

    Arguments:
        folder: the prepared folder.
        names: of the clips.
        options: `audio`, `audio_frames` and `audio_pool`.
    """

    channels = 1
    normalisation: Normalisation | None = None
    mirrors = False

    def __init__(self, folder: Path, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The feature, cut and pooled."""
        return audio_input(layout.read_feature(self.folder, self.names[place], self.options.audio), self.options)


class FramesSource:
    """Frames of a clip as uint8 (frames, 3, size, size), RGB, chosen as the released MMPareto code chooses them.

    Training draws the frames (`random_frames`) and crops each on its own (`random_crop`, then resized); evaluation
    reads fixed frames (`fixed_frames`), resized without regard to their proportions.

    Arguments:
        folder: the prepared folder, with frames in visual/<clip>.
        split: of which the names are; it names the cache.
        names: of the clips.
        options: `frames`, `image_size`, `crop_scale` and `cache`.
    """

    channels = 3
    normalisation: Normalisation | None = IMAGENET
    mirrors = True

    def __init__(self, folder: Path, split: str, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options
        self._counts: dict[int, int] = {}
        self._cache: PictureCache | None = None
        if options.cache:
            files = [self._file(place, n) for place in range(len(names)) for n in range(1, self._count(place) + 1)]
            self._cache = PictureCache(folder, f"{split}-visual", files, options.image_size)

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The frames."""
        numbers = drawn_frames(self._count(place), self.options.frames, generator)
        return torch.stack([cropped(self.frame(place, number), self.options, generator) for number in numbers])

    def frame(self, place: int, number: int) -> Tensor:
        """Frame `number` (from 1) of a clip, whole."""
        if self._cache is not None:
            return self._cache(self._file(place, number))
        return layout.read_frame(self.folder, self.names[place], number)

    def _file(self, place: int, number: int) -> Path:
        return layout.frame_path(self.folder, self.names[place], number)

    def _count(self, place: int) -> int:
        if place not in self._counts:
            self._counts[place] = layout.count_frames(self.folder, self.names[place])
        return self._counts[place]


class FlowSource:
    """Flow of a clip as uint8 (frames, 2, size, size), its frames chosen and cropped as those of a `FramesSource`.

    A picture is resized, but not its values, as in two-stream networks. A mirror image moves the other way: its u is
    negated. The mean is no motion, the standard deviation the mean one of ImageNet's colours, as in Temporal Segment
    Networks.

    Arguments:
        folder: the prepared folder, with pictures in flow_u/<clip> and flow_v/<clip>.
        names: of the clips.
        options: `frames`, `image_size` and `crop_scale`; a cache holds frames only.
    """

    channels = 2
    normalisation: Normalisation | None = Normalisation((0.5, 0.5), (0.226, 0.226), negated=(0,))
    mirrors = True

    def __init__(self, folder: Path, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options
        self._counts: dict[int, int] = {}

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The flow at the frames."""
        numbers = drawn_frames(self._count(place), self.options.frames, generator)
        return torch.stack([cropped(self.frame(place, number), self.options, generator) for number in numbers])

    def frame(self, place: int, number: int) -> Tensor:
        """The flow from frame `number` (from 1) of a clip, whole, uint8 (2, height, width).

        Raises:
            InputError: a picture is missing or damaged, or the two differ in size.
        """
        paths = [self.folder / part / self.names[place] / f"frame_{number:05d}.jpg" for part in FLOW_FOLDERS]
        u, v = (layout.read_image(path, "delete its folder and prepare again", ImageReadMode.GRAY) for path in paths)
        if u.shape != v.shape:
            raise InputError(f"{paths[0]} and {paths[1]} differ in size; delete their folders and prepare again.")
        return torch.cat([u, v])

    def _count(self, place: int) -> int:
        if place not in self._counts:
            folder = self.folder / FLOW_FOLDERS[0] / self.names[place]
            self._counts[place] = len([*folder.glob("frame_*.jpg")])
            if not self._counts[place]:
                raise InputError(f"{folder} holds no flow; delete it and prepare again.")
        return self._counts[place]


class ImageSource:
    """One image a sample as uint8 (3, size, size), RGB; cropped in training as frames are.

    Arguments:
        files: a JPEG or PNG file a sample.
        options: `image_size`, `crop_scale` and `cache`.
        cache: the prepared folder, and the name of the cache there.
    """

    channels = 3
    normalisation: Normalisation | None = IMAGENET
    mirrors = True

    def __init__(self, files: Sequence[Path], options: InputOptions, cache: tuple[Path, str] | None = None) -> None:
        self.files, self.options = files, options
        self._cache = PictureCache(*cache, files, options.image_size) if options.cache and cache else None

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The image."""
        path = self.files[place]
        whole = self._cache(path) if self._cache else layout.read_image(path, "prepare the data set again")
        return cropped(whole, self.options, generator)


class ArraySource:
    """Rows of a .npy file, as they are; the file is mapped into memory, not read.

    Arguments:
        path: of an array (N, …).
        channels: of a row.
        normalisation: of uint8 images; None for anything else.

    Raises:
        InputError: the file is absent or damaged.
    """

    mirrors = False

    def __init__(self, path: Path, channels: int, normalisation: Normalisation | None) -> None:
        self.channels, self.normalisation = channels, normalisation
        try:
            self.rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a readable array ({error}); prepare the data set again.") from error

    def read(self, place: int, generator: np.random.Generator | None) -> Tensor:
        """The row."""
        return torch.from_numpy(np.array(self.rows[place]))


def drawn_frames(available: int, wanted: int, generator: np.random.Generator | None) -> list[int]:
    """The numbers (from 1) of the frames that are read: random in training, fixed where there is no generator."""
    return fixed_frames(available, wanted) if generator is None else random_frames(available, wanted, generator)


def cropped(picture: Tensor, options: InputOptions, generator: np.random.Generator | None) -> Tensor:
    """(C, size, size) of uint8 (C, H, W): a random rectangle in training, else the whole."""
    if generator is not None:
        height, width = picture.shape[1:]
        picture = image.crop(picture, *random_crop(height, width, generator, options.crop_scale))
    return resized(picture, options.image_size)


def resized(picture: Tensor, size: int) -> Tensor:
    """Resize uint8 (C, H, W) to (C, size, size) as PIL does: bilinear, antialiased."""
    return image.resize(picture, [size, size], interpolation=image.InterpolationMode.BILINEAR, antialias=True)


def audio_input(feature: Tensor, options: InputOptions) -> Tensor:
    """Add the channel; cut and pool where the options say so."""
    axis = FEATURE_FILES[options.audio].time_axis
    if options.audio_frames is not None:
        feature = feature.narrow(axis, 0, min(options.audio_frames, feature.shape[axis]))
    feature = feature.unsqueeze(0)
    time, frequency = options.audio_pool
    pool = (time, frequency) if axis == 0 else (frequency, time)
    return feature if pool == (1, 1) else F.avg_pool2d(feature, pool)
