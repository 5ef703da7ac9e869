"""What a trained model does: on a split of a prepared data set, or on one clip that nobody has prepared."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpareto.analysis.plots import confusion_picture
from mmpareto.data import DATASETS
from mmpareto.data.batches import Batch, make_loader, to_device
from mmpareto.data.clips import ClipDataset, prepare_input
from mmpareto.data.features import FEATURES
from mmpareto.data.media import encode_jpeg, read_audio, read_frames
from mmpareto.errors import InputError
from mmpareto.files import whole_file, write_text
from mmpareto.models.checkpoints import read_released
from mmpareto.models.network import MultimodalNetwork, Outputs, build_network
from mmpareto.training.checkpoints import load_checkpoint, load_weights, network_of
from mmpareto.training.devices import Precision
from mmpareto.training.evaluation import Predictions, figures, predict
from mmpareto.training.recipes import recipe


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and what it needs to know of its input.

    Attributes:
        dataset: the data set's name.
        folder: where that was when it was trained.
        description: of the input (`ClipDataset.description`); lacks "classes" where the file does not tell them.
        heads: modality → weight and bias of a linear probe in place of untrained unimodal heads; {} where trained.
        notes: what a person should know of the file.
    """

    network: MultimodalNetwork
    dataset: str
    folder: Path
    description: dict[str, Any]
    heads: dict[str, dict[str, Tensor]]
    notes: list[str]

    @property
    def banner(self) -> str | None:
        """What must be said of results on this data set."""
        return DATASETS[self.dataset].banner

    def with_probe(self, predictions: Predictions) -> Predictions:
        """The predictions, with the linear probe's logits where the unimodal heads are untrained."""
        return predictions.with_heads(self.heads) if self.heads else predictions


def open_trained(path: Path, dataset: str | None = None) -> Trained:
    """Open a checkpoint of train.py (.pt), or of the released MMPareto code (.pth).

    Arguments:
        dataset: needed for the released code's files, which do not say it (default there: cremad).

    Raises:
        InputError: the file is absent, damaged, or of another architecture.
    """
    if path.suffix == ".pth":
        return _open_released(path, DATASETS.name(dataset or "cremad"))
    checkpoint = load_checkpoint(path)
    if dataset is not None and DATASETS.name(dataset) != checkpoint["dataset"]:
        raise InputError(f"{path} was trained on {checkpoint['dataset']}, not on {dataset}; leave --dataset out.")
    notes = [
        f"epoch {checkpoint['epoch'] - (checkpoint['selected_on'] == 'last')}, chosen: {checkpoint['selected_on']}"
    ]
    heads = checkpoint.get("probe", {})
    if not checkpoint["heads_trained"]:
        notes.append(
            "the unimodal heads are a linear probe's on the frozen encoders"
            if heads
            else "the unimodal heads are untrained: their figures mean nothing"
        )
    return Trained(
        network_of(checkpoint, path),
        checkpoint["dataset"],
        Path(checkpoint["data_folder"]),
        checkpoint["data"],
        heads,
        notes,
    )


def _open_released(path: Path, dataset: str) -> Trained:
    weights, unmatched = read_released(path)
    prefix, stem, joint = "encoders.", ".conv1.weight", "fusion.fc_out.weight"
    stems = {name: tensor for name, tensor in weights.items() if name.startswith(prefix) and name.endswith(stem)}
    channels = {
        name.removeprefix(prefix).removesuffix(stem): tensor.shape[1]
        for name, tensor in stems.items()
        if name.count(".") == 3
    }
    if not channels or joint not in weights:
        raise InputError(f"{path} lacks the encoders or the joint head of the released MMPareto code's model.")
    network = build_network(channels, weights[joint].shape[0])
    load_weights(network, weights, path)
    notes = ["a checkpoint of the released code: the best epoch on the test set"]
    if unmatched:
        notes.append(f"not used, as nothing here bears the name: {', '.join(unmatched)}")
    values = {name: value for name, (value, _) in recipe(dataset, "released").items()}
    keys = ("audio", "frames", "image_size", "audio_frames", "audio_pool")
    description = {key: values[key] for key in keys} | {"channels": channels}
    return Trained(network, dataset, Path("data") / dataset, description, {}, notes)


def open_split(trained: Trained, folder: Path, split: str) -> ClipDataset:
    """The split that a trained network is measured on, read as it was in training.

    Raises:
        InputError: it is not there, or has other classes.
    """
    description = trained.description
    dataset = DATASETS[trained.dataset].open(
        folder,
        split,
        training=False,
        audio=description["audio"],
        frames=description["frames"],
        image_size=description["image_size"],
        audio_frames=description["audio_frames"],
        audio_pool=tuple(description["audio_pool"]),
    )
    outputs = trained.network.heads[trained.network.modalities[0]].out_features
    expected = description.get("classes", dataset.classes)
    if dataset.classes != expected or len(dataset.classes) != outputs:
        raise InputError(
            f"{folder} has the {len(dataset.classes)} classes {', '.join(dataset.classes[:6])}, but the model tells "
            f"{outputs}{' others' if len(dataset.classes) == outputs else ''} apart; give the data it was trained on."
        )
    return dataset


def predict_split(
    trained: Trained, dataset: ClipDataset, device: torch.device, batch_size: int, workers: int
) -> Predictions:
    """Run the network over a data set."""
    loader = make_loader(dataset, batch_size=batch_size, workers=workers, pin_memory=device.type == "cuda")
    network = trained.network.to(device)
    found = predict(network, loader, device, dataset.normalisation, Precision(None, device))
    return trained.with_probe(found)


def predict_clip(trained: Trained, audio: Path, video: Path, device: torch.device) -> dict[str, Tensor]:
    """Head → (C,) probabilities for a raw clip, prepared on the way as prepare.py does.

    Raises:
        InputError: a file cannot be read, or the checkpoint does not say how its input was prepared.
    """
    description = trained.description
    if description.get("fps") is None or "classes" not in description:
        raise InputError(
            "this checkpoint does not say how its clips were prepared; --clip needs one that train.py made."
        )
    waveform, rate = read_audio(audio)
    feature = FEATURES[description["audio"]].of(waveform, rate)
    # By way of JPEG, as the frames that the network was trained on.
    frames = [decoded(encode_jpeg(frame)) for frame in read_frames(video, description["fps"])]
    inputs = {name: values.unsqueeze(0) for name, values in prepare_input(description, feature, frames).items()}
    label = torch.zeros(1, dtype=torch.int64)
    batch = to_device(Batch(inputs, label, label), device, description["normalisation"])
    network = trained.network.to(device).eval()
    with torch.no_grad():
        outputs: Outputs = network(batch.inputs)
    outputs = Outputs(*(_to_cpu(part) for part in outputs))
    logits = trained.with_probe(Predictions(outputs, label)).logits
    return {head: values[0].float().softmax(0) for head, values in logits.items()}


def decoded(jpeg: bytes) -> Tensor:
    """The picture of a JPEG file as uint8 (3, H, W), RGB."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _to_cpu(part: Any) -> Any:
    return {name: value.cpu() for name, value in part.items()} if isinstance(part, dict) else part.cpu()


def metrics_table(predictions: Predictions) -> str:
    """The figures of every head, as text."""
    lines = [f"{'':12}{'accuracy':>10}{'macro-F1':>10}{'mAP':>10}"]
    for head, values in predictions.metrics().items():
        lines.append(f"{head or 'joint':12}{values['accuracy']:10.4f}{values['macro_f1']:10.4f}{values['mAP']:10.4f}")
    return "\n".join(lines)


def probability_table(probabilities: dict[str, Tensor], classes: list[str]) -> str:
    """A line a class, a column a head."""
    heads = {head or "joint": values.tolist() for head, values in probabilities.items()}
    lines = [f"{'':12}" + "".join(f"{head:>10}" for head in heads)]
    for place, name in enumerate(classes):
        lines.append(f"{name:12}" + "".join(f"{values[place]:10.3f}" for values in heads.values()))
    return "\n".join(lines)


def write_results(out: Path, trained: Trained, dataset: ClipDataset, predictions: Predictions) -> None:
    """Write metrics.json, per_clip.csv and confusion.png into the folder `out`."""
    write_text(out / "metrics.json", json.dumps(figures(predictions), indent=1) + "\n")
    write_per_clip(out / "per_clip.csv", dataset, predictions)
    matrices = {head or "joint": values["confusion"] for head, values in predictions.metrics().items()}
    title = f"{trained.dataset}: {len(dataset)} clips, % of the true class"
    confusion_picture(out / "confusion.png", matrices, dataset.classes, title)


def write_per_clip(path: Path, dataset: ClipDataset, predictions: Predictions) -> None:
    """Write a line a clip: name, true class, and for every head the predicted class and all probabilities."""
    heads = {head or "joint": logits.softmax(1) for head, logits in predictions.logits.items()}
    header = ["clip", "class"]
    for head in heads:
        header += [head, *(f"{head}_{name}" for name in dataset.classes)]
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for place, clip in enumerate(dataset.clips):
            row = [clip, dataset.classes[dataset.labels[place]]]
            for probabilities in heads.values():
                values = probabilities[place]
                row += [dataset.classes[int(values.argmax())], *(f"{value:.6f}" for value in values.tolist())]
            writer.writerow(row)
