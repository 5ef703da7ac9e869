"""A split of a prepared data set, sample by sample."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmpareto.data.loading import layout
from mmpareto.data.loading.options import InputOptions, SampleList, options_of
from mmpareto.data.loading.sampling import fixed_frames, sample_generator
from mmpareto.data.loading.sources import Normalisation, Source, audio_input, resized
from mmpareto.errors import InputError


class Sample(NamedTuple):
    """A sample; batches of it are `batches.Batch`."""

    inputs: dict[str, Tensor]
    """Modality → input."""
    label: int
    place: int
    """In the data set: its index."""
    flips: dict[str, Tensor]
    """Modality → (frames,) bool: which of its images are yet to be mirrored; {} in evaluation."""


class PreparedDataset(torch.utils.data.Dataset[Sample]):
    """The samples of a split, each modality read by its source.

    Images leave as uint8 (…, C, height, width); normalising and mirroring them is left to `batches.to_device`. All
    that training draws is a function of (seed, epoch, index) alone: no state is kept and no global generator touched.

    Arguments:
        folder: where they lie.
        found: which they are.
        sources: modality → what reads it.
        prepared: the content of prepared.json; {} where there is none.
        options: how they are read.
        training: draw frames, crops and flips.
        seed: of what training draws, ≥ 0.

    Reading a sample raises InputError for a damaged or missing file.

    Attributes:
        classes: class names; a label is a place in this list.
        names, labels: of the samples, by index.
        scores: what the labels were made of, for `DatasetBuilder.extra_metrics`.
        channels: modality → what its encoder takes.
        normalisation: modality → that of its images; none for what is no image.
        description: what another sample needs to be treated alike; numbers, strings, lists and dicts only.
    """

    def __init__(
        self,
        folder: Path,
        found: SampleList,
        sources: Mapping[str, Source],
        prepared: dict[str, Any],
        options: InputOptions,
        *,
        training: bool,
        seed: int = 0,
    ) -> None:
        self.folder, self.sources, self.prepared, self.training, self.seed = folder, sources, prepared, training, seed
        self.classes, self.names, self.labels, self._places, self.scores = found
        self.channels: dict[str, int] = {name: source.channels for name, source in self.sources.items()}
        self.normalisation: Mapping[str, Normalisation] = {
            name: source.normalisation for name, source in self.sources.items() if source.normalisation is not None
        }
        self.description: dict[str, Any] = {
            **dataclasses.asdict(options),
            "audio_pool": list(options.audio_pool),
            "crop_scale": list(options.crop_scale),
            "classes": self.classes,
            "channels": self.channels,
            "fps": self.prepared.get("fps"),
            "normalisation": {name: [list(values) for values in n] for name, n in self.normalisation.items()},
        }

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The sample of `index`, or of (epoch, index); a plain index stands for epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        generator = sample_generator(self.seed, epoch, index) if self.training else None
        inputs, flips = {}, {}
        for name, source in self.sources.items():
            values = inputs[name] = source.read(self._places[index], generator)
            if generator is not None and source.mirrors:
                images = len(values) if values.dim() == 4 else 1
                flips[name] = torch.from_numpy(generator.random(images) < 0.5)
        return Sample(inputs, self.labels[index], index, flips)


def prepare_input(description: Mapping[str, Any], audio_feature: Tensor, frames: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inputs of a clip, as evaluation would read them from a prepared folder.

    Arguments:
        description: of the data set that the model was trained on (`PreparedDataset.description`).
        audio_feature: the feature of kind `description["audio"]`: (1024, 128) or (257, 188).
        frames: all frames of the clip at `description["fps"]`, each uint8 (3, H, W), RGB.

    Returns:
        What `ClipDatasetBuilder.open(…, training=False)` gives as inputs, without a batch dimension.

    Raises:
        InputError: the feature has another shape, or there is no frame.
    """
    options = options_of(description)
    layout.check_feature(audio_feature, options.audio, "the audio feature")
    if not frames:
        raise InputError("the clip has no frame; give a video with a picture.")
    images = [resized(frames[number - 1], options.image_size) for number in fixed_frames(len(frames), options.frames)]
    return {"audio": audio_input(audio_feature.float(), options), "visual": torch.stack(images)}
