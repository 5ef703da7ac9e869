"""A split of a prepared data set, as a PyTorch data set."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmpareto.data.loading import layout
from mmpareto.data.loading.batches import Key
from mmpareto.data.loading.labels import batch_label, task_of_labels
from mmpareto.data.loading.options import InputOptions, SampleList, options_of
from mmpareto.data.loading.sampling import fixed_frames, sample_generator
from mmpareto.data.loading.sources import ModalitySource, Normalisation, audio_input, resized
from mmpareto.errors import InputError


class Sample(NamedTuple):
    """A sample; `batches.Batch` is a batch of them."""

    inputs: dict[str, Tensor]
    """Modality → input."""
    label: Any
    """A class index, a tensor (C,) of zeros and ones, a standardised score, or int32 (T,) class indices (`labels`)."""
    dataset_index: int
    """Its index in the data set."""
    flips: dict[str, Tensor]
    """Modality → (frames,) bool: images to be mirrored on the device; {} in evaluation."""
    alone: int = -1
    """The number of the only modality whose feature is used; −1 for all."""


class PreparedDataset(torch.utils.data.Dataset[Sample]):
    """The samples of a split, with one source per modality.

    Images are returned as uint8 (…, C, height, width); `batches.to_device` normalises and mirrors them. Everything
    random in training is a function of (seed, epoch, index) alone: there is no state, and no global generator is used.

    Arguments:
        folder: the prepared folder.
        samples: the samples.
        sources: modality → source of its inputs.
        prepared: the content of prepared.json; {} if there is none.
        options: for reading the folder.
        training: draw frames, crops and flips at random.
        seed: of the random draws, ≥ 0.

    Reading a sample raises InputError for a damaged or missing file.

    Attributes:
        classes: class names; a label is an index into this list.
        tasks: names of the tasks, where a sample has a class for each of several; else [].
        names, labels: of the samples, by index; `labels` in the form of a `SampleList`.
        label_scale: by which the scores of a regression are standardised in the samples that are read.
        scores: scores from which the labels were derived, for `DatasetBuilder.extra_metrics`.
        channels: modality → size of its encoder's input.
        normalisation: modality → normalisation of its images; without modalities that are not images.
        description: what is needed to treat another sample in the same way; only numbers, strings, lists and dicts.
    """

    def __init__(
        self,
        folder: Path,
        samples: SampleList,
        sources: Mapping[str, ModalitySource],
        prepared: dict[str, Any],
        options: InputOptions,
        *,
        training: bool,
        seed: int = 0,
    ) -> None:
        self.folder, self.sources, self.prepared, self.training, self.seed = folder, sources, prepared, training, seed
        self.classes, self.names, self.labels, self._indices, self.scores, self.label_scale = samples
        self.tasks: list[str] = [*self.labels[0]] if task_of_labels(self.labels) == "multitask" else []
        self.channels: dict[str, int] = {name: source.channels for name, source in self.sources.items()}
        self.normalisation: Mapping[str, Normalisation] = {
            name: source.normalisation for name, source in self.sources.items() if source.normalisation is not None
        }
        self.description: dict[str, Any] = {
            **{name: value for name, value in dataclasses.asdict(options).items() if name != "cache_dir"},
            "audio_pool": list(options.audio_pool),
            "crop_scale": list(options.crop_scale),
            "task": task_of_labels(self.labels),
            "classes": self.classes,
            **({"tasks": self.tasks} if self.tasks else {}),
            "label_scale": list(self.label_scale),
            "channels": self.channels,
            "fps": self.prepared.get("fps"),
            "normalisation": {name: [list(values) for values in n] for name, n in self.normalisation.items()},
        }

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, chosen: Sequence[int]) -> "PreparedDataset":
        """The same data set, with the samples at positions `chosen` only, in that order."""
        own = SampleList(self.classes, self.names, self.labels, self._indices, self.scores, self.label_scale)
        part = copy.copy(self)
        _, part.names, part.labels, part._indices, part.scores, _ = own.subset(chosen)
        return part

    def __getitem__(self, key: int | Key) -> Sample:
        """Return the sample at `index`, or of a key; a plain index means epoch 0."""
        epoch, number, *alone = key if isinstance(key, tuple) else (0, key)
        generator = sample_generator(self.seed, epoch, number) if self.training else None
        index = number % len(self) if alone else number
        inputs, flips = {}, {}
        for name, source in self.sources.items():
            values = inputs[name] = source.read(self._indices[index], generator)
            if generator is not None and source.mirrors:
                images = len(values) if values.dim() == 4 else 1
                flips[name] = torch.from_numpy(generator.random(images) < 0.5)
        return Sample(inputs, batch_label(self.labels[index], self.label_scale), index, flips, *alone)


def standardised(description: Mapping[str, Any], name: str, values: Tensor) -> Tensor:
    """Values of a modality as the data set `features` standardises them; of any other, and of images, unchanged.

    Arguments:
        description: of the data set that the model was trained on (`PreparedDataset.description`).
        name: of the modality.
        values: as in the raw file: (F,), (T, F) without a mask, or (C, H, W). Missing ones become 0, the mean of the
            training set.
    """
    entry = description.get("arrays", {}).get(name, {})
    if "mean" not in entry:
        return values
    shape = (-1, 1, 1) if entry["kind"] == "map" else (-1,)
    mean, std = (torch.tensor(entry[key], dtype=torch.float64).view(shape) for key in ("mean", "std"))
    return ((values.double() - mean) / std).nan_to_num(nan=0.0).float()


def prepare_input(
    description: Mapping[str, Any], audio_feature: Tensor | None, frames: Sequence[Tensor] | None
) -> dict[str, Tensor]:
    """Return the inputs of a clip that is in no prepared folder, as evaluation would read them from one.

    Arguments:
        description: of the data set that the model was trained on (`PreparedDataset.description`).
        audio_feature: what a prepared file has for the feature `description["audio"]`: float32 (1024, 128) for "fbank"
            and (257, 188) for "spectrogram"; for "stft" the waveform, int16 (samples,) at 16 kHz. None if absent.
        frames: all frames of the clip at `description["fps"]`, each uint8 (3, H, W), RGB. None if absent.

    Returns:
        The inputs that `ClipDatasetBuilder.open(…, training=False)` returns, without a batch dimension; without those
        that are absent.

    Raises:
        InputError: the feature has another shape or type, or there is no frame.
    """
    options = options_of(description)
    inputs = {}
    if audio_feature is not None:
        layout.check_feature(audio_feature, options.audio, "the audio feature")
        inputs["audio"] = audio_input(audio_feature, options, None)
    if frames is not None:
        if not frames:
            raise InputError("the clip has no frame; pass a video with at least one.")
        numbers = fixed_frames(len(frames), options.frames, options.frame_choice)
        inputs["visual"] = torch.stack([resized(frames[number - 1], options.image_size) for number in numbers])
    return inputs
