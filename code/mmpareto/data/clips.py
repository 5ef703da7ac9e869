"""A prepared audio-visual data set, sample by sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own name for it)
from torch import Tensor
from torchvision.transforms.v2 import functional as image

from mmpareto.data import layout
from mmpareto.data.feature_files import FEATURE_FILES
from mmpareto.data.layout import fingerprint
from mmpareto.data.sampling import fixed_frames, random_crop, random_frames, sample_generator
from mmpareto.errors import InputError

__all__ = ["ClipDataset", "Sample", "fingerprint", "prepare_input"]

Sample = tuple[dict[str, Tensor], int, int]
"""inputs by modality, label, index in the data set"""

IMAGENET_MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ClipDataset(torch.utils.data.Dataset[Sample]):
    """Clips of a prepared folder (see `mmpareto.data.layout`), loaded as the released MMPareto code loads them.

    A sample is ({"audio": float32 (1, 1024, 128) or, for the spectrogram, (1, 257, 188); "visual": uint8
    (frames, 3, size, size), RGB}, label, index). Training draws the frames (`random_frames`) and crops and
    flips each frame on its own (`random_crop`, then resized; flipped with probability ½); evaluation reads
    fixed frames (`fixed_frames`), resized without regard to their proportions. All that is drawn
    is a function of (seed, epoch, index) alone: no state is kept and no global generator touched.

    Arguments:
        folder: the prepared folder.
        split: "train" or "test".
        training: draw frames, crops and flips.
        seed: of what training draws, ≥ 0.
        subset: places in the split's CSV, in the order wanted; all where None.
        audio: "fbank" or "spectrogram".
        frames: frames a clip.
        image_size: side of the square images, in pixels.
        audio_frames: keep the first so many steps of time only. The published setting keeps all; a run on a few
            CPU cores need not compute over the padding of short clips.
        audio_pool: average over blocks of so many (steps of time, frequencies) after that; also for small runs.
        crop_scale: range of the share of the area that a training crop has.
        modalities: read these only; all where None.

    Raises:
        InputError: the folder is no prepared data set or lacks clips, one of its lists is wrong, or it has no such
            modality. Reading a sample raises it for a damaged or missing file.
    """

    channels: Mapping[str, int] = {"audio": 1, "visual": 3}
    normalisation: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {"visual": IMAGENET_MEAN_STD}

    def __init__(
        self,
        folder: str | Path,
        split: str,
        *,
        training: bool,
        seed: int = 0,
        subset: Sequence[int] | None = None,
        audio: str = "fbank",
        frames: int = 2,
        image_size: int = 224,
        audio_frames: int | None = None,
        audio_pool: tuple[int, int] = (1, 1),
        crop_scale: tuple[float, float] = (0.08, 1.0),
        modalities: Sequence[str] | None = None,
    ) -> None:
        odd = set(modalities or ()) - set(self.channels)
        if odd:
            raise InputError(f"there is no modality {min(odd)!r} in {folder}; it has {' and '.join(self.channels)}.")
        if modalities is not None:
            self.channels = {name: count for name, count in self.channels.items() if name in modalities}
        self.folder = Path(folder)
        self.training = training
        self.seed = seed
        self.crop_scale = crop_scale
        self.prepared = layout.read_prepared(self.folder)
        """The content of prepared.json; {} where there is none."""
        self.classes = layout.read_classes(self.folder)
        """Class names; a label is a place in this list."""
        clips, labels = layout.read_split(self.folder, split, self.classes)
        layout.check_files(self.folder, split, clips, audio, self.prepared.get("audio"))
        places = range(len(clips)) if subset is None else subset
        self.clips = [clips[place] for place in places]
        """Names of the clips, by index."""
        self.labels = [labels[place] for place in places]
        self.description: dict[str, Any] = {
            "classes": self.classes,
            "channels": dict(self.channels),
            "audio": audio,
            "audio_frames": audio_frames,
            "audio_pool": list(audio_pool),
            "fps": self.prepared.get("fps"),
            "frames": frames,
            "image_size": image_size,
            "normalisation": {name: [list(values) for values in pair] for name, pair in self.normalisation.items()},
        }
        """What `prepare_input` needs to treat another clip alike; numbers, strings, lists and dicts only."""
        self._frame_counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample of `index`, or of (epoch, index); a plain index stands for epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        inputs = {}
        if "audio" in self.channels:
            feature = layout.read_feature(self.folder, self.clips[index], self.description["audio"])
            inputs["audio"] = _audio_input(self.description, feature)
        if "visual" in self.channels:
            visual = self._random_images(epoch, index) if self.training else self._fixed_images(index)
            inputs["visual"] = torch.stack(visual)
        return inputs, self.labels[index], index

    def _fixed_images(self, index: int) -> list[Tensor]:
        numbers = fixed_frames(self._count(index), self.description["frames"])
        return [_resized(self._read(index, number), self.description["image_size"]) for number in numbers]

    def _random_images(self, epoch: int, index: int) -> list[Tensor]:
        generator = sample_generator(self.seed, epoch, index)
        images = []
        for number in random_frames(self._count(index), self.description["frames"], generator):
            frame = self._read(index, number)
            crop = random_crop(frame.shape[1], frame.shape[2], generator, self.crop_scale)
            frame = _resized(image.crop(frame, *crop), self.description["image_size"])
            images.append(image.horizontal_flip(frame) if generator.random() < 0.5 else frame)
        return images

    def _read(self, index: int, number: int) -> Tensor:
        return layout.read_frame(self.folder, self.clips[index], number)

    def _count(self, index: int) -> int:
        if index not in self._frame_counts:
            self._frame_counts[index] = layout.count_frames(self.folder, self.clips[index])
        return self._frame_counts[index]


def prepare_input(description: Mapping[str, Any], audio_feature: Tensor, frames: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inputs of a clip that is in no prepared folder, as evaluation would read them from one.

    Arguments:
        description: of the data set that the model was trained on (`ClipDataset.description`).
        audio_feature: the feature of kind `description["audio"]`: (1024, 128) or (257, 188).
        frames: all frames of the clip at `description["fps"]`, each uint8 (3, H, W), RGB.

    Returns:
        What `ClipDataset(…, training=False)` gives as inputs, without a batch dimension.

    Raises:
        InputError: the feature has another shape, or there is no frame.
    """
    layout.check_feature(audio_feature, description["audio"], "the audio feature")
    if not frames:
        raise InputError("the clip has no frame; give a video with a picture.")
    numbers = fixed_frames(len(frames), description["frames"])
    images = [_resized(frames[number - 1], description["image_size"]) for number in numbers]
    return {"audio": _audio_input(description, audio_feature.float()), "visual": torch.stack(images)}


def _audio_input(description: Mapping[str, Any], feature: Tensor) -> Tensor:
    """Add the channel; cut and pool where the description says so."""
    if description["audio_frames"] is not None:
        axis = FEATURE_FILES[description["audio"]].time_axis
        feature = feature.narrow(axis, 0, min(description["audio_frames"], feature.shape[axis]))
    feature = feature.unsqueeze(0)
    time, frequency = description["audio_pool"]
    pool = (time, frequency) if FEATURE_FILES[description["audio"]].time_axis == 0 else (frequency, time)
    return feature if pool == (1, 1) else F.avg_pool2d(feature, pool)


def _resized(frame: Tensor, size: int) -> Tensor:
    """Resize uint8 (3, H, W) to (3, size, size) as PIL does: bilinear, antialiased."""
    return image.resize(frame, [size, size], interpolation=image.InterpolationMode.BILINEAR, antialias=True)
