"""The inputs of a clip that is in no prepared folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmpareto.data.prepared import layout
from mmpareto.data.prepared.reading import InputOptions
from mmpareto.data.prepared.sampling import fixed_frames
from mmpareto.data.prepared.sources import audio_input, resized
from mmpareto.errors import InputError


def prepare_input(description: Mapping[str, Any], audio_feature: Tensor, frames: Sequence[Tensor]) -> dict[str, Tensor]:
    """The inputs of a clip, as evaluation would read them from a prepared folder.

    Arguments:
        description: of the data set that the model was trained on (`PreparedDataset.description`).
        audio_feature: the feature of kind `description["audio"]`: (1024, 128) or (257, 188).
        frames: all frames of the clip at `description["fps"]`, each uint8 (3, H, W), RGB.

    Returns:
        What `ClipSet.open(…, training=False)` gives as inputs, without a batch dimension.

    Raises:
        InputError: the feature has another shape, or there is no frame.
    """
    options = options_of(description)
    layout.check_feature(audio_feature, options.audio, "the audio feature")
    if not frames:
        raise InputError("the clip has no frame; give a video with a picture.")
    images = [resized(frames[number - 1], options.image_size) for number in fixed_frames(len(frames), options.frames)]
    return {"audio": audio_input(audio_feature.float(), options), "visual": torch.stack(images)}


def options_of(description: Mapping[str, Any]) -> InputOptions:
    """The options that a description tells."""
    return InputOptions(
        audio=description["audio"],
        frames=description["frames"],
        image_size=description["image_size"],
        audio_frames=description["audio_frames"],
        audio_pool=tuple(description["audio_pool"]),
        n_classes=description.get("n_classes"),
    )
