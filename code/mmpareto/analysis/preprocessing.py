"""Inputs of a trained network for samples that are in no prepared folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mmpareto.data import DATASETS
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading.batches import Batch, to_device
from mmpareto.data.loading.options import FEATURE_FILES, options_of
from mmpareto.data.loading.samples import prepare_input, standardised
from mmpareto.data.loading.sampling import fixed_frames
from mmpareto.data.loading.sources import resized
from mmpareto.errors import InputError

Sample: TypeAlias = "str | Path | Sequence[str | Path] | Mapping[str, Any]"
"""A sample as it comes; see `Preprocessing`."""


class Preprocessing:
    """Turns samples as they come into a batch of the network's inputs, exactly as evaluation reads a prepared folder.

    A sample of a data set of clips is the path of a file with sound and pictures, or a pair of paths: sound, pictures.
    A sample of any data set is a mapping of modality to input, where absent modalities are left out:

        images       uint8 (C, H, W), or (frames, C, H, W) of a video at the prepared frame rate. They are resized to
                     the network's image size and normalised; of too many or too few frames, evaluation's choice is
                     taken.
        sequences    (steps, features), only the valid steps: padded or cut to the network's length, with the mask
                     added.
        vectors …    arrays in the shape of the network's input, as in the raw file: they are standardised here.
        clips        "audio": a path, a prepared feature, or a waveform with its sampling rate, (float32 (channels,
                     samples) in [−1, 1], hertz). "visual": a path, or frames as above.

    Arguments:
        dataset: the data set that the network was trained on.
        description: of its input (`PreparedDataset.description`).
        shapes: modality → shape of an input without the batch dimension; {} where they are not known.
        source: the checkpoint, for messages.
    """

    def __init__(
        self, dataset: str, description: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], source: Path
    ) -> None:
        self.description, self.source = description, source
        self.of_clips = issubclass(DATASETS[dataset], ClipDatasetBuilder)
        self.dataset = dataset
        self.modalities = list(description["channels"])
        self.normalisation: Mapping[str, Any] = description.get("normalisation", {})
        self.shapes = {name: tuple(shape) for name, shape in (shapes or self._shapes_of_clips()).items()}

    def __call__(self, samples: Sequence[Sample], fps: int | None = None) -> dict[str, Tensor]:
        """Modality → the inputs (B, …) of B samples on the CPU, normalised: a batch for the network.

        Arguments:
            samples: all with the same modalities.
            fps: frames per second of raw clips, where the checkpoint lacks them.

        Raises:
            InputError: a file cannot be read, an input does not fit the network, or samples differ in their modalities.
        """
        inputs = [self._inputs(sample, fps) for sample in samples]
        names = [name for name in self.modalities if inputs and name in inputs[0]]
        if not names or any(set(one) != set(names) for one in inputs):
            raise InputError(
                f"the samples must have the same modalities, at least one of {', '.join(self.modalities)}."
            )
        stacked = {name: torch.stack([one[name] for one in inputs]) for name in names}
        unknown = torch.zeros(len(inputs), dtype=torch.int64)
        return to_device(Batch(stacked, unknown, unknown), "cpu", self.normalisation).inputs

    def clip(self, paths: Sequence[str | Path], modalities: Sequence[str] | None = None) -> dict[str, Any]:
        """The sample in one file with sound and pictures, or in two: sound, pictures.

        Arguments:
            modalities: those to read; all by default.
        """
        if not 1 <= len(paths) <= 2:
            raise InputError(f"a clip is one file, or two (sound, pictures), not {len(paths)}.")
        self._require_clips(paths[0])
        return {name: paths[0] if name == "audio" else paths[-1] for name in modalities or self.modalities}

    def _inputs(self, sample: Sample, fps: int | None) -> dict[str, Tensor]:
        """The inputs of one sample, as a source of a prepared folder reads them."""
        if not isinstance(sample, Mapping):
            sample = self.clip([sample] if isinstance(sample, str | Path) else sample)
        if unknown := [name for name in sample if name not in self.modalities]:
            raise InputError(f"{self.source} takes {', '.join(self.modalities)}, not {', '.join(unknown)}.")
        if self.of_clips:
            return self._clip_inputs(sample, fps)
        return {
            name: self._image_input(name, value) if name in self.normalisation else self._array_input(name, value)
            for name, value in sample.items()
        }

    def _require_clips(self, value: object) -> None:
        """Raise InputError for a path, unless the network's data are clips."""
        if isinstance(value, str | Path) and not self.of_clips:
            raise InputError(
                f"{self.source} was trained on {self.dataset} and takes no file such as {value}; --clip is for data "
                "sets of sound and pictures."
            )

    # Clips

    def _clip_inputs(self, sample: Mapping[str, Any], fps: int | None) -> dict[str, Tensor]:
        kind = FEATURE_FILES[self.description["audio"]].stored
        files = {name: value for name, value in sample.items() if isinstance(value, str | Path)}
        audio, frames = sample.get("audio"), None
        if files:
            from mmpareto.data.raw.media import read_clip  # needs PyAV, unlike prepared data

            content = read_clip(
                files.get("audio", ""),
                files.get("visual", ""),
                kinds=[kind] if "audio" in files else [],
                fps=self._frame_rate(fps) if "visual" in files else None,
            )
            audio = content.features.get(kind, audio)
            frames = [_decoded(jpeg) for jpeg in content.frames] or None
        if isinstance(audio, tuple):
            from mmpareto.data.raw.features import FEATURES

            waveform, rate = audio
            audio = FEATURES[kind].of(torch.as_tensor(waveform), rate)
        if frames is None and "visual" in sample:
            frames = list(self._images("visual", sample["visual"]))
        return prepare_input(self.description, None if audio is None else torch.as_tensor(audio), frames)

    def _frame_rate(self, fps: int | None) -> int:
        known = self.description.get("fps")
        if known is not None and fps not in (None, known):
            raise InputError(f"{self.source} was trained on {known} frames per second, not {fps}; leave --fps out.")
        rate = fps if known is None else known
        if rate is None:
            raise InputError(f"{self.source} lacks the frames per second of its data; give them by --fps.")
        return rate

    def _shapes_of_clips(self) -> dict[str, Sequence[int]]:
        """The shapes of clips' inputs, which follow from the options; {} for other data."""
        if not self.of_clips:
            return {}
        files = FEATURE_FILES[self.description["audio"]]
        waveform = files.stored == "waveform"
        audio = torch.zeros(1, dtype=torch.int16) if waveform else torch.zeros(files.shape)
        inputs = prepare_input(self.description, audio, [torch.zeros(3, 8, 8, dtype=torch.uint8)])
        return {name: tuple(inputs[name].shape) for name in self.modalities if name in inputs}

    # Arrays

    def _array_input(self, name: str, value: Any) -> Tensor:
        self._require_clips(value)
        values = torch.as_tensor(value)
        self._require_features(name, values)
        x = standardised(self.description, name, values).float()
        shape = self.shapes.get(name, x.shape)
        if len(shape) == x.dim() == 2 and x.shape[1] == shape[1] - 1:
            x = _padded(x, shape)
        return self._checked(name, x)

    def _require_features(self, name: str, values: Tensor) -> None:
        """Raise InputError for another number of features than in training; a single one would be broadcast to all."""
        entry = self.description.get("arrays", {}).get(name, {})
        if "mean" not in entry:
            return
        n, of_map = len(entry["mean"]), entry["kind"] == "map"
        if (values.shape[0 if of_map else -1] if values.dim() else 1) != n:
            features = "channels in the first" if of_map else "features in the last"
            raise InputError(
                f"{name} has the shape {tuple(values.shape)}; {self.source} takes {n} {features} dimension."
            )

    def _image_input(self, name: str, value: Any) -> Tensor:
        self._require_clips(value)
        images = self._images(name, value)
        shape = self.shapes.get(name, images.shape)
        if images.dim() == len(shape) == 4 and len(images) != shape[0]:
            numbers = fixed_frames(len(images), shape[0], options_of(self.description).frame_choice)
            images = images[[number - 1 for number in numbers]]
        if images.shape[-2:] != shape[-2:]:
            images = resized(images, shape[-1])
        return self._checked(name, images)

    def _images(self, name: str, value: Any) -> Tensor:
        """uint8 (C, H, W) or (frames, C, H, W)."""
        whole = not isinstance(value, list | tuple)
        images = torch.as_tensor(value) if whole else torch.stack([torch.as_tensor(image) for image in value])
        channels = self.description["channels"][name]
        if images.dtype != torch.uint8 or images.dim() not in (3, 4) or images.shape[-3] != channels:
            raise InputError(
                f"{name} is {images.dtype} of shape {tuple(images.shape)}; {self.source} takes uint8 images "
                f"({channels}, H, W), or ({channels}, H, W) per frame: channels first."
            )
        return images

    def _checked(self, name: str, x: Tensor) -> Tensor:
        shape = self.shapes.get(name, x.shape)
        if x.shape != shape:
            raise InputError(f"{name} has the shape {tuple(x.shape)}; {self.source} takes {tuple(shape)}.")
        return x


def _padded(sequence: Tensor, shape: Sequence[int]) -> Tensor:
    """The sequence (steps, F) with a mask as its last feature, zero-padded or cut to `shape`."""
    padded = torch.zeros(*shape)
    steps = min(len(sequence), shape[0])
    padded[:steps, :-1] = sequence[:steps]
    padded[:steps, -1] = 1
    return padded


def _decoded(jpeg: bytes) -> Tensor:
    """The picture in a JPEG file as uint8 (3, H, W), RGB."""
    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
