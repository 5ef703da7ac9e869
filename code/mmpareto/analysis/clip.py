"""What a trained network says of one raw clip that nobody has prepared."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mmpareto.analysis.trained import Trained
from mmpareto.data import DATASETS
from mmpareto.data.clip_dataset_builder import ClipDatasetBuilder
from mmpareto.data.loading.batches import Batch
from mmpareto.data.loading.samples import prepare_input
from mmpareto.data.raw.media import read_clip
from mmpareto.errors import InputError
from mmpareto.training.evaluation import predict


def predict_clip(
    trained: Trained, audio: Path, video: Path, device: torch.device, fps: int | None = None
) -> dict[str, Tensor]:
    """Classify a raw clip, prepared on the way as prepare.py prepares it.

    Arguments:
        audio: a file with sound; may be the same as `video`.
        video: a file with a picture.
        fps: frames kept a second, for a network whose data did not say how it was prepared.

    Returns:
        Head → (C,) probabilities, float32 on the CPU; "joint", and one a modality.

    Raises:
        InputError: a file cannot be read, or it is not known how the network's input was prepared.
    """
    description = trained.description
    if not issubclass(DATASETS[trained.dataset], ClipDatasetBuilder):
        raise InputError(f"{trained.path} is of {trained.dataset}; --clip is for data sets of sound and pictures.")
    if "classes" not in description:
        raise InputError(f"{trained.path} does not name its classes; --clip needs a checkpoint that train.py made.")
    kind = description["audio"]
    content = read_clip(audio, video, kinds=[kind], fps=_frame_rate(trained, fps))
    inputs = prepare_input(description, content.features[kind], [_decoded(jpeg) for jpeg in content.frames])
    unknown = torch.zeros(1, dtype=torch.int64)
    network, precision = trained.network.to(device), trained.precision(device)
    batch = Batch({name: inputs[name].unsqueeze(0) for name in network.modalities}, labels=unknown, indices=unknown)
    predictions = trained.with_probe(predict(network, [batch], device, description["normalisation"], precision))
    return {head or "joint": logits[0].softmax(0) for head, logits in predictions.logits.items()}


def probability_table(probabilities: dict[str, Tensor], classes: list[str]) -> str:
    """A line a class, a column a head, and below them the class that each head finds likeliest."""
    width = max(10, *(len(name) + 2 for name in classes))
    lines = [f"{'':{width}}" + "".join(f"{head:>{width}}" for head in probabilities)]
    for place, name in enumerate(classes):
        lines.append(f"{name:{width}}" + "".join(f"{values[place]:{width}.3f}" for values in probabilities.values()))
    likeliest = [classes[int(values.argmax())] for values in probabilities.values()]
    return "\n".join([*lines, f"{'likeliest':{width}}" + "".join(f"{name:>{width}}" for name in likeliest)])


def _frame_rate(trained: Trained, fps: int | None) -> int:
    known = trained.description.get("fps")
    if known is not None and fps not in (None, known):
        raise InputError(f"{trained.path} was trained on {known} frames a second, not {fps}; leave --fps out.")
    rate = fps if known is None else known
    if rate is None:
        raise InputError(
            f"{trained.path} does not say at how many frames a second its data was prepared; say it with --fps."
        )
    return rate


def _decoded(jpeg: bytes) -> Tensor:
    """The picture of a JPEG file as uint8 (3, H, W), RGB."""
    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
