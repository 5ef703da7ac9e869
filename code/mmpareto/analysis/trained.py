"""A trained network out of a checkpoint, with what it needs to know of its input."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmpareto.data import DATASETS
from mmpareto.errors import InputError
from mmpareto.models.network import MultimodalNetwork, build_network
from mmpareto.models.pretrained import read_released
from mmpareto.training.checkpoints import ENTRIES, load_checkpoint, load_weights, network_of
from mmpareto.training.devices import Precision
from mmpareto.training.evaluation import Predictions
from mmpareto.training.recipes import recipe

RELEASED_SUFFIX = ".pth"  # train.py writes .pt
INPUT_SETTINGS = ("audio", "frames", "image_size", "audio_frames", "audio_pool")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and what it needs to know of its input.

    Attributes:
        path: the checkpoint.
        dataset: the data set's name.
        folder: where the prepared data set was when the network was trained.
        description: of the input (`PreparedDataset.description`); lacks "classes", "fps" and "normalisation" where the
            file does not tell them.
        heads: modality → weight and bias of a linear probe in place of untrained unimodal heads; {} where trained.
        notes: what a person should know of the file.
        amp: the mixed precision in which it was measured in training.
    """

    path: Path
    network: MultimodalNetwork
    dataset: str
    folder: Path
    description: dict[str, Any]
    heads: dict[str, dict[str, Tensor]]
    notes: list[str]
    amp: str | None = None

    @property
    def banner(self) -> str | None:
        """What must be said wherever results on this data set are shown."""
        return DATASETS[self.dataset].banner

    def precision(self, device: torch.device) -> Precision:
        """That of training; full where the device does not have it."""
        return Precision(None if self.amp == "fp16" and device.type == "cpu" else self.amp, device)

    def with_probe(self, predictions: Predictions) -> Predictions:
        """The predictions, with the linear probe's logits where the unimodal heads are untrained."""
        return predictions.with_heads(self.heads) if self.heads else predictions


def open_trained(path: Path, dataset: str | None = None) -> Trained:
    """Open a checkpoint of train.py (.pt), or of the released MMPareto code (.pth).

    Arguments:
        dataset: needed for the released code's files, which do not say it (default there: cremad).

    Raises:
        InputError: the file is absent, damaged, or of another architecture, version or data set.
    """
    if path.suffix == RELEASED_SUFFIX:
        return _open_released(path, DATASETS.name(dataset or "cremad"))
    checkpoint = load_checkpoint(path)
    absent = [name for name in ENTRIES if name not in checkpoint]
    if absent:
        raise InputError(f"{path} is of another version of this code: it lacks {', '.join(absent)}; train it anew.")
    if dataset is not None and DATASETS.name(dataset) != checkpoint["dataset"]:
        raise InputError(f"{path} was trained on {checkpoint['dataset']}, not on {dataset}; leave --dataset out.")
    return Trained(
        path=path,
        network=network_of(checkpoint, path),
        dataset=checkpoint["dataset"],
        folder=Path(checkpoint["data_folder"]),
        description=checkpoint["data"],
        heads=checkpoint.get("probe", {}),
        notes=_notes(checkpoint),
        amp=checkpoint.get("amp"),
    )


def _notes(checkpoint: dict[str, Any]) -> list[str]:
    epoch, steps = checkpoint["epoch"], checkpoint.get("steps", 0)
    if checkpoint["selected_on"] != "last":
        notes = [f"the weights of epoch {epoch}, chosen on: {checkpoint['selected_on']}"]
    elif steps:
        notes = [f"the weights of a run stopped in epoch {epoch}, after step {steps}"]
    else:
        notes = [f"the weights of the last epoch, {epoch - 1}"]  # a run's last.pt names the epoch that comes next
    if not checkpoint["heads_trained"]:
        probe = "a linear probe's, on the frozen encoders" if checkpoint.get("probe") else "untrained: ignore them"
        notes.append(f"the method trains no unimodal heads; those used here are {probe}")
    return notes


def _open_released(path: Path, dataset: str) -> Trained:
    weights, unmatched = read_released(path)
    channels = {
        parts[1]: tensor.shape[1]
        for name, tensor in weights.items()
        if (parts := name.split("."))[0] == "encoders" and parts[2:] == ["conv1", "weight"] and tensor.dim() == 4
    }
    joint = weights.get("fusion.fc_out.weight")
    if not channels or joint is None:
        raise InputError(f"{path} lacks the encoders or the joint head of the released MMPareto code's model.")
    network = build_network(channels, len(joint))
    load_weights(network, weights, path)
    notes = ["a checkpoint of the released code: the epoch that was best on its test set"]
    if unmatched:
        notes.append(f"not used, as nothing here bears the name: {', '.join(unmatched)}")
    values = recipe(dataset, "released")
    description = {key: values[key].value for key in INPUT_SETTINGS} | {"channels": channels}
    return Trained(path, network, dataset, Path("data") / dataset, description, {}, notes)
