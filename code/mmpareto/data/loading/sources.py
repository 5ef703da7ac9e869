"""Sources: each reads the inputs of one modality from a prepared folder."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.transforms.v2 import functional as transforms

from mmpareto.data.loading import layout
from mmpareto.data.loading.image_cache import ImageCache
from mmpareto.data.loading.options import FEATURE_FILES, InputOptions
from mmpareto.data.loading.sampling import fixed_frames, random_crop, random_frames
from mmpareto.data.raw.features import STFT_RATE, STFT_SECONDS, stft
from mmpareto.data.raw.npy_header import read_npy_header
from mmpareto.data.raw.optical_flow import FLOW_FOLDERS
from mmpareto.errors import InputError, one_line
from mmpareto.files import open_regular


class Normalisation(NamedTuple):
    """Conversion of uint8 images to float32, (x / 255 − mean) / std per channel; mirroring negates some channels."""

    mean: Sequence[float]
    std: Sequence[float]
    negated: Sequence[int] = ()


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ModalitySource(Protocol):
    """Reads the inputs of one modality for the samples of a split.

    Attributes:
        channels: size of the encoder's input: channels of an image, or features per step of a sequence.
        normalisation: of uint8 images; None for other inputs.
        mirrors: whether training mirrors the images at random.
        reads: optional; the fields of `InputOptions` that change the inputs, of which train.py refuses all others.
    """

    channels: int
    normalisation: Normalisation | None
    mirrors: bool

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the input of the sample at `index` of the split's list.

        Arguments:
            generator: for the random draws of training; None in evaluation.

        Raises:
            InputError: a file is missing or damaged.
        """


class AudioSource:
    """The audio feature of a clip as float32 (1, time, frequency), or (1, frequency, time) for spectrograms.

    Arguments:
        folder: the prepared folder.
        names: of the clips.
        options: `audio`, `audio_frames` and `audio_pool`.
    """

    channels = 1
    normalisation: Normalisation | None = None
    mirrors = False
    reads = frozenset({"audio", "audio_frames", "audio_pool"})

    def __init__(self, folder: Path, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the feature, cut and pooled."""
        stored = layout.read_feature(self.folder, self.names[index], self.options.audio)
        return audio_input(stored, self.options, generator)


class _SeveralFrames:
    """Several frames of a clip, uint8 (frames, C, size, size).

    Training chooses the frames (`random_frames`), crops each independently (`random_crop`) and resizes it; evaluation
    reads fixed frames (`fixed_frames`), resized without keeping their aspect ratio.
    """

    mirrors = True
    reads = frozenset({"frames", "frame_choice", "image_size", "crop_scale"})
    frames_folder: str

    def __init__(self, folder: Path, names: Sequence[str], options: InputOptions) -> None:
        self.folder, self.names, self.options = folder, names, options
        self._counts: dict[int, int] = {}

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the frames."""
        how = self._count(index), self.options.frames, self.options.frame_choice
        numbers = fixed_frames(*how) if generator is None else random_frames(*how, generator)
        return torch.stack([cropped(self.frame(index, number), self.options, generator) for number in numbers])

    def frame(self, index: int, number: int) -> Tensor:
        """Return frame `number` (from 1) of a clip, uncropped."""
        raise NotImplementedError

    def _count(self, index: int) -> int:
        if index not in self._counts:
            self._counts[index] = layout.count_frames(self.folder, self.names[index], self.frames_folder)
        return self._counts[index]


class FramesSource(_SeveralFrames):
    """Frames of a clip as uint8 (frames, 3, size, size), RGB.

    Arguments:
        folder: the prepared folder, with frames in visual/<clip>.
        split: the split of `names`; part of the cache's name.
        names: of the clips.
        options: `frames`, `frame_choice`, `image_size`, `crop_scale`, `cache` and `cache_dir`.
    """

    channels = 3
    normalisation: Normalisation | None = IMAGENET
    reads = _SeveralFrames.reads | {"cache"}
    frames_folder = "visual"

    def __init__(self, folder: Path, split: str, names: Sequence[str], options: InputOptions) -> None:
        super().__init__(folder, names, options)
        self._cache: ImageCache | None = None
        if options.cache:
            files = [self._file(index, n) for index in range(len(names)) for n in range(1, self._count(index) + 1)]
            self._cache = ImageCache(folder, f"{split}-visual", files, options)

    def frame(self, index: int, number: int) -> Tensor:
        """Return frame `number` (from 1) of a clip, uint8 (3, height, width)."""
        if self._cache is not None:
            return self._cache(self._file(index, number))
        return layout.read_frame(self.folder, self.names[index], number)

    def _file(self, index: int, number: int) -> Path:
        return layout.frame_path(self.folder, self.names[index], number)


class FlowSource(_SeveralFrames):
    """Optical flow of a clip as uint8 (frames, 2, size, size), with frames and crops chosen as in `FramesSource`.

    Images are resized without scaling their values, as in two-stream networks. In a mirror image, horizontal motion is
    reversed, so mirroring negates u. The mean is that of no motion, and the standard deviation the mean of ImageNet's
    three, as in Temporal Segment Networks.

    Arguments:
        folder: the prepared folder, with images in flow_u/<clip> and flow_v/<clip>.
        names: of the clips.
        options: `frames`, `frame_choice`, `image_size` and `crop_scale`; there is no cache of flow.
    """

    channels = 2
    normalisation: Normalisation | None = Normalisation((0.5, 0.5), (0.226, 0.226), negated=(0,))
    frames_folder = FLOW_FOLDERS[0]

    def frame(self, index: int, number: int) -> Tensor:
        """Return the flow from frame `number` (from 1) of a clip to the next, uint8 (2, height, width).

        Raises:
            InputError: an image is missing or damaged, or the two components differ in size.
        """
        paths = [self.folder / part / self.names[index] / f"frame_{number:05d}.jpg" for part in FLOW_FOLDERS]
        u, v = (layout.read_image(path, "delete its folder and prepare again", ImageReadMode.GRAY) for path in paths)
        if u.shape != v.shape:
            raise InputError(f"{paths[0]} and {paths[1]} differ in size; delete their folders and prepare again.")
        return torch.cat([u, v])


class ImageSource:
    """One image per sample as uint8 (3, size, size), RGB; cropped in training like frames.

    Arguments:
        files: one JPEG or PNG file per sample.
        options: `image_size`, `crop_scale`, `cache` and `cache_dir`.
        cache: the prepared folder, and the name of the cache in it.
    """

    channels = 3
    normalisation: Normalisation | None = IMAGENET
    mirrors = True
    reads = frozenset({"image_size", "crop_scale", "cache"})

    def __init__(self, files: Sequence[Path], options: InputOptions, cache: tuple[Path, str] | None = None) -> None:
        self.files, self.options = files, options
        self._cache = ImageCache(*cache, files, options) if options.cache and cache else None

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the image."""
        path = self.files[index]
        whole = self._cache(path) if self._cache else layout.read_image(path, "prepare the data set again")
        return cropped(whole, self.options, generator)


class ArraySource:
    """Rows of a .npy file, unchanged; the file is memory-mapped.

    Arguments:
        path: file of an array (N, …).
        channels: of a row.
        normalisation: of uint8 images; None for other inputs.
        expected: type and shape of the array; None for any.

    Raises:
        InputError: the file is missing or damaged, or the array is not the expected one.
    """

    mirrors = False
    reads: frozenset[str] = frozenset()

    def __init__(
        self,
        path: Path,
        channels: int,
        normalisation: Normalisation | None,
        expected: tuple[type[np.generic], tuple[int, ...]] | None = None,
    ) -> None:
        self.channels, self.normalisation = channels, normalisation
        self.rows = map_array(path)
        if expected is not None and (self.rows.dtype, self.rows.shape) != expected:
            raise InputError(
                f"{path} holds {self.rows.dtype} {self.rows.shape} for {expected[1][0]} samples; delete"
                f" {path.parent.parent} and prepare the data set again."
            )

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the row."""
        return torch.from_numpy(np.array(self.rows[index]))


class SequenceSource:
    """Sequences as float32 (T, D + 1): the features and, last, a mask, 1 for each step and 0 after them.

    The mask is part of the input, so that it accompanies the input everywhere and is zeroed when a method removes the
    modality. The array is memory-mapped.

    Arguments:
        path: file of an array (N, T, D), zeros after the last step.
        lengths: (N,) number of steps.

    Raises:
        InputError: the array is missing, damaged, or has another number of samples.
    """

    normalisation: Normalisation | None = None
    mirrors = False
    reads: frozenset[str] = frozenset()

    def __init__(self, path: Path, lengths: np.ndarray) -> None:
        self.rows, self.lengths = open_array(path, 3, len(lengths)), lengths
        self.channels = int(self.rows.shape[2])

    def read(self, index: int, generator: np.random.Generator | None) -> Tensor:
        """Return the sequence; training draws nothing."""
        return masked(self.rows[index], int(self.lengths[index]))


def masked(sequence: np.ndarray, length: int) -> Tensor:
    """A sequence (T, D) with its mask: float32 (T, D + 1), the last column 1 at the first `length` steps, else 0."""
    result = np.zeros((sequence.shape[0], sequence.shape[1] + 1), np.float32)
    result[:, :-1] = sequence
    result[:length, -1] = 1
    return torch.from_numpy(result)


def open_array(path: Path, dimensions: int, samples: int) -> np.ndarray:
    """Map an array file of `samples` rows into memory.

    Raises:
        InputError: the file is missing or damaged, or the array has another shape.
    """
    array = map_array(path)
    if array.ndim != dimensions or len(array) != samples:
        raise InputError(
            f"{path} has the shape {array.shape}, but the list names {samples} samples; prepare the data set again."
        )
    if array.dtype.kind not in "buif":
        raise InputError(f"{path} holds {array.dtype} instead of numbers; prepare the data set again.")
    return array


def map_array(path: Path) -> np.ndarray:
    """Map a .npy file into memory.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        with open_regular(path) as file:
            read_npy_header(file)
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # damaged files cause many kinds
        raise InputError(f"{path} is not a readable array ({one_line(error)}); prepare the data set again.") from error


def cropped(image: Tensor, options: InputOptions, generator: np.random.Generator | None) -> Tensor:
    """Crop uint8 (C, H, W) to a random rectangle in training, and resize it to (C, size, size)."""
    if generator is not None:
        height, width = image.shape[1:]
        image = transforms.crop(image, *random_crop(height, width, generator, options.crop_scale))
    return resized(image, options.image_size)


def resized(image: Tensor, size: int) -> Tensor:
    """Resize uint8 (C, H, W) to (C, size, size) as PIL does: bilinear, antialiased."""
    return transforms.resize(image, [size, size], interpolation=transforms.InterpolationMode.BILINEAR, antialias=True)


def audio_input(stored: Tensor, options: InputOptions, generator: np.random.Generator | None) -> Tensor:
    """Return the audio feature with a channel dimension, cut and pooled as the options say.

    Arguments:
        stored: content of the clip's file (`layout.read_feature`).
        generator: as for `ModalitySource.read`.
    """
    feature = random_stft(stored, generator) if options.audio == "stft" else stored.float()
    axis = FEATURE_FILES[options.audio].time_axis
    if options.audio_frames is not None:
        feature = feature.narrow(axis, 0, min(options.audio_frames, feature.shape[axis]))
    feature = feature.unsqueeze(0)
    time, frequency = options.audio_pool
    pool = (time, frequency) if axis == 0 else (frequency, time)
    return feature if pool == (1, 1) else F.avg_pool2d(feature, pool)


def random_stft(waveform: Tensor, generator: np.random.Generator | None) -> Tensor:
    """Spectrogram of five seconds of a clip, which begin at random within its first five (OGM-GE and DGL on VGGSound).

    A clip of less than ten seconds is repeated. The sources draw the beginning in testing, too, and anew in every
    epoch. Here, evaluation draws it with the CRC-32 of the clip's samples as the seed: it is the same in every epoch
    and every run, and for a clip that is in no prepared folder.

    Arguments:
        waveform: int16 (samples,) at 16 kHz.
        generator: of training; None in evaluation.

    Returns:
        (129, 626), float32: frequencies, frames.
    """
    if generator is None:
        generator = np.random.default_rng(zlib.crc32(waveform.numpy().tobytes()))
    length = STFT_SECONDS * STFT_RATE
    begin = int(generator.integers(0, length, endpoint=True))
    repeated = waveform.repeat(-(-2 * length // len(waveform)))
    return stft(repeated[begin : begin + length].float() / 2**15)
